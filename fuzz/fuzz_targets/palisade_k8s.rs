//! Kubernetes manifests: what can be read, whatever it is.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for document in palisade::k8s::documents(data).into_iter().flatten() {
        let _ = (document.namespace_group(), document.network_pod());
        if let Ok(policy) = document.network_policy() {
            // It selects pods of its own group only, and says something of one direction at least.
            assert_eq!(policy.group, document.namespace());
            assert!(policy.ingress.is_some() || policy.egress.is_some());
        }
    }
});
