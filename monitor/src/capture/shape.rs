//! The shape of every map: what the programs were built with and the configuration asks for, against
//! what lies pinned. The library takes whatever has the name.

use std::collections::BTreeMap;

use aya::maps::MapInfo;
use aya_obj::{Object, ParseError};
use monitor_common::{Followed, map};

use crate::capture::config::Config;
use crate::capture::pins::Set;

/// Cgroups whose budgets are known, each way; others have all of theirs.
const BUDGETS: u32 = 4096;

/// The sizes that are not the programs' own.
pub(super) fn sizes(config: &Config) -> [(&'static str, u32); 11] {
    [
        (map::SEEN, config.seen.get()),
        (map::BUDGETS, config.seen.get().min(BUDGETS)),
        (map::SOCKETS, Followed::slots(config.socket_bits())),
        (map::DIALS, 1 << config.dials_bits()),
        (map::OPENERS, 1 << config.socket_bits()),
        (map::ASKED, config.connections.get()),
        (map::LISTENERS, config.listeners.get()),
        (map::BOUND, config.bound.get()),
        (map::PROCESSES, config.processes.get()),
        (map::EXECUTABLE_PATHS, config.executables().get()),
        (map::EVENTS, config.ring.bytes()),
    ]
}

/// The maps that are shared between the programs and us, by name.
#[derive(Debug)]
pub(super) struct Shapes(BTreeMap<String, Shape>);

#[derive(Debug, PartialEq, Eq)]
struct Shape {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
}

impl Shapes {
    pub(super) fn of(object: &[u8], config: &Config) -> Result<Self, ParseError> {
        let sizes = BTreeMap::from(sizes(config));
        let maps = Object::parse(object)?.maps.into_iter();
        // `.rodata` and its like belong to one loading.
        let shared = maps.filter(|(name, _)| !name.starts_with('.'));
        let shape = |(name, map): (String, aya_obj::Map)| {
            let entries = sizes.get(name.as_str()).copied().unwrap_or(map.max_entries());
            let shape = Shape {
                kind: map.map_type(),
                key_bytes: map.key_size(),
                value_bytes: map.value_size(),
                entries,
                flags: map.map_flags(),
            };
            (name, shape)
        };
        Ok(Self(shared.map(shape).collect()))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether a set holds exactly these; else why not.
    pub(super) fn fit(&self, set: &Set) -> Result<(), String> {
        let mut pinned = set.maps().map_err(|error| format!("unreadable ({error})"))?;
        for (name, shape) in &self.0 {
            let info = MapInfo::from_pin(set.map(name));
            let found = info.as_ref().ok().and_then(|info| {
                Some(Shape {
                    kind: info.map_type().ok()? as u32,
                    key_bytes: info.key_size(),
                    value_bytes: info.value_size(),
                    entries: info.max_entries(),
                    flags: info.map_flags(),
                })
            });
            if found.as_ref() != Some(shape) {
                return Err(format!("of another shape: the map {name} is {found:?}"));
            }
            pinned.retain(|it| it.to_str() != Some(name));
        }
        match pinned.first() {
            None => Ok(()),
            Some(other) => Err(format!("of another shape: {} is there too", other.display())),
        }
    }
}
