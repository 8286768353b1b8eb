//! The compiler: from tables of rules to one BPF program.
//!
//! It builds a graph of tests and answers, equal parts only once, and writes it out so that all jumps go forward:
//!
//! 1. `arch`: one test per architecture that has a table; all others die.
//! 2. `nr`: neighbouring numbers with the same answer are one range, and a balanced tree finds the range. Single
//!    numbers in a range of another answer are tested by equality, which needs one instruction instead of two.
//! 3. Arguments, rule by rule. The kernel's words are 32 bits wide: the high half of an argument is tested once, and
//!    what that told is used in the rules after it.
//!
//! The kernel (5.11 and newer) runs the program once for each number when it is installed and remembers the calls that
//! are allowed whatever their arguments; those never run the filter again. So a small program installs quickly, and a
//! short path counts for the calls that have conditions.

use std::collections::HashMap;

use crate::action::Action;
use crate::arch::Arch;
use crate::bpf::{
    ALU_AND_K, Insn, JMP_JA, JMP_JEQ_K, JMP_JGE_K, JMP_JGT_K, JMP_JSET_K, LD_W_ABS, MAX_INSNS, OFFSET_ARCH,
    OFFSET_ARGS, OFFSET_NR, RET_K,
};
use crate::condition::{Comparison, Condition};
use crate::error::{Error, Repr};
use crate::filter::Filter;
use crate::policy::Table;
use crate::syscall;

pub(crate) fn compile(tables: &[Table]) -> Result<Filter, Error> {
    let mut graph = Graph::default();
    let mut root = graph.answer(Action::KillProcess);
    // The native table comes first, so it is tested first: build from the last.
    for table in tables.iter().rev() {
        let ranges = ranges(&mut graph, table)?;
        let tree = graph.dispatch(&ranges);
        root = graph.test(Load::whole(OFFSET_ARCH), JMP_JEQ_K, table.arch.audit(), tree, root);
    }
    let program = graph.emit(root);
    if program.len() > MAX_INSNS {
        return Err(Repr::TooLarge { needed: program.len() }.into());
    }
    Ok(Filter::from_program(program))
}

type Id = usize;

/// What stands in the accumulator: a word of `seccomp_data`, perhaps masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Load {
    offset: u32,
    mask: u32,
}

impl Load {
    const fn whole(offset: u32) -> Self {
        Load { offset, mask: u32::MAX }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Node {
    Answer(u32),
    Test { load: Load, op: u16, k: u32, yes: Id, no: Id },
}

/// Nodes in the order of their making: what a node leads to comes before it.
#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    known: HashMap<Node, Id>,
    /// How many conditions the calls have that were given to [`Graph::rules`].
    conditions: usize,
}

/// Neighbouring numbers with one answer.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u32,
    /// The last number of it.
    end: u32,
    id: Id,
    weight: usize,
}

/// More conditions than this, over all different calls, cannot fit even if nearly all of it is shared.
const MAX_CONDITIONS: usize = 16 * MAX_INSNS;

