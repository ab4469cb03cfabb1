//! A door for the fuzz targets, and for nobody else: how an answer is read is nobody's business but its
//! source's, and what runtimes and the cluster answer is to be tried with anything.

use std::sync::Arc;

use monitor_core::directory::{Kind, Source, Subject};
use serde_json::Value;

use crate::sources::cri;
use crate::sources::docker;
use crate::sources::kubernetes;

/// What `bytes` say as an answer of Docker or Podman: a list of containers, one of them, or an event.
#[must_use]
pub fn docker(source: Source, bytes: &[u8]) -> Vec<Subject> {
    let answer: Option<Value> = serde_json::from_slice(bytes).ok();
    answer.map_or_else(Vec::new, |answer| docker::subjects(source, &answer))
}

/// What two answers of a container runtime say: of its sandboxes and of its containers.
#[must_use]
pub fn cri(sandboxes: &[u8], containers: &[u8]) -> Option<Vec<Subject>> {
    cri::subjects(sandboxes, containers)
}

/// What `bytes` say as an object of the API server of this kind, or as a list of them: each by the id by
/// which it would be told gone, and what it is told as, if anything.
#[must_use]
pub fn kubernetes(kind: Kind, bytes: &[u8]) -> Vec<(Arc<str>, Option<Subject>)> {
    kubernetes::subjects(kind, bytes)
}
