//! Words of strangers: made safe and short where they enter.

use std::net::IpAddr;
use std::sync::Arc;

use monitor_core::ids::{ServiceName, percent_encode_into};

/// Safe text of bounded length.
pub(super) fn short_text(text: &str) -> Arc<str> {
    const BYTES: usize = 256;
    let mut safe = String::new();
    let end = text.floor_char_boundary(BYTES.min(text.len()));
    percent_encode_into(&mut safe, &text[..end]);
    safe.into()
}

/// `k8s:NAMESPACE/KIND/NAME`, whatever is in them.
pub(super) fn service_name(namespace: &str, kind: &str, name: &str) -> ServiceName {
    // `k8s:uid/…` is what has no lasting name yet; no namespace ends in a dot.
    let namespace = if namespace == "uid" { "uid." } else { namespace };
    let parts = [namespace, kind, name].map(part);
    ServiceName::new("k8s", &parts.join("/"))
}

/// One part of a name that has several.
pub(super) fn part(text: &str) -> String {
    text.replace('/', "%2F")
}

/// An address, one for all ways to write it: the kernel's, too, are unmapped.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|it| it.to_canonical())
}

/// A container's full id: what stands in its cgroup's path.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|it| it.is_ascii_hexdigit())
}
