//! A plan as plain data: what `Display` prints, for programs.

use palisade_creds::PreparedMaps;
use palisade_sys::Program;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::plan::Plan;

/// One system call of a plan.
#[derive(Serialize)]
struct Call<'a> {
    step: &'static str,
    object: Option<&'a str>,
    /// As strace would print it, with its rule.
    call: String,
}

/// One line of what is asked to confine the payload.
#[derive(Serialize)]
struct Asked<'a> {
    subject: String,
    asked: &'a str,
}

/// A control file and its value.
#[derive(Serialize)]
struct Setting<'a> {
    file: &'a str,
    value: &'a str,
}

fn calls(program: &Program) -> Vec<Call<'_>> {
    let call = |index| {
        let call = program.line(index)?;
        Some(Call { step: program.step(index)?.name(), object: program.object(index), call })
    };
    (0..program.len()).filter_map(call).collect()
}

/// What would be done, in order: the host program's part, the child's in the host program's memory, the stage's. It is
/// for reading, by whatever compares or keeps plans; what runs is made anew from the builder.
impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("Plan", 9)?;
        map.serialize_field("program", self.program())?;
        let restrictions =
            self.asked.rows().map(|(subject, asked)| Asked { subject: subject.to_string(), asked });
        map.serialize_field("restrictions", &restrictions.collect::<Vec<_>>())?;
        let cgroup = self.cgroup.as_ref().map(|(limits, _)| -> Vec<Setting<'_>> {
            limits.iter().map(|(file, value)| Setting { file, value }).collect()
        });
        map.serialize_field("cgroup", &cgroup)?;
        map.serialize_field("sources", &calls(&self.sources))?;
        map.serialize_field("clone", &self.clone_text())?;
        map.serialize_field("prologue", &calls(&self.prologue.program))?;
        let maps = self.maps.as_ref().map(PreparedMaps::to_string);
        let maps = maps.as_deref().map(|maps| maps.lines().collect::<Vec<_>>());
        map.serialize_field("id_maps", &maps)?;
        map.serialize_field("guard", &self.guard)?;
        map.serialize_field("stage", &calls(&self.stage))?;
        map.end()
    }
}
