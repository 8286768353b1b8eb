//! The encoding of a program in memory, shared by the library and the stage.
//!
//! One image is one contiguous, 8-byte aligned block: [`Header`], the slots (`u64` each), the operations
//! ([`Op`] each), the arena (bytes that calls point into). The interpreter writes to its own copy of it only.
//! This file is compiled twice: as a module of `palisade-sys`, and into the stage, which has no `std`.

/// First word of every image; the number at its end is the version of the encoding.
pub(crate) const MAGIC: u64 = 0x5041_4c49_5341_4401;

/// `state` before the interpreter began.
pub(crate) const STATE_NEW: u32 = 0;
/// `state` while it runs.
pub(crate) const STATE_RUNNING: u32 = 1;
/// `state` from just before an `execve` on.
pub(crate) const STATE_EXECUTING: u32 = 2;
/// `state` after a failure: `fault_*` say which.
pub(crate) const STATE_FAULT: u32 = 3;
/// `state` after the last operation.
pub(crate) const STATE_DONE: u32 = 4;

/// `state` once pid 1 has seen that its workload executed the payload.
pub(crate) const STATE_EXECUTED: u32 = 5;
/// `state` once the workload of pid 1 has ended after that: `fault_errno` is its wait status.
pub(crate) const STATE_ENDED: u32 = 6;
/// `state` once the workload of pid 1 has ended before it executed anything: `fault_errno` is its wait status.
pub(crate) const STATE_LOST: u32 = 7;

/// Start of an image.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Header {
    pub(crate) magic: u64,
    pub(crate) state: u32,
    pub(crate) fault_index: u32,
    pub(crate) fault_errno: i32,
    /// The bit of a sweep at which it failed.
    pub(crate) fault_bit: u32,
    pub(crate) slots: u32,
    pub(crate) ops: u32,
    pub(crate) arena: u32,
    pub(crate) reserved: u32,
}

/// How one argument is read.
pub(crate) const ARG_CONST: u8 = 0;
/// Address of the arena plus the value.
pub(crate) const ARG_ARENA: u8 = 1;
/// Value of the slot with that index.
pub(crate) const ARG_SLOT: u8 = 2;
/// Number of the current bit of a sweep.
pub(crate) const ARG_BIT: u8 = 3;

/// Make the call `nr` with `args`.
pub(crate) const KIND_CALL: u8 = 0;
/// Make the call once for each bit set in `value`.
pub(crate) const KIND_SWEEP: u8 = 1;
/// Write `args[2]` bytes of the value of `args[1]` at arena offset `args[0]`.
pub(crate) const KIND_STORE: u8 = 2;
/// Go on if the `args[3]`-byte word at arena offset `args[0]`, masked by `args[1]`, is `args[2]`; else errno `errnos[0]`.
pub(crate) const KIND_CHECK: u8 = 3;
/// Add the arena's address to `args[1]` words at arena offset `args[0]`, except to those that are `u64::MAX`,
/// which become null.
pub(crate) const KIND_RELOCATE: u8 = 4;
/// Fail with errno `value`, or with the one that `RULE_STICKY` kept if there is one.
pub(crate) const KIND_FAIL: u8 = 5;

/// Become the guard of a cgroup: `role.rs` has the arguments.
pub(crate) const KIND_GUARD: u8 = 6;
/// Fork: the new process goes on with the program, this one becomes the init of its pid namespace.
pub(crate) const KIND_INIT: u8 = 7;

// Rules; 0 is the plain one: the result must not be an error.

/// The result must be `value`.
pub(crate) const RULE_EXPECT: u8 = 1;
/// The errors in `errnos` are fine too.
pub(crate) const RULE_TOLERATE: u8 = 2;
/// The errors in `errnos` go forward to operation `jump`.
pub(crate) const RULE_JUMP: u8 = 3;
/// The errors in `errnos` are remembered (`EACCES` before all others) and the program goes on.
pub(crate) const RULE_STICKY: u8 = 4;
/// A result above zero goes forward to operation `jump`.
pub(crate) const RULE_BRANCH: u8 = 5;
/// Added to a rule: repeat the call while it is interrupted.
pub(crate) const RULE_RETRY: u8 = 0x80;

/// No slot wanted.
pub(crate) const NO_SLOT: u16 = u16::MAX;

/// One operation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) kind: u8,
    pub(crate) rule: u8,
    pub(crate) modes: [u8; 6],
    pub(crate) nr: u32,
    pub(crate) out: u16,
    pub(crate) step: u16,
    pub(crate) jump: u32,
    /// Errnos are below 134 on Linux, so a byte holds one; zero ends the list.
    pub(crate) errnos: [u8; 4],
    pub(crate) value: u64,
    pub(crate) args: [u64; 6],
}

/// Descriptor of the control socket in the stage.
pub const FD_CONTROL: i32 = 3;
/// Descriptor of the image in the stage.
pub const FD_IMAGE: i32 = 4;
/// First descriptor that the prologue passes on for the program's own use.
pub const FD_PASSED: i32 = 5;

/// Bytes that the guard works in.
pub(crate) const GUARD_ROOM: u64 = 4096;

pub(crate) const ENOENT: i32 = 2;
pub(crate) const EACCES: i32 = 13;
pub(crate) const EINTR: i32 = 4;
pub(crate) const ECHILD: i32 = 10;
pub(crate) const EFAULT: i32 = 14;
pub(crate) const EPROTO: i32 = 71;
