//! A set-up as a value: a flat list of system calls with the rules for their results.

use std::ffi::CStr;
use std::sync::Arc;

use crate::fault::{Explained, Fault, Outcome};
use crate::image::{HEADER_LEN, Image};
use crate::step::Step;
use crate::wire::*;

/// What an earlier call of the same program returned: a descriptor, mostly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub(crate) u16);

/// A place in the program's byte arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Place {
    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a place is a region, not a collection")]
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// The `len` bytes at `offset` of this place.
    ///
    /// # Panics
    /// If they are not inside it.
    pub fn part(self, offset: usize, len: usize) -> Self {
        assert!(offset + len <= self.len(), "part of a place that is not inside it");
        Self { offset: self.offset + offset as u32, len: len as u32 }
    }
}

/// A forward jump's target, made by [`Program::forward`] and placed by [`Program::land`].
#[derive(Clone, Copy, Debug)]
pub struct Landing {
    index: usize,
    /// Operations from here on may jump to it.
    from: usize,
}

/// One argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A number.
    Value(u64),
    /// The address of a place in the arena.
    Address(Place),
    /// What an earlier call returned.
    Slot(Slot),
    /// The current bit's number, in a sweep.
    Bit,
}

impl From<Slot> for Arg {
    fn from(slot: Slot) -> Self {
        Self::Slot(slot)
    }
}

impl From<Place> for Arg {
    fn from(place: Place) -> Self {
        Self::Address(place)
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self::Value(value)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Value(value.into())
    }
}

impl From<usize> for Arg {
    fn from(value: usize) -> Self {
        Self::Value(value as u64)
    }
}

impl From<i32> for Arg {
    /// Sign-extended, as the kernel reads a negative `int`.
    fn from(value: i32) -> Self {
        Self::Value(i64::from(value) as u64)
    }
}

/// A descriptor as an argument: of the running program (a [`Slot`]) or a number fixed before.
#[derive(Clone, Copy, Debug)]
pub struct Fd(pub(crate) Arg);

impl Fd {
    /// The current directory (`AT_FDCWD`).
    pub const CWD: Self = Self(Arg::Value(libc::AT_FDCWD as i64 as u64));

    /// A descriptor that has this number when the program runs.
    pub const fn number(fd: i32) -> Self {
        Self(Arg::Value(fd as i64 as u64))
    }

    /// Whether it is such a number, and nothing that the program itself opens.
    pub const fn is_number(self) -> bool {
        matches!(self.0, Arg::Value(_))
    }
}

impl From<Slot> for Fd {
    fn from(slot: Slot) -> Self {
        Self(Arg::Slot(slot))
    }
}

impl From<Fd> for Arg {
    fn from(fd: Fd) -> Self {
        fd.0
    }
}

/// What [`Program::inject`] lets happen in place of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    /// It fails with this errno.
    Errno(i32),
    /// The process ends.
    Exit,
    /// It makes a call of the x32 ABI, for which the filters of this project end the process by SIGSYS.
    Foreign,
    /// It waits for a signal, without end.
    Hang,
    /// It is not done, and nobody is told.
    Skip,
}

/// A list of system calls to run in order. It is built by the methods named after the calls, printed by `Display` as
/// strace would, and run by the interpreter: in the calling thread ([`Image::run`]) or in a sandbox's child.
///
/// Each operation carries a [`Step`] and an object (a path, a controller, a capability), set by [`Program::at`].
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub(crate) ops: Vec<Op>,
    pub(crate) arena: Vec<u8>,
    pub(crate) slots: u16,
    pub(crate) objects: Vec<Option<Arc<str>>>,
    landings: Vec<Option<u32>>,
    pub(crate) inputs: Vec<(u16, &'static str)>,
    /// One buffer for every `statx`: what it says is compared before the next one.
    pub(crate) statx: Option<Place>,
    now: (Step, Option<Arc<str>>),
}

