//! The directory on a bpffs where links and maps outlive the agent: who has it, whether what lies in
//! it is ours and fits, and how something new takes its place. What lies there is one set, `current`;
//! another is built whole in `next` before it takes that name, so that whoever is killed in between
//! leaves something that the next start can adopt or replace.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use monitor_common::LAYOUT;
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::capture::bpf::Cell;
use crate::capture::{CaptureError, Result};
use crate::lock;

/// What is pinned beside the maps: who made them, and for what. The first two never move, so that any
/// version can be named by any other.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Meta {
    magic: [u8; 8],
    /// NUL-padded.
    version: [u8; 24],
    layout: u64,
    /// What the maps were made for: their sizes, what is watched.
    pub(super) purpose: u64,
    /// The programs and their settings: of the same, nothing need be swapped.
    pub(super) programs: u64,
    /// What executables' ids are keyed with; also tells one set of maps from another.
    pub(super) seed: [u64; 2],
    /// Losses that were told, as the kernel counts them.
    pub(super) told_losses: [u64; 16],
    /// Who has it, or had it last.
    pid: u32,
    _reserved: u32,
}

const MAGIC: [u8; 8] = *b"edgewtch";

impl Meta {
    pub(super) fn new(purpose: u64, programs: u64, seed: [u64; 2]) -> Self {
        let mut version = [0; 24];
        for (to, from) in version.iter_mut().take(23).zip(env!("CARGO_PKG_VERSION").bytes()) {
            *to = from;
        }
        let (layout, pid) = (LAYOUT, std::process::id());
        let told_losses = [0; 16];
        Self {
            magic: MAGIC,
            version,
            layout,
            purpose,
            programs,
            seed,
            told_losses,
            pid,
            _reserved: 0,
        }
    }

    /// The same, held by this process.
    pub(super) fn of_this_process(self) -> Self {
        let Self { version, layout, pid, .. } = Self::new(0, 0, self.seed);
        Self { version, layout, pid, ..self }
    }
}

/// What is known of a set of pins.
enum Signature {
    Ours(Meta),
    /// Another version's; its name.
    Other(String),
    /// Nobody's of this program.
    Strange,
    /// It was never begun, or removed almost whole.
    Empty,
}

/// The directory, held by this process.
#[derive(Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    /// Held as long as this lives; the kernel releases it with the process.
    lock: File,
}

/// What the directory holds.
pub(super) enum Found {
    Nothing,
    /// A set of the same layout and purpose, as far as its signature says.
    Fitting(Set, Box<Meta>),
    /// Whose, and why it does not fit.
    Unfit(String),
}

/// One set of pins.
#[derive(Debug, Clone)]
pub(super) struct Set {
    dir: PathBuf,
}

/// A set under construction: unless it is promoted it goes when this does.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pins: &'a Pins,
    pub(super) set: Set,
    promoted: bool,
}

const CURRENT: &str = "current";
const NEXT: &str = "next";
/// What was current while `next` becomes it.
const OLD: &str = "old";

/// Why nothing can be pinned.
pub(super) type Unpinnable = String;

impl Pins {
    /// Takes the directory for this process, making it where there is none.
    ///
    /// # Errors
    /// Another process has it, or what lies there is not ours; nothing was touched then. Where it
    /// cannot be had at all that is no error: capture works without.
    pub(super) fn open(dir: &Path) -> Result<std::result::Result<Self, Unpinnable>> {
        let pins = Self::open_any(dir)?;
        if let Ok(pins) = &pins {
            pins.check_ours()?;
        }
        Ok(pins)
    }

