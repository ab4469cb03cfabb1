//! The addresses of network namespaces, each told when it is first needed and where it changed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use monitor_core::flow::Observation;
use monitor_core::ids::NetnsCookie;

use crate::capture::namespaces;
use crate::capture::pace::Pace;

/// The addresses told, by namespace.
#[derive(Default)]
pub(super) struct Addresses {
    told: HashMap<NetnsCookie, Vec<IpAddr>>,
    /// Those that could not be entered, and when that was tried.
    tried: HashMap<NetnsCookie, Instant>,
    /// Of looks at all namespaces.
    pace: Pace,
}

impl Addresses {
    /// Namespaces remembered; past this all are told anew.
    const MAX: usize = 4096;
    /// A namespace that could not be entered is tried again with a later flow, not with each.
    const TRY_EVERY: Duration = Duration::from_millis(100);

    pub(super) fn told(
        &mut self,
        netns: NetnsCookie,
        addresses: Vec<IpAddr>,
        out: &mut Vec<Observation>,
    ) {
        if self.told.get(&netns) == Some(&addresses) {
            return;
        }
        if self.told.len() >= Self::MAX {
            self.told.clear();
        }
        self.told.insert(netns, addresses.clone());
        out.push(Observation::Addresses { netns, addresses });
    }

    pub(super) fn ensure(
        &mut self,
        netns: NetnsCookie,
        pid: Option<u32>,
        out: &mut Vec<Observation>,
    ) {
        let (Some(pid), false) = (pid, self.told.contains_key(&netns)) else {
            return;
        };
        let due = self.tried.get(&netns).is_none_or(|last| last.elapsed() >= Self::TRY_EVERY);
        if netns == NetnsCookie(0) || !due {
            return;
        }
        if let Ok(addresses) = namespaces::addresses_of(pid, netns) {
            self.tried.remove(&netns);
            return self.told(netns, addresses, out);
        }
        // The process is gone, or elsewhere; whoever else is there shows the namespace as well.
        if self.pace.is_due() {
            for (netns, addresses) in self.pace.timed(namespaces::survey_addresses) {
                self.told(netns, addresses, out);
            }
        }
        // Else it is found with a later flow.
        if !self.told.contains_key(&netns) {
            if self.tried.len() >= Self::MAX {
                self.tried.clear();
            }
            self.tried.insert(netns, Instant::now());
        }
    }
}
