//! What can be named in a cluster: workloads by the names that Edgewatch gives them, and the label by
//! which their pods are found. Checks the syntax that Kubernetes asks for, so that what is written is
//! taken.

use std::fmt;
use std::str::FromStr;

use monitor_core::ids::ServiceName;

/// `k8s:NAMESPACE/KIND/NAME` whose pods a policy can select.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Workload<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) name: &'a str,
}

/// Longest value of a label.
const VALUE: usize = 63;

impl<'a> Workload<'a> {
    /// The workload of that name; the reason where a policy cannot select its pods.
    pub(crate) fn new(service: &'a ServiceName) -> Result<Self, &'static str> {
        let name = service.as_str();
        let parts: Vec<&str> = match name.strip_prefix("k8s:") {
            Some(rest) => rest.split('/').collect(),
            None => return Err("NetworkPolicy cannot name what is no pod"),
        };
        let [namespace, kind, name] = parts[..] else {
            return Err("its workload is not known");
        };
        if matches!(kind, "Node" | "Service") {
            return Err("a policy selects pods only");
        }
        let known = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if known && is_dns_label(namespace) && is_dns_subdomain(name) && name.len() <= VALUE {
            Ok(Self { namespace, kind, name })
        } else {
            Err("its name cannot be a label's value")
        }
    }
}

/// RFC 1123: lower-case letters, digits and `-`, beginning and ending with one of the former.
fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|&byte| inner(byte) || byte == b'-')
        && bytes.first().is_some_and(|&byte| inner(byte))
        && bytes.last().is_some_and(|&byte| inner(byte))
}

fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// A label's key, such as `app.kubernetes.io/name` or `app`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelKey(String);

/// Why a label's key was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a label's key: write one like app or app.kubernetes.io/name")]
pub struct LabelError(String);

impl LabelKey {
    /// What Kubernetes recommends.
    pub const STANDARD: &'static str = "app.kubernetes.io/name";
}

impl fmt::Display for LabelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LabelKey {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let (prefix, name) = match text.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, text),
        };
        let outer = |byte: &u8| byte.is_ascii_alphanumeric();
        let bytes = name.as_bytes();
        let good = bytes.len() <= VALUE
            && bytes.iter().all(|byte| outer(byte) || b"-_.".contains(byte))
            && bytes.first().is_some_and(outer)
            && bytes.last().is_some_and(outer)
            && prefix.is_none_or(is_dns_subdomain);
        if good { Ok(Self(text.to_owned())) } else { Err(LabelError(text.to_owned())) }
    }
}
