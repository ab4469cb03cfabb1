//! What outlives this agent and what an earlier one has left: decides whether the pinned set is taken
//! up or another takes its place. How a set is kept is `pins`' business, what goes into it `attach`'s.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use monitor_common::digest;
use monitor_core::engine::Tallies;
use monitor_core::network::Network;

use crate::capture::attach::{self, Pinning, Programs, Settings};
use crate::capture::config::{Budget, Config};
use crate::capture::pins::{Draft, Found, Meta, Pins, Set, unpinnable};
use crate::capture::preflight::Ground;
use crate::capture::seen::Told;
use crate::capture::{CaptureError, Result, random_seed};

/// What an agent before this one has stored of the kernel's tables.
#[derive(Debug, Default)]
pub struct Before {
    /// Which tables they were, as [`crate::capture::Capture::tables`] names them.
    pub tables: Option<String>,
    pub tallied: Tallies,
}

/// The directory that this agent holds, with the set that is attached.
pub(super) struct Kept {
    pins: Pins,
    set: Set,
    meta: Meta,
}

/// What is to be done with the directory.
pub(super) struct Plan {
    /// None where nothing is pinned.
    pins: Option<Pins>,
    /// Why nothing is, where it should be.
    pub(super) unpinned: Option<String>,
    /// What is there and fits.
    adopted: Option<Set>,
    meta: Meta,
    programs: u64,
    pub(super) settings: Settings,
}

impl Plan {
    /// Takes the directory, and looks at what lies in it.
    pub(super) fn make(
        config: &Config,
        ground: &Ground,
        internal: &[Network],
        budget: Budget,
    ) -> Result<Self> {
        let root = attach::open_root(config, ground)?;
        let purpose = purpose(config, &root, internal);
        let (pins, unpinned) = match config.pin.then(|| Pins::open(&config.pins)).transpose()? {
            None => (None, None),
            Some(Ok(pins)) => (Some(pins), None),
            Some(Err(why)) => (None, Some(why)),
        };
        let found = pins.as_ref().map_or(Ok(Found::Nothing), |pins| pins.found(purpose))?;
        let unfit = |why: String| {
            let dir = config.pins.display();
            tracing::info!(
                "what is pinned in {dir} is {why}: another takes its place, and all is told anew"
            );
        };
        let (adopted, meta) = match found {
            Found::Fitting(set, meta) => match attach::shapes(config)?.fit(&set) {
                Ok(()) => (Some(set), Some(*meta)),
                Err(why) => {
                    unfit(why);
                    (None, None)
                }
            },
            Found::Unfit(why) => {
                unfit(why);
                (None, None)
            }
            Found::Nothing => (None, None),
        };
        let meta = match meta {
            Some(meta) => meta,
            None => Meta::new(purpose, 0, random_seed()?),
        };
        let settings = Settings::new(config, ground, budget, meta.seed);
        let programs = settings.digest();
        Ok(Self { pins, unpinned, adopted, meta, programs, settings })
    }

    /// Whether what an agent before this one left is taken up.
    pub(super) fn adopts(&self) -> bool {
        self.adopted.is_some()
    }

    pub(super) fn seed(&self) -> [u64; 2] {
        self.meta.seed
    }

    /// What is known to have been told, and whether the store is to know what will be.
    pub(super) fn told(&self, before: &Before) -> Told {
        if self.pins.is_none() {
            return Told::new();
        }
        let theirs = self.adopts() && before.tables.as_deref() == Some(&name_of(self.meta.seed));
        let rows = before.tallied.rows().take_while(|_| theirs);
        Told::keeping(rows.filter_map(|(bytes, held)| Some((bytes.try_into().ok()?, held))))
    }

    /// The losses that were told of these tables.
    pub(super) fn told_losses(&self) -> &[u64] {
        &self.meta.told_losses
    }

