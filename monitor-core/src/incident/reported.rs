//! A finding as an incident keeps it: stored as it is, and written out for receivers once, however
//! often its incident speaks. Shared by all that hold the incident as it was.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::detect::Finding;
use crate::incident::AlertFinding;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reported {
    finding: Finding,
    #[serde(skip)]
    sent: OnceLock<Arc<AlertFinding>>,
}

impl Reported {
    #[must_use]
    pub const fn new(finding: Finding) -> Self {
        Self { finding, sent: OnceLock::new() }
    }

    /// The finding, to be changed: it is written out anew.
    pub(super) fn change(&mut self) -> &mut Finding {
        self.sent = OnceLock::new();
        &mut self.finding
    }

    /// As it is sent: what `write` makes of it the first time.
    pub(super) fn sent(&self, write: impl FnOnce(&Finding) -> AlertFinding) -> Arc<AlertFinding> {
        Arc::clone(self.sent.get_or_init(|| Arc::new(write(&self.finding))))
    }
}

impl Deref for Reported {
    type Target = Finding;

    fn deref(&self) -> &Finding {
        &self.finding
    }
}

impl PartialEq for Reported {
    fn eq(&self, other: &Self) -> bool {
        self.finding == other.finding
    }
}
