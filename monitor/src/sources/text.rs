//! Words of strangers: made safe and short where they enter.

use std::sync::Arc;

use monitor_core::ids::percent_encode_into;

/// Safe text of bounded length.
pub(super) fn short_text(text: &str) -> Arc<str> {
    const BYTES: usize = 256;
    let mut safe = String::new();
    let end = text.floor_char_boundary(BYTES.min(text.len()));
    percent_encode_into(&mut safe, &text[..end]);
    safe.into()
}

/// A container's full id: what stands in its cgroup's path.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|it| it.is_ascii_hexdigit())
}
