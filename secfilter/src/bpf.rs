//! Classic BPF as seccomp takes it: instructions, a pure evaluator, a disassembler.

use std::fmt;

use crate::action::Action;
use crate::arch::Arch;
use crate::syscall::{self, Syscall};

/// `BPF_MAXINSNS`: the longest program that the kernel takes.
pub const MAX_INSNS: usize = 4096;

pub(crate) const LD_W_ABS: u16 = 0x20;
pub(crate) const ALU_AND_K: u16 = 0x54;
pub(crate) const JMP_JA: u16 = 0x05;
pub(crate) const JMP_JEQ_K: u16 = 0x15;
pub(crate) const JMP_JGT_K: u16 = 0x25;
pub(crate) const JMP_JGE_K: u16 = 0x35;
pub(crate) const JMP_JSET_K: u16 = 0x45;
pub(crate) const RET_K: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
pub(crate) const OFFSET_NR: u32 = 0;
pub(crate) const OFFSET_ARCH: u32 = 4;
pub(crate) const OFFSET_ARGS: u32 = 16;

/// One instruction: the kernel's `struct sock_filter`, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Insn {
    /// Operation and addressing mode.
    pub code: u16,
    /// How many instructions to skip if a test holds.
    pub jt: u8,
    /// How many to skip if it does not.
    pub jf: u8,
    /// Constant, offset or distance.
    pub k: u32,
}

impl Insn {
    pub(crate) const fn new(code: u16, k: u32) -> Self {
        Insn { code, jt: 0, jf: 0, k }
    }
}

/// A system call as a filter sees it: the kernel's `struct seccomp_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SeccompData {
    /// Number of the call.
    pub nr: u32,
    /// `AUDIT_ARCH_*` of the ABI it came through: [`Arch::audit`].
    pub arch: u32,
    /// Address of the instruction after the call.
    pub instruction_pointer: u64,
    /// The six argument registers.
    pub args: [u64; 6],
}

impl SeccompData {
    /// A call of the native ABI.
    pub const fn new(call: Syscall, args: [u64; 6]) -> Self {
        SeccompData { nr: call.number(), arch: Arch::NATIVE.audit(), instruction_pointer: 0, args }
    }

    /// The 32-bit word at `offset`, as BPF loads it.
    fn word(&self, offset: u32) -> Option<u32> {
        let half = |word: u64, at: u32| Some(if at % 8 == 0 { word as u32 } else { (word >> 32) as u32 });
        match offset {
            OFFSET_NR => Some(self.nr),
            OFFSET_ARCH => Some(self.arch),
            8 | 12 => half(self.instruction_pointer, offset),
            16..64 if offset % 4 == 0 => half(self.args[(offset as usize - 16) / 8], offset),
            _ => None,
        }
    }
}

/// What stops a program that is not well formed; the kernel refuses such programs at install.
const BROKEN: Action = Action::KillProcess;

/// Runs `program` on `data`. Total: a program that the kernel would refuse gives `KILL_PROCESS`.
pub(crate) fn run(program: &[Insn], data: &SeccompData) -> Action {
    let mut a = 0u32;
    let mut pc = 0usize;
    while let Some(insn) = program.get(pc) {
        pc += 1;
        match step(*insn, &mut a, |offset| data.word(offset)) {
            Some(Step::Next(skip)) => pc += skip,
            Some(Step::Return(ret)) => return Action::from_ret(ret),
            None => return BROKEN,
        }
    }
    BROKEN
}

enum Step {
    Next(usize),
    Return(u32),
}

fn step(insn: Insn, a: &mut u32, load: impl Fn(u32) -> Option<u32>) -> Option<Step> {
    let holds = match insn.code {
        LD_W_ABS => {
            *a = load(insn.k)?;
            return Some(Step::Next(0));
        }
        ALU_AND_K => {
            *a &= insn.k;
            return Some(Step::Next(0));
        }
        JMP_JA => return Some(Step::Next(insn.k as usize)),
        RET_K => return Some(Step::Return(insn.k)),
        JMP_JEQ_K => *a == insn.k,
        JMP_JGT_K => *a > insn.k,
        JMP_JGE_K => *a >= insn.k,
        JMP_JSET_K => *a & insn.k != 0,
        _ => return None,
    };
    Some(Step::Next(usize::from(if holds { insn.jt } else { insn.jf })))
}

