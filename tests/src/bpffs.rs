//! A bpffs of a test's own, for what is to outlive an agent; unmounted when the test is over.

use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};

use crate::lab::Lab;

/// Mounted until it is dropped.
#[derive(Debug)]
pub struct Bpffs {
    outer: PathBuf,
    at: PathBuf,
}

impl Lab {
    #[track_caller]
    #[must_use]
    pub fn bpffs(&self) -> Bpffs {
        let outer = self.path("bpf");
        std::fs::create_dir_all(&outer).expect("the place is ours");
        let none = MountFlags::empty();
        // What is unmounted here is to be unmounted for an agent with mounts of its own, too, as it is
        // where systemd runs.
        let mounted = mount("tmpfs", &outer, "tmpfs", none, None)
            .and_then(|()| mount_change(&outer, MountPropagationFlags::SHARED));
        let at = outer.join("fs");
        let mounted = mounted.and_then(|()| {
            std::fs::create_dir(&at).expect("the place is ours");
            mount("bpf", &at, "bpf", none, None)
        });
        mounted.unwrap_or_else(|error| panic!("mount a bpffs: {error}"));
        Bpffs { outer, at }
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
        let _gone_already = unmount(&self.outer, UnmountFlags::DETACH);
    }
}
