//! Kubernetes manifests: what can be read, whatever it is.
#![no_main]
use libfuzzer_sys::fuzz_target;
use palisade::k8s::Standard;

fuzz_target!(|data: &[u8]| {
    for document in palisade::k8s::documents(data).into_iter().flatten() {
        let _ = (document.namespace_group(), document.network_pod());
        if let Ok(pod) = document.pod_security() {
            // What is effective is known for each container, and a stricter standard finds no less.
            assert!(pod.containers.iter().all(|container| pod.effective(&container.name).is_some()));
            // A volume that is mounted is one, and a part of it is below it.
            for mount in pod.containers.iter().flat_map(|container| &container.volume_mounts) {
                assert!(pod.volume(&mount.name).is_some() && mount.sub_path.is_relative());
            }
            let found = |standard| pod.check(standard).len();
            assert!(found(Standard::Baseline) <= found(Standard::Restricted) && found(Standard::Privileged) == 0);
        }
        if let Ok(policy) = document.network_policy() {
            // It selects pods of its own group only, and says something of one direction at least.
            assert_eq!(policy.group, document.namespace());
            assert!(policy.ingress.is_some() || policy.egress.is_some());
        }
    }
});