impl Program {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Number of system calls when every one succeeds and no jump is taken.
    pub fn call_count(&self) -> usize {
        let count = |op: &Op| match op.kind {
            KIND_CALL => 1,
            KIND_SWEEP => op.value.count_ones() as usize,
            _ => 0,
        };
        self.ops.iter().map(count).sum()
    }

    /// The operations that follow belong to `step` and concern `object` (empty: nothing in particular).
    pub fn at(&mut self, step: Step, object: impl AsRef<str>) -> &mut Self {
        let object = object.as_ref();
        self.now = (step, (!object.is_empty()).then(|| Arc::from(object)));
        self
    }

    /// Puts `bytes` into the arena, 8-byte aligned.
    pub fn bytes(&mut self, bytes: &[u8]) -> Place {
        let offset = self.arena.len().next_multiple_of(8);
        self.arena.resize(offset, 0);
        self.arena.extend_from_slice(bytes);
        Place { offset: to_u32(offset), len: to_u32(bytes.len()) }
    }

    /// Puts a string with its NUL into the arena.
    pub fn text(&mut self, text: &CStr) -> Place {
        self.bytes(text.to_bytes_with_nul())
    }

    /// A place of `len` zero bytes.
    pub fn room(&mut self, len: usize) -> Place {
        self.bytes(&vec![0; len])
    }

    /// A table of addresses of `places`, ended by null if `null` is set: an argv, say.
    pub fn addresses(&mut self, places: &[Place], null: bool) -> Place {
        let words = places.iter().map(|p| u64::from(p.offset)).chain(null.then_some(u64::MAX));
        let table: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        let place = self.bytes(&table);
        self.relocate(place);
        place
    }

    /// A slot that holds a value before the program runs: [`Image::set`] puts it there. Printed by its name.
    pub fn input(&mut self, name: &'static str) -> Slot {
        let slot = Slot(self.slots);
        self.slots += 1;
        self.inputs.push((slot.0, name));
        slot
    }

    /// Turns the arena offsets that stand in `place` into addresses when the program runs.
    pub(crate) fn relocate(&mut self, place: Place) {
        let args = [u64::from(place.offset), u64::from(place.len / 8), 0, 0, 0, 0];
        self.push(Op { kind: KIND_RELOCATE, args, ..Op::default() });
    }

    /// Adds a call that must succeed; the rule of the last call can be changed by the methods below.
    pub(crate) fn call<const N: usize>(&mut self, nr: i64, args: [Arg; N]) -> Slot {
        let slot = Slot(self.slots);
        self.slots = self.slots.checked_add(1).expect("a program makes fewer than 65,536 calls");
        let mut op = Op { nr: nr as u32, out: slot.0, ..Op::default() };
        set_args(&mut op, &args);
        self.push(op);
        slot
    }

    /// Adds a call made once for each bit set in `mask`; [`Arg::Bit`] is the number of the bit.
    pub(crate) fn sweep<const N: usize>(&mut self, mask: u64, nr: i64, args: [Arg; N]) {
        let mut op = Op { kind: KIND_SWEEP, nr: nr as u32, out: NO_SLOT, value: mask, ..Op::default() };
        set_args(&mut op, &args);
        self.push(op);
    }

    fn push(&mut self, mut op: Op) {
        op.step = self.now.0 as u16;
        self.ops.push(op);
        self.objects.push(self.now.1.clone());
    }

    fn last(&mut self) -> &mut Op {
        self.ops.last_mut().expect("a rule belongs to the call before it")
    }

    fn rule(&mut self, rule: u8, errnos: &[i32]) -> &mut Op {
        assert!(errnos.len() <= 4, "an operation holds four errnos");
        let op = self.last();
        op.rule = rule | (op.rule & RULE_RETRY);
        for (place, &errno) in op.errnos.iter_mut().zip(errnos) {
            *place = u8::try_from(errno).expect("errnos of Linux fit a byte");
        }
        op
    }

