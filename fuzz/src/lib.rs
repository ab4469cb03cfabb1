//! What several targets ask of the same value. Holds no target.

use monitor_core::directory::{Container, Subject};
use monitor_core::ids::ServiceName;

/// As many addresses as one of anything may bring.
const ADDRESSES: usize = 64;
/// A text of 256 bytes, each of which is escaped.
const TEXT: usize = 3 * 256;

/// Whatever a source read was said by strangers: it is safe text of bounded length, bounded in number,
/// and stored as it is.
pub fn check(subject: &Subject) {
    match subject {
        Subject::Container(container) => check_container(container),
        Subject::Pod(pod) => {
            check_name(&pod.service);
            [&pod.uid, &pod.node].into_iter().for_each(|it| check_text(it));
            assert!(pod.addresses.len() <= ADDRESSES && pod.containers.len() <= 256, "{pod:?}");
            pod.containers.iter().for_each(check_container);
        }
        Subject::Service(service) => {
            check_name(&service.service);
            assert!(service.addresses.len() <= ADDRESSES && service.ports.len() <= 256);
            service.ports.iter().for_each(|it| check_text(&it.name));
        }
        Subject::Endpoints(endpoints) => {
            check_name(&endpoints.service);
            check_text(&endpoints.slice);
            assert!(endpoints.addresses.len() <= 5_000 && endpoints.ports.len() <= 256);
            endpoints.addresses.iter().flat_map(|(_, uid)| uid).for_each(|it| check_text(it));
            endpoints.ports.iter().for_each(|it| check_text(&it.name));
        }
        Subject::Node(node) => {
            check_text(&node.name);
            assert!(node.addresses.len() <= ADDRESSES, "{node:?}");
        }
    }
    let stored = serde_json::to_string(subject).expect("it can be written");
    assert_eq!(&serde_json::from_str::<Subject>(&stored).expect("it was written"), subject);
}

fn check_container(container: &Container) {
    container.service.iter().for_each(check_name);
    let texts = [Some(&container.id), container.pod.as_ref(), container.name.as_ref()];
    texts.into_iter().flatten().chain(&container.image).for_each(|it| check_text(it));
    assert!(container.addresses.len() <= ADDRESSES, "{container:?}");
}

/// It is a lasting name: who passes for provisional would be judged by nobody.
fn check_name(name: &ServiceName) {
    assert_eq!(name.as_str().parse().as_ref(), Ok(name));
    assert!(name.as_str().len() <= ServiceName::MAX_BYTES && !name.is_provisional(), "{name}");
}

fn check_text(text: &str) {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+%-".contains(&byte);
    assert!(text.len() <= TEXT && text.bytes().all(safe), "{text:?}");
}