    /// The same, whatever lies there.
    pub(super) fn open_any(dir: &Path) -> Result<std::result::Result<Self, Unpinnable>> {
        let place = dir.parent().unwrap_or(dir);
        if let Some(why) = unpinnable(place) {
            return Ok(Err(why));
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Ok(Err(format!("{}: {error}", dir.display())));
            }
            Ok(()) | Err(_) => {}
        }
        let failed = |source| CaptureError::Pins { path: dir.to_owned(), source };
        let lock = match File::open(dir) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Err(format!("{}: {error}", dir.display())));
            }
            opened => opened.map_err(failed)?,
        };
        let pins = Self { dir: dir.to_owned(), lock };
        if !lock::hold(&pins.lock).map_err(failed)? {
            let pid = match pins.set(CURRENT).signature() {
                Ok(Signature::Ours(meta)) => Some(meta.pid),
                _ => None,
            };
            return Err(CaptureError::PinsHeld { path: dir.to_owned(), pid });
        }
        let (ours, named) = (pins.lock.metadata(), fs::metadata(dir));
        if !matches!((ours, named), (Ok(ours), Ok(named)) if ours.ino() == named.ino()) {
            // Whoever had it removed it as it ended.
            return Self::open_any(dir);
        }
        Ok(Ok(pins))
    }

    /// Looks at what lies there, once what was left half done is finished or undone.
    pub(super) fn found(&self, purpose: u64) -> Result<Found> {
        self.settle()?;
        let current = self.set(CURRENT);
        let failed = |source| CaptureError::Pins { path: current.dir.clone(), source };
        Ok(match current.signature().map_err(failed)? {
            Signature::Empty | Signature::Strange => Found::Nothing,
            Signature::Other(version) => Found::Unfit(format!("of version {version}")),
            Signature::Ours(meta) if meta.purpose != purpose => {
                Found::Unfit("made for another configuration".to_owned())
            }
            Signature::Ours(meta) => Found::Fitting(current, Box::new(meta)),
        })
    }

    /// Begins a set that is to take the place of what lies there.
    pub(super) fn draft(&self, meta: &Meta) -> Result<Draft<'_>> {
        let set = self.set(NEXT);
        let failed = |source| CaptureError::Pins { path: set.dir.clone(), source };
        let make = |dir: &Path| DirBuilder::new().mode(0o700).create(dir);
        make(&set.dir).map_err(failed)?;
        let draft = Draft { pins: self, set: set.clone(), promoted: false };
        // First of all, so that a set half built is known as ours.
        let cell = Cell::create("edgewatch_meta", meta.as_bytes()).map_err(failed)?;
        cell.pin(&set.meta()).map_err(failed)?;
        make(&set.dir.join(MAPS)).map_err(failed)?;
        make(&set.dir.join(LINKS)).map_err(failed)?;
        Ok(draft)
    }

    /// Removes all that is ours, and the directory where that was all; what is left otherwise.
    pub(super) fn remove(self) -> Result<Vec<OsString>> {
        for name in [NEXT, CURRENT, OLD] {
            let set = self.set(name);
            let failed = |source| CaptureError::Pins { path: set.dir.clone(), source };
            set.remove().map_err(failed)?;
        }
        let left: Vec<OsString> = entries(&self.dir).unwrap_or_default();
        if left.is_empty() {
            let failed = |source| CaptureError::Pins { path: self.dir.clone(), source };
            fs::remove_dir(&self.dir).map_err(failed)?;
        }
        Ok(left)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn set(&self, name: &str) -> Set {
        Set { dir: self.dir.join(name) }
    }

    /// Nothing is touched where somebody else keeps anything.
    fn check_ours(&self) -> Result<()> {
        let strange = |path| CaptureError::StrangePins { path };
        let failed = |source| CaptureError::Pins { path: self.dir.clone(), source };
        for name in entries(&self.dir).map_err(failed)? {
            let known = [CURRENT, NEXT, OLD].into_iter().find(|it| name == *it);
            let Some(set) = known.map(|name| self.set(name)) else {
                return Err(strange(self.dir.join(name)));
            };
            if matches!(set.signature(), Ok(Signature::Strange) | Err(_)) {
                return Err(strange(set.dir));
            }
        }
        Ok(())
    }

    /// Finishes or undoes what a killed agent had begun.
    fn settle(&self) -> Result<()> {
        let [current, next, old] = [CURRENT, NEXT, OLD].map(|name| self.set(name));
        let failed = |source| CaptureError::Pins { path: self.dir.clone(), source };
        if !current.dir.exists() && old.dir.exists() && next.dir.exists() {
            // `next` was whole, or the old one had kept its name.
            fs::rename(&next.dir, &current.dir).map_err(failed)?;
        }
        old.remove().and_then(|()| next.remove()).map_err(failed)
    }
}

impl Draft<'_> {
    /// It is whole: it takes the place of what was there, which goes.
    pub(super) fn promote(mut self) -> Result<Set> {
        let pins = self.pins;
        let failed = |source| CaptureError::Pins { path: pins.dir.clone(), source };
        let [current, old] = [CURRENT, OLD].map(|name| pins.set(name));
        if current.dir.exists() {
            fs::rename(&current.dir, &old.dir).map_err(failed)?;
        }
        fs::rename(&self.set.dir, &current.dir).map_err(failed)?;
        self.promoted = true;
        old.remove().map_err(failed)?;
        Ok(current)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.promoted {
            // What cannot be removed now is removed by the next start.
            drop(self.set.remove());
        }
    }
}

