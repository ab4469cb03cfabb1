//! Memory that a start or a burst has left: what the allocator keeps for the next one, and the pages of
//! the program itself that were read meanwhile. Decides nothing about when that is over.

use std::fs;
use std::ops::Range;

/// Gives the pages that nobody uses back to the machine. A walk over all that is free: not for every
/// step.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer and leaves what is in use alone; any thread may call it.
    let _given = unsafe { libc::malloc_trim(0) };
    // Not told everywhere: then they stay.
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for mapping in unwritten(&smaps, (give_back as fn()) as usize) {
        let start = std::ptr::with_exposed_provenance_mut(mapping.start);
        // SAFETY: a private mapping of the program's own file that may not be written and of which no
        // page ever was: what is read or run there next is the same bytes of that file.
        let _given = unsafe { libc::madvise(start, mapping.len(), libc::MADV_DONTNEED) };
    }
}

/// The mappings of the file that `address` lies in, code and constants, which hold what the file does.
///
/// A start touches most of them and what follows it few. They are given back as far as this process
/// counts them, and stay in the machine's page cache, which it keeps or not as for any file: what is
/// needed again costs a minor fault for every 64 KiB while it is there, else a read of the file.
/// Relocated data is left out: its pages are no longer the file's.
fn unwritten(smaps: &str, address: usize) -> Vec<Range<usize>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::of(line) {
            mappings.push(mapping);
        } else if let (Some(mapping), Some(size)) =
            (mappings.last_mut(), line.strip_prefix("Anonymous:"))
        {
            mapping.anonymous = Some(size.trim());
        }
    }
    let file = mappings.iter().find(|it| it.range.contains(&address)).map(|it| it.file);
    let unwritten = mappings.iter().filter(|it| {
        Some(it.file) == file
            && matches!(it.rights, "r-xp" | "r--p")
            && it.anonymous == Some("0 kB")
    });
    unwritten.map(|it| it.range.clone()).collect()
}

/// One of `/proc/PID/smaps`.
struct Mapping<'a> {
    range: Range<usize>,
    rights: &'a str,
    /// Device and inode; zeros where it is no file's.
    file: (&'a str, &'a str),
    /// How much of it is no longer what the file holds.
    anonymous: Option<&'a str>,
}

impl<'a> Mapping<'a> {
    /// `START-END RIGHTS OFFSET DEVICE INODE PATH`; None for the lines about it.
    fn of(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let range = address(start)?..address(end)?;
        let (rights, _offset) = (words.next()?, words.next()?);
        let file = (words.next()?, words.next()?);
        Some(Self { range, rights, file, anonymous: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0-55d4 r--p 00000000 fe:00 77 /usr/bin/edgewatch
Rss:                  12 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55d4-55d8 r-xp 00004000 fe:00 77 /usr/bin/edgewatch
Anonymous:             0 kB
55d8-55da r--p 00008000 fe:00 77 /usr/bin/edgewatch
Anonymous:             4 kB
55da-55dc rw-p 0000a000 fe:00 77 /usr/bin/edgewatch
Anonymous:             0 kB
7f00-7f10 r-xp 00000000 fe:00 78 /usr/lib/libc.so.6
Anonymous:             0 kB
7f10-7f20 r--p 00000000 00:00 0
Anonymous:             0 kB
";

    #[test]
    fn only_pages_that_are_still_the_programs_files_are_given_back() {
        let unwritten = |address| unwritten(SMAPS, address);
        assert_eq!(unwritten(0x55d5), vec![0x55d0..0x55d4, 0x55d4..0x55d8]);
        assert_eq!(unwritten(0x55d8), unwritten(0x55d5));
        assert!(unwritten(0x55dc).is_empty());
        assert!(super::unwritten("cut off\n55d0-", 0x55d0).is_empty());
    }

    #[test]
    fn what_is_given_back_is_read_and_run_again() {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let own = (give_back as fn()) as usize;
        assert!(unwritten(&smaps, own).iter().any(|it| it.contains(&own)), "{smaps}");
        static CONSTANT: [u8; 1 << 16] = [7; 1 << 16];
        let sum = || CONSTANT.iter().map(|it| usize::from(*it)).sum::<usize>();
        assert_eq!(sum(), 7 << 16);
        give_back();
        assert_eq!(sum(), 7 << 16);
    }
}
