//! A baseline as network policies, for whoever enforces what Edgewatch only watches. A document in,
//! text out: pure, and the same baseline is always the same text. What a policy cannot say is never
//! left out in silence: it stands in a comment at its place. Applies nothing, asks no cluster.

mod kubernetes;
mod workload;

use std::collections::BTreeMap;

use monitor_core::baseline::Phase;
use monitor_core::baseline::document::{Document, DocumentError};
use monitor_core::ids::{ServiceName, WallTime};
use monitor_core::pattern::Pattern;

pub use self::workload::{LabelError, LabelKey};

/// What is to be exported, and what must be known for it that no baseline says.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Only these services; all where there is none.
    pub services: &'a [Pattern],
    /// The pod label whose value is the workload's name.
    pub label: &'a LabelKey,
    /// An approval that ended before is no part of it any more.
    pub now: WallTime,
    /// How far each service's learning is, as far as it is known.
    pub phases: &'a BTreeMap<ServiceName, Phase>,
}

/// The policies as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Export {
    pub text: String,
    /// How many objects are in it.
    pub policies: usize,
    /// Edges that no policy can say: whoever applies these denies them.
    pub unsaid: usize,
}

/// Writes `NetworkPolicy` objects (`networking.k8s.io/v1`), one for each Kubernetes workload.
///
/// # Errors
/// The document says something that it cannot mean.
pub fn kubernetes(document: &Document, wanted: &Wanted<'_>) -> Result<Export, DocumentError> {
    kubernetes::export(document, wanted)
}

#[cfg(test)]
mod tests;
