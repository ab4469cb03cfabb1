//! Programs of others: one on the hook that sees dials, attached in every way there is, or put in the
//! place of one of ours.

use std::ffi::c_long;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;

use crate::kernel::{Loaded, halves, word_of, words};

/// Somebody else's program on the hook that sees dials (`cgroup/connect4`).
#[derive(Debug)]
pub struct Connect4(OwnedFd);

impl Connect4 {
    const ATTACH_TYPE: u32 = 10;

    /// Lets all through, and has who dials port `from` reach port `to` instead.
    #[track_caller]
    #[must_use]
    pub fn rewriting(name: &str, from: u16, to: u16) -> Self {
        let port = |port: u16| i32::from(port.to_be());
        const USER_PORT: i16 = 24;
        let instruction = |code: u8, registers: u8, offset: i16, immediate: i32| {
            let [low, high] = offset.to_le_bytes();
            u32::from_le_bytes([code, registers, low, high]) as u64
                | u64::from(immediate.cast_unsigned()) << 32
        };
        let program = [
            // r2 = context.user_port; unless it is `from`, leave it
            instruction(0x61, 0x12, USER_PORT, 0),
            instruction(0x55, 0x02, 2, port(from)),
            // context.user_port = `to`
            instruction(0xb7, 0x02, 0, port(to)),
            instruction(0x63, 0x21, USER_PORT, 0),
            // return 1
            instruction(0xb7, 0x00, 0, 1),
            instruction(0x95, 0x00, 0, 0),
        ];
        const PROG_LOAD: c_long = 5;
        const CGROUP_SOCK_ADDR: u32 = 18;
        let license = c"GPL";
        let mut attribute = [0_u32; 18];
        attribute[0] = CGROUP_SOCK_ADDR;
        attribute[1] = 6;
        (attribute[2], attribute[3]) = halves(program.as_ptr().addr());
        (attribute[4], attribute[5]) = halves(license.as_ptr().addr());
        for (word, bytes) in attribute[12..16].iter_mut().zip(name.as_bytes().chunks(4)) {
            let mut padded = [0; 4];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u32::from_ne_bytes(padded);
        }
        attribute[17] = Self::ATTACH_TYPE;
        let program = words(PROG_LOAD, &attribute);
        let program = program.unwrap_or_else(|error| panic!("load a program: {error}"));
        // SAFETY: a descriptor that the kernel just gave us.
        Self(unsafe { OwnedFd::from_raw_fd(program) })
    }

    /// Attaches it beside others, as long as what is returned is open.
    #[track_caller]
    #[must_use]
    pub fn link(&self, cgroup: &Path) -> OwnedFd {
        self.link_with(cgroup, 0).unwrap_or_else(|error| panic!("attach a program: {error}"))
    }

    /// Whether this kernel lets it run before those that were attached earlier.
    #[must_use]
    pub fn may_run_first(&self, cgroup: &Path) -> bool {
        const BPF_F_PREORDER: u32 = 64;
        self.link_with(cgroup, BPF_F_PREORDER).is_ok()
    }

    fn link_with(&self, cgroup: &Path, flags: u32) -> io::Result<OwnedFd> {
        const LINK_CREATE: c_long = 28;
        let directory = fs::File::open(cgroup)?;
        let link =
            words(LINK_CREATE, &[word_of(&self.0), word_of(&directory), Self::ATTACH_TYPE, flags])?;
        // SAFETY: a descriptor that the kernel just gave us.
        Ok(unsafe { OwnedFd::from_raw_fd(link) })
    }

    /// Attaches it for itself alone, without a link, until the cgroup is removed.
    #[track_caller]
    pub fn attach_alone(&self, cgroup: &Path) {
        self.attach(cgroup, 0);
    }

    /// The same, beside others.
    #[track_caller]
    pub fn attach_beside(&self, cgroup: &Path) {
        const BPF_F_ALLOW_MULTI: u32 = 2;
        self.attach(cgroup, BPF_F_ALLOW_MULTI);
    }

    #[track_caller]
    fn attach(&self, cgroup: &Path, flags: u32) {
        const PROG_ATTACH: c_long = 8;
        let directory = fs::File::open(cgroup).expect("it is there");
        let done =
            words(PROG_ATTACH, &[word_of(&directory), word_of(&self.0), Self::ATTACH_TYPE, flags]);
        done.unwrap_or_else(|error| panic!("attach a program: {error}"));
    }
}

/// A link that has another program in it than its own.
#[derive(Debug)]
pub struct Swapped {
    link: OwnedFd,
    program: OwnedFd,
}

impl Swapped {
    /// Puts its own program back.
    #[track_caller]
    pub fn back(self) {
        self.put(&self.program);
    }

    #[track_caller]
    fn put(&self, program: &OwnedFd) {
        const LINK_UPDATE: c_long = 29;
        words(LINK_UPDATE, &[word_of(&self.link), word_of(program), 0, 0]).expect("of its type");
    }
}

impl Loaded {
    /// Puts `other` into the link of the program of this name.
    #[track_caller]
    #[must_use]
    pub fn swap(&self, name: &str, other: &Connect4) -> Swapped {
        let (link, program) = self.link_of(name);
        let swapped = Swapped { link, program };
        swapped.put(&other.0);
        swapped
    }
}
