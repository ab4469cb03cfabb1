//! Whether what was attached still is. Whoever may load programs may also detach ours, by their
//! links' ids, or put others into their links; then nothing is heard any more, and that is to be
//! heard. A tracepoint's link knows neither. Whoever may write there may also remove our pins: then
//! nothing outlives us, and that is to be heard too.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::capture::hooked;

/// A program attached to a cgroup.
pub(super) struct Attachment {
    pub(super) program: &'static str,
    pub(super) attach_type: u32,
    pub(super) id: u32,
}

/// The programs attached to one cgroup that are still there as of the last look.
pub(super) struct Attachments {
    cgroup: File,
    present: Vec<Attachment>,
    /// Where our links are pinned, until one was found missing.
    pinned: Vec<PathBuf>,
    looked: Instant,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Programs that are attached no longer.
    pub(super) programs: Vec<&'static str>,
    /// A link that is pinned no longer, where others may be missing too.
    pub(super) pin: Option<PathBuf>,
}

impl Attachments {
    const LOOK_EVERY: Duration = Duration::from_secs(2);

    pub(super) fn new(cgroup: File, present: Vec<Attachment>, pinned: Vec<PathBuf>) -> Self {
        Self { cgroup, present, pinned, looked: Instant::now() }
    }

    /// What went since the last look; nothing where that was a moment ago.
    pub(super) fn gone(&mut self) -> Gone {
        if self.looked.elapsed() < Self::LOOK_EVERY {
            return Gone::default();
        }
        self.looked = Instant::now();
        let cgroup = &self.cgroup;
        let gone = self.present.extract_if(.., |it| !it.is_attached_to(cgroup));
        let programs = gone.map(|it| it.program).collect();
        let is_missing = |it: &&PathBuf| it.try_exists().is_ok_and(|is_there| !is_there);
        let pin = self.pinned.iter().find(is_missing).cloned();
        if pin.is_some() {
            self.pinned.clear();
        }
        Gone { programs, pin }
    }
}

impl Attachment {
    fn is_attached_to(&self, cgroup: &File) -> bool {
        match hooked::on(cgroup, self.attach_type) {
            Ok(hooked) => hooked.ids.contains(&self.id),
            // With the cgroup went what was attached to it.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}