/// Splits all 32-bit numbers into ranges.
fn ranges(graph: &mut Graph, table: &Table) -> Result<Vec<Range>, Error> {
    let default = graph.answer(table.default);
    let unknown = graph.answer(table.unknown);
    let mut points: Vec<(u32, Id)> = Vec::new();
    let mut bodies: HashMap<&[(Vec<Condition>, Action)], Id> = HashMap::new();
    let mut numbers: Vec<u32> = syscall::known(table.arch).chain(table.calls.keys().copied()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut next = 0;
    for nr in numbers {
        if nr > next {
            points.push((next, unknown));
        }
        let fallback = if syscall::name_on(table.arch, nr).is_some() { default } else { unknown };
        let id = match table.calls.get(&nr).map(Vec::as_slice) {
            None => fallback,
            Some([(conditions, action)]) if conditions.is_empty() => graph.answer(*action),
            Some(rules) => match bodies.get(rules) {
                // Equal rules on a known and on an unknown number end differently: do not share those.
                Some(&id) if fallback == default => id,
                _ => {
                    let id = graph.rules(rules, fallback)?;
                    if fallback == default {
                        bodies.insert(rules, id);
                    }
                    id
                }
            },
        };
        points.push((nr, id));
        next = nr + 1;
    }
    if next < Arch::X32_BIT {
        points.push((next, unknown));
    }
    if table.arch == Arch::X86_64 {
        points.push((Arch::X32_BIT, graph.answer(Action::KillProcess)));
        points.push((0x8000_0000, unknown));
    }
    let mut ranges: Vec<Range> = Vec::new();
    for (i, &(start, id)) in points.iter().enumerate() {
        let end = points.get(i + 1).map_or(u32::MAX, |next| next.0 - 1);
        // The kernel walks all numbers below about 480 once; a call with conditions is walked at each call.
        let weight = if matches!(graph.nodes[id], Node::Test { .. }) {
            32
        } else {
            (end - start).min(512) as usize + 1
        };
        match ranges.last_mut() {
            Some(last) if last.id == id => {
                last.end = end;
                last.weight += weight;
            }
            _ => ranges.push(Range { start, end, id, weight }),
        }
    }
    Ok(ranges)
}

/// What is known about the high halves of the first two arguments that a call's rules look at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum High {
    Unknown,
    Zero,
    NonZero,
}

/// All states of two [`High`]s; index 0 knows nothing.
const STATES: usize = 9;

#[derive(Clone, Copy)]
struct Facts<'a> {
    /// Argument indices, at most two.
    tracked: &'a [u8],
    state: usize,
}

impl Facts<'_> {
    fn place(&self, index: u8) -> Option<usize> {
        self.tracked.iter().position(|&i| i == index).map(|p| 3usize.pow(p as u32))
    }

    fn high(&self, index: u8) -> High {
        match self.place(index).map(|place| self.state / place % 3) {
            Some(1) => High::Zero,
            Some(2) => High::NonZero,
            _ => High::Unknown,
        }
    }

    /// The state after learning `high` about argument `index`.
    fn learn(&self, index: u8, high: High) -> usize {
        match self.place(index) {
            Some(place) => self.state + place * (high as usize) - place * (self.high(index) as usize),
            None => self.state,
        }
    }
}

