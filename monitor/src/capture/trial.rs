//! Does this kernel take our programs? Each is loaded and attached for a moment, to an empty cgroup
//! made for it, so that it sees nobody's traffic; tracepoints, which belong to no cgroup, for the same
//! moment. Nothing of it stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::capture::attach::{self, FLOWS, Hook, LOOKUPS, NAMES_AND_BINDS, NET, Settings, Spec};
use crate::capture::config::{Budget, Config, Dns};
use crate::capture::linking;
use crate::capture::preflight::Ground;
use crate::capture::{CaptureError, preflight, random_seed};

/// What was tried, and how it went.
#[derive(Debug)]
pub struct Trial {
    /// Each in the order in which capture attaches them.
    pub programs: Vec<Tried>,
    pub abilities: Vec<Ability>,
    /// Why nothing was attached, only loaded.
    pub unattached: Option<io::Error>,
    pub took: Duration,
}

/// One kernel program.
#[derive(Debug)]
pub struct Tried {
    pub program: &'static str,
    /// As the kernel calls it.
    pub hook: String,
    /// What is not seen without it; None where capture cannot do without it.
    pub optional: Option<String>,
    pub outcome: Result<(), CaptureError>,
}

/// Something that newer kernels let programs ask.
#[derive(Debug)]
pub struct Ability {
    pub name: &'static str,
    pub present: bool,
    /// What is not seen without it.
    pub without: &'static str,
}

/// Loads and attaches every program, with the sizes that `config` gives their maps.
///
/// # Errors
/// Capture cannot even begin here.
pub fn try_out(config: &Config) -> Result<Trial, CaptureError> {
    let started = Instant::now();
    let ground = preflight()?;
    let mut abilities = abilities(&ground);
    let watched = config.cgroup.clone().unwrap_or_else(|| ground.cgroup.path.clone());
    let (place, unattached) = match Place::make(&watched) {
        Ok(place) => (Some(place), None),
        Err(error) => (None, Some(error)),
    };
    let cgroup = place.as_ref().map_or(watched, |place| place.path.clone());
    let config = Config { cgroup: Some(cgroup), ..config.clone() };
    let settings = Settings::new(&config, &ground, Budget::default(), random_seed()?);
    let mut attached = attach::load(&config, &ground, &settings, None)?;
    let lookups = if config.dns == Dns::Auto { &LOOKUPS[..] } else { &[] };
    let specs = NAMES_AND_BINDS.iter().chain(&FLOWS).chain([&NET]).chain(lookups);
    let programs = specs.map(|spec| {
        let tried =
            if place.is_some() { attached.attach_one(spec) } else { attached.load_one(spec) };
        Tried {
            program: spec.program,
            hook: hook(spec),
            optional: spec.optional.map(|extra| extra.to_string()),
            outcome: tried.map_err(|source| linking::refusal(spec.program, source)),
        }
    });
    let programs = programs.collect();
    if place.is_some() {
        abilities.push(Ability {
            name: "what was dialled, before programs of others (BPF_F_PREORDER)",
            present: !attached.behind_others,
            without: "one of them that rewrites addresses and was attached earlier hides what was dialled",
        });
    }
    // What is attached to a cgroup keeps a part of it alive.
    drop(attached);
    drop(place);
    Ok(Trial { programs, abilities, unattached, took: started.elapsed() })
}

fn hook(spec: &Spec) -> String {
    match spec.hook {
        Hook::Cgroup { .. } => format!("cgroup {}", spec.program),
        Hook::Tracepoint { category, name } => format!("tracepoint {category}:{name}"),
        Hook::RawTracepoint { name } => format!("raw tracepoint {name}"),
    }
}

fn abilities(ground: &Ground) -> Vec<Ability> {
    vec![
        Ability {
            name: "the command name, in cgroup programs",
            present: attach::command_in_cgroup(),
            without: "processes that are gone have no command name",
        },
        Ability {
            name: "the caller, in sock_ops programs",
            present: attach::current_in_sock_ops(),
            without: "who listens without binding first is looked up later; of a flood of accepted \
                      connections it is not told how many clients they had",
        },
        Ability {
            name: "the network namespace, in sock_ops programs",
            present: attach::netns_in_sock_ops(ground),
            without: "listeners on the same address in two network namespaces are told apart at a cost",
        },
    ]
}

/// An empty cgroup, gone when dropped.
struct Place {
    path: PathBuf,
}

impl Place {
    const PREFIX: &str = "edgewatch-doctor-";

    fn make(below: &Path) -> io::Result<Self> {
        Self::sweep(below);
        let path = below.join(format!("{}{}", Self::PREFIX, std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    /// Removes what one that was killed has left.
    fn sweep(below: &Path) {
        for entry in fs::read_dir(below).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(Self::PREFIX));
            let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                drop(fs::remove_dir(entry.path()));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody is in it; what cannot be removed is swept by the next.
        drop(fs::remove_dir(&self.path));
    }
}
