//! Links that need a module: where the host has none, the test machine does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "kernel/common.rs"]
#[expect(dead_code, reason = "this binary uses a part of it")]
mod common;

use palisade_net::{ErrorKind, LinkKind};

use common::{fresh, name, skip};

netns_test! {
    fn dummy_and_vlan_where_the_kernel_has_them() {
        let ns = fresh();
        match ns.add_link(&name("dummy0"), &LinkKind::Dummy) {
            Ok(()) => assert_eq!(ns.link(&name("dummy0")).unwrap().kind.as_deref(), Some("dummy")),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
                assert!(e.to_string().contains("dummy0"), "{e}");
                skip("dummy", "the kernel has no dummy link");
            }
        }
        ns.add_link(&name("br0"), &LinkKind::Bridge).unwrap();
        match ns.add_link(&name("br0.7"), &LinkKind::Vlan { parent: name("br0"), id: 7 }) {
            Ok(()) => {
                let link = ns.link(&name("br0.7")).unwrap();
                assert_eq!((link.kind.as_deref(), link.vlan_id), (Some("vlan"), Some(7)));
                assert_eq!(link.parent, Some(ns.link(&name("br0")).unwrap().index));
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
                skip("vlan", "the kernel has no vlan link");
            }
        }
        for id in [0, 4095] {
            let e = ns.add_link(&name("v"), &LinkKind::Vlan { parent: name("br0"), id }).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Invalid);
        }
        ns.delete_link(&name("br0")).unwrap();
        assert_eq!(ns.delete_link(&name("br0")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(ns.delete_link(&name("lo")).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