/// Every answer that `program` can give to call `nr` of `arch`, whatever its arguments: both ways of each test of an
/// argument are followed, so that a listed answer may need arguments that contradict each other.
pub(crate) fn answers(program: &[Insn], arch: u32, nr: u32) -> Vec<Action> {
    // Where an argument was loaded the accumulator is unknown: None.
    let mut todo: Vec<(usize, Option<u32>)> = vec![(0, Some(0))];
    let mut seen = std::collections::HashSet::new();
    let mut found = std::collections::BTreeSet::new();
    while let Some((pc, a)) = todo.pop() {
        if !seen.insert((pc, a)) {
            continue;
        }
        let Some(&insn) = program.get(pc) else {
            found.insert(BROKEN);
            continue;
        };
        match (insn.code, a) {
            (LD_W_ABS, _) if insn.k != OFFSET_NR && insn.k != OFFSET_ARCH => todo.push((pc + 1, None)),
            (ALU_AND_K, None) => todo.push((pc + 1, None)),
            (JMP_JEQ_K | JMP_JGT_K | JMP_JGE_K | JMP_JSET_K, None) => {
                todo.push((pc + 1 + usize::from(insn.jt), None));
                todo.push((pc + 1 + usize::from(insn.jf), None));
            }
            _ => {
                // JA and RET do not look at the accumulator.
                let mut value = a.unwrap_or(0);
                match step(insn, &mut value, |offset| Some(if offset == OFFSET_NR { nr } else { arch })) {
                    Some(Step::Next(skip)) => {
                        let known = a.is_some() || insn.code == LD_W_ABS;
                        todo.push((pc + 1 + skip, known.then_some(value)));
                    }
                    Some(Step::Return(ret)) => {
                        found.insert(Action::from_ret(ret));
                    }
                    None => {
                        found.insert(BROKEN);
                    }
                }
            }
        }
    }
    found.into_iter().collect()
}

/// How many instructions [`run`] executes for `data`.
pub(crate) fn path_len(program: &[Insn], data: &SeccompData) -> usize {
    let (mut a, mut pc, mut count) = (0u32, 0usize, 0usize);
    while let Some(insn) = program.get(pc) {
        pc += 1;
        count += 1;
        match step(*insn, &mut a, |offset| data.word(offset)) {
            Some(Step::Next(skip)) => pc += skip,
            _ => break,
        }
    }
    count
}

/// A listing, one line per instruction.
pub(crate) fn disassemble(program: &[Insn], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // What is in the accumulator and which architecture was found, at each instruction: jumps go forward only.
    let mut states: Vec<Option<(Option<u32>, Option<Arch>)>> = vec![None; program.len() + 1];
    states[0] = Some((None, None));
    for (at, insn) in program.iter().enumerate() {
        let (loaded, arch) = states[at].unwrap_or_default();
        let mut arrive = |distance: usize, state| {
            if let Some(slot) = states.get_mut(at + 1 + distance) {
                slot.get_or_insert(state);
            }
        };
        let subject = match insn.code {
            JMP_JEQ_K | JMP_JGE_K if loaded == Some(OFFSET_NR) => {
                arch.and_then(|arch| syscall::name_on(arch, insn.k)).map(str::to_owned)
            }
            JMP_JEQ_K if loaded == Some(OFFSET_ARCH) => {
                Arch::ALL.into_iter().find(|arch| arch.audit() == insn.k).map(|arch| arch.to_string())
            }
            _ => None,
        };
        write!(f, "{at:4}: ")?;
        let op = match insn.code {
            JMP_JEQ_K => "==",
            JMP_JGT_K => ">",
            JMP_JGE_K => ">=",
            JMP_JSET_K => "&",
            LD_W_ABS => {
                arrive(0, (Some(insn.k), arch));
                match insn.k {
                    OFFSET_NR => writeln!(f, "A = nr")?,
                    OFFSET_ARCH => writeln!(f, "A = arch")?,
                    k if k < OFFSET_ARGS => writeln!(f, "A = ip[{k}]")?,
                    k => {
                        let half = if k % 8 == 0 { "low32" } else { "high32" };
                        writeln!(f, "A = {half}(arg{})", (k - OFFSET_ARGS) / 8)?;
                    }
                }
                continue;
            }
            ALU_AND_K => {
                arrive(0, (loaded, arch));
                writeln!(f, "A &= {:#x}", insn.k)?;
                continue;
            }
            JMP_JA => {
                arrive(insn.k as usize, (loaded, arch));
                writeln!(f, "goto {}", at + 1 + insn.k as usize)?;
                continue;
            }
            RET_K => {
                writeln!(f, "return {}", Action::from_ret(insn.k))?;
                continue;
            }
            code => {
                writeln!(f, "unknown {code:#x} {} {} {:#x}", insn.jt, insn.jf, insn.k)?;
                continue;
            }
        };
        let (yes, no) = (usize::from(insn.jt), usize::from(insn.jf));
        let found = match (loaded, insn.code) {
            (Some(OFFSET_ARCH), JMP_JEQ_K) => Arch::ALL.into_iter().find(|arch| arch.audit() == insn.k),
            _ => arch,
        };
        arrive(yes, (loaded, found));
        arrive(no, (loaded, arch));
        write!(f, "if A {op} {:#x} goto {} else {}", insn.k, at + 1 + yes, at + 1 + no)?;
        match subject {
            Some(subject) => writeln!(f, "  ; {subject}")?,
            None => writeln!(f)?,
        }
    }
    Ok(())
}
