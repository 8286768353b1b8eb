//! Ranges of ids for an ordinary user, through newuidmap and newgidmap: needs a user to whom ids are delegated.

use palisade::Sandbox;
use palisade::creds::{Capability, CapabilitySet, Maps};
use palisade_testkit::{is_root, skip};

#[test]
fn an_ordinary_user_gets_delegated_ids_by_the_helpers() {
    if is_root() {
        skip!("root writes maps itself", needs = "idmap-range");
    }
    let maps = match Maps::rootless() {
        Ok(maps) => maps,
        Err(error) => skip!("no ids are delegated to this user: {error}", needs = "idmap-range"),
    };
    let wanted = CapabilitySet::EMPTY.with(Capability::Chown);
    let sandbox = Sandbox::builder().id_maps(maps).capabilities(wanted).build().unwrap();
    let script = "id -u; id -g; : >/tmp/f; chown 5:6 /tmp/f; stat -c %u:%g /tmp/f; cat /proc/self/setgroups; \
                  grep -c '' /proc/self/uid_map";
    let out = sandbox.command("/bin/sh").args(["-c", script]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(text, "0\n0\n5:6\nallow\n2\n", "{}", String::from_utf8_lossy(&out.stderr));
}