impl Graph {
    fn intern(&mut self, node: Node) -> Id {
        *self.known.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    fn answer(&mut self, action: Action) -> Id {
        let ret = action.to_ret();
        // Hundreds of calls share few answers, the first nodes made: look there before hashing.
        let early = self.nodes.iter().take(4).position(|node| *node == Node::Answer(ret));
        early.unwrap_or_else(|| self.intern(Node::Answer(ret)))
    }

    fn test(&mut self, load: Load, op: u16, k: u32, yes: Id, no: Id) -> Id {
        if yes == no { yes } else { self.intern(Node::Test { load, op, k, yes, no }) }
    }

    /// The tree that finds the range of `nr`.
    fn dispatch(&mut self, ranges: &[Range]) -> Id {
        let nr = Load::whole(OFFSET_NR);
        if let [only] = ranges {
            return only.id;
        }
        if let Some((common, mut odd)) = single_numbers(ranges) {
            // The heaviest is tested first, so built last.
            odd.sort_by_key(|range| range.weight);
            return odd.iter().fold(common, |no, range| self.test(nr, JMP_JEQ_K, range.start, range.id, no));
        }
        let total: usize = ranges.iter().map(|range| range.weight).sum();
        let mut left = 0;
        let mut at = 0;
        while at + 1 < ranges.len() && (at == 0 || left + ranges[at].weight / 2 < total / 2) {
            left += ranges[at].weight;
            at += 1;
        }
        let below = self.dispatch(&ranges[..at]);
        let above = self.dispatch(&ranges[at..]);
        self.test(nr, JMP_JGE_K, ranges[at].start, above, below)
    }

    /// The rules of one call: the first whose conditions all hold decides, else `fallback`.
    fn rules(&mut self, rules: &[(Vec<Condition>, Action)], fallback: Id) -> Result<Id, Error> {
        self.conditions += rules.iter().map(|rule| rule.0.len() + 1).sum::<usize>();
        if self.conditions > MAX_CONDITIONS {
            return Err(Repr::TooManyRules { conditions: self.conditions }.into());
        }
        let mut tracked: Vec<u8> = Vec::new();
        for condition in rules.iter().flat_map(|rule| &rule.0) {
            if condition.mask >> 32 != 0 && !tracked.contains(&condition.index) && tracked.len() < 2 {
                tracked.push(condition.index);
            }
        }
        // From the last rule to the first; what follows is known for every state.
        let mut next = [fallback; STATES];
        for (conditions, action) in rules.iter().rev() {
            let mut here = [self.answer(*action); STATES];
            for condition in conditions.iter().rev() {
                let (yes, no) = (here, next);
                for (state, id) in here.iter_mut().enumerate() {
                    *id = self.condition(condition, Facts { tracked: &tracked, state }, &yes, &no);
                }
            }
            next = here;
        }
        Ok(next[0])
    }

    /// One condition, given what is known; `yes` and `no` say where to go in each state.
    fn condition(
        &mut self,
        condition: &Condition,
        facts: Facts<'_>,
        yes: &[Id; STATES],
        no: &[Id; STATES],
    ) -> Id {
        let Condition { index, mask, op, value } = *condition;
        let (op, yes, no) = match op {
            Comparison::Ne => (Comparison::Eq, no, yes),
            Comparison::Lt => (Comparison::Ge, no, yes),
            Comparison::Le => (Comparison::Gt, no, yes),
            op => (op, yes, no),
        };
        let (mask_high, value_high) = ((mask >> 32) as u32, (value >> 32) as u32);
        let offset = OFFSET_ARGS + 8 * u32::from(index);
        let low = |graph: &mut Self, state: usize| {
            graph.low_half(offset, op, mask as u32, value as u32, yes[state], no[state])
        };
        if mask_high == 0 {
            return low(self, facts.state);
        }
        let high = facts.high(index);
        let nonzero = facts.learn(index, High::NonZero);
        let whole = Load::whole(offset + 4);
        // Where the high half is above the value's.
        let above = |state: usize| if op == Comparison::Eq { no[state] } else { yes[state] };
        if value_high == 0 {
            return match high {
                High::Zero => low(self, facts.state),
                High::NonZero if mask_high == u32::MAX => above(facts.state),
                _ if mask_high == u32::MAX => {
                    let low = low(self, facts.learn(index, High::Zero));
                    self.test(whole, JMP_JEQ_K, 0, low, above(nonzero))
                }
                _ => {
                    let low = low(self, facts.state);
                    self.test(whole, JMP_JSET_K, mask_high, above(nonzero), low)
                }
            };
        }
        if high == High::Zero {
            return no[facts.state];
        }
        // The masked half is not zero where it equals the value's or is above it.
        let masked = Load { offset: offset + 4, mask: mask_high };
        let equal = low(self, nonzero);
        let equal = self.test(masked, JMP_JEQ_K, value_high, equal, no[facts.state]);
        if op == Comparison::Eq {
            equal
        } else {
            self.test(masked, JMP_JGT_K, value_high, yes[nonzero], equal)
        }
    }

    fn low_half(&mut self, offset: u32, op: Comparison, mask: u32, value: u32, yes: Id, no: Id) -> Id {
        let masked = Load { offset, mask };
        match op {
            Comparison::Eq if value & !mask != 0 => no,
            Comparison::Eq if mask == 0 => yes,
            Comparison::Eq if value == 0 && mask != u32::MAX => {
                self.test(Load::whole(offset), JMP_JSET_K, mask, no, yes)
            }
            Comparison::Eq => self.test(masked, JMP_JEQ_K, value, yes, no),
            Comparison::Gt if value >= mask => no,
            Comparison::Gt => self.test(masked, JMP_JGT_K, value, yes, no),
            _ if value == 0 => yes,
            _ if value > mask => no,
            _ => self.test(masked, JMP_JGE_K, value, yes, no),
        }
    }

    /// Writes the program, last instruction first, so that the distance of every jump is known when it is written.
    fn emit(&self, root: Id) -> Vec<Insn> {
        let mut live = vec![false; self.nodes.len()];
        // Does somebody come here with another word in the accumulator?
        let mut loads = vec![false; self.nodes.len()];
        live[root] = true;
        loads[root] = true;
        for id in (0..=root).rev() {
            if let (true, Node::Test { load, yes, no, .. }) = (live[id], self.nodes[id]) {
                for to in [yes, no] {
                    live[to] = true;
                    loads[to] |= matches!(self.nodes[to], Node::Test { load: other, .. } if other != load);
                }
            }
        }
        let mut out = Reversed::default();
        // For each node, where to enter it: with the accumulator as it needs it, and with another one.
        let mut entries = vec![(0usize, 0usize); self.nodes.len()];
        for id in 0..=root {
            if !live[id] {
                continue;
            }
            match self.nodes[id] {
                Node::Answer(ret) => {
                    let at = out.push(Insn::new(RET_K, ret));
                    entries[id] = (at, at);
                }
                Node::Test { load, op, k, yes, no } => {
                    let (jt, jf) = self.reach(&mut out, &mut entries, load, yes, no);
                    let ready = out.push(Insn { code: op, jt, jf, k });
                    let mut fresh = ready;
                    if loads[id] {
                        if load.mask != u32::MAX {
                            out.push(Insn::new(ALU_AND_K, load.mask));
                        }
                        fresh = out.push(Insn::new(LD_W_ABS, load.offset));
                    }
                    entries[id] = (ready, fresh);
                }
            }
        }
        out.finish()
    }

    /// The distances from the next instruction to two nodes. Conditional jumps reach 255 instructions: what is
    /// farther gets a copy of its answer, or a long jump, close by.
    fn reach(
        &self,
        out: &mut Reversed,
        entries: &mut [(usize, usize)],
        load: Load,
        yes: Id,
        no: Id,
    ) -> (u8, u8) {
        loop {
            let mut distances = [0u8; 2];
            let mut far = None;
            for (distance, to) in distances.iter_mut().zip([yes, no]) {
                match u8::try_from(out.distance(self.entry(entries, load, to))) {
                    Ok(near) => *distance = near,
                    Err(_) => far = Some(to),
                }
            }
            let Some(to) = far else { return (distances[0], distances[1]) };
            match self.nodes[to] {
                Node::Answer(ret) => {
                    let at = out.push(Insn::new(RET_K, ret));
                    entries[to] = (at, at);
                }
                Node::Test { load: needs, .. } => {
                    let distance = out.distance(self.entry(entries, load, to));
                    let at = out.push(Insn::new(JMP_JA, distance as u32));
                    if needs == load { entries[to].0 = at } else { entries[to].1 = at }
                }
            }
        }
    }

    fn entry(&self, entries: &[(usize, usize)], load: Load, to: Id) -> usize {
        match self.nodes[to] {
            Node::Test { load: needs, .. } if needs != load => entries[to].1,
            _ => entries[to].0,
        }
    }
}

/// A program written backwards. Positions count from its end.
#[derive(Default)]
struct Reversed(Vec<Insn>);

impl Reversed {
    fn push(&mut self, insn: Insn) -> usize {
        self.0.push(insn);
        self.0.len() - 1
    }

    /// How many instructions lie between the next one written and `target`.
    fn distance(&self, target: usize) -> usize {
        self.0.len() - target - 1
    }

    fn finish(mut self) -> Vec<Insn> {
        self.0.reverse();
        self.0
    }
}

/// If all but a few of the ranges have one answer, and those few are single numbers: that answer, and the few.
fn single_numbers(ranges: &[Range]) -> Option<(Id, Vec<Range>)> {
    /// A longer chain would cost more time than it saves instructions.
    const MOST: usize = 4;
    if ranges.len() > 2 * MOST + 1 {
        return None;
    }
    let common = ranges.iter().max_by_key(|range| range.end - range.start)?.id;
    let odd: Vec<Range> = ranges.iter().filter(|range| range.id != common).copied().collect();
    let single = odd.iter().all(|range| range.start == range.end);
    (single && odd.len() <= MOST).then_some((common, odd))
}