    /// The last call may also fail with one of these.
    pub fn tolerate(&mut self, errnos: &[i32]) -> &mut Self {
        self.rule(RULE_TOLERATE, errnos);
        self
    }

    /// The last call must return just `value`.
    pub fn expect(&mut self, value: u64) -> &mut Self {
        self.rule(RULE_EXPECT, &[]).value = value;
        self
    }

    /// The last call is repeated while it is interrupted by a signal.
    pub fn retry(&mut self) -> &mut Self {
        self.last().rule |= RULE_RETRY;
        self
    }

    /// If the last call fails with one of these, the program goes on at `landing`.
    pub fn jump_on(&mut self, errnos: &[i32], landing: Landing) -> &mut Self {
        self.rule(RULE_JUMP, errnos).jump = to_u32(landing.index) | UNPLACED;
        self
    }

    /// If the last call returned more than zero, the program goes on at `landing`.
    pub fn branch(&mut self, landing: Landing) -> &mut Self {
        self.rule(RULE_BRANCH, &[]).jump = to_u32(landing.index) | UNPLACED;
        self
    }

    /// The last call (an exec) may fail with one of these: remembered for [`Program::fail`], `EACCES` before others.
    pub fn remember(&mut self, errnos: &[i32]) -> &mut Self {
        self.rule(RULE_STICKY, errnos);
        self
    }

    /// A target for jumps from operations before it.
    pub fn forward(&mut self) -> Landing {
        self.landings.push(None);
        Landing { index: self.landings.len() - 1, from: self.ops.len() }
    }

    /// Jumps to `landing` arrive here: at the next operation.
    pub fn land(&mut self, landing: Landing) {
        let here = to_u32(self.ops.len());
        for op in &mut self.ops[landing.from..] {
            if op.jump == to_u32(landing.index) | UNPLACED {
                op.jump = here;
            }
        }
        self.landings[landing.index] = Some(here);
    }

    /// Writes the low `place.len()` (1, 2, 4 or 8) bytes of `value` into `place` when the program gets here.
    pub fn store(&mut self, place: Place, value: impl Into<Arg>) {
        let mut op = Op { kind: KIND_STORE, ..Op::default() };
        set_args(&mut op, &[u64::from(place.offset).into(), value.into(), u64::from(place.len).into()]);
        self.push(op);
    }

    /// The word in `place` (1, 2, 4 or 8 bytes), masked, must be `value`; otherwise the program fails with `errno`.
    pub fn check(&mut self, place: Place, mask: u64, value: u64, errno: i32) {
        let mut op = Op { kind: KIND_CHECK, ..Op::default() };
        op.errnos[0] = u8::try_from(errno).expect("errnos of Linux fit a byte");
        op.args = [u64::from(place.offset), mask, value, u64::from(place.len), 0, 0];
        self.push(op);
    }

    /// Becomes the guard of a cgroup: waits until the process behind `pidfd` has ended, kills what is in `group` through
    /// `kill` (its `cgroup.kill`), removes the groups right below it, and then itself by `name` in `above`.
    pub fn guard(&mut self, pidfd: Fd, group: Fd, kill: Fd, above: Fd, name: &CStr) {
        let (name, room) = (self.text(name), self.room(GUARD_ROOM as usize));
        let mut op = Op { kind: KIND_GUARD, ..Op::default() };
        set_args(&mut op, &[pidfd.0, group.0, kill.0, above.0]);
        // Offsets, not addresses: the role reads the places itself.
        (op.args[4], op.args[5]) = (name.offset.into(), room.offset.into());
        self.push(op);
    }

    /// Forks: the new process goes on with the program, and this one, which must be pid 1 of its namespace, becomes its
    /// init: it gives up every descriptor, capability and system call that it does not need, before the other goes on;
    /// reaps; passes signals on to it; and ends when that has ended, with its code or 128 + signal.
    ///
    /// `control` is closed when it is known whether the payload was executed; the image says so then
    /// ([`Outcome::Executed`], [`Outcome::Lost`]) and in the end ([`Outcome::Ended`]).
    pub fn init(&mut self, control: Fd) {
        let mut op = Op { kind: KIND_INIT, ..Op::default() };
        set_args(&mut op, &[control.0]);
        self.push(op);
    }

