//! What is stored of one edge, and of one service: the values, and what can be told of each by itself.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::baseline::{Allowance, LearnRule, Pending, Phase, Prohibition};
use crate::executables::Names;
use crate::graph::Evidence;
use crate::ids::WallTime;

/// Most often one.
pub type Allowances = SmallVec<[Allowance; 1]>;

/// Everything known about one edge: stored as one value, under the edge's text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EdgeRecord {
    /// None for an edge that was written down and never seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Box<Evidence>>,
    /// What was learned or imported, and each approval with its own end.
    #[serde(default, skip_serializing_if = "SmallVec::is_empty")]
    pub allowed: Allowances,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forbidden: Option<Box<Prohibition>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Box<Pending>>,
}

impl EdgeRecord {
    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.evidence.is_none()
            && self.allowed.is_empty()
            && self.forbidden.is_none()
            && self.pending.is_none()
    }

    /// Whether nobody has said or learned yet what is to be thought of it.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.allowed.is_empty() && self.forbidden.is_none()
    }

    /// Takes no more room than it needs, and shares the names it holds.
    pub(super) fn settle(&mut self, names: &mut Names) {
        self.allowed.shrink_to_fit();
        for allowance in &mut self.allowed {
            allowance.executables.share(names);
        }
        if let Some(evidence) = &mut self.evidence {
            evidence.executables.share(names);
            names.share_list(&mut evidence.instances);
        }
    }
}

/// Everything known about one service: stored as one value, under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    pub phase: Phase,
    pub first_seen: WallTime,
    pub last_seen: WallTime,
    /// When its phase last changed.
    pub since: WallTime,
    pub last_new_edge: WallTime,
    /// Exchanges counted so far.
    pub observations: u64,
    /// A guarded service opened for a rollout: new edges until then stay pending, unalerted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_until: Option<WallTime>,
    /// That it has no baseline was told.
    #[serde(default)]
    pub unbaselined_told: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
}

/// Of a place that was left.
impl Default for ServiceRecord {
    fn default() -> Self {
        Self::new(WallTime::default())
    }
}

impl ServiceRecord {
    #[must_use]
    pub const fn new(at: WallTime) -> Self {
        Self {
            phase: Phase::Learning,
            first_seen: at,
            last_seen: at,
            since: at,
            last_new_edge: at,
            observations: 0,
            open_until: None,
            unbaselined_told: false,
            owner: None,
            about: None,
        }
    }

    /// Whether learning has what it needs.
    #[must_use]
    pub fn is_complete(&self, rule: &LearnRule, wall: WallTime) -> bool {
        self.observations >= rule.observations
            && wall.seconds_since(self.last_new_edge) >= rule.quiet_s
    }

    #[must_use]
    pub fn is_open(&self, wall: WallTime) -> bool {
        self.open_until.is_some_and(|until| wall < until)
    }
}