    /// Where what is attached now is to be kept; the draft is to be kept, too, until all of it is.
    pub(super) fn begin(&self) -> Result<(Option<Pinning>, Option<Draft<'_>>)> {
        if let Some(set) = &self.adopted {
            let same = self.meta.programs == self.programs;
            if !same {
                // Until all are swapped, who comes after us is to swap all of them.
                let mut meta = self.meta;
                meta.programs = 0;
                self.sign(set, &meta)?;
            }
            let programs = if same { Programs::Same } else { Programs::Others };
            return Ok((Some(Pinning { set: set.clone(), programs }), None));
        }
        let draft = self.pins.as_ref().map(|pins| pins.draft(&self.meta)).transpose()?;
        let pinning = draft.as_ref().map(|draft| {
            let programs = Programs::Others;
            Pinning { set: draft.set.clone(), programs }
        });
        Ok((pinning, draft))
    }

    /// All is attached: what was drafted is what counts from now on.
    pub(super) fn set(&self, draft: Option<Draft<'_>>) -> Result<Option<Set>> {
        draft.map_or_else(|| Ok(self.adopted.clone()), |draft| draft.promote().map(Some))
    }

    pub(super) fn done(self, set: Option<Set>) -> Result<Option<Kept>> {
        let Some(set) = set else { return Ok(None) };
        let mut meta = self.meta.of_this_process();
        meta.programs = self.programs;
        self.sign(&set, &meta)?;
        Ok(self.pins.map(|pins| Kept { pins, set, meta }))
    }

    fn sign(&self, set: &Set, meta: &Meta) -> Result<()> {
        let failed = |source| CaptureError::Pins { path: set.dir().to_owned(), source };
        set.sign(meta).map_err(failed)
    }
}

impl Kept {
    /// A name for these tables that no others have.
    pub(super) fn tables(&self) -> String {
        name_of(self.meta.seed)
    }

    pub(super) fn dir(&self) -> &Path {
        self.pins.dir()
    }

    /// Notes which losses were told.
    pub(super) fn told(&mut self, losses: &[u64]) {
        let mut told = [0; 16];
        for (to, from) in told.iter_mut().zip(losses) {
            *to = *from;
        }
        if told != self.meta.told_losses {
            self.meta.told_losses = told;
            // At worst they are told once more.
            drop(self.set.sign(&self.meta));
        }
    }

    /// Removes every trace.
    pub(super) fn remove(self) -> Result<Vec<OsString>> {
        self.pins.remove()
    }
}

fn name_of([one, two]: [u64; 2]) -> String {
    format!("{one:016x}{two:016x}")
}

/// What came of removing every trace.
#[derive(Debug, PartialEq, Eq)]
pub enum Cleaned {
    /// There is nothing, and why nothing could be.
    Nothing(Option<String>),
    Removed {
        /// What lay there too, and is not ours.
        left: Vec<PathBuf>,
    },
}

/// What lies pinned.
#[derive(Debug, PartialEq, Eq)]
pub enum Pinned {
    /// Nothing can be, and why.
    Unpinnable(String),
    Nothing,
    /// What an agent that ended has left.
    Left,
}

/// Looks at what is pinned in `dir`; changes nothing.
///
/// # Errors
/// An agent has it, or what lies there is not ours.
pub fn pinned(dir: &Path) -> Result<Pinned> {
    if !dir.exists() {
        let why = unpinnable(dir.parent().unwrap_or(dir));
        return Ok(why.map_or(Pinned::Nothing, Pinned::Unpinnable));
    }
    Ok(Pins::open(dir)?.map_or_else(Pinned::Unpinnable, |_pins| Pinned::Left))
}

/// Removes all that an agent left pinned in `dir`.
///
/// # Errors
/// An agent has it, or the system refused.
pub fn clean(dir: &Path) -> Result<Cleaned> {
    if !dir.exists() {
        return Ok(Cleaned::Nothing(None));
    }
    match Pins::open_any(dir)? {
        Err(why) => Ok(Cleaned::Nothing(Some(why))),
        Ok(pins) => {
            let left = pins.remove()?;
            Ok(Cleaned::Removed { left: left.into_iter().map(|name| dir.join(name)).collect() })
        }
    }
}

/// What a set of maps is made for: of another purpose, what they hold would mean something else.
fn purpose(config: &Config, root: &File, internal: &[Network]) -> u64 {
    let cgroup = root.metadata().map_or(0, |it| it.ino());
    let Config { seen, connections, listeners, bound, processes, ring, .. } = config;
    let sizes = (seen, connections, listeners, bound, processes, ring);
    digest(format!("{cgroup} {internal:?} {sizes:?}").as_bytes())
}
