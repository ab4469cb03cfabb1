//! Names change, and with them what known keys of the kernel stand for: finds those keys, so that they
//! are told again, with the change of the state that goes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use monitor_core::engine::Effect;
use monitor_core::flow::Remote;
use monitor_core::ids::{CgroupId, WallTime};

use crate::capture::Capture;

/// Adds the re-arming that addresses and cgroups ask for which mean somebody else now.
pub(crate) fn find_keys(effects: &mut Vec<Effect>, capture: &Capture) {
    let (mut addresses, mut cgroups) = (BTreeSet::new(), BTreeSet::new());
    for effect in &*effects {
        match effect {
            Effect::Unknow(unknown) => addresses.extend(unknown.keys()),
            Effect::Leave(left) => drop(cgroups.insert(*left)),
            Effect::Store(_)
            | Effect::Rearm(_)
            | Effect::Hear(..)
            | Effect::Deliver(_)
            | Effect::Appeared(_)
            | Effect::Alerted(_)
            | Effect::Reply(_) => {}
        }
    }
    if addresses.is_empty() && cgroups.is_empty() {
        return;
    }
    let keys = capture.keys_of(|cgroup, remote| concerns(&addresses, &cgroups, cgroup, remote));
    if !keys.is_empty() {
        effects.push(Effect::Rearm(keys));
    }
}

/// The addresses of which it is known since when they may mean somebody else.
pub(crate) fn moved(
    addresses: BTreeMap<IpAddr, Option<WallTime>>,
) -> impl Iterator<Item = (IpAddr, WallTime)> {
    addresses.into_iter().filter_map(|(address, since)| Some((address, since?)))
}

fn concerns(
    addresses: &BTreeSet<IpAddr>,
    cgroups: &BTreeSet<CgroupId>,
    cgroup: CgroupId,
    remote: Remote,
) -> bool {
    cgroups.contains(&cgroup)
        || match remote {
            Remote::Address(address) => addresses.contains(&address),
            Remote::Cgroup(other) => cgroups.contains(&other),
            Remote::World | Remote::Socket(_) => false,
        }
}
