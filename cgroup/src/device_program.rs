//! Device rules as an eBPF program: assembled by hand, shown as text.

use std::fmt;

use crate::device::{Access, DeviceKind, DeviceRules};

/// One instruction, as the kernel lays it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Insn {
    pub(crate) code: u8,
    /// Destination in the low half, source in the high one.
    pub(crate) regs: u8,
    pub(crate) off: i16,
    pub(crate) imm: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOV: u8 = 0xbf;
const MOV_IMM: u8 = 0xb7;
const AND_IMM: u8 = 0x57;
const SHIFT_RIGHT_IMM: u8 = 0x77;
const JUMP_EQ: u8 = 0x15;
const JUMP_NE: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The verdict: 1 allows, 0 is `EPERM`.
const R0: u8 = 0;
/// The context that the kernel passes: access and kind, major, minor.
const R1: u8 = 1;
const KIND: u8 = 2;
/// The kinds of access that no rule has allowed yet.
const ASKED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn { code, regs: src << 4 | dst, off, imm }
}

/// The eBPF program of a list of rules. `Display` prints it as assembly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceProgram {
    pub(crate) insns: Vec<Insn>,
}

impl DeviceRules {
    /// Assembles the program. It goes through the rules from the last to the first: an allowing rule strikes its accesses
    /// off what is asked and allows when nothing is left, a denying one denies if it has any of what is left.
    pub fn compile(&self) -> DeviceProgram {
        let mut p = vec![
            insn(LOAD_WORD, KIND, R1, 0, 0),
            insn(MOV, ASKED, KIND, 0, 0),
            insn(AND_IMM, KIND, 0, 0, 0xffff),
            insn(SHIFT_RIGHT_IMM, ASKED, 0, 0, 16),
            insn(LOAD_WORD, MAJOR, R1, 4, 0),
            insn(LOAD_WORD, MINOR, R1, 8, 0),
        ];
        let mut otherwise = self.otherwise;
        for (allow, device) in self.rules.iter().rev() {
            let kind = device.kind.map(|k| match k {
                DeviceKind::Block => 1,
                DeviceKind::Char => 2,
            });
            let conditions = [(KIND, kind), (MAJOR, device.major), (MINOR, device.minor)];
            let conditions: Vec<(u8, u32)> =
                conditions.into_iter().filter_map(|(r, v)| Some((r, v?))).collect();
            if conditions.is_empty() && device.access == Access::ALL {
                // Nothing gets past this rule, and the kernel refuses programs with parts that are never reached.
                otherwise = *allow;
                break;
            }
            let body = if *allow {
                vec![
                    insn(AND_IMM, ASKED, 0, 0, (!device.access).bits().into()),
                    insn(JUMP_NE, ASKED, 0, 2, 0),
                    insn(MOV_IMM, R0, 0, 0, 1),
                    insn(EXIT, 0, 0, 0, 0),
                ]
            } else {
                vec![
                    insn(MOV, SCRATCH, ASKED, 0, 0),
                    insn(AND_IMM, SCRATCH, 0, 0, device.access.bits().into()),
                    insn(JUMP_EQ, SCRATCH, 0, 2, 0),
                    insn(MOV_IMM, R0, 0, 0, 0),
                    insn(EXIT, 0, 0, 0, 0),
                ]
            };
            let count = conditions.len();
            for (i, (register, value)) in conditions.into_iter().enumerate() {
                // Past the remaining conditions and the body; at most seven.
                let skip = (count - 1 - i + body.len()) as i16;
                // Majors have 12 bits and minors 20: no sign to extend.
                p.push(insn(JUMP_NE, register, 0, skip, value as i32));
            }
            p.extend(body);
        }
        if otherwise {
            p.push(insn(MOV_IMM, R0, 0, 0, 1));
        } else {
            p.push(insn(MOV_IMM, R0, 0, 0, 0));
            p.push(insn(JUMP_NE, ASKED, 0, 1, 0));
            p.push(insn(MOV_IMM, R0, 0, 0, 1));
        }
        p.push(insn(EXIT, 0, 0, 0, 0));
        DeviceProgram { insns: p }
    }
}

impl DeviceProgram {
    /// How many instructions there are.
    pub fn len(&self) -> usize {
        self.insns.len()
    }

    /// Whether there are none, as in a program that this process may not look into.
    pub fn is_empty(&self) -> bool {
        self.insns.is_empty()
    }
}

