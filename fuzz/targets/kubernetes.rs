//! What the API server answers: objects of each kind that is followed, and lists of them. The first byte
//! says of which. Nothing panics; what is read is safe and bounded, a name of its own namespace, and found
//! again by the id under which it would be told gone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::sources::fuzzing;
use monitor_core::directory::{Kind, Source, Subject};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    for (id, subject) in fuzzing::kubernetes(kind, bytes) {
        let Some(subject) = subject else { continue };
        fuzz::check(&subject);
        let key = subject.key(Source::Kubernetes);
        assert_eq!((key.kind, &key.id), (kind, &id));
        let service = match &subject {
            Subject::Pod(pod) => &pod.service,
            Subject::Service(service) => &service.service,
            Subject::Endpoints(endpoints) => &endpoints.service,
            Subject::Container(_) | Subject::Node(_) => continue,
        };
        assert_eq!(service.scheme(), "k8s");
        // A long one is cut, maybe before its end; no part of it begins another.
        assert!(service.as_str().matches('/').count() <= 2, "{service}");
    }
});