    /// Fails with the remembered errno, or with `errno` if there is none.
    pub fn fail(&mut self, errno: i32) {
        self.push(Op { kind: KIND_FAIL, value: errno as u64, ..Op::default() });
    }

    /// Adds all operations of `other`; its slots keep their meaning through the returned translation.
    pub fn append(&mut self, other: &Self) -> Appended {
        assert!(
            other.landings.iter().all(Option::is_some),
            "every jump of an appended program has its target"
        );
        let arena = to_u32(self.arena.len().next_multiple_of(8));
        self.arena.resize(arena as usize, 0);
        self.arena.extend_from_slice(&other.arena);
        let (ops, slots) = (to_u32(self.ops.len()), self.slots);
        self.slots += other.slots;
        self.ops.reserve(other.ops.len());
        for op in &other.ops {
            let mut op = *op;
            match op.rule & !RULE_RETRY {
                RULE_JUMP | RULE_BRANCH => op.jump += ops,
                _ => {}
            }
            if op.kind == KIND_CALL && op.out != NO_SLOT {
                op.out += slots;
            }
            for (mode, arg) in op.modes.iter().zip(&mut op.args) {
                match *mode {
                    ARG_ARENA => *arg += u64::from(arena),
                    ARG_SLOT => *arg += u64::from(slots),
                    _ => {}
                }
            }
            if matches!(op.kind, KIND_STORE | KIND_CHECK | KIND_RELOCATE) {
                op.args[0] += u64::from(arena);
            }
            if op.kind == KIND_GUARD {
                op.args[4] += u64::from(arena);
                op.args[5] += u64::from(arena);
            }
            if op.kind == KIND_RELOCATE {
                self.shift(op.args[0], op.args[1], arena);
            }
            self.ops.push(op);
        }
        self.objects.extend_from_slice(&other.objects);
        self.inputs.extend(other.inputs.iter().map(|&(slot, name)| (slot + slots, name)));
        Appended { slots, arena }
    }

    /// The words that a relocation will turn into addresses count from the start of the arena they are in.
    fn shift(&mut self, offset: u64, count: u64, by: u32) {
        for word in self.arena[offset as usize..][..count as usize * 8].chunks_exact_mut(8) {
            let value = u64::from_le_bytes(word.try_into().expect("chunks of eight"));
            if value != u64::MAX {
                word.copy_from_slice(&(value + u64::from(by)).to_le_bytes());
            }
        }
    }

    /// Replaces operation `index`: for tests of what happens when it goes wrong.
    pub fn inject(&mut self, index: usize, what: Injected) {
        let step = self.ops[index].step;
        let call = |nr: i64| Op { nr: nr as u32, out: NO_SLOT, step, ..Op::default() };
        self.ops[index] = match what {
            Injected::Errno(errno) => Op { kind: KIND_FAIL, value: errno as u64, step, ..Op::default() },
            Injected::Exit => call(libc::SYS_exit_group),
            Injected::Foreign => call(libc::SYS_getpid | 0x4000_0000),
            Injected::Hang => call(libc::SYS_pause),
            Injected::Skip => call(libc::SYS_getpid),
        };
    }

    /// Whether an earlier operation may jump over operation `index`.
    pub fn is_conditional(&self, index: usize) -> bool {
        let jumps =
            |op: &Op| matches!(op.rule & !RULE_RETRY, RULE_JUMP | RULE_BRANCH) && op.kind == KIND_CALL;
        self.ops[..index].iter().any(|op| jumps(op) && op.jump as usize > index)
    }

    /// The step of operation `index`.
    pub fn step(&self, index: usize) -> Option<Step> {
        self.ops.get(index).map(|op| Step::from_raw(op.step))
    }