/// One instruction a line, numbered. Instructions that this crate does not emit are shown in numbers.
impl fmt::Display for DeviceProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, i) in self.insns.iter().enumerate() {
            let (dst, src) = (i.regs & 15, i.regs >> 4);
            let target = n as i64 + 1 + i64::from(i.off);
            write!(f, "{n:4}: ")?;
            match i.code {
                LOAD_WORD => writeln!(f, "r{dst} = *(u32 *)(r{src} + {})", i.off),
                MOV => writeln!(f, "r{dst} = r{src}"),
                MOV_IMM => writeln!(f, "r{dst} = {}", i.imm),
                AND_IMM => writeln!(f, "r{dst} &= {:#x}", i.imm),
                SHIFT_RIGHT_IMM => writeln!(f, "r{dst} >>= {}", i.imm),
                JUMP_EQ => writeln!(f, "if r{dst} == {} goto {target}", i.imm),
                JUMP_NE => writeln!(f, "if r{dst} != {} goto {target}", i.imm),
                EXIT => writeln!(f, "exit"),
                code => writeln!(f, "code {code:#04x} r{dst} r{src} off {} imm {}", i.off, i.imm),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::{any_access, any_kind, any_rules};
    use proptest::prelude::*;

    /// Runs a program on a request, as the kernel does. Panics on anything the verifier would refuse.
    fn run(p: &DeviceProgram, context: [u32; 3]) -> u64 {
        let mut r = [None::<u64>; 7];
        let mut at = 0usize;
        for _ in 0..=p.insns.len() {
            let i = p.insns[at];
            let (dst, src) = (usize::from(i.regs & 15), usize::from(i.regs >> 4));
            let value = |n: usize| r[n].expect("a register that was set");
            let jump = |yes: bool| if yes { usize::try_from(i.off).expect("forward") } else { 0 };
            at += 1;
            match i.code {
                LOAD_WORD => {
                    assert_eq!(src, usize::from(R1));
                    r[dst] = Some(context[usize::try_from(i.off).expect("inside") / 4].into());
                }
                MOV => r[dst] = Some(value(src)),
                MOV_IMM => r[dst] = Some(i64::from(i.imm) as u64),
                AND_IMM => r[dst] = Some(value(dst) & i64::from(i.imm) as u64),
                SHIFT_RIGHT_IMM => r[dst] = Some(value(dst) >> i.imm),
                JUMP_EQ => at += jump(value(dst) == i64::from(i.imm) as u64),
                JUMP_NE => at += jump(value(dst) != i64::from(i.imm) as u64),
                EXIT => return r[0].expect("a verdict"),
                other => panic!("not emitted: {other:#x}"),
            }
        }
        panic!("no end");
    }

    fn verdict(p: &DeviceProgram, kind: DeviceKind, major: u32, minor: u32, access: Access) -> bool {
        let kind = if kind == DeviceKind::Block { 1 } else { 2 };
        run(p, [u32::from(access.bits()) << 16 | kind, major, minor]) == 1
    }

    proptest! {
        #[test]
        fn the_program_answers_as_the_rules_do(
            rules in any_rules(), kind in any_kind(), major in 0u32..4, minor in 0u32..4, access in any_access()
        ) {
            let p = rules.compile();
            for access in [access, Access::NONE] {
                prop_assert_eq!(
                    verdict(&p, kind, major, minor, access),
                    rules.allows(kind, major, minor, access),
                    "{}{}", rules, p
                );
            }
        }

        #[test]
        fn every_instruction_is_reached(rules in any_rules()) {
            let p = rules.compile();
            // Every jump leads to an instruction, and what follows an exit is some jump's target.
            let targets: Vec<usize> = p.insns.iter().enumerate()
                .filter(|(_, i)| matches!(i.code, JUMP_EQ | JUMP_NE))
                .map(|(n, i)| n + 1 + usize::try_from(i.off).expect("forward"))
                .collect();
            prop_assert!(targets.iter().all(|t| *t < p.len()));
            for (n, i) in p.insns.iter().enumerate() {
                prop_assert!(i.code != EXIT || n + 1 == p.len() || targets.contains(&(n + 1)), "{}", p);
            }
        }
    }

    #[test]
    fn disassembly() {
        let p = DeviceRules::deny_all().allow("c 1:3 rwm".parse().expect("rule")).compile();
        assert_eq!(
            p.to_string(),
            "   0: r2 = *(u32 *)(r1 + 0)\n   1: r3 = r2\n   2: r2 &= 0xffff\n   3: r3 >>= 16\n\
             \x20  4: r4 = *(u32 *)(r1 + 4)\n   5: r5 = *(u32 *)(r1 + 8)\n   6: if r2 != 2 goto 13\n\
             \x20  7: if r4 != 1 goto 13\n   8: if r5 != 3 goto 13\n   9: r3 &= 0x0\n  10: if r3 != 0 goto 13\n\
             \x20 11: r0 = 1\n  12: exit\n  13: r0 = 0\n  14: if r3 != 0 goto 16\n  15: r0 = 1\n  16: exit\n"
        );
    }

    #[test]
    fn a_rule_for_everything_ends_the_program() {
        let rules =
            DeviceRules::allow_all().deny("c 1:3 r".parse().expect("rule")).deny(crate::device::Device::ALL);
        assert_eq!(rules.compile(), DeviceRules::deny_all().compile());
    }
}
