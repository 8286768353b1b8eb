//! Entry and exit of the stage, and the mapping of its image.

use crate::interp;
use crate::sys::{Memory, syscall};
use crate::wire::FD_IMAGE;

const SYS_LSEEK: u32 = 8;
const SYS_MMAP: u32 = 9;
const SYS_EXIT_GROUP: u32 = 231;
const SEEK_END: u64 = 2;
const PROT_READ_WRITE: u64 = 3;
const MAP_SHARED_POPULATE: u64 = 0x8001;

/// Ends the process; where a filter refuses that, by a trap.
pub fn exit(code: u64) -> ! {
    // SAFETY: takes no address.
    unsafe { syscall(SYS_EXIT_GROUP, [code, 0, 0, 0, 0, 0]) };
    loop {
        // SAFETY: an undefined instruction ends the process by SIGILL.
        unsafe { core::arch::asm!("ud2") }
    }
}

// Where the kernel starts the program: align the stack as the ABI wants it, then go on in Rust.
core::arch::global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {}", "ud2", sym stage);

extern "C" fn stage() -> ! {
    // SAFETY: takes no address.
    let len = unsafe { syscall(SYS_LSEEK, [FD_IMAGE as u64, 0, SEEK_END, 0, 0, 0]) };
    if len <= 0 {
        exit(102);
    }
    let map = [0, len as u64, PROT_READ_WRITE, MAP_SHARED_POPULATE, FD_IMAGE as u64, 0];
    // SAFETY: a new mapping at a place that the kernel chooses.
    let base = unsafe { syscall(SYS_MMAP, map) };
    if base < 0 {
        exit(103);
    }
    // SAFETY: the mapping is of that length, page-aligned, and only read by the program that made the image.
    let Some(mut memory) = (unsafe { Memory::new(base as *mut u8, len as usize) }) else { exit(104) };
    let outcome = interp::run(&mut memory);
    exit(if outcome.is_ok() { 0 } else { 105 })
}

/// The compiler calls these by name; there is no libc here that has them.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for n bytes at both; rep movsb clobbers what is declared.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") n => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for n bytes; rep stosb clobbers what is declared.
    unsafe {
        core::arch::asm!("rep stosb", inout("rcx") n => _, inout("rdi") to => _, in("al") byte as u8, options(nostack));
    }
    to
}

/// Parts of `core` that the linker may take in name it; without unwinding nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
