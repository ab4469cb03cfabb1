//! What is mounted, as `/proc/self/mountinfo` tells it. Whose mounts count is for others to say.

use std::path::PathBuf;

/// A mount.
pub(super) struct Mount<'a> {
    /// What of the file system is mounted.
    pub(super) root: &'a str,
    point: &'a str,
    /// The kind of file system.
    pub(super) kind: &'a str,
    /// The file system's own.
    pub(super) options: &'a str,
}

impl Mount<'_> {
    /// Where it is mounted.
    pub(super) fn point(&self) -> PathBuf {
        unescape(self.point)
    }
}

/// Every mount, in the order in which they are told; what is no mount is left out.
pub(super) fn mounts(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(|line| {
        // ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS [TAG...] - TYPE SOURCE SUPER-OPTIONS
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut fields = filesystem.split(' ');
        let (kind, options) = (fields.next()?, fields.next_back()?);
        Some(Mount { root, point, kind, options })
    })
}

/// Undoes the octal escapes that mountinfo writes for blanks and backslashes.
fn unescape(field: &str) -> PathBuf {
    let mut path = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        path.push_str(before);
        let octal =
            after.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok()).filter(u8::is_ascii);
        match octal {
            Some(byte) => {
                path.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                path.push('\\');
                rest = after;
            }
        }
    }
    path.push_str(rest);
    path.into()
}
