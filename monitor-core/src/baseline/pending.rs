//! Edges that wait for a person: what of them was told already. Whether and how they are told is
//! decided elsewhere.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::baseline::Allowance;
use crate::flow::Outcome;
use crate::ids::WallTime;

/// An edge that was judged odd and not yet decided: counted, listed, never learned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pending {
    /// What was told of it already: a further message only says something new.
    pub told: BTreeSet<Told>,
    /// When it was last told.
    pub last_told: WallTime,
    /// Seen in a window that `learn --for` opened: listed for review, not alerted.
    #[serde(default)]
    pub unalerted: bool,
}

/// How far a dial got: what a further message about a pending edge must surpass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Dialled, refused, timed out: no data passed.
    Attempt,
    Reached,
}

impl Class {
    #[must_use]
    pub const fn of(outcome: Outcome) -> Self {
        if outcome.reached() { Self::Reached } else { Self::Attempt }
    }
}

/// One thing that was told of a pending edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Told {
    pub class: Class,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
}

impl Pending {
    /// Whether telling `news` would repeat what was told. A view without a process, from the far
    /// end, adds nothing to one that has it.
    #[must_use]
    pub fn covers(&self, news: &Told) -> bool {
        self.told.iter().any(|told| {
            told.class >= news.class
                && (told.executable == news.executable || news.executable.is_none())
        })
    }

    /// What still waits once `allowed` holds: what executables did that none of it permits.
    #[must_use]
    pub fn left_by<'a>(
        self: Box<Self>,
        allowed: impl IntoIterator<Item = &'a Allowance>,
    ) -> Option<Box<Self>> {
        // That it was dialled and never answered says nothing of an answer.
        allowed.into_iter().filter(|it| !it.attempted_only).try_fold(self, Self::without)
    }

    fn without(mut self: Box<Self>, allowed: &Allowance) -> Option<Box<Self>> {
        // What was told without an executable is the allowed one, seen from the far end.
        let waits = |it: &str| !allowed.permits_executable(it);
        self.told.retain(|told| told.executable.as_deref().is_some_and(waits));
        (!self.told.is_empty()).then_some(self)
    }
}
