//! What a child does while it still shares the host program's memory: pass the declared descriptors, keep the
//! capabilities that set-up needs, and execute the stage.

use palisade_sys::{FD_CONTROL, FD_IMAGE, FD_PASSED, Image, Program, Slot, Step};

/// The program of the prologue. Descriptors have no numbers yet when a spawn is planned: they are inputs.
#[derive(Clone, Debug)]
pub(crate) struct Prologue {
    pub(crate) program: Program,
    /// Standard streams, control socket, image, then the passed ones.
    descriptors: Vec<Slot>,
    stage: Slot,
}

const NAMES: [&str; 5] = ["stdin", "stdout", "stderr", "control", "image"];
const TARGETS: [i32; 5] = [0, 1, 2, FD_CONTROL, FD_IMAGE];

impl Prologue {
    /// `passed` descriptors will arrive at [`FD_PASSED`] and up; `capabilities` survive the stage's exec.
    pub(crate) fn new(passed: usize, capabilities: u64) -> Self {
        let mut p = Program::new();
        let names = NAMES.into_iter().chain(std::iter::repeat_n("passed", passed));
        let targets: Vec<i32> = TARGETS.into_iter().chain((FD_PASSED..).take(passed)).collect();
        let descriptors: Vec<Slot> = names.map(|name| p.input(name)).collect();
        let stage = p.input("stage");

        // Above all targets first, so that no copy closes a source that is still to come.
        p.at(Step::Passing, "");
        let above = FD_PASSED + passed as i32;
        let copies: Vec<Slot> = descriptors.iter().map(|&fd| p.dup_from(fd, above)).collect();
        let stage_copy = p.dup_from(stage, above);
        p.close_on_exec_from(3);
        for (copy, target) in copies.into_iter().zip(targets) {
            p.dup3(copy, target, false);
        }
        // From here on the host program's death ends the set-up, wherever it waits.
        p.prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as u64, 0, 0, 0]);

        // An exec under an id that is not 0 drops all capabilities but the ambient ones.
        if capabilities != 0 {
            p.at(Step::Ambient, "");
            p.capset(capabilities, capabilities, capabilities);
            p.prctl_each(capabilities, libc::PR_CAP_AMBIENT, Some(libc::PR_CAP_AMBIENT_RAISE as u64));
        }

        p.at(Step::Stage, "");
        let name = p.text(c"palisade-stage");
        let argv = p.addresses(&[name], true);
        let envp = p.addresses(&[], true);
        p.execveat(stage_copy, argv, envp);
        Self { program: p, descriptors, stage }
    }

    /// The program with the numbers that the descriptors have now.
    pub(crate) fn image(&self, descriptors: impl IntoIterator<Item = i32>, stage: i32) -> Image {
        let mut image = self.program.image();
        let mut count = 0;
        for (&slot, fd) in self.descriptors.iter().zip(descriptors) {
            image.set(slot, fd as u64);
            count += 1;
        }
        debug_assert_eq!(count, self.descriptors.len(), "each input has a descriptor");
        image.set(self.stage, stage as u64);
        image
    }
}
