//! How a capture begins: the programs in the order in which they are attached, and in between what is
//! older than they are. What is attached is `attach`'s, what goes on is `capture`'s.

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use monitor_common::map;
use monitor_core::network::Network;
use tokio::time::Instant;

use crate::capture::attach::{self, Attached, Extra};
use crate::capture::canary::Canary;
use crate::capture::cgroups::{CgroupNews, Cgroups};
use crate::capture::config::Config;
use crate::capture::executables::Executables;
use crate::capture::floods::Floods;
use crate::capture::hierarchy::Hierarchy;
use crate::capture::keep::{Before, Plan};
use crate::capture::losses::Losses;
use crate::capture::namespaces::Looking;
use crate::capture::older::OlderSockets;
use crate::capture::preflight::Ground;
use crate::capture::processes::Processes;
use crate::capture::resuming;
use crate::capture::seen::SeenMap;
use crate::capture::tell::Teller;
use crate::capture::{Result, Resumed, absent, map_error, take};

/// Attaches what names and binds, and makes what tells of all that is found.
pub(super) fn begin_telling(
    attached: &mut Attached,
    config: &Config,
    ground: &Ground,
    plan: &Plan,
    before: &Before,
) -> Result<Teller> {
    let ebpf = &mut attached.ebpf;
    let executables = Executables::new(plan.seed(), take(ebpf, map::EXECUTABLE_PATHS)?);
    let mut processes = Processes::new(take(ebpf, map::PROCESSES)?, executables);
    let seen = SeenMap::new(take(ebpf, map::SEEN)?, config.seen);
    let floods = Floods::new(take(ebpf, map::FLOODS)?, take(ebpf, map::BUDGETS)?);
    let losses = Losses::new(take(ebpf, map::LOST)?, plan.told_losses());
    let hierarchy = Hierarchy::of(&ground.cgroup);
    attached.attach(&attach::NAMES_AND_BINDS)?;
    let cgroup_news =
        if attached.has(Extra::CgroupNames) { CgroupNews::Told } else { CgroupNews::Looked };
    if attached.has(Extra::Executables) {
        processes.fill(&hierarchy);
    }
    let cgroups = Cgroups::new(hierarchy, cgroup_news);
    let canary = Canary::new(config.canary.get(), cgroups.own());
    let told = plan.told(before);
    let mut teller = Teller::new(seen, told, floods, losses, cgroups, processes, canary);
    teller.walk_cgroups();
    Ok(teller)
}

/// What came of the beginning.
pub(super) struct Started {
    /// What could not be looked into, and why.
    pub(super) refused: Option<String>,
    pub(super) resumed: Resumed,
}

/// What there is to look with at what is older than the programs.
pub(super) struct Sight<'a> {
    pub(super) older: &'a mut OlderSockets,
    pub(super) teller: &'a mut Teller,
    pub(super) looking: Looking,
}

/// Tells the kernel what is older than its programs, and attaches those that see flows; takes up what
/// is `adopted`.
pub(super) fn begin_flows(
    attached: &mut Attached,
    config: &Config,
    internal: &[Network],
    sight: Sight<'_>,
    adopted: Option<Before>,
) -> Result<Started> {
    let Sight { older, teller, looking } = sight;
    let started = Instant::now();
    let mut census = looking.end();
    let refused = older.enter(&mut census, teller);
    let looked = started.elapsed();
    attached.attach(&attach::FLOWS)?;
    attached.find_makers(config.detail)?;
    let started = Instant::now();
    // Those that were opened in between.
    census.find_namespaces();
    let (resumed, found) = match adopted {
        Some(before) => {
            // Those that the kernel was told of before are none that it missed.
            drop(older.enter(&mut census, teller));
            (resuming::resume(teller, before)?, Vec::new())
        }
        None => {
            let found = older.enter_and_find(&mut census, teller);
            teller.begin_counting()?;
            (Resumed::default(), found)
        }
    };
    teller.unattached(attached.lacking());
    older.tell_listeners(teller);
    let connections = OlderSockets::tell_connections(found, census, internal, teller);
    let took_ms = (looked + started.elapsed()).as_millis();
    tracing::info!(connections, %took_ms, "sockets that are older than the watch");
    Ok(Started { refused, resumed })
}

pub(super) fn fill_internal(ebpf: &mut Ebpf, internal: &[Network]) -> Result<()> {
    let name = map::INTERNAL;
    // Not taken: the programs, once loaded, keep it alive.
    let map = ebpf.map_mut(name).ok_or_else(|| absent(name))?;
    let mut trie: LpmTrie<_, [u8; 16], u8> =
        map.try_into().map_err(|source| map_error(name, source))?;
    for network in internal {
        let (address, prefix) = network.mapped();
        let key = Key::new(prefix.into(), address);
        trie.insert(&key, 1, 0).map_err(|source| map_error(name, source))?;
    }
    Ok(())
}
