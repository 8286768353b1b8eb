//! Spans of spawns and their steps, for whoever listens through the crate `tracing`; nothing without the feature.
//!
//! The host program's steps are spans while they last. The stage's are over when they can be told: it looks at the clock
//! before each, into memory that is shared with the host program, and each becomes a span with its duration as a field.
//! The looks at the clock are part of the plan only if somebody listened when it was made.

use std::os::fd::OwnedFd;

use palisade_sys::{Place, Program, Step};

use crate::error::Result;

/// The span of one spawn, and whom it is told to: also from the threads that spawn.
#[derive(Clone, Debug)]
pub(crate) struct Spawn {
    #[cfg(feature = "tracing")]
    span: ::tracing::Span,
    #[cfg(feature = "tracing")]
    dispatch: ::tracing::Dispatch,
}

/// Where a program writes down when it came to its steps.
pub(crate) type Marks = Vec<(Step, Place)>;

#[cfg(feature = "tracing")]
mod on {
    use std::time::SystemTime;

    use ::tracing::dispatcher::{get_default, with_default};
    use ::tracing::field::Empty;
    use ::tracing::{Level, debug_span, enabled, error, info_span};

    use super::*;

    impl Spawn {
        pub(crate) fn of(program: &str) -> Self {
            let span = info_span!("spawn", program, pid = Empty);
            Self { span, dispatch: get_default(Clone::clone) }
        }

        /// Does a part of the spawn's work in its span.
        pub(crate) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
            with_default(&self.dispatch, || self.span.in_scope(work))
        }

        /// Says how it went.
        pub(crate) fn ends<T>(&self, result: &Result<T>, pid: impl FnOnce(&T) -> u32) {
            match result {
                Ok(done) => {
                    self.span.record("pid", pid(done));
                }
                Err(error) => self.span.in_scope(|| error!(step = %error.step(), "{error}")),
            }
        }
    }

    /// A step of the host program's side.
    pub(crate) fn step<T>(step: Step, work: impl FnOnce() -> T) -> T {
        debug_span!("step", step = step.name(), side = "host").in_scope(work)
    }

    /// The stage's program, with looks at the clock if somebody listens. After the filter there is none.
    pub(crate) fn timed(stage: Program) -> (Program, Marks) {
        if enabled!(Level::DEBUG) { stage.timed(Step::Seccomp) } else { (stage, Marks::new()) }
    }

    /// Tells the stage's steps, of which the last one ends now.
    pub(crate) fn tell(stage: &Program, marks: &Marks, image: &OwnedFd) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let time = |place: Place| {
            let mut words = [0; 16];
            let read = nix::sys::uio::pread(image, &mut words, stage.position(place) as i64);
            let [seconds, nanos] =
                [0, 8].map(|at| u64::from_le_bytes(words[at..at + 8].try_into().unwrap_or_default()));
            let came = read == Ok(words.len()) && seconds > 0;
            came.then(|| u128::from(seconds) * 1_000_000_000 + u128::from(nanos))
        };
        let came: Vec<(Step, u128)> =
            marks.iter().filter_map(|(step, place)| Some((*step, time(*place)?))).collect();
        for (n, (step, start)) in came.iter().enumerate() {
            let end = came.get(n + 1).map_or(now, |(_, next)| *next);
            let micros = (end.saturating_sub(*start) / 1000) as u64;
            debug_span!("step", step = step.name(), side = "stage", micros).in_scope(|| ());
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use super::*;

    impl Spawn {
        pub(crate) fn of(_program: &str) -> Self {
            Self {}
        }

        pub(crate) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
            work()
        }

        pub(crate) fn ends<T>(&self, _result: &Result<T>, _pid: impl FnOnce(&T) -> u32) {}
    }

    pub(crate) fn step<T>(_step: Step, work: impl FnOnce() -> T) -> T {
        work()
    }

    pub(crate) fn timed(stage: Program) -> (Program, Marks) {
        (stage, Marks::new())
    }

    pub(crate) fn tell(_stage: &Program, _marks: &Marks, _image: &OwnedFd) {}
}

#[cfg(not(feature = "tracing"))]
pub(crate) use off::{step, tell, timed};
#[cfg(feature = "tracing")]
pub(crate) use on::{step, tell, timed};
