//! What `/proc` says of one process: who started it, what file it runs, where it is. None for what is
//! gone. It believes nothing that a process says of itself but its command name.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use monitor_core::flow::Image;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::capture::clock;

/// Process ids of `/proc`.
pub(super) fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Of `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) command: String,
    pub(super) parent: u32,
    /// When it was forked, as the kernel stamps it, rounded down to a [`tick_ns`].
    pub(super) born_ns: u64,
}

pub(super) fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = parse_stat(&String::from_utf8_lossy(&text), tick_ns())?;
    Some(Stat { born_ns: clock::shown_ns(stat.born_ns), ..stat })
}

/// The command name of a process. Any bytes: it is cut, be it within a character.
pub(super) fn command(pid: u32) -> Option<Vec<u8>> {
    let mut command = fs::read(format!("/proc/{pid}/comm")).ok()?;
    command.pop_if(|byte| *byte == b'\n');
    Some(command)
}

/// The unit of times in `/proc`.
pub(super) fn tick_ns() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

/// `PID (COMMAND) STATE PPID …`: the command may hold anything, a closing parenthesis too.
fn parse_stat(text: &str, tick_ns: u64) -> Option<Stat> {
    let (head, rest) = text.rsplit_once(')')?;
    let (_, command) = head.split_once('(')?;
    // Fields 3, 4 and 22 of proc(5).
    let mut fields = rest.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let born: u64 = fields.nth(17)?.parse().ok()?;
    Some(Stat { command: command.to_owned(), parent, born_ns: born.saturating_mul(tick_ns) })
}

/// The file that a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    /// Without the mark of a deleted file: who upgrades a package starts no other executable.
    pub(super) path: String,
    pub(super) image: Image,
}

/// None for kernel threads and for what is gone.
pub(super) fn running(pid: u32) -> Option<Running> {
    const DELETED: &str = " (deleted)";
    let link = read_link(Path::new(&format!("/proc/{pid}/exe")))?;
    let Some(path) = link.strip_suffix(DELETED) else {
        return Some(Running { path: link, image: Image::File });
    };
    if path.starts_with("/memfd:") {
        return Some(Running { path: path.to_owned(), image: Image::Memory });
    }
    // A file that is really called so.
    let file = |path: String| fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    if let Some(exe) = file(format!("/proc/{pid}/exe"))
        && file(format!("/proc/{pid}/root{link}")) == Some(exe)
    {
        return Some(Running { path: link, image: Image::File });
    }
    Some(Running { path: path.to_owned(), image: Image::Deleted })
}

/// The path without symbolic links of what `path` names for a process, as its own link would show it.
pub(super) fn resolved(pid: u32, path: &str) -> Option<String> {
    let root = File::open(format!("/proc/{pid}/root")).ok()?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    read_link(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

fn read_link(link: &Path) -> Option<String> {
    let path = fs::read_link(link).ok()?;
    let path = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    Some(path).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_this_test() {
        let me = std::process::id();
        let path = std::env::current_exe().unwrap();
        let running = running(me).unwrap();
        assert_eq!((path.to_str(), running.image), (Some(running.path.as_str()), Image::File));
        assert_eq!(super::running(u32::MAX), None);
        assert_eq!(resolved(me, &running.path), Some(running.path));
        assert_eq!(stat(me).unwrap().parent, std::os::unix::process::parent_id());
        assert_eq!(command(me).unwrap(), stat(me).unwrap().command.as_bytes());
        assert!(pids().any(|pid| pid == me));
    }

    #[test]
    fn a_path_is_followed_within_the_root_of_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::canonicalize(dir.path()).unwrap().join("file");
        fs::write(&file, "").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let me = std::process::id();
        assert_eq!(resolved(me, link.to_str().unwrap()).as_deref(), file.to_str());
        assert_eq!(resolved(me, "/no/such/file"), None);
    }

    #[test]
    fn a_command_name_cannot_pass_for_the_fields_after_it() {
        let text = "7 (a) R 9 (b)) S 3 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 250 1 2 3\n";
        let stat = parse_stat(text, 10).unwrap();
        assert_eq!((stat.command.as_str(), stat.parent, stat.born_ns), ("a) R 9 (b)", 3, 2500));
        for cut in ["", "7 (a", "7 (a) S", "7 (a) S 3 7"] {
            assert_eq!(parse_stat(cut, 10), None, "{cut}");
        }
    }
}
