//! The connection that the agent makes itself every so often: how long its news took, and that it is
//! missed. Its edge is never here: capture keeps it to itself.

use serde::{Deserialize, Serialize};

use crate::detect::Trouble;
use crate::engine::latency::Latencies;
use crate::engine::{Effect, Engine, Latency};
use crate::flow::{Canary, Half};
use crate::ids::{Now, WallTime};

/// What is known of the canaries so far.
#[derive(Debug, Default)]
pub(crate) struct Canaries {
    last: Option<WallTime>,
    /// From the dial to the engine.
    latencies: Latencies,
    returned: u64,
    missing: Option<Half>,
    grounded: Option<String>,
}

/// The canary as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryView {
    /// When the last one came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<WallTime>,
    /// How many did.
    pub returned: u64,
    /// From the dial to the engine: the last one, and the last few hundred of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Latency>,
    /// Of the newest one this was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Half>,
    /// Why there is none here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounded: Option<String>,
}

impl Canaries {
    /// None where nothing is known of any.
    pub(crate) fn view(&self) -> Option<CanaryView> {
        let known = self.last.is_some() || self.missing.is_some() || self.grounded.is_some();
        known.then(|| CanaryView {
            at: self.last,
            returned: self.returned,
            latency_us: self.latencies.view(),
            missing: self.missing,
            grounded: self.grounded.clone(),
        })
    }

    fn came_back(&mut self, now: Now, latency_us: u64) {
        self.last = Some(now.wall);
        self.returned += 1;
        self.grounded = None;
        self.latencies.add(latency_us);
    }
}

impl Engine {
    /// Says once that it is missed, and once that it is back.
    pub(crate) fn canary(&mut self, now: Now, canary: Canary, effects: &mut Vec<Effect>) {
        match canary {
            Canary::Returned { dialled } => {
                let latency_us = now.boot.0.saturating_sub(dialled.0) / 1_000;
                self.canaries.came_back(now, latency_us);
                if self.canaries.missing.take().is_some() {
                    self.mended(now, Trouble::is_about_canary, effects);
                }
            }
            Canary::Missing { half } => {
                self.canaries.grounded = None;
                if self.canaries.missing.replace(half).is_none() {
                    self.trouble(now, &Trouble::Canary { half });
                }
            }
            Canary::Grounded { why } => self.canaries.grounded = Some(why),
        }
    }
}
