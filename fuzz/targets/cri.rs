//! What a container runtime answers by the CRI, with names and labels of strangers: the lists of sandboxes
//! and of containers, byte for byte; two bytes in front say how many are the first's. Nothing panics; what
//! is read is safe and bounded, and every container is of a pod that was told.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use monitor::sources::fuzzing;
use monitor_core::directory::Subject;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, bytes)) = bytes.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_le_bytes(*length)).min(bytes.len());
    let (sandboxes, containers) = bytes.split_at(length);
    let Some(subjects) = fuzzing::cri(sandboxes, containers) else { return };
    let mut pods = BTreeSet::new();
    for subject in &subjects {
        fuzz::check(subject);
        match subject {
            Subject::Pod(pod) => {
                assert_eq!(pod.service.scheme(), "k8s");
                assert!(pods.insert(pod.uid.clone()), "told twice: {pod:?}");
            }
            Subject::Container(container) => {
                assert!(container.service.is_none(), "its pod has the name: {container:?}");
                assert!(container.pod.as_ref().is_some_and(|it| pods.contains(it)));
            }
            other => panic!("a runtime knows pods and containers alone: {other:?}"),
        }
    }
});
