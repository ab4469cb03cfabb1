//! Whether what was attached still is. Whoever may load programs may also detach ours, by their
//! links' ids, or put others into their links; then nothing is heard any more, and that is to be
//! heard. A tracepoint's link knows neither.

use std::fs::File;
use std::io;
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
    looked: Instant,
}

impl Attachments {
    const LOOK_EVERY: Duration = Duration::from_secs(2);

    pub(super) fn new(cgroup: File, present: Vec<Attachment>) -> Self {
        Self { cgroup, present, looked: Instant::now() }
    }

    /// The programs that went since the last look; nothing where that was a moment ago.
    pub(super) fn gone(&mut self) -> Vec<&'static str> {
        if self.looked.elapsed() < Self::LOOK_EVERY {
            return Vec::new();
        }
        self.looked = Instant::now();
        let cgroup = &self.cgroup;
        let gone = self.present.extract_if(.., |it| !it.is_attached_to(cgroup));
        gone.map(|it| it.program).collect()
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
