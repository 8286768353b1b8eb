//! The bytes of a program, ready for the interpreter.

use crate::fault::{Fault, Outcome};
use crate::interp;
use crate::program::{Program, Slot};
use crate::wire::*;

/// One run's own copy of a program. Running writes to it (slots, stored words, the outcome), so each run takes a
/// fresh one; making it allocates, running does not.
#[derive(Clone, Debug)]
pub struct Image {
    /// Words, so that the parts are aligned.
    words: Vec<u64>,
    len: usize,
}

impl Image {
    pub(crate) fn new(program: &Program) -> Self {
        let header = Header {
            magic: MAGIC,
            state: STATE_NEW,
            slots: program.slots.into(),
            ops: program.ops.len() as u32,
            arena: program.arena.len() as u32,
            ..Header::default()
        };
        let len = size_of::<Header>()
            + usize::from(program.slots) * 8
            + program.ops.len() * size_of::<Op>()
            + program.arena.len();
        let mut words = Vec::with_capacity(len.div_ceil(8));
        header_words(&header, &mut words);
        words.resize(words.len() + usize::from(program.slots), 0);
        for op in &program.ops {
            op_words(op, &mut words);
        }
        for chunk in program.arena.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            words.push(u64::from_le_bytes(word));
        }
        Self { words, len }
    }

    /// The bytes, as the stage maps them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.len);
        bytes
    }

    pub(crate) fn words_mut(&mut self) -> (&mut [u64], usize) {
        (&mut self.words, self.len)
    }

    /// How the last run went.
    pub fn outcome(&self) -> Outcome {
        let bytes: Vec<u8> = self.words[..HEADER_WORDS].iter().flat_map(|word| word.to_le_bytes()).collect();
        Outcome::parse(&bytes)
    }

    /// What the last run left in `slot`.
    pub fn slot(&self, slot: Slot) -> u64 {
        self.words[HEADER_WORDS + usize::from(slot.0)]
    }

    /// Gives an input its value.
    pub fn set(&mut self, input: Slot, value: u64) {
        self.words[HEADER_WORDS + usize::from(input.0)] = value;
    }

    pub(crate) fn finish(outcome: Result<(), interp::Stop>) -> Result<(), Fault> {
        outcome.map_err(|stop| Fault { index: stop.index, errno: stop.errno, bit: stop.bit })
    }
}

/// Bytes at the start of an image that hold its outcome.
pub const HEADER_LEN: usize = size_of::<Header>();
const HEADER_WORDS: usize = HEADER_LEN / 8;

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn header_words(h: &Header, words: &mut Vec<u64>) {
    words.extend([
        h.magic,
        pair(h.state, h.fault_index),
        pair(h.fault_errno as u32, h.fault_bit),
        pair(h.slots, h.ops),
        pair(h.arena, h.reserved),
    ]);
}

fn op_words(op: &Op, words: &mut Vec<u64>) {
    let [a, b, c, d, e, f] = op.modes;
    words.extend([
        u64::from_le_bytes([op.kind, op.rule, a, b, c, d, e, f]),
        pair(op.nr, u32::from(op.out) | u32::from(op.step) << 16),
        pair(op.jump, u32::from_le_bytes(op.errnos)),
        op.value,
    ]);
    words.extend(op.args);
}

const _: () = assert!(size_of::<Header>() == 40 && size_of::<Op>() == 80 && align_of::<Op>() == 8);
