//! What the guests are made of that is not built here: QEMU, Debian's kernels and busybox. All of it
//! comes through apt and is kept under `target/kernels`, from where it is used where there is no
//! network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::kernels::matrix::Kernel;
use crate::machine;
use crate::setup::{Log, apt};
use crate::workspace::Workspace;

pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// Programs that a guest needs, and their packages.
const PROGRAMS: &[(&str, &str)] = &[(QEMU, "qemu-system-x86"), ("ip", "iproute2")];

/// Modules that tests or agent lean on, in the order in which they can be inserted: network
/// interfaces, and what lists sockets. The kernels have the rest built in.
const MODULES: &[&str] =
    &["drivers/net/veth", "net/ipv4/inet_diag", "net/ipv4/tcp_diag", "net/ipv4/udp_diag"];

/// An unpacked kernel.
pub(crate) struct Unpacked {
    /// As `uname -r` says it.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// In the order in which they can be inserted.
    pub(crate) modules: Vec<PathBuf>,
}

/// The cache and the way to fill it.
pub(crate) struct Packages<'a> {
    workspace: &'a Workspace,
    at: PathBuf,
    log: Log,
}

impl<'a> Packages<'a> {
    pub(crate) fn open(workspace: &'a Workspace) -> anyhow::Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("the kernels of the matrix are Debian's for x86-64; this machine is another");
        }
        let at = workspace.target().join("kernels");
        fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
        Ok(Self { workspace, at, log: Log::create(&workspace.target())? })
    }

    /// Installs the programs that are missing.
    pub(crate) fn programs(&mut self) -> anyhow::Result<()> {
        let missing = PROGRAMS.iter().filter(|(program, _)| machine::program(program).is_none());
        let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
        if packages.is_empty() {
            return Ok(());
        }
        if !apt::is_here() {
            bail!("this machine has no apt-get: install what gives {QEMU} and ip");
        }
        apt::install(self.workspace, &mut self.log, &packages)
    }

    /// The one program of the guests' own that is no copy of this machine's.
    pub(crate) fn busybox(&mut self) -> anyhow::Result<PathBuf> {
        let unpacked =
            self.newest("busybox-static", &self.at.join("busybox"), |_, apt| Ok(apt.to_owned()))?;
        Ok(unpacked.join("bin/busybox"))
    }

    /// The newest build of a kernel.
    pub(crate) fn kernel(&mut self, kernel: Kernel, busybox: &Path) -> anyhow::Result<Unpacked> {
        let at = self.newest(kernel.meta, &self.at.join(kernel.name), |packages, meta| {
            packages.dependency(meta)
        })?;
        let boot = fs::read_dir(at.join("boot")).context("read an unpacked kernel")?.flatten();
        let image =
            boot.map(|entry| entry.path()).find(|path| name_of(path).starts_with("vmlinuz"));
        let image = image.with_context(|| format!("there is no kernel in {}", at.display()))?;
        let release = name_of(&image).trim_start_matches("vmlinuz-").to_owned();
        let below = at.join("lib/modules").join(&release).join("kernel");
        let modules = MODULES.iter().map(|module| plain_module(&below.join(module), busybox));
        let modules = modules.collect::<anyhow::Result<_>>()?;
        Ok(Unpacked { release, image, modules })
    }

    /// Unpacks the newest package that `choose` names below `at`, or takes what is there where it is
    /// that one already, or where no newer can be had.
    fn newest(
        &mut self,
        named: &str,
        at: &Path,
        choose: impl Fn(&Self, &str) -> anyhow::Result<String>,
    ) -> anyhow::Result<PathBuf> {
        let kept = fs::read_to_string(at.join("package")).ok();
        let tree = at.join("tree");
        let fetched = self.fetch(named, at, kept.as_deref(), &choose).or_else(|first| {
            // The lists of packages are missing or older than the archive.
            if !machine::is_root() || !apt::is_here() {
                return Err(first);
            }
            apt::update(self.workspace, &mut self.log)?;
            self.fetch(named, at, kept.as_deref(), &choose)
        });
        match (fetched, kept) {
            (Ok(()), _) => Ok(tree),
            (Err(error), Some(kept)) => {
                println!("kernels: {kept} as it was fetched before: {error:#}");
                Ok(tree)
            }
            (Err(error), None) => Err(error.context(format!(
                "{named} comes from Debian 12's archive through apt-get; on another system, run \
                 this in a container of it"
            ))),
        }
    }

    fn fetch(
        &mut self,
        named: &str,
        at: &Path,
        kept: Option<&str>,
        choose: &impl Fn(&Self, &str) -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        let package = format!("{}\n", self.version(&choose(self, named)?)?);
        if kept == Some(&*package) {
            return Ok(());
        }
        let incoming = incoming(at);
        clear(&incoming)?;
        fs::create_dir_all(incoming.join("tree"))
            .with_context(|| format!("create {}", incoming.display()))?;
        let mut download = apt::command(self.workspace, "apt-get");
        download.current_dir(&incoming).args(["download", package.trim_end()]);
        // As root it would first try as a user who may not write here, and say so.
        download.args(["-o", "APT::Sandbox::User=root"]);
        self.log.step(&format!("apt-get download {}", package.trim_end()), &mut download)?;
        let archive = fs::read_dir(&incoming).context("read the download")?.flatten();
        let archive = archive
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let archive = archive.context("apt-get downloaded nothing")?;
        let mut unpack = apt::command(self.workspace, "dpkg-deb");
        unpack.arg("--extract").arg(&archive).arg(incoming.join("tree"));
        self.log.step("dpkg-deb --extract", &mut unpack)?;
        fs::remove_file(&archive).context("remove the download")?;
        fs::write(incoming.join("package"), package).context("note what was unpacked")?;
        // Only whole trees take the old one's place.
        clear(at)?;
        fs::rename(&incoming, at).with_context(|| format!("name {}", at.display()))
    }

    /// `PACKAGE=VERSION`, of what apt would install.
    fn version(&self, package: &str) -> anyhow::Result<String> {
        let said = self.ask(&["policy", package])?;
        let candidate = said.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        match candidate {
            Some(version) if version != "(none)" => Ok(format!("{package}={version}")),
            _ => bail!("apt knows no package {package}"),
        }
    }

    /// What a package that only names another depends on.
    fn dependency(&self, meta: &str) -> anyhow::Result<String> {
        let said = self.ask(&["depends", meta])?;
        let package = said.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(package.with_context(|| format!("apt knows no package {meta}"))?.to_owned())
    }

    fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = apt::command(self.workspace, "apt-cache")
            .args(words)
            .output()
            .context("start apt-cache, which only Debian and its kin have")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Where what comes to `at` is unpacked first. A kernel's version is no name with an extension.
fn incoming(at: &Path) -> PathBuf {
    at.with_added_extension("incoming")
}

/// A module as a guest's `insmod` takes it; newer packages compress them.
fn plain_module(path: &Path, busybox: &Path) -> anyhow::Result<PathBuf> {
    let plain = path.with_extension("ko");
    let packed = path.with_extension("ko.xz");
    if !plain.exists() {
        let status = Command::new(busybox).arg("unxz").arg(&packed).status();
        if !status.context("start busybox")?.success() {
            bail!("unpack {}", packed.display());
        }
    }
    Ok(plain)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn clear(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("clear {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kernels_come_by_the_same_way() {
        assert_eq!(incoming(Path::new("a/6.1")), Path::new("a/6.1.incoming"));
        assert_eq!(incoming(Path::new("a/6.12")), Path::new("a/6.12.incoming"));
    }
}
