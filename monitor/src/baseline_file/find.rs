//! Which files a pattern names. `*` is any run of characters within one component and `?` is one; a
//! leading dot must be written. Nothing else is special.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::baseline_file::FileError;

/// The files that `patterns` name, each once, sorted. A pattern may match nothing; a name without
/// wildcards must exist.
///
/// # Errors
/// A file or directory that a pattern names cannot be read.
pub fn find(patterns: &[String]) -> Result<Vec<PathBuf>, FileError> {
    let mut found = BTreeSet::new();
    for pattern in patterns {
        let mut paths = vec![PathBuf::new()];
        for component in Path::new(pattern).components() {
            let name = component.as_os_str().to_string_lossy();
            let mut next = Vec::new();
            for path in paths {
                if name.contains(['*', '?']) {
                    next.extend(entries(&path, &name)?);
                } else {
                    next.push(path.join(component));
                }
            }
            paths = next;
        }
        let wild = pattern.contains(['*', '?']);
        found.extend(paths.into_iter().filter(|path| !wild || path.is_file()));
    }
    Ok(found.into_iter().collect())
}

/// The entries of a directory whose names match.
fn entries(dir: &Path, pattern: &str) -> Result<Vec<PathBuf>, FileError> {
    let failed = |source| FileError::Io { action: "list", path: dir.to_owned(), source };
    let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let listed = match std::fs::read_dir(here) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut matching = Vec::new();
    for entry in listed {
        let name = entry.map_err(failed)?.file_name();
        if matches(pattern.as_bytes(), name.as_encoded_bytes()) {
            matching.push(dir.join(name));
        }
    }
    Ok(matching)
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    // Where the last star stood, and what it has swallowed so far.
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[read] => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((stood, swallowed)) => {
                    star = Some((stood, swallowed + 1));
                    at = stood + 1;
                    read = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_within_a_name() {
        for (pattern, name) in [("*.yaml", "a.yaml"), ("a*b*c", "aXbYbc"), ("*", "x"), ("?", "x")] {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("*.yaml", "a.yml"), ("*", ".hidden"), ("a*b", "abc"), ("?", "")] {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn files_are_found_once_and_sorted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("b.d/x.yaml")).unwrap();
        for name in ["b.d/2.yaml", "b.d/1.yaml", "b.d/.3.yaml", "b.d/4.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let found = find(&[at("b.d/*.yaml"), at("*.d/1.yaml"), at("no/*.yaml")]).unwrap();
        assert_eq!(found, [dir.path().join("b.d/1.yaml"), dir.path().join("b.d/2.yaml")]);
    }
}