const MAPS: &str = "maps";
const LINKS: &str = "links";
const META: &str = "meta";

/// What [`Set::link_to`] made a name of.
fn program_and_cgroup(name: &OsStr) -> Option<(&str, u64)> {
    let (program, cgroup) = name.to_str()?.rsplit_once('-')?;
    Some((program, cgroup.parse().ok()?))
}

impl Set {
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.dir.join(MAPS).join(name)
    }

    pub(super) fn link(&self, program: &str) -> PathBuf {
        self.dir.join(LINKS).join(program)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn dir_of_links(&self) -> PathBuf {
        self.dir.join(LINKS)
    }

    fn meta(&self) -> PathBuf {
        self.dir.join(META)
    }

    /// Where the link is by which a program looks at the packets of a cgroup.
    pub(super) fn link_to(&self, program: &str, cgroup: u64) -> PathBuf {
        self.link(&format!("{program}-{cgroup}"))
    }

    /// The cgroups whose packets a program looks at.
    pub(super) fn cgroups_of(&self, program: &str) -> Vec<u64> {
        let links = entries(&self.dir.join(LINKS)).unwrap_or_default();
        let to = links.iter().filter_map(|name| program_and_cgroup(name));
        to.filter(|(name, _)| *name == program).map(|(_, cgroup)| cgroup).collect()
    }

    /// The names of the other links that are pinned.
    pub(super) fn links(&self) -> io::Result<Vec<OsString>> {
        let mut links = entries(&self.dir.join(LINKS))?;
        links.retain(|name| program_and_cgroup(name).is_none());
        Ok(links)
    }

    /// The names of the maps that are pinned.
    pub(super) fn maps(&self) -> io::Result<Vec<OsString>> {
        entries(&self.dir.join(MAPS))
    }

    /// Signs the set anew.
    pub(super) fn sign(&self, meta: &Meta) -> io::Result<()> {
        let opened = Cell::open(&self.meta())?;
        opened.map_or(Ok(()), |(cell, _)| cell.write(meta.as_bytes()))
    }

    fn signature(&self) -> io::Result<Signature> {
        let cell = match Cell::open(&self.meta()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let left = [LINKS, MAPS].map(|name| entries(&self.dir.join(name)));
                let empty = left.into_iter().all(|it| it.is_ok_and(|names| names.is_empty()));
                let known = entries(&self.dir)?.iter().all(|it| it == LINKS || it == MAPS);
                let nothing = empty && known;
                return Ok(if nothing { Signature::Empty } else { Signature::Strange });
            }
            Err(error) => return Err(error),
            Ok(cell) => cell,
        };
        let Some((_, value)) = cell.filter(|(_, value)| value.starts_with(&MAGIC)) else {
            return Ok(Signature::Strange);
        };
        let meta = Meta::try_read_from_bytes(&value).ok();
        Ok(match meta.filter(|meta| meta.layout == LAYOUT) {
            Some(meta) => Signature::Ours(meta),
            None => {
                let version = value.get(MAGIC.len()..MAGIC.len() + 24).unwrap_or_default();
                let text = version.split(|byte| *byte == 0).next().unwrap_or_default();
                Signature::Other(String::from_utf8_lossy(text).into_owned())
            }
        })
    }

    /// Links first: what is attached to nothing counts nothing. The signature last: until then it is
    /// known as ours.
    fn remove(&self) -> io::Result<()> {
        for dir in [LINKS, MAPS].map(|name| self.dir.join(name)) {
            for name in entries(&dir)? {
                absent_is_fine(fs::remove_file(dir.join(name)))?;
            }
            absent_is_fine(fs::remove_dir(dir))?;
        }
        absent_is_fine(fs::remove_file(self.meta()))?;
        absent_is_fine(fs::remove_dir(&self.dir))
    }
}

/// What lies in a directory; nothing where there is none.
fn entries(dir: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Why nothing can be pinned below `place`; None where it can.
pub(super) fn unpinnable(place: &Path) -> Option<Unpinnable> {
    /// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
    const BPF_FS: u64 = 0xcafe_4a11;
    let shown = place.display();
    match rustix::fs::statfs(place) {
        #[expect(clippy::cast_sign_loss, reason = "a magic number, of another width elsewhere")]
        Ok(found) if found.f_type as u64 & 0xffff_ffff == BPF_FS => None,
        Ok(_) => Some(format!("{shown} is no bpffs: `mount -t bpf bpf {shown}` mounts one")),
        Err(error) => Some(format!("{shown}: {error}")),
    }
}
