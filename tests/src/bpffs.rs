//! A bpffs of a test's own, for what is to outlive an agent; unmounted when the test is over.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::lab::Lab;

/// Mounted until it is dropped.
#[derive(Debug)]
pub struct Bpffs {
    at: PathBuf,
}

impl Lab {
    #[track_caller]
    #[must_use]
    pub fn bpffs(&self) -> Bpffs {
        let at = self.path("bpf");
        std::fs::create_dir_all(&at).expect("the place is ours");
        let mounted = mount("bpf", &at, "bpf", MountFlags::empty(), None);
        mounted.unwrap_or_else(|error| panic!("mount a bpffs: {error}"));
        Bpffs { at }
    }
}

impl Bpffs {
    /// Where an agent pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.at.join("edgewatch")
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Takes it away from under whoever uses it.
    pub fn unmount(&self) {
        // It may be gone already; who has something open there keeps that.
        let _gone_already = unmount(&self.at, UnmountFlags::DETACH);
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // What is pinned goes with it.
        self.unmount();
    }
}