    /// The steps of all operations, in order.
    pub fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        self.ops.iter().map(|op| Step::from_raw(op.step))
    }

    /// The object of operation `index`: the path, controller, capability … that it concerns.
    pub fn object(&self, index: usize) -> Option<&str> {
        self.objects.get(index)?.as_deref()
    }

    /// Operation `index` as strace would print it. `None` for what does nothing outside of the program's own memory.
    pub fn line(&self, index: usize) -> Option<String> {
        // Relocations are how the encoding carries addresses.
        let op = self.ops.get(index).filter(|op| op.kind != KIND_RELOCATE)?;
        Some(self.show(op))
    }

    /// A copy of the program, ready to run.
    pub fn image(&self) -> Image {
        Image::new(self)
    }

    /// Where `place` is in the bytes of the program's image: to read what a run left there.
    pub fn position(&self, place: Place) -> u64 {
        let slots = usize::from(self.slots) * 8;
        (HEADER_LEN + slots + self.ops.len() * size_of::<Op>()) as u64 + u64::from(place.offset)
    }

    /// The descriptors that a run in this process has opened and not closed again: all but those of a whole run that
    /// are wanted must be closed, whether it succeeded or not. For programs without jumps.
    pub fn open_descriptors(&self, image: &Image) -> Vec<i32> {
        let ran = match image.outcome() {
            Outcome::Failed(fault) => fault.index as usize,
            Outcome::Done => self.ops.len(),
            _ => 0,
        };
        let mut open = Vec::new();
        for op in self.ops[..ran].iter().filter(|op| op.kind == KIND_CALL) {
            match i64::from(op.nr) {
                libc::SYS_close => {
                    let closed = if op.modes[0] == ARG_SLOT {
                        image.slot(Slot(op.args[0] as u16))
                    } else {
                        op.args[0]
                    };
                    open.retain(|&fd| fd != closed as i32);
                }
                libc::SYS_openat2
                | libc::SYS_open_tree
                | libc::SYS_fsopen
                | libc::SYS_fsmount
                | libc::SYS_landlock_create_ruleset
                | libc::SYS_socket => {
                    open.push(image.slot(Slot(op.out)) as i32);
                }
                libc::SYS_fcntl if op.args[1] == libc::F_DUPFD_CLOEXEC as u64 => {
                    open.push(image.slot(Slot(op.out)) as i32);
                }
                _ => {}
            }
        }
        open
    }

    /// Puts a fault of this program into words.
    pub fn explain(&self, fault: Fault) -> Explained {
        let index = fault.index as usize;
        Explained {
            step: self.step(index).unwrap_or_default(),
            object: self.object(index).map(str::to_owned),
            call: self.ops.get(index).map_or_else(String::new, |op| self.show_failed(op, fault.bit)),
            errno: fault.errno,
        }
    }
}

/// Where the parts of an appended program came to stand.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    slots: u16,
    arena: u32,
}

impl Appended {
    /// The slot of the whole that was `slot` in the part.
    pub fn slot(self, slot: Slot) -> Slot {
        Slot(slot.0 + self.slots)
    }

    /// The place of the whole that was `place` in the part.
    pub fn place(self, place: Place) -> Place {
        Place { offset: place.offset + self.arena, ..place }
    }
}

/// Marks the jump target of an operation as a landing that is not placed yet.
const UNPLACED: u32 = 1 << 31;

fn set_args(op: &mut Op, args: &[Arg]) {
    for (n, arg) in args.iter().enumerate() {
        (op.modes[n], op.args[n]) = match *arg {
            Arg::Value(value) => (ARG_CONST, value),
            Arg::Address(place) => (ARG_ARENA, u64::from(place.offset)),
            Arg::Slot(slot) => (ARG_SLOT, u64::from(slot.0)),
            Arg::Bit => (ARG_BIT, 0),
        };
    }
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).expect("a program is far below 4 GiB")
}
