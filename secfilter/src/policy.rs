//! Policies: what a caller wants, before it is a program.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::action::{Action, MAX_ERRNO};
use crate::arch::Arch;
use crate::bpf::SeccompData;
use crate::condition::Condition;
use crate::error::{Error, Repr};
use crate::filter::Filter;
use crate::syscall::{self, Syscall};
use crate::table::Row;

/// A call in a rule: `"openat"`, a `String`, or a [`Syscall`] by number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallRef(Call);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Call {
    /// A name that some architecture has.
    Known(&'static Row),
    Unknown(String),
    Number(u32),
}

impl CallRef {
    /// The number on `arch`. A call by number is a call of the native architecture.
    fn number(&self, arch: Arch) -> Option<u32> {
        match &self.0 {
            Call::Known(row) => row.number(arch),
            Call::Unknown(_) => None,
            Call::Number(number) => (arch == Arch::NATIVE).then_some(*number),
        }
    }
}

impl From<&str> for CallRef {
    fn from(name: &str) -> Self {
        CallRef(match syscall::row(name) {
            Some(row) => Call::Known(row),
            None => Call::Unknown(name.to_owned()),
        })
    }
}

impl From<&&str> for CallRef {
    fn from(name: &&str) -> Self {
        CallRef::from(*name)
    }
}

impl From<String> for CallRef {
    fn from(name: String) -> Self {
        CallRef::from(name.as_str())
    }
}

impl From<Syscall> for CallRef {
    fn from(call: Syscall) -> Self {
        CallRef(Call::Number(call.number()))
    }
}

impl fmt::Display for CallRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Call::Known(row) => f.write_str(row.0),
            Call::Unknown(name) => f.write_str(name),
            Call::Number(number) => write!(f, "{}", Syscall::new(*number)),
        }
    }
}

/// One rule: some calls, conditions that must all hold, and the action then.
///
/// ```
/// # use palisade_secfilter::{Action, Rule, arg};
/// // TIOCSTI pushes input into the terminal; the kernel reads the low half of the request.
/// let rule = Rule::new(["ioctl"], Action::EPERM).when(arg(1).low32().eq(0x5412));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    calls: Vec<CallRef>,
    conditions: Vec<Condition>,
    action: Action,
    optional: bool,
}

impl Rule {
    /// `action` for these calls.
    pub fn new<I>(calls: I, action: Action) -> Self
    where
        I: IntoIterator,
        I::Item: Into<CallRef>,
    {
        Rule {
            calls: calls.into_iter().map(Into::into).collect(),
            conditions: Vec::new(),
            action,
            optional: false,
        }
    }

    /// Only where `condition` holds too. Several conditions must all hold; for 'or' write several rules.
    pub fn when(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Names that this architecture does not have are passed over instead of being an error.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Equal for rules that mean the same calls.
    fn sorted_conditions(&self) -> Vec<Condition> {
        let mut conditions = self.conditions.clone();
        conditions.sort_unstable();
        conditions.dedup();
        conditions
    }

    fn covers(&self, arch: Arch, nr: u32) -> bool {
        self.calls.iter().any(|call| call.number(arch) == Some(nr))
    }
}

/// What a process may ask of the kernel: a default action and rules.
///
/// For each call **the first rule that matches decides**; where none does, [`Policy::new`]'s default. A call whose number
/// nobody knows (a newer kernel's, or nonsense) gets ENOSYS unless [`unknown`](Policy::unknown) says otherwise, so
/// that programs fall back instead of breaking. Calls of another architecture kill the process unless
/// [`also`](Policy::also) gives it a table; calls of the x32 ABI always do.
///
/// Mistakes are errors of [`compile`](Policy::compile): names that do not exist, rules that are never reached,
/// conditions that are always or never true.
///
/// ```
/// use palisade_secfilter::{Action, Policy, Rule, SeccompData, arg};
///
/// let filter = Policy::new(Action::EPERM)
///     .allow(["read", "write", "exit_group", "execve"])
///     .rule(Rule::new(["socket"], Action::Allow).when(arg(0).eq(1)))
///     .compile()?;
/// let socket = |family| SeccompData::new("socket".parse().unwrap(), [family, 1, 0, 0, 0, 0]);
/// assert_eq!(filter.evaluate(&socket(1)), Action::Allow);
/// assert_eq!(filter.evaluate(&socket(2)), Action::EPERM);
/// println!("{filter}");
/// # Ok::<(), palisade_secfilter::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    default: Action,
    unknown: Action,
    others: Vec<Arch>,
    rules: Vec<Rule>,
}

