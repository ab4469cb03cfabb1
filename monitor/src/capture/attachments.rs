//! Whether what was attached still is, and is alone. Whoever may load programs may also detach ours, by
//! their links' ids, put others into their links, or attach theirs beside them; then less is heard, and
//! that is to be heard. A tracepoint's link can be neither detached nor given another program. Whoever
//! may write there may also remove our pins, or unmount them: then nothing outlives us.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use monitor_core::flow::{Influence, Joined, Observation};

use crate::capture::hooked;
use crate::capture::nets::Nets;
use crate::capture::strangers::Strangers;

/// A program attached to a cgroup.
pub(super) struct Attachment {
    pub(super) program: &'static str,
    pub(super) attach_type: u32,
    pub(super) id: u32,
}

/// The programs attached to one cgroup that are still there as of the last look.
pub(super) struct Attachments {
    cgroup: File,
    path: PathBuf,
    present: Vec<Attachment>,
    /// Where links and maps are pinned, until one was found missing.
    pinned: Vec<PathBuf>,
    strangers: Strangers,
    looked: Instant,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// The watched cgroup, and with it all that was attached to it.
    pub(super) cgroup: Option<PathBuf>,
    /// Programs that are attached no longer.
    pub(super) programs: Vec<&'static str>,
    /// What is pinned no longer, where others may be missing too.
    pub(super) pin: Option<PathBuf>,
    /// Who is there now.
    pub(super) joined: Vec<Joined>,
}

impl Attachments {
    /// Less than half of the promised 5 s: a look comes with the first news, or a second later.
    const LOOK_EVERY: Duration = Duration::from_secs(2);

    pub(super) fn new(
        cgroup: File,
        path: PathBuf,
        present: Vec<Attachment>,
        pinned: Vec<PathBuf>,
        strangers: Strangers,
    ) -> Self {
        Self { cgroup, path, present, pinned, strangers, looked: Instant::now() }
    }

    /// What changed since the last look, with `nets`; nothing where that was a moment ago.
    pub(super) fn look<'n>(&mut self, nets: impl IntoIterator<Item = &'n mut Nets>) -> Gone {
        if self.looked.elapsed() < Self::LOOK_EVERY {
            return Gone::default();
        }
        self.looked = Instant::now();
        let mut gone = Gone::default();
        if self.is_removed() {
            self.present.clear();
            gone.cgroup = Some(self.path.clone());
        }
        let cgroup = &self.cgroup;
        let programs = self.present.extract_if(.., |it| !it.is_attached_to(cgroup));
        gone.programs = programs.map(|it| it.program).collect();
        gone.programs.extend(nets.into_iter().flat_map(Nets::take_detached));
        let is_missing = |it: &&PathBuf| it.try_exists().is_ok_and(|is_there| !is_there);
        gone.pin = self.pinned.iter().find(is_missing).cloned();
        if gone.pin.is_some() {
            self.pinned.clear();
        }
        gone.joined = self.strangers.come();
        gone
    }

    /// Whether the cgroup is gone, of which anything was attached.
    fn is_removed(&self) -> bool {
        let first = self.present.first();
        first.is_some_and(|it| {
            let asked = hooked::on(&self.cgroup, it.attach_type);
            asked.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        })
    }
}

impl Gone {
    /// In words for people: what is not seen any more, or not by who comes after us.
    pub(super) fn missing(&self) -> impl Iterator<Item = String> {
        let cgroup = self
            .cgroup
            .iter()
            .map(|it| format!("anything at all: the watched cgroup {} was removed", it.display()));
        let programs = self.programs.iter().map(|it| {
            format!("what the kernel program {it} shows: somebody detached it; restart the agent")
        });
        let pin = self.pin.iter().map(|it| {
            let pin = it.display();
            format!(
                "what happens between the end of this agent and the next one's start: {pin} is gone"
            )
        });
        let hiding = self.joined.iter().filter(|it| it.influence == Influence::MayHide);
        let hidden = hiding.map(|it| {
            let Joined { program, cgroup, .. } = it;
            format!(
                "what is dialled from {cgroup}, where the program {program} of others changes it"
            )
        });
        cgroup.chain(programs).chain(pin).chain(hidden)
    }

    pub(super) fn told(self) -> impl Iterator<Item = Observation> {
        let shown = |path: PathBuf| path.display().to_string();
        let cgroup = self.cgroup.map(|path| Observation::Removed { cgroup: shown(path) });
        let programs = self.programs.into_iter().map(str::to_owned);
        let programs = programs.map(|program| Observation::Detached { program });
        let pin = self.pin.map(|path| Observation::Unpinned { path: shown(path) });
        let joined = self.joined.into_iter().map(Observation::Joined);
        cgroup.into_iter().chain(programs).chain(pin).chain(joined)
    }
}

impl Attachment {
    fn is_attached_to(&self, cgroup: &File) -> bool {
        match hooked::on(cgroup, self.attach_type) {
            Ok(hooked) => hooked.ids.contains(&self.id),
            // Gone in between, which the next look finds.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}
