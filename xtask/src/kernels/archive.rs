//! What a guest boots into: an archive (cpio, `newc`) of directories and files. Written here, because
//! a guest's files come from several places and no tree of them need be made first.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

/// An archive under way.
pub(crate) struct Archive {
    out: BufWriter<File>,
    /// Paths that are in it already.
    names: BTreeSet<String>,
}

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

impl Archive {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { out: BufWriter::new(file), names: BTreeSet::new() })
    }

    /// An empty directory, and those above it.
    pub(crate) fn directory(&mut self, path: &str) -> anyhow::Result<()> {
        if path.is_empty() || !self.names.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above)?;
        }
        self.entry(path, DIRECTORY, &[])
    }

    /// A file; a second one of the same path is left out.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = path.trim_start_matches('/');
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above)?;
        }
        if !self.names.insert(path.to_owned()) {
            return Ok(());
        }
        self.entry(path, EXECUTABLE, content)
    }

    /// A copy of a file of this machine.
    pub(crate) fn copy(&mut self, from: &Path, to: &str) -> anyhow::Result<()> {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.file(to, &content)
    }

    /// A name for another path.
    pub(crate) fn link(&mut self, path: &str, to: &str) -> anyhow::Result<()> {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above)?;
        }
        self.names.insert(path.to_owned());
        self.entry(path, LINK, to.as_bytes())
    }

    /// A program of this machine with the libraries it loads, each at its own path.
    pub(crate) fn program(&mut self, program: &Path) -> anyhow::Result<()> {
        self.copy(program, &program.to_string_lossy())?;
        let output = Command::new("ldd").arg(program).output().context("start ldd")?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            // NAME => PATH (ADDRESS), or the loader's PATH (ADDRESS).
            if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
                self.copy(Path::new(library), library)?;
            }
            if line.contains("not found") {
                bail!("{} needs a library that is not here: {}", program.display(), line.trim());
            }
        }
        Ok(())
    }

    /// Writes its end. The kernel reads several archives one after the other.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush().context("write the archive")
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        let inode = self.names.len();
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large"))?;
        let name_size = name.len() + 1;
        // Magic; inode, mode, owner, group, links, time, size, two devices of two, name, checksum.
        let header = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            0, 0, 1, 0, 0, 0, 0, 0, 0
        );
        let mut write = |bytes: &[u8]| self.out.write_all(bytes).context("write the archive");
        write(header.as_bytes())?;
        write(name.as_bytes())?;
        write(&[0; 4][..1 + padding(header.len() + name_size)])?;
        write(content)?;
        write(&[0; 4][..padding(content.len())])
    }
}

/// Bytes up to the next multiple of four.
const fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_aligned_and_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.cpio");
        let mut archive = Archive::create(&path).unwrap();
        archive.file("/a/b/c", b"hello").unwrap();
        archive.file("a/b/c", b"again").unwrap();
        archive.directory("a/d").unwrap();
        archive.link("a/e", "/a/b/c").unwrap();
        archive.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let entries: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(entries.len(), 6, "two directories above, a file, a directory, a link, the end");
        assert!(entries.iter().all(|at| at % 4 == 0), "{entries:?}");
        assert!(text.contains("hello") && !text.contains("again"), "{text}");
    }
}
