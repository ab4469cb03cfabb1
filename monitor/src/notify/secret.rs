//! Reads what must not stand in a configuration file, from the file or variable it names. What is
//! read is never printed: errors name the key and the place.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;

/// Where a secret may come from: at most one of the two.
#[derive(Clone, Copy)]
pub(super) struct Places<'config> {
    pub(super) file_key: &'static str,
    pub(super) file: Option<&'config Path>,
    pub(super) env_key: &'static str,
    pub(super) env: Option<&'config str>,
}

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{0} and {1} are both set: keep one")]
    Both(&'static str, &'static str),
    #[error(
        "{key} = {path:?} cannot be read ({error}): put the secret there, readable by the agent's user"
    )]
    Unreadable { key: &'static str, path: String, error: std::io::Error },
    #[error("{key} = {path:?} is empty: put the secret there")]
    EmptyFile { key: &'static str, path: String },
    #[error("{key} = {path:?} is longer than {MAX_BYTES} bytes: is it the right file?")]
    TooLong { key: &'static str, path: String },
    #[error("{key} = {variable:?} is not set or empty: set it in the agent's environment")]
    Unset { key: &'static str, variable: String },
}

/// The environment, as far as it is asked: an argument, so that a test can bring its own.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Reads the secret without its trailing newline; None where neither place is given.
pub(super) fn read(
    places: Places<'_>,
    env: Environment<'_>,
) -> Result<Option<Vec<u8>>, SecretError> {
    match (places.file, places.env) {
        (Some(_), Some(_)) => Err(SecretError::Both(places.file_key, places.env_key)),
        (Some(path), None) => from_file(places.file_key, path).map(Some),
        (None, Some(variable)) => {
            let value = env(variable).map(OsString::into_encoded_bytes);
            match value.map(without_newline) {
                Some(secret) if !secret.is_empty() => Ok(Some(secret)),
                _ => Err(SecretError::Unset { key: places.env_key, variable: variable.to_owned() }),
            }
        }
        (None, None) => Ok(None),
    }
}

/// Reads a file that the configuration names under `key`; never more than [`MAX_BYTES`].
pub(super) fn from_file(key: &'static str, path: &Path) -> Result<Vec<u8>, SecretError> {
    let shown = || path.display().to_string();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| SecretError::Unreadable { key, path: shown(), error })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(SecretError::TooLong { key, path: shown() });
    }
    let secret = without_newline(bytes);
    if secret.is_empty() {
        return Err(SecretError::EmptyFile { key, path: shown() });
    }
    Ok(secret)
}

fn without_newline(mut bytes: Vec<u8>) -> Vec<u8> {
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    bytes
}

/// A bundle of authorities is the longest of them.
const MAX_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn places<'a>(file: Option<&'a Path>, env: Option<&'a str>) -> Places<'a> {
        Places { file_key: "secret_file", file, env_key: "secret_env", env }
    }

    fn environment(name: &str) -> Option<OsString> {
        match name {
            "SET" => Some("from the environment\n".into()),
            "EMPTY" => Some("".into()),
            _ => None,
        }
    }

    #[test]
    fn a_secret_loses_its_last_newline_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for (written, expected) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            (" s3 cret ", " s3 cret "),
        ] {
            let path = dir.path().join("secret");
            std::fs::write(&path, written).unwrap();
            let secret = read(places(Some(&path), None), &environment).unwrap();
            assert_eq!(secret.as_deref(), Some(expected.as_bytes()));
        }
        let secret = read(places(None, Some("SET")), &environment).unwrap();
        assert_eq!(secret.as_deref(), Some(b"from the environment".as_slice()));
        assert_eq!(read(places(None, None), &environment).unwrap(), None);
    }

    #[test]
    fn what_is_missing_is_named_with_its_key_and_mend() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "\n").unwrap();
        let long = dir.path().join("long");
        std::fs::write(&long, vec![b'x'; (1 << 20) + 1]).unwrap();
        let missing = dir.path().join("missing");
        for (file, env, said) in [
            (Some(missing.as_path()), None, "missing\" cannot be read (No such file"),
            (Some(dir.path()), None, "cannot be read"),
            (Some(empty.as_path()), None, "empty\" is empty: put the secret there"),
            (Some(long.as_path()), None, "right file"),
            (None, Some("EMPTY"), "secret_env = \"EMPTY\" is not set or empty"),
            (None, Some("UNSET"), "set it in the agent's environment"),
            (Some(missing.as_path()), Some("SET"), "secret_file and secret_env are both set"),
        ] {
            let error = read(places(file, env), &environment).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(error.contains("secret_"), "{error}");
        }
    }
}
