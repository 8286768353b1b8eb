use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt;

use crate::strings::printable;
use crate::{CommandLine, Snapshot, UserNames};

/// Which process started which: the view of pstree(1).
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    roots: Vec<usize>,
}

/// A process, or a thread of one.
#[derive(Clone, Debug)]
struct Node {
    id: u32,
    thread: bool,
    name: OsString,
    uid: u32,
    cmdline: CommandLine,
    parent: Option<usize>,
    children: Vec<usize>,
}

/// How a [`Tree`] is shown. The default is pstree's, with lines of any length.
#[derive(Clone, Debug)]
pub struct TreeStyle {
    arguments: bool,
    compact: bool,
    by_pid: bool,
    pids: bool,
    uids: Option<UserNames>,
    highlight: Option<u32>,
    unicode: bool,
}

impl Default for TreeStyle {
    fn default() -> Self {
        Self {
            arguments: false,
            compact: true,
            by_pid: false,
            pids: false,
            uids: None,
            highlight: None,
            unicode: false,
        }
    }
}

impl TreeStyle {
    /// The default: names only, sorted by name, equal branches shown once with their number, ASCII lines.
    pub fn new() -> Self {
        Self::default()
    }
    /// `-a`: each process on its own line with its arguments. Processes are not put together then, threads are.
    pub fn arguments(mut self, yes: bool) -> Self {
        self.arguments = yes;
        self
    }
    /// Equal branches are shown once with their number (`3*[sleep]`); `-c` is `false`.
    pub fn compact(mut self, yes: bool) -> Self {
        self.compact = yes;
        self
    }
    /// `-n`: siblings by pid instead of by name.
    pub fn by_pid(mut self, yes: bool) -> Self {
        self.by_pid = yes;
        self
    }
    /// `-p`: with pids, which makes every branch different.
    pub fn pids(mut self, yes: bool) -> Self {
        self.pids = yes;
        self
    }
    /// `-u`: with the user, by these names, wherever it is another than the parent's.
    pub fn uid_changes(mut self, names: UserNames) -> Self {
        self.uids = Some(names);
        self
    }
    /// `-H`: this process and its ancestors in bold, by the terminal's escape sequence.
    pub fn highlight(mut self, pid: u32) -> Self {
        self.highlight = Some(pid);
        self
    }
    /// `-U`: lines drawn with Unicode's box characters.
    pub fn unicode(mut self, yes: bool) -> Self {
        self.unicode = yes;
        self
    }
}

impl Tree {
    /// The tree of a snapshot, with its threads if it has them.
    ///
    /// A process whose parent is not in the snapshot is a root: pid 1, `kthreadd`, what was started from outside of
    /// the pid namespace. A parent that is younger than its child is none: its number was given again meanwhile.
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut nodes: Vec<Node> = Vec::with_capacity(snapshot.processes.len());
        let at: HashMap<u32, usize> =
            snapshot.processes.iter().enumerate().map(|(i, p)| (p.pid, i)).collect();
        for p in &snapshot.processes {
            let parent = at.get(&p.stat.ppid).copied().filter(|i| {
                snapshot
                    .processes
                    .get(*i)
                    .is_some_and(|q| q.pid != p.pid && q.stat.start_time <= p.stat.start_time)
            });
            nodes.push(Node {
                id: p.pid,
                thread: false,
                name: p.stat.comm.clone(),
                uid: p.status.uid.effective,
                cmdline: p.cmdline.clone(),
                parent,
                children: Vec::new(),
            });
        }
        for (i, p) in snapshot.processes.iter().enumerate() {
            for (tid, _) in &p.threads {
                // As pstree without -t: a thread is called after its process.
                let (name, uid) = (braced(&p.stat.comm), p.status.uid.effective);
                let cmdline = CommandLine::default();
                nodes.push(Node {
                    id: *tid,
                    thread: true,
                    name,
                    uid,
                    cmdline,
                    parent: Some(i),
                    children: vec![],
                });
            }
        }
        break_loops(&mut nodes);
        let mut roots = Vec::new();
        for i in 0..nodes.len() {
            match nodes.get(i).and_then(|n| n.parent) {
                Some(parent) => nodes.get_mut(parent).into_iter().for_each(|p| p.children.push(i)),
                None => roots.push(i),
            }
        }
        Self { nodes, roots }
    }

    /// The processes without a parent here, by ascending pid.
    pub fn roots(&self) -> Vec<u32> {
        self.roots.iter().filter_map(|i| self.nodes.get(*i)).map(|n| n.id).collect()
    }

    /// The children of a process (not its threads), by ascending pid.
    pub fn children(&self, pid: u32) -> Vec<u32> {
        let children = self.find(pid).map(|n| n.children.as_slice()).unwrap_or_default();
        let nodes = children.iter().filter_map(|i| self.nodes.get(*i));
        nodes.filter(|n| !n.thread).map(|n| n.id).collect()
    }

    /// The parent of a process.
    pub fn parent(&self, pid: u32) -> Option<u32> {
        self.find(pid)?.parent.and_then(|i| self.nodes.get(i)).map(|n| n.id)
    }

    /// Everything below one process.
    pub fn below(&self, pid: u32, style: &TreeStyle) -> TreeView<'_> {
        let roots = self.nodes.iter().position(|n| n.id == pid && !n.thread).into_iter().collect();
        TreeView { tree: self, style: style.clone(), roots }
    }

    /// The trees of one user: below each process that is the user's and has no ancestor that is.
    pub fn of_user(&self, uid: u32, style: &TreeStyle) -> TreeView<'_> {
        let topmost = |n: &Node| {
            let ancestors = std::iter::successors(n.parent, |i| self.nodes.get(*i)?.parent);
            n.uid == uid && !ancestors.into_iter().any(|i| self.nodes.get(i).is_some_and(|a| a.uid == uid))
        };
        let roots = self.nodes.iter().enumerate().filter(|(_, n)| topmost(n)).map(|(i, _)| i).collect();
        TreeView { tree: self, style: style.clone(), roots }
    }

    /// All of it.
    pub fn show(&self, style: &TreeStyle) -> TreeView<'_> {
        TreeView { tree: self, style: style.clone(), roots: self.roots.clone() }
    }

    fn find(&self, pid: u32) -> Option<&Node> {
        self.nodes.iter().find(|n| n.id == pid && !n.thread)
    }
}

