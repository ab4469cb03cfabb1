//! What Docker or Podman answers, with labels and names that whoever starts a container chooses: its list,
//! one container, an event. Nothing panics; what is read of it is safe, bounded and nobody's else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::sources::fuzzing;
use monitor_core::directory::{Source, Subject};

fuzz_target!(|bytes: &[u8]| {
    for source in [Source::Docker, Source::Podman] {
        for subject in fuzzing::docker(source, bytes) {
            fuzz::check(&subject);
            let Subject::Container(container) = subject else {
                panic!("Docker knows containers alone: {subject:?}");
            };
            // It is asked about by its id, which becomes part of a path.
            assert!(
                container.id.len() == 64 && container.id.bytes().all(|it| it.is_ascii_hexdigit())
            );
            let scheme = container.service.as_ref().map_or("compose", |it| it.scheme());
            assert!(scheme == "compose" || scheme == source.to_string(), "{scheme}");
        }
    }
});