impl Policy {
    /// No rules: every known call gets `default`.
    pub fn new(default: Action) -> Self {
        Policy { default, unknown: Action::ENOSYS, others: Vec::new(), rules: Vec::new() }
    }

    /// Another default than the one given to [`Policy::new`].
    pub fn default_action(mut self, action: Action) -> Self {
        self.default = action;
        self
    }

    /// Adds a rule after the others.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Adds a rule that allows these calls with any arguments.
    pub fn allow<I>(self, calls: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<CallRef>,
    {
        self.rule(Rule::new(calls, Action::Allow))
    }

    /// Replaces whatever the rules so far say about these calls: how a preset is changed.
    ///
    /// ```
    /// # use palisade_secfilter::{Action, presets};
    /// let for_debuggers = presets::payload().set(["ptrace", "process_vm_readv"], Action::Allow);
    /// # assert!(for_debuggers.compile().is_ok());
    /// ```
    pub fn set<I>(mut self, calls: I, action: Action) -> Self
    where
        I: IntoIterator,
        I::Item: Into<CallRef>,
    {
        let rule = Rule::new(calls, action);
        let numbers: Vec<_> = rule.calls.iter().map(|call| call.number(Arch::NATIVE)).collect();
        for old in &mut self.rules {
            old.calls.retain(|call| {
                let same_number =
                    call.number(Arch::NATIVE).is_some() && numbers.contains(&call.number(Arch::NATIVE));
                !same_number && !rule.calls.contains(call)
            });
        }
        self.rules.retain(|old| !old.calls.is_empty());
        self.rule(rule)
    }

    /// What numbers get that no table and no rule knows. ENOSYS unless set.
    pub fn unknown(mut self, action: Action) -> Self {
        self.unknown = action;
        self
    }

    /// Gives another architecture the same rules, by name, instead of killing its calls.
    ///
    /// On [`Arch::X86`] conditions on `socket`, `shmat` and the like do not cover the multiplexers `socketcall` and
    /// `ipc`, which take their arguments from memory: allow those two only where the conditions may be passed by.
    pub fn also(mut self, arch: Arch) -> Self {
        if arch != Arch::NATIVE && !self.others.contains(&arch) {
            self.others.push(arch);
        }
        self
    }

    /// What this policy says about a call: the reference meaning, by going through the rules.
    /// (Names that do not exist match nothing here; [`compile`](Policy::compile) reports them.)
    pub fn evaluate(&self, data: &SeccompData) -> Action {
        let Some(arch) = self.arches().find(|arch| arch.audit() == data.arch) else {
            return Action::KillProcess;
        };
        if is_x32(arch, data.nr) {
            return Action::KillProcess;
        }
        for rule in &self.rules {
            if rule.covers(arch, data.nr) && rule.conditions.iter().all(|c| c.holds(&data.args)) {
                return rule.action;
            }
        }
        if syscall::name_on(arch, data.nr).is_some() { self.default } else { self.unknown }
    }

    /// Checks the policy and compiles it.
    ///
    /// # Errors
    /// [`UnknownSyscall`](crate::ErrorKind::UnknownSyscall) for a name that none of the policy's architectures has,
    /// unless its rule is [optional](Rule::optional); [`BadRule`](crate::ErrorKind::BadRule) for an argument index above
    /// 5, an errno above 4095, a condition that is always or never true, a rule that is never reached although it says
    /// something else, a call by number where another architecture has a table;
    /// [`TooLarge`](crate::ErrorKind::TooLarge) above 4096 instructions.
    pub fn compile(&self) -> Result<Filter, Error> {
        for action in [self.default, self.unknown] {
            check_action(action, || "the default".to_owned())?;
        }
        for rule in &self.rules {
            self.check(rule)?;
        }
        let tables = self.arches().map(|arch| self.table(arch)).collect::<Result<Vec<_>, _>>()?;
        crate::compile::compile(&tables)
    }

    fn arches(&self) -> impl Iterator<Item = Arch> {
        std::iter::once(Arch::NATIVE).chain(self.others.iter().copied())
    }

    fn check(&self, rule: &Rule) -> Result<(), Error> {
        let call = || rule.calls.iter().map(ToString::to_string).next().unwrap_or_default();
        check_action(rule.action, call)?;
        for condition in &rule.conditions {
            if condition.index > 5 {
                return Err(Repr::BadIndex { call: call(), index: condition.index }.into());
            }
            if let Some(always) = condition.constant() {
                return Err(Repr::Constant { call: call(), condition: condition.to_string(), always }.into());
            }
        }
        for call in &rule.calls {
            match &call.0 {
                Call::Known(_) | Call::Unknown(_) if rule.optional => {}
                Call::Unknown(name) => return Err(syscall::unknown(name, Arch::NATIVE)),
                Call::Known(row) => {
                    if !self.arches().any(|arch| row.number(arch).is_some()) {
                        return Err(syscall::unknown(row.0, Arch::NATIVE));
                    }
                }
                Call::Number(number) => {
                    if *number >= Arch::X32_BIT {
                        return Err(syscall::unknown(&number.to_string(), Arch::NATIVE));
                    }
                    if let Some(&arch) = self.others.first() {
                        return Err(Repr::NativeOnly { call: call.to_string(), arch }.into());
                    }
                }
            }
        }
        Ok(())
    }

    /// The rules sorted by call number, checked for rules that are never reached.
    fn table(&self, arch: Arch) -> Result<Table, Error> {
        let mut calls: BTreeMap<u32, Vec<(Vec<Condition>, Action)>> = BTreeMap::new();
        let mut seen: HashMap<(u32, Vec<Condition>), Action> = HashMap::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let conditions = rule.sorted_conditions();
            for nr in rule.calls.iter().filter_map(|call| call.number(arch)) {
                let rules = calls.entry(nr).or_default();
                let earlier = match rules.last() {
                    // A rule for all calls is the last that its call gets.
                    Some((any, action)) if any.is_empty() => Some(*action),
                    _ if conditions.is_empty() => None,
                    _ => seen.insert((nr, conditions.clone()), rule.action),
                };
                match earlier {
                    Some(action) if action == rule.action => {}
                    Some(_) => {
                        let call = syscall::name_on(arch, nr).map_or_else(|| nr.to_string(), str::to_owned);
                        let hides = |earlier: &Rule| {
                            let any_or_same =
                                earlier.conditions.is_empty() || earlier.sorted_conditions() == conditions;
                            any_or_same && earlier.covers(arch, nr)
                        };
                        let by = self.rules.iter().position(hides).unwrap_or(index) + 1;
                        return Err(Repr::Unreachable { call, rule: index + 1, by }.into());
                    }
                    None => rules.push((conditions.clone(), rule.action)),
                }
            }
        }
        Ok(Table { arch, default: self.default, unknown: self.unknown, calls })
    }
}

/// One architecture's part of a policy: for each number that has rules, those rules in order.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) arch: Arch,
    pub(crate) default: Action,
    pub(crate) unknown: Action,
    pub(crate) calls: BTreeMap<u32, Vec<(Vec<Condition>, Action)>>,
}

fn check_action(action: Action, call: impl Fn() -> String) -> Result<(), Error> {
    match action {
        Action::Errno(errno) if errno > MAX_ERRNO => Err(Repr::BadErrno { call: call(), errno }.into()),
        _ => Ok(()),
    }
}

/// Bit 30 without bit 31: the numbers through which an x86_64 kernel may offer the x32 ABI.
fn is_x32(arch: Arch, nr: u32) -> bool {
    arch == Arch::X86_64 && (Arch::X32_BIT..0x8000_0000).contains(&nr)
}
