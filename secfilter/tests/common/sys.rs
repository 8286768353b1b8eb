#![expect(unsafe_code, reason = "tests fork and make calls with odd numbers and arguments")]

use std::os::fd::{FromRawFd, OwnedFd};

/// Forks; the child runs `body` and ends with its answer. The status as waitpid gives it.
pub(crate) fn fork_and_wait(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs `body` and leaves by exit_group. It allocates perhaps, which glibc's fork allows.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(98);
        exit(code);
    }
    let mut status = 0;
    // SAFETY: waits for the own child; `status` is borrowed for the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    status
}

/// `exit_group`, without anything of libc.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// One system call by number; the kernel's own result. The caller knows what it asks for: these tests give bad
/// arguments, or the filter keeps the call from being made.
pub(crate) fn call(nr: u32, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the kernel clobbers rax, rcx and r11 only. Tests pass addresses that are not mapped, or none.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") u64::from(nr) => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// A call of the i386 ABI from 64-bit code, without arguments.
pub(crate) fn call_i386(nr: u32) -> i32 {
    let result: u32;
    // SAFETY: int 0x80 clobbers rax, and r8 to r11 on older kernels. No argument is looked at by the calls that tests make.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") nr => result,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    result as i32
}

/// Memory that children share: `len` numbers, zero at first.
pub(crate) struct Shared {
    base: *mut i64,
    len: usize,
}

impl Shared {
    pub(crate) fn new(len: usize) -> Self {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len * 8, prot, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        Shared { base: base.cast(), len }
    }

    pub(crate) fn set(&self, index: usize, value: i64) {
        assert!(index < self.len);
        // SAFETY: inside the mapping; volatile, since another process reads it.
        unsafe { self.base.wrapping_add(index).write_volatile(value) }
    }

    pub(crate) fn get(&self, index: usize) -> i64 {
        assert!(index < self.len);
        // SAFETY: inside the mapping.
        unsafe { self.base.wrapping_add(index).read_volatile() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nothing refers to any more.
        unsafe { libc::munmap(self.base.cast(), self.len * 8) };
    }
}

/// Becomes uid and gid 65534 without groups, all threads or just the one: raw calls, for forked children.
pub(crate) fn become_nobody() {
    let nobody = 65534;
    for (nr, args) in [
        (libc::SYS_setgroups, [0, 0, 0]),
        (libc::SYS_setresgid, [nobody, nobody, nobody]),
        (libc::SYS_setresuid, [nobody, nobody, nobody]),
    ] {
        assert_eq!(call(nr as u32, [args[0], args[1], args[2], 0, 0, 0]), 0);
    }
}

/// Adopts the descriptor that a call just returned.
pub(crate) fn adopt(fd: i64) -> OwnedFd {
    assert!(fd >= 0, "{fd}");
    // SAFETY: the kernel made it a moment ago for this test.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

pub(crate) fn is_root() -> bool {
    // SAFETY: takes no address.
    unsafe { libc::geteuid() == 0 }
}

pub(crate) fn gettid() -> u32 {
    // SAFETY: takes no address.
    unsafe { libc::gettid() as u32 }
}

/// libseccomp, if this machine has it: an oracle at run time, no dependency.
pub(crate) struct Libseccomp {
    init: Init,
    attr_set: AttrSet,
    rule_add: RuleAdd,
    export: Export,
    release: Release,
}

type Pointer = *mut libc::c_void;
type Init = unsafe extern "C" fn(u32) -> Pointer;
type AttrSet = unsafe extern "C" fn(Pointer, i32, u32) -> i32;
type RuleAdd = unsafe extern "C" fn(Pointer, u32, i32, u32, *const ScmpArgCmp) -> i32;
type Export = unsafe extern "C" fn(Pointer, i32) -> i32;
type Release = unsafe extern "C" fn(Pointer);

/// `struct scmp_arg_cmp`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ScmpArgCmp {
    pub(crate) arg: u32,
    pub(crate) op: i32,
    pub(crate) a: u64,
    pub(crate) b: u64,
}

impl Libseccomp {
    pub(crate) fn load() -> Option<Self> {
        // SAFETY: loads a library of the system, whose constructors do nothing of note.
        let library = unsafe { libc::dlopen(c"libseccomp.so.2".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return None;
        }
        let symbol = |name: &std::ffi::CStr| {
            // SAFETY: the library stays loaded.
            let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
            (!symbol.is_null()).then_some(symbol)
        };
        let (init, attr_set) = (symbol(c"seccomp_init")?, symbol(c"seccomp_attr_set")?);
        let (rule_add, export) = (symbol(c"seccomp_rule_add_array")?, symbol(c"seccomp_export_bpf")?);
        let release = symbol(c"seccomp_release")?;
        Some(Libseccomp {
            // SAFETY: as in seccomp.h.
            init: unsafe { std::mem::transmute::<Pointer, Init>(init) },
            // SAFETY: as in seccomp.h.
            attr_set: unsafe { std::mem::transmute::<Pointer, AttrSet>(attr_set) },
            // SAFETY: as in seccomp.h.
            rule_add: unsafe { std::mem::transmute::<Pointer, RuleAdd>(rule_add) },
            // SAFETY: as in seccomp.h.
            export: unsafe { std::mem::transmute::<Pointer, Export>(export) },
            // SAFETY: as in seccomp.h.
            release: unsafe { std::mem::transmute::<Pointer, Release>(release) },
        })
    }

    /// The program for these rules (action, call, conditions), as a binary tree if `tree` is set; the error of the rule
    /// that it does not take.
    pub(crate) fn compile(
        &self,
        default: u32,
        rules: &[(u32, u32, Vec<ScmpArgCmp>)],
        tree: bool,
    ) -> Result<Vec<u8>, i32> {
        // SAFETY: makes a context.
        let context = unsafe { (self.init)(default) };
        assert!(!context.is_null());
        if tree {
            // SAFETY: the context is alive; SCMP_FLTATR_CTL_OPTIMIZE = 8.
            let result = unsafe { (self.attr_set)(context, 8, 2) };
            assert_eq!(result, 0);
        }
        let mut outcome = Ok(());
        for (action, nr, conditions) in rules {
            let (count, list) = (conditions.len() as u32, conditions.as_ptr());
            // SAFETY: the context is alive, the list has `count` elements.
            let result = unsafe { (self.rule_add)(context, *action, *nr as i32, count, list) };
            if result != 0 {
                outcome = Err(result);
                break;
            }
        }
        let mut file = tempfile::tempfile().expect("a temporary file");
        // SAFETY: the context and the file are alive.
        let exported = unsafe { (self.export)(context, std::os::fd::AsRawFd::as_raw_fd(&file)) };
        // SAFETY: the context is not used after this.
        unsafe { (self.release)(context) };
        outcome?;
        assert_eq!(exported, 0);
        let mut bytes = Vec::new();
        std::io::Seek::rewind(&mut file).expect("rewind");
        std::io::Read::read_to_end(&mut file, &mut bytes).expect("read");
        Ok(bytes)
    }
}
