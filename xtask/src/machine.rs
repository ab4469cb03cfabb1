//! What there is to know about the machine: who runs this, which programs it has.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// Whether this process has root's rights.
pub(crate) fn is_root() -> bool {
    // The second figure is the effective user.
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
    })
}

/// Fails where this process has not root's rights: `what` says why `verb` needs them.
pub(crate) fn require_root(what: &str, verb: &str) -> anyhow::Result<()> {
    if !is_root() {
        anyhow::bail!("{what}: sudo -E env \"PATH=$PATH\" cargo xtask {verb}");
    }
    Ok(())
}

/// Whether somebody is there to answer a question.
pub(crate) fn is_attended() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Where `name` is, on the search path or among cargo's programs.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether a shell finds `program` by its name.
pub(crate) fn is_on_path(program: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| program.parent() == Some(&dir))
}

/// `PATH` with cargo's own programs at its end: rustup's `cargo` finds them there, a
/// distribution's would not.
pub(crate) fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(cargo_home().map(|home| home.join("bin")));
    std::env::join_paths(dirs).unwrap_or(path)
}

/// Where rustup keeps its toolchains.
pub(crate) fn toolchains() -> Option<PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    home.or_else(|| Some(std::env::home_dir()?.join(".rustup"))).map(|home| home.join("toolchains"))
}

fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(std::env::home_dir()?.join(".cargo")))
}
