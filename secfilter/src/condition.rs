//! Conditions on the arguments of a call.

use std::fmt;

/// One of the six arguments of a call, perhaps masked: `arg(1).low32().eq(0x5412)`.
///
/// Arguments are unsigned 64-bit words as they stand in the registers. Where the kernel's parameter is an `int`, it
/// reads the low half only, and a program may put anything into the upper one: **a rule that refuses must compare
/// [`low32`](Arg::low32)** (CVE-2019-10063), a rule that permits does well to compare all 64 bits.
/// What a pointer points to cannot be seen by a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use = "compare it: `arg(0).eq(1)`"]
pub struct Arg {
    index: u8,
    mask: u64,
}

/// Argument `index`, 0 to 5, all 64 bits. (A higher index is an error when the policy is compiled.)
pub const fn arg(index: u8) -> Arg {
    Arg { index, mask: u64::MAX }
}

macro_rules! comparisons {
    ($($(#[$doc:meta])* $name:ident $op:ident;)*) => {
        $($(#[$doc])*
        pub const fn $name(self, value: u64) -> Condition {
            Condition { index: self.index, mask: self.mask, op: Comparison::$op, value }
        })*
    };
}

impl Arg {
    /// Only the low 32 bits: what the kernel reads of an `int`.
    pub const fn low32(self) -> Self {
        self.masked(0xffff_ffff)
    }

    /// Only these bits: `arg(0).masked(0x7e02_0000).eq(0)` holds where none of them is set.
    pub const fn masked(self, mask: u64) -> Self {
        Arg { index: self.index, mask: self.mask & mask }
    }

    comparisons! {
        /// Equal.
        eq Eq;
        /// Not equal.
        ne Ne;
        /// Less than, unsigned.
        lt Lt;
        /// Less than or equal, unsigned.
        le Le;
        /// Greater than, unsigned.
        gt Gt;
        /// Greater than or equal, unsigned.
        ge Ge;
    }
}

/// The comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// A comparison of one argument with a constant; made by the methods of [`Arg`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Condition {
    pub(crate) index: u8,
    pub(crate) mask: u64,
    pub(crate) op: Comparison,
    pub(crate) value: u64,
}

impl Condition {
    /// Whether a call with these arguments meets it. (An index above 5 is never met; policies refuse it.)
    pub fn holds(&self, args: &[u64; 6]) -> bool {
        let Some(arg) = args.get(usize::from(self.index)) else { return false };
        let bits = arg & self.mask;
        match self.op {
            Comparison::Eq => bits == self.value,
            Comparison::Ne => bits != self.value,
            Comparison::Lt => bits < self.value,
            Comparison::Le => bits <= self.value,
            Comparison::Gt => bits > self.value,
            Comparison::Ge => bits >= self.value,
        }
    }

    /// The same answer for every argument?
    ///
    /// The masked word takes no value above the mask (as a number), and all values below it only where the mask is
    /// a run of low bits; equality can be decided exactly.
    pub(crate) fn constant(&self) -> Option<bool> {
        let Condition { mask, op, value, .. } = *self;
        match op {
            Comparison::Eq | Comparison::Ne if value & !mask != 0 => Some(op == Comparison::Ne),
            Comparison::Eq | Comparison::Ne if mask == 0 => Some(op == Comparison::Eq),
            Comparison::Lt if value == 0 => Some(false),
            Comparison::Lt if value > mask => Some(true),
            Comparison::Le if value >= mask => Some(true),
            Comparison::Gt if value >= mask => Some(false),
            Comparison::Ge if value == 0 => Some(true),
            Comparison::Ge if value > mask => Some(false),
            _ => None,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            Comparison::Eq => "==",
            Comparison::Ne => "!=",
            Comparison::Lt => "<",
            Comparison::Le => "<=",
            Comparison::Gt => ">",
            Comparison::Ge => ">=",
        };
        match self.mask {
            u64::MAX => write!(f, "arg{} {op} {:#x}", self.index, self.value),
            0xffff_ffff => write!(f, "low32(arg{}) {op} {:#x}", self.index, self.value),
            mask => write!(f, "(arg{} & {mask:#x}) {op} {:#x}", self.index, self.value),
        }
    }
}
