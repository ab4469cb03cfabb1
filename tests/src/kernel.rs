//! What the kernel holds on behalf of a process: programs, links and maps by their ids, which it
//! does not give out twice.

use std::collections::BTreeSet;
use std::fs;

/// Ids of loaded objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    pub programs: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
    pub maps: BTreeSet<u32>,
}

impl Loaded {
    /// What the process holds open.
    #[track_caller]
    #[must_use]
    pub fn by(pid: u32) -> Self {
        let mut loaded = Self::default();
        let dir = format!("/proc/{pid}/fdinfo");
        let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("read {dir}: {error}"));
        for entry in entries.flatten() {
            // Closed meanwhile: then it is nothing that stays.
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            for (key, ids) in [
                ("prog_id:", &mut loaded.programs),
                ("link_id:", &mut loaded.links),
                ("map_id:", &mut loaded.maps),
            ] {
                let value = text.lines().find_map(|line| line.strip_prefix(key));
                ids.extend(value.and_then(|id| id.trim().parse::<u32>().ok()));
            }
        }
        loaded
    }

    /// Those of them that the kernel still knows.
    #[must_use]
    pub fn remaining(&self) -> Self {
        let programs = aya::programs::loaded_programs().flatten().map(|it| it.id());
        let links = aya::programs::loaded_links().flatten().map(|it| it.id());
        let maps = aya::maps::loaded_maps().flatten().map(|it| it.id());
        let among = |ids: BTreeSet<u32>, mine: &BTreeSet<u32>| &ids & mine;
        Self {
            programs: among(programs.collect(), &self.programs),
            links: among(links.collect(), &self.links),
            maps: among(maps.collect(), &self.maps),
        }
    }

    /// Nothing where all is gone, else what is left.
    ///
    /// # Errors
    /// What is left.
    pub fn gone(&self) -> Result<(), String> {
        let left = self.remaining();
        if left == Self::default() { Ok(()) } else { Err(format!("still loaded: {left:?}")) }
    }
}
