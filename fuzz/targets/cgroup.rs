//! Paths of cgroups, which anybody who owns one chooses. Any text gives a name; names are safe text of
//! bounded length that reads as it is written; what lies below a service is that service, whatever it
//! is called.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::identity::Namer;
use monitor_core::ids::ServiceName;

fuzz_target!(|bytes: &[u8]| {
    let path = String::from_utf8_lossy(bytes);
    let namer = Namer::new("node");
    let workload = namer.workload(&path);
    let name = workload.service.as_str();
    assert_eq!(name.parse().as_ref(), Ok(&workload.service), "{path:?}");
    assert!(name.len() <= ServiceName::MAX_BYTES);
    let texts = [Some(&workload.cgroup), workload.container.as_ref(), workload.pod.as_ref()];
    for text in texts.into_iter().flatten() {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+%-".contains(&byte);
        assert!(text.bytes().all(safe), "{path:?}: {text:?}");
    }
    // A container whose id nobody can look up would be named by nobody.
    if let Some(id) = &workload.container {
        assert_eq!(id.len(), 64, "{path:?}: {id:?}");
    }
    if !path.contains("..") {
        let below = namer.workload(&format!("/system.slice/web.service/{path}"));
        assert_eq!(below.service.as_str(), "systemd:web.service", "{path:?}");
        assert_eq!(below.container, None, "{path:?}");
    }
});
