//! Reading the kernel back: each row of what was asked, compared with what it says about the process.

use std::sync::Arc;

use palisade_sys::Step;

use super::answer::{Answer, Unread};
use super::ask::{Asked, Phase, Row, Want, show_groups};
use super::read::{Own, Read, Subjects};
use super::{Enforced, Moment, Restriction, State};
use crate::error::{Error, ErrorKind, Result};

/// The checks of one payload, from its set-up to its end.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(super) asked: Arc<Asked>,
    /// What the spawning thread itself was: what is shared is compared with it, and what is new must not be it.
    pub(super) own: Own,
    /// Filters of the process before its own.
    pub(super) filters: Option<u32>,
    /// What was answered so far.
    answers: Vec<Option<Answer>>,
    pub(crate) report: Enforced,
}

impl Verifier {
    /// Nothing is read, for `why`.
    pub(crate) fn unread(asked: &Arc<Asked>, why: &str) -> Self {
        let mut this = Self::new(asked, Own::groups_only());
        let row = |row: &Row| {
            let state = match &row.want {
                Want::Missing(why) => State::Missing(why.clone()),
                Want::Untold(why) => State::Applied((*why).into()),
                _ => State::Applied(why.into()),
            };
            this.restriction(row, state)
        };
        this.report = Enforced { restrictions: asked.rows.iter().map(row).collect() };
        this
    }

    /// Nothing is read yet.
    pub(crate) fn new(asked: &Arc<Asked>, own: Own) -> Self {
        Self {
            asked: Arc::clone(asked),
            own,
            filters: None,
            answers: vec![None; asked.rows.len()],
            report: Enforced { restrictions: Vec::new() },
        }
    }

    /// Reads what is as it will be at this point of the set-up, while that goes on. Answers are judged at the end: a
    /// process on its way out has given up much already.
    pub(crate) fn look(&mut self, phase: Phase, subjects: Subjects<'_>) {
        let (read, asked) = (Read::new(subjects), Arc::clone(&self.asked));
        for (n, row) in asked.rows.iter().enumerate() {
            if asked.phase(&row.want) == phase && self.answers[n].is_none() {
                self.answers[n] = Some(self.ask(row, &read, Moment::BeforeExec));
            }
        }
    }

    /// Reads the rest while the process waits before its filter.
    ///
    /// # Errors
    /// The first answer that is not as asked, or that could not be had.
    pub(crate) fn before_exec(&mut self, subjects: Subjects<'_>) -> Result<()> {
        let (read, asked) = (Read::new(subjects), Arc::clone(&self.asked));
        self.filters = read.status().ok().and_then(|status| status.seccomp_filters);
        let mut restrictions = Vec::with_capacity(asked.rows.len());
        for (row, early) in asked.rows.iter().zip(std::mem::take(&mut self.answers)) {
            let state = match &row.want {
                Want::Missing(why) => State::Missing(why.clone()),
                Want::Filter(_) | Want::Label(_) => State::Applied("it is read after the exec".into()),
                _ => {
                    let answer = early.unwrap_or_else(|| self.ask(row, &read, Moment::BeforeExec));
                    state(row, answer, Moment::BeforeExec)?
                }
            };
            restrictions.push(self.restriction(row, state));
        }
        self.report = Enforced { restrictions };
        self.report.refuse()
    }

    /// Reads what is there only after the exec: the filter, and a label.
    ///
    /// # Errors
    /// It is not there, or could not be read.
    pub(crate) fn after_exec(&mut self, subjects: Subjects<'_>) -> Result<()> {
        let (read, asked) = (Read::new(subjects), Arc::clone(&self.asked));
        let at_exec = |row: &Row| matches!(row.want, Want::Filter(_) | Want::Label(_));
        for (n, row) in asked.rows.iter().enumerate().filter(|(_, row)| at_exec(row)) {
            let answer = self.ask(row, &read, Moment::AfterExec);
            self.report.restrictions[n].state = state(row, answer, Moment::AfterExec)?;
        }
        self.report.refuse()
    }

    /// Reads everything again.
    pub(crate) fn later(&self, subjects: Subjects<'_>) -> Enforced {
        let read = Read::new(subjects);
        let restrictions = self.asked.rows.iter().map(|row| {
            let state = match &row.want {
                Want::Missing(why) => State::Missing(why.clone()),
                _ => match self.ask(row, &read, Moment::Later) {
                    Ok(None) => State::Verified(Moment::Later),
                    Ok(Some(found)) => State::Differs { found, moment: Moment::Later },
                    Err(Unread::Untold(why) | Unread::Failed(why) | Unread::Gone(why)) => State::Applied(why),
                },
            };
            self.restriction(row, state)
        });
        Enforced { restrictions: restrictions.collect() }
    }

    fn restriction(&self, row: &Row, state: State) -> Restriction {
        let asked = match (&row.want, &self.own.groups) {
            (Want::Groups(None), Some(own)) => {
                format!("kept, since they can't be dropped without privilege: {}", show_groups(Some(own)))
                    .into()
            }
            _ => Arc::clone(&row.asked),
        };
        Restriction { subject: row.subject.clone(), asked, state }
    }
}

/// Fails closed: what should be told and was not is an error.
fn state(row: &Row, answer: Answer, moment: Moment) -> Result<State> {
    match answer {
        Ok(None) => Ok(State::Verified(moment)),
        Ok(Some(found)) => Ok(State::Differs { found, moment }),
        Err(Unread::Untold(why)) => Ok(State::Applied(why)),
        // It came to its payload, and that has ended.
        Err(Unread::Gone(why)) if moment == Moment::AfterExec => Ok(State::Applied(why)),
        Err(Unread::Failed(why) | Unread::Gone(why)) => {
            Err(not_enforced(format!("it could not be read back: {why}"))
                .with_object(row.subject.to_string())
                .with_hint(
                    "the host program has no descriptor or memory left, or something hides its /proc; \
                 SandboxBuilder::verify(false) goes on without reading back",
                ))
        }
    }
}

pub(super) fn not_enforced(what: String) -> Error {
    Error::new(ErrorKind::NotEnforced, Step::Verification, what)
}

impl Enforced {
    /// Fails closed: what differs is an error.
    fn refuse(&self) -> Result<()> {
        let Some(Restriction { subject, asked, state: State::Differs { found, .. } }) =
            self.first_difference()
        else {
            return Ok(());
        };
        let error = not_enforced(format!("asked was \"{asked}\", but the kernel says: {found}"));
        Err(error.with_object(subject.to_string()).with_hint(
            "a kernel, security module or filter that answers calls without doing them; nothing runs",
        ))
    }
}
