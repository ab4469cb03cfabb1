//! Baseline files: YAML as people write and review it, and the core's document. Finds the files,
//! reads them with errors that name file and line, writes them one entry a line in a fixed order, and
//! changes one in place for `approve --file`. What an entry means is the core's.

mod edit;
mod find;
mod write;
mod yaml;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use monitor_core::baseline::Provenance;
use monitor_core::baseline::document::{Document, Parsed};
use monitor_core::edge::Edge;
use monitor_core::ids::WallTime;

pub use self::edit::{Decision, Edit, EditError};
pub use self::find::find;
pub use self::write::to_text;
pub use self::yaml::from_text;

/// Why a baseline file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is larger than {} MiB: it is no baseline file", path.display(), LIMIT >> 20)]
    TooLarge { path: PathBuf },
    #[error(
        "{} can be changed by others than root and the agent: run `chown root` and `chmod go-w` on it",
        path.display()
    )]
    Open { path: PathBuf },
    #[error("{}", place(file, *line, what))]
    Content { file: String, line: Option<u64>, what: String },
    #[error("{}: {what}", path.display())]
    Edit { path: PathBuf, what: EditError },
}

fn place(file: &str, line: Option<u64>, what: &str) -> String {
    match line {
        Some(line) => format!("{file}:{line}: {what}"),
        None => format!("{file}: {what}"),
    }
}

/// A larger file is not read.
const LIMIT: u64 = 64 << 20;

/// Reads one file.
///
/// # Errors
/// It cannot be read, or the first thing in it that cannot be meant.
pub fn read(path: &Path) -> Result<Document, FileError> {
    from_text(&text_of(path)?, &path.to_string_lossy())
}

/// Reads every file that `patterns` name, taken apart and in a fixed order. What they say is obeyed,
/// so whoever may write them must be trusted: root, or the user that the agent runs as.
///
/// # Errors
/// The first file that cannot be used; it names the file.
pub fn read_all(patterns: &[String], at: WallTime) -> Result<Vec<Parsed>, FileError> {
    let mut parsed = Vec::new();
    for path in find(patterns)? {
        check_owner(&path)?;
        let text = text_of(&path)?;
        let file = path.to_string_lossy();
        let document = from_text(&text, &file)?;
        parsed.push(yaml::take_apart(&document, &text, &file, Provenance::File, at)?);
    }
    Ok(parsed)
}

fn text_of(path: &Path) -> Result<String, FileError> {
    let failed = |source| FileError::Io { action: "read", path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let length = file.take(LIMIT + 1).read_to_string(&mut text).map_err(failed)?;
    if length as u64 > LIMIT {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

fn check_owner(path: &Path) -> Result<(), FileError> {
    let metadata = path.metadata().map_err(|source| FileError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let ours = rustix::process::geteuid().as_raw();
    let owned = metadata.uid() == 0 || metadata.uid() == ours;
    let shared = metadata.mode() & 0o022 != 0 && !(metadata.gid() == 0 && metadata.mode() & 2 == 0);
    if owned && !shared { Ok(()) } else { Err(FileError::Open { path: path.to_owned() }) }
}

/// Carries out one decision in a file: all of it or, on an error, nothing. Comments at the top of the
/// file stay; others are lost, and counted in the result.
///
/// # Errors
/// The file cannot be read, changed or written, or it has no section for the edge's services.
pub fn edit(path: &Path, edit: &Edit) -> Result<Edited, FileError> {
    let text = text_of(path)?;
    let mut document = from_text(&text, &path.to_string_lossy())?;
    let refused = |what| FileError::Edit { path: path.to_owned(), what };
    let lifted = edit.apply(&mut document).map_err(refused)?;
    let head: String = text
        .lines()
        .take_while(|line| line.starts_with('#') || line.trim().is_empty())
        .map(|line| format!("{line}\n"))
        .collect();
    let kept = head.lines().count();
    let lost = text.lines().skip(kept).filter(|line| yaml::has_comment(line)).count();
    let changed = format!("{head}{}", to_text(&document));
    // Its lines are not there to be looked at.
    from_text(&changed, "").map_err(|error| match error {
        FileError::Content { what, .. } => refused(EditError::Unreadable(what)),
        other => other,
    })?;
    replace(path, &changed)?;
    Ok(Edited { comments_lost: lost, lifted })
}

/// What changing a file brought with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    pub comments_lost: usize,
    /// The edge, where an approval took its prohibition away.
    pub lifted: Option<Edge>,
}

/// Writes a document to a new file, or over an old one, all at once.
///
/// # Errors
/// The system refused.
pub fn write(path: &Path, document: &Document) -> Result<(), FileError> {
    replace(path, &to_text(document))
}

/// Replaces the file's content: whoever reads it sees the old one or the new one, also after a crash.
fn replace(path: &Path, text: &str) -> Result<(), FileError> {
    // A link is followed, so that it stays one.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_new| path.to_owned());
    let failed = |action| {
        let path = path.to_owned();
        move |source| FileError::Io { action, path, source }
    };
    let dir = match target.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let draft = dir.join(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        let mut file = std::fs::File::create(&draft)?;
        if let Ok(old) = target.metadata() {
            let mode = std::fs::Permissions::from_mode(old.mode() & 0o7777);
            file.set_permissions(mode)?;
            // Only root can give files away; for others the file is theirs already.
            let owner = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
            drop(owner);
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, &target)?;
        std::fs::File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        drop(std::fs::remove_file(&draft));
    }
    written.map_err(failed("write"))
}

#[cfg(test)]
mod tests;
