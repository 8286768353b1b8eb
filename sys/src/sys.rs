//! Raw system calls and raw memory of an image. Compiled twice, like `wire.rs`.
#![expect(unsafe_code, reason = "the one place of this crate that makes system calls and follows addresses")]

use super::interp::Stop;
use super::wire::*;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!(
    "palisade supports Linux on x86_64 only so far: each further architecture needs its own system call stub"
);

const SYS_MUNMAP: u32 = 11;
const SYS_EXECVE: u32 = 59;
const SYS_EXECVEAT: u32 = 322;

const PAGE: usize = 4096;

/// Whether call `nr` replaces the program when it succeeds.
pub(crate) fn exec_is_next(nr: u32) -> bool {
    nr == SYS_EXECVE || nr == SYS_EXECVEAT
}

/// One system call; the result is the kernel's own: negative errno on failure. libc's errno is not touched.
///
/// # Safety
/// As the call itself: the addresses among `args` are valid for what the kernel does with them.
#[inline]
pub(crate) unsafe fn syscall(nr: u32, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the kernel clobbers rax, rcx and r11 only, all declared; the caller vouches for the arguments.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") i64::from(nr) => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A system call whose arguments are numbers, and addresses from [`Memory::address`] of places that are large enough.
pub(crate) fn syscall_scalar(nr: u32, args: [u64; 6]) -> i64 {
    // SAFETY: the roles, which alone call this, pass addresses of their own work area or stack, and names that end there.
    unsafe { syscall(nr, args) }
}

/// The parts of one image, checked once: every later access stays inside its part.
pub(crate) struct Memory {
    base: *mut u8,
    len: usize,
    header: Header,
    slots: usize,
    ops: usize,
    arena: usize,
}

impl Memory {
    /// Takes the image at `base`, or `None` if it is not one.
    ///
    /// # Safety
    /// `base` is 8-byte aligned and valid for reads and writes of `len` bytes for as long as the value lives, and
    /// nothing else writes there meanwhile. The operations are those that the builder made: what their calls
    /// point to lies in the arena, and their effects are wanted.
    pub(crate) unsafe fn new(base: *mut u8, len: usize) -> Option<Self> {
        let slots = size_of::<Header>();
        if len < slots {
            return None;
        }
        // SAFETY: at least a header is readable at `base`, which is aligned.
        let header = unsafe { base.cast::<Header>().read() };
        let ops = slots.checked_add((header.slots as usize).checked_mul(8)?)?;
        let arena = ops.checked_add((header.ops as usize).checked_mul(size_of::<Op>())?)?;
        let end = arena.checked_add(header.arena as usize)?;
        (header.magic == MAGIC && end <= len).then_some(Self { base, len, header, slots, ops, arena })
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.base.wrapping_add(offset)
    }

    fn write_header(&mut self) {
        // SAFETY: `new` found a whole header there. Volatile, since another process reads it.
        unsafe { self.base.cast::<Header>().write_volatile(self.header) }
    }

    pub(crate) fn set_state(&mut self, state: u32) {
        self.header.state = state;
        self.write_header();
    }

    pub(crate) fn set_fault(&mut self, stop: Stop) {
        self.header.state = STATE_FAULT;
        self.header.fault_index = stop.index;
        self.header.fault_errno = stop.errno;
        self.header.fault_bit = stop.bit;
        self.write_header();
    }

    /// What the header says now, whoever wrote it: another process may run the same image.
    pub(crate) fn state(&self) -> u32 {
        // SAFETY: `new` found a whole header there.
        unsafe { self.base.cast::<Header>().read_volatile() }.state
    }

    /// Writes a state that comes with a number. Only while no other process runs the image.
    pub(crate) fn record(&mut self, state: u32, number: i32) {
        self.header.fault_errno = number;
        self.set_state(state);
    }

    /// Unmaps all but the first page. Afterwards only the header may be used.
    pub(crate) fn unmap_rest(&mut self) -> i64 {
        let rest = self.at(PAGE) as u64;
        self.header.slots = 0;
        self.header.ops = 0;
        self.header.arena = 0;
        let len = match self.len.checked_sub(PAGE) {
            Some(len @ 1..) => len as u64,
            _ => return 0,
        };
        // SAFETY: the stage's image is a mapping of its own, page-aligned, and nothing refers to its later pages: the
        // operations and slots are out of bounds from here on.
        unsafe { syscall(SYS_MUNMAP, [rest, len, 0, 0, 0, 0]) }
    }

    /// Overwrites what follows the header in the first page. Only while no other process runs the image.
    pub(crate) fn forget_rest(&mut self) {
        let header = size_of::<Header>();
        let len = self.len.min(PAGE).saturating_sub(header);
        // SAFETY: the bytes are inside the image, in its first page, which stays mapped.
        unsafe { core::ptr::write_bytes(self.at(header), 0, len) };
    }

    pub(crate) fn op(&self, index: u32) -> Option<Op> {
        if index >= self.header.ops {
            return None;
        }
        let place = self.at(self.ops + index as usize * size_of::<Op>()).cast::<Op>();
        // SAFETY: the index is inside the table that `new` found inside the image; alignment 8 is kept by all parts.
        Some(unsafe { place.read() })
    }

    pub(crate) fn slot(&self, index: u64) -> Option<u64> {
        if index >= u64::from(self.header.slots) {
            return None;
        }
        let place = self.at(self.slots + index as usize * 8).cast::<u64>();
        // SAFETY: as for `op`.
        Some(unsafe { place.read() })
    }

    pub(crate) fn set_slot(&mut self, index: u16, value: u64) -> Option<()> {
        if u32::from(index) >= self.header.slots {
            return None;
        }
        let place = self.at(self.slots + usize::from(index) * 8).cast::<u64>();
        // SAFETY: as for `op`.
        unsafe { place.write(value) };
        Some(())
    }

    /// Place of `width` bytes at arena offset `offset`, if they are inside.
    fn place(&self, offset: u64, width: u64) -> Option<*mut u8> {
        let end = offset.checked_add(width)?;
        (end <= u64::from(self.header.arena)).then(|| self.at(self.arena + offset as usize))
    }

    /// The little-endian word of 1, 2, 4 or 8 bytes at an arena offset.
    pub(crate) fn load(&self, offset: u64, width: u64) -> Option<u64> {
        let place = self.place(offset, width)?;
        let mut bytes = [0u8; 8];
        let width = (width as usize).min(8);
        // SAFETY: `place` found the bytes inside the arena; the target is a local array that is large enough.
        unsafe { core::ptr::copy_nonoverlapping(place, bytes.as_mut_ptr(), width) };
        Some(u64::from_le_bytes(bytes))
    }

    /// Writes the low 1, 2, 4 or 8 bytes of a value at an arena offset.
    pub(crate) fn store(&mut self, offset: u64, width: u64, value: u64) -> Option<()> {
        let place = self.place(offset, width)?;
        let bytes = value.to_le_bytes();
        let width = (width as usize).min(8);
        // SAFETY: as for `load`, in the other direction.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), place, width) };
        Some(())
    }

    /// Address of an arena offset, for a call.
    pub(crate) fn address(&self, offset: u64) -> u64 {
        self.at(self.arena).wrapping_add(offset as usize) as u64
    }

    /// Turns `count` words at `offset` from arena offsets into addresses.
    pub(crate) fn relocate(&mut self, offset: u64, count: u64) -> Option<()> {
        let arena = self.at(self.arena) as u64;
        for n in 0..count {
            let at = offset.checked_add(n.checked_mul(8)?)?;
            let word = self.load(at, 8)?;
            self.store(at, 8, if word == u64::MAX { 0 } else { arena.wrapping_add(word) })?;
        }
        Some(())
    }

    /// Value of argument `n` of `op`; a slot that does not exist reads as -1, which no call takes for anything.
    pub(crate) fn arg(&self, op: &Op, n: usize, bit: u32) -> u64 {
        let value = op.args[n];
        match op.modes[n] {
            ARG_ARENA => self.address(value),
            ARG_SLOT => self.slot(value).unwrap_or(u64::MAX),
            ARG_BIT => u64::from(bit),
            _ => value,
        }
    }

    /// Makes the call of `op`.
    pub(crate) fn call(&self, op: &Op, bit: u32) -> i64 {
        let args = core::array::from_fn(|n| self.arg(op, n, bit));
        // SAFETY: the operations of an image are those that the builder made (see `new`): addresses among the
        // arguments are places of the arena with room for what the call reads and writes.
        unsafe { syscall(op.nr, args) }
    }
}
