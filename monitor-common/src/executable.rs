//! The identity of an executable in flow keys: a keyed hash of its path, computed alike by the
//! kernel (when a process starts it) and by the agent (for processes older than itself).

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::hash::KeyedHash;

/// Bytes of a path that count, NUL included; a longer one is cut.
pub const EXECUTABLE_PATH_BYTES: usize = 256;

/// Value of `EXECUTABLE_PATHS`, keyed by the executable id (`u64`).
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Executable {
    /// As it was started, NUL-padded.
    pub path: [u8; EXECUTABLE_PATH_BYTES],
    /// The executable id of the service's shell that it was started under; 0 for none.
    pub shell_id: u64,
}
const _: () = assert!(size_of::<Executable>() == 264);

/// Whether a path means the same file whoever uses it.
#[inline(always)]
#[must_use]
pub fn names_one_file(path: &[u8; EXECUTABLE_PATH_BYTES]) -> bool {
    path[0] == b'/' && !leads_through_itself(path)
}

/// Whether a path leads through the process that uses it: `/proc/self/exe`, and the open descriptors
/// that `fexecve` starts.
#[inline(always)]
#[must_use]
pub fn leads_through_itself(path: &[u8; EXECUTABLE_PATH_BYTES]) -> bool {
    let head = [path[0], path[1], path[2], path[3], path[4], path[5]];
    head == *b"/dev/f" || head == *b"/proc/"
}

/// Whether a process that starts this path goes on running the file it runs.
#[inline(always)]
#[must_use]
pub fn is_own_file(path: &[u8; EXECUTABLE_PATH_BYTES]) -> bool {
    const OWN: [u8; 15] = *b"/proc/self/exe\0";
    path.first_chunk() == Some(&OWN)
}

/// The keyed hash of the NUL-padded path: not invertible, so that no path can be made up to pass for
/// another. Never 0, which means unknown.
#[inline(always)]
#[must_use]
pub fn executable_id(seed: [u64; 2], path: &[u8; EXECUTABLE_PATH_BYTES]) -> u64 {
    let mut hash = KeyedHash::new(seed);
    for word in path.as_chunks::<8>().0 {
        hash.add(u64::from_ne_bytes(*word));
    }
    match hash.finish() {
        0 => 1,
        id => id,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        EXECUTABLE_PATH_BYTES, executable_id, is_own_file, leads_through_itself, names_one_file,
    };

    fn padded(path: &str) -> [u8; EXECUTABLE_PATH_BYTES] {
        let mut bytes = [0; EXECUTABLE_PATH_BYTES];
        bytes[..path.len()].copy_from_slice(path.as_bytes());
        bytes
    }

    fn id(seed: [u64; 2], path: &str) -> u64 {
        executable_id(seed, &padded(path))
    }

    #[test]
    fn paths_say_what_they_lead_to() {
        for (path, one, through, own) in [
            ("/usr/bin/curl", true, false, false),
            ("/procfs/x", true, false, false),
            ("./server", false, false, false),
            ("/dev/fd/3", false, true, false),
            ("/proc/self/fd/3", false, true, false),
            ("/proc/self/exe", false, true, true),
            ("/proc/self/exes", false, true, false),
        ] {
            let bytes = padded(path);
            assert_eq!(names_one_file(&bytes), one, "{path}");
            assert_eq!(leads_through_itself(&bytes), through, "{path}");
            assert_eq!(is_own_file(&bytes), own, "{path}");
        }
    }

    #[test]
    fn path_and_seed_both_decide() {
        let one = id([1, 2], "/usr/bin/curl");
        assert_eq!(one, id([1, 2], "/usr/bin/curl"));
        assert_ne!(one, id([1, 2], "/usr/bin/curk"));
        assert_ne!(one, id([1, 3], "/usr/bin/curl"));
        assert_ne!(id([1, 2], ""), 0);
    }
}