fn braced(name: &OsString) -> OsString {
    let mut braced = OsString::from("{");
    braced.push(name);
    braced.push("}");
    braced
}

/// The snapshot was not one instant, so parents may form a ring. Whoever closes one becomes a root.
fn break_loops(nodes: &mut [Node]) {
    // 0: not looked at, else the walk in which it was.
    let mut seen = vec![0; nodes.len()];
    for start in 0..nodes.len() {
        let mut at = start;
        while let (Some(mark), Some(node)) = (seen.get_mut(at), nodes.get_mut(at)) {
            if *mark != 0 {
                if *mark == start + 1 {
                    node.parent = None;
                }
                break;
            }
            *mark = start + 1;
            match node.parent {
                Some(parent) => at = parent,
                None => break,
            }
        }
    }
}

/// A [`Tree`], or a part of it, in one style. It prints as pstree(1) does.
#[derive(Clone, Debug)]
pub struct TreeView<'a> {
    tree: &'a Tree,
    style: TreeStyle,
    roots: Vec<usize>,
}

/// A branch and how often it stands there.
type Group = (usize, usize);

/// Name, whether it is a thread, user if shown, and the classes of the children.
type Looks<'a> = (&'a OsString, bool, Option<u32>, Vec<usize>);

/// A process whose children are being printed. An own stack: a chain of processes may be longer than ours is deep.
struct Frame {
    groups: Vec<Group>,
    next: usize,
    prefix: usize,
    width: usize,
    closing: usize,
}

impl fmt::Display for TreeView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = self.classes();
        let bold = self.bold();
        for (i, root) in self.roots.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            self.branch(f, *root, &classes, &bold)?;
        }
        Ok(())
    }
}

