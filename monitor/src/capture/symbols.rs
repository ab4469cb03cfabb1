//! Where functions of the kernel lie, by `/proc/kallsyms`: what tells who stands on its stack. Nothing is
//! read there and nothing is hooked.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};

/// The first address of a function, and the first that is not its own.
pub(super) type Range = [u64; 2];

/// The functions of these names. Where one is not told, zeros.
///
/// # Errors
/// The list cannot be read.
pub(super) fn ranges<const N: usize>(names: [&str; N]) -> io::Result<[Range; N]> {
    let mut symbols = Vec::new();
    let mut begins = [0; N];
    for line in BufReader::new(File::open("/proc/kallsyms")?).lines() {
        let line = line?;
        let Some((address, name)) = symbol(&line) else { continue };
        if let Some(at) = names.iter().position(|it| *it == name) {
            begins[at] = address;
        }
        symbols.push(address);
    }
    // Those of modules come in an order of their own.
    symbols.sort_unstable();
    Ok(begins.map(|begin| range(&symbols, begin)))
}

/// From a function to the next one.
fn range(sorted: &[u64], begin: u64) -> Range {
    let next = sorted.partition_point(|&address| address <= begin);
    match sorted.get(next) {
        // Hidden: every address is zero.
        Some(&end) if begin != 0 => [begin, end],
        _ => [0, 0],
    }
}

/// Of `ffffffff8214c880 t packet_create [af_packet]`: code only.
fn symbol(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    matches!(words.next()?, "t" | "T" | "w" | "W").then_some(())?;
    Some((address, words.next()?))
}

#[cfg(test)]
mod tests {
    use super::{range, symbol};

    #[test]
    fn code_is_told_from_data() {
        assert_eq!(symbol("00ff t packet_create\t[af_packet]"), Some((255, "packet_create")));
        for other in ["", "00ff", "00ff t", "xx t packet_create", "00ff D packet_create"] {
            assert_eq!(symbol(other), None, "{other}");
        }
    }

    #[test]
    fn a_function_ends_where_the_next_begins() {
        let sorted = [10, 20, 20, 30];
        assert_eq!(range(&sorted, 10), [10, 20]);
        assert_eq!(range(&sorted, 20), [20, 30]);
        assert_eq!(range(&sorted, 30), [0, 0], "its end is not known");
        assert_eq!(range(&[0, 0, 0], 0), [0, 0], "hidden");
    }
}