impl TreeView<'_> {
    fn node(&self, i: usize) -> &Node {
        // Indices come from this tree only, and it never shrinks.
        self.tree.nodes.get(i).unwrap_or_else(|| unreachable!("node {i} is of another tree"))
    }

    fn sorted(&self, i: usize) -> Vec<usize> {
        let mut children = self.node(i).children.clone();
        if self.style.by_pid {
            children.sort_by_key(|c| self.node(*c).id);
        } else {
            children.sort_by_key(|c| (&self.node(*c).name, self.node(*c).uid, self.node(*c).id));
        }
        children
    }

    /// Nodes with the same number print the same, down to the leaves. Found from the leaves up.
    fn classes(&self) -> Vec<usize> {
        let mut order = self.roots.clone();
        let mut next = 0;
        while let Some(i) = order.get(next) {
            order.extend(&self.node(*i).children);
            next += 1;
        }
        let mut class = vec![0; self.tree.nodes.len()];
        let mut known: HashMap<Looks<'_>, usize> = HashMap::new();
        for i in order.into_iter().rev() {
            let node = self.node(i);
            let mut below: Vec<usize> = node.children.iter().filter_map(|c| class.get(*c).copied()).collect();
            below.sort_unstable();
            let uid = self.style.uids.is_some().then_some(node.uid);
            let next = known.len() + 1;
            if let Some(slot) = class.get_mut(i) {
                *slot = *known.entry((&node.name, node.thread, uid, below)).or_insert(next);
            }
        }
        class
    }

    fn groups(&self, i: usize, classes: &[usize]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut at: HashMap<usize, usize> = HashMap::new();
        for child in self.sorted(i) {
            let alone =
                self.style.pids || !self.style.compact || (self.style.arguments && !self.node(child).thread);
            let class = classes.get(child).copied().unwrap_or(0);
            match at.get(&class).filter(|_| !alone).and_then(|g| groups.get_mut(*g)) {
                Some((_, count)) => *count += 1,
                None => {
                    at.insert(class, groups.len());
                    groups.push((child, 1));
                }
            }
        }
        groups
    }

    fn bold(&self) -> HashSet<usize> {
        let target = self.style.highlight.and_then(|pid| self.tree.nodes.iter().position(|n| n.id == pid));
        std::iter::successors(target, |i| self.tree.nodes.get(*i)?.parent).collect()
    }

    /// What stands for a process, and how many columns it takes.
    fn label(&self, i: usize, count: usize, root: bool) -> (String, String, usize) {
        let node = self.node(i);
        let name = printable(&node.name);
        let mut notes = Vec::new();
        if self.style.pids {
            notes.push(node.id.to_string());
        }
        if let Some(names) = &self.style.uids {
            let parent = if root { None } else { node.parent };
            if parent.map_or(0, |p| self.node(p).uid) != node.uid {
                notes.push(names.name(node.uid).into_owned());
            }
        }
        let mut after = match (notes.is_empty(), self.style.arguments) {
            (true, _) => String::new(),
            (false, true) => format!(",{}", notes.join(",")),
            (false, false) => format!("({})", notes.join(",")),
        };
        let mut name = if count > 1 { format!("{count}*[{name}") } else { name };
        if self.style.arguments && !node.thread {
            if node.cmdline.is_empty() {
                name = format!("({name})");
            }
            for argument in node.cmdline.arguments.iter().skip(1) {
                after.push(' ');
                after.push_str(&printable(argument));
            }
        }
        let width = name.chars().count() + after.chars().count();
        (name, after, width)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, label: &(String, String, usize), bold: bool) -> fmt::Result {
        let (name, after, _) = label;
        if bold { write!(f, "\x1b[1m{name}\x1b[0m{after}") } else { write!(f, "{name}{after}") }
    }

    fn branch(
        &self,
        f: &mut fmt::Formatter<'_>,
        root: usize,
        classes: &[usize],
        bold: &HashSet<usize>,
    ) -> fmt::Result {
        let lines = if self.style.unicode { &UNICODE } else { &ASCII };
        let rows = self.style.arguments;
        let label = self.label(root, 1, true);
        self.write(f, &label, bold.contains(&root))?;
        let mut prefix = String::from(if rows { "  " } else { "" });
        let mut stack = vec![Frame {
            groups: self.groups(root, classes),
            next: 0,
            prefix: prefix.len(),
            width: if rows { 0 } else { label.2 },
            closing: 0,
        }];
        while let Some(frame) = stack.last_mut() {
            prefix.truncate(frame.prefix);
            let Some((child, count)) = frame.groups.get(frame.next).copied() else {
                stack.pop();
                continue;
            };
            let (first, last) = (frame.next == 0, frame.next + 1 == frame.groups.len());
            frame.next += 1;
            let blank = if rows { "" } else { " " };
            if first && !rows {
                f.write_str(if last { lines.only } else { lines.first })?;
            } else {
                let branch = if last { lines.last } else { lines.middle };
                write!(f, "\n{prefix}{:1$}{blank}{branch}", "", frame.width)?;
            }
            prefix.extend(std::iter::repeat_n(' ', frame.width));
            prefix.push_str(blank);
            prefix.push_str(if last { " " } else { lines.pass });
            prefix.push_str(if rows { "   " } else { " " });

            let label = self.label(child, count, false);
            self.write(f, &label, bold.contains(&child))?;
            let closing = frame.closing + usize::from(count > 1);
            let groups = self.groups(child, classes);
            if groups.is_empty() || rows {
                write!(f, "{}", "]".repeat(closing))?;
            }
            let width = if rows { 0 } else { label.2 };
            stack.push(Frame { groups, next: 0, prefix: prefix.len(), width, closing });
        }
        Ok(())
    }
}

struct Lines {
    only: &'static str,
    first: &'static str,
    middle: &'static str,
    last: &'static str,
    pass: &'static str,
}

const ASCII: Lines = Lines { only: "---", first: "-+-", middle: "|-", last: "`-", pass: "|" };
const UNICODE: Lines =
    Lines { only: "───", first: "─┬─", middle: "├─", last: "└─", pass: "│" };
