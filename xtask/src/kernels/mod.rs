//! `test-kernel`: the end-to-end tests that look at the kernel, built once, on other kernels in QEMU:
//! with kprobes and without, with CAP_PERFMON and without. `matrix` says which tests are left out of
//! which ground, and why; all others must run and pass. Which kernels there are is not found out here.

mod archive;
mod guest;
mod matrix;
mod packages;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::kernels::archive::Archive;
use crate::kernels::guest::{Heard, MARK};
use crate::kernels::matrix::{Boot, Ground, Kernel, Rights};
pub(crate) use crate::kernels::matrix::{Depth, KERNELS};
use crate::kernels::packages::{Packages, Unpacked};
use crate::machine;
use crate::setup;
use crate::stage::Stages;
use crate::workspace::Workspace;

/// Programs of this machine that the tests call; the rest is busybox, whose shell is no program of
/// its own.
const TOOLS: &[&str] = &["dash", "ip", "nsenter", "setpriv", "ss", "unshare"];

/// An emulated processor is some ten times slower, and the machine may be busy besides.
const PATIENCE: u32 = 6;

/// The verb: builds, then tests on the kernels named, or on all.
pub(crate) fn run(workspace: &Workspace, names: &[String]) -> anyhow::Result<ExitCode> {
    let kernels = chosen(names)?;
    setup::ensure(workspace)?;
    let stages = Stages::start();
    let built = Built::build(workspace, &stages, Depth::Whole)?;
    test(workspace, &stages, &built, &kernels)?;
    stages.finish("test-kernel");
    Ok(ExitCode::SUCCESS)
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Kernel>> {
    if names.is_empty() {
        return Ok(KERNELS.to_vec());
    }
    let known = || KERNELS.iter().map(|kernel| kernel.name).collect::<Vec<_>>().join(", ");
    let find = |name: &String| KERNELS.iter().copied().find(|kernel| kernel.name == name);
    names
        .iter()
        .map(|name| {
            find(name).with_context(|| format!("no kernel {name} in the matrix: {}", known()))
        })
        .collect()
}

/// What is tested: the program and its end-to-end tests.
pub(crate) struct Built {
    pub(crate) program: PathBuf,
    /// The program that makes the tests' traffic.
    peer: PathBuf,
    flood: PathBuf,
    tests: PathBuf,
    /// The paths of all tests.
    names: BTreeSet<String>,
    depth: Depth,
}

impl Built {
    pub(crate) fn build(
        workspace: &Workspace,
        stages: &Stages,
        depth: Depth,
    ) -> anyhow::Result<Self> {
        let build = ["build", "--package", "monitor", "--bin", "edgewatch"];
        stages.run("build", workspace.cargo().args(build))?;
        let mut cargo = workspace.cargo();
        cargo.args(["test", "--package", "tests", "--test", "e2e", "--no-run"]);
        cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
        let output = cargo.output().context("start cargo")?;
        if !output.status.success() {
            bail!("build the end-to-end tests: {}", output.status);
        }
        let built = String::from_utf8_lossy(&output.stdout);
        let (tests, peer) = (executable(&built, "e2e")?, executable(&built, "peer")?);
        let flood = executable(&built, "flood")?;
        let listed = Command::new(&tests).args(["--list", "--format", "terse"]).output();
        let listed = listed.with_context(|| format!("start {}", tests.display()))?;
        let listed = String::from_utf8_lossy(&listed.stdout);
        let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
        let names = names.map(str::to_owned).collect();
        matrix::check_names(&names)?;
        let program = workspace.target().join("debug/edgewatch");
        Ok(Self { program, peer, flood, tests, names, depth })
    }

    /// The tests that have to pass on a ground.
    fn wanted(&self, ground: Ground) -> BTreeSet<&str> {
        let names = self.names.iter().map(String::as_str);
        names.filter(|test| self.leaves_out(ground, test).is_none()).collect()
    }

    fn leaves_out(&self, ground: Ground, test: &str) -> Option<&'static str> {
        ground.leaves_out(test).or_else(|| self.depth.leaves_out(ground, test))
    }

    /// The tests that are left out of a ground, by the reason.
    fn left_out(&self, ground: Ground) -> BTreeMap<&'static str, Vec<&str>> {
        let mut left_out = BTreeMap::<_, Vec<&str>>::new();
        for test in &self.names {
            if let Some(why) = self.leaves_out(ground, test) {
                left_out.entry(why).or_default().push(test);
            }
        }
        left_out
    }
}

/// The executable that cargo says it has made of a target.
fn executable(built: &str, target: &str) -> anyhow::Result<PathBuf> {
    let artifacts = built.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut made = artifacts.filter(|it| it["target"]["name"] == target);
    let path = made.find_map(|it| it["executable"].as_str().map(PathBuf::from));
    path.with_context(|| format!("cargo did not say where {target} is"))
}

/// Boots each kernel on every ground and holds what was said against what must be.
pub(crate) fn test(
    workspace: &Workspace,
    stages: &Stages,
    built: &Built,
    kernels: &[Kernel],
) -> anyhow::Result<()> {
    let mut packages = Packages::open(workspace)?;
    packages.programs()?;
    let busybox = packages.busybox()?;
    let at = workspace.target().join("kernels");
    let base = at.join("base.cpio");
    pack_base(built, &busybox, &base)?;
    let mut wrong = Vec::new();
    for kernel in kernels {
        let unpacked = packages.kernel(*kernel, &busybox)?;
        for boot in Boot::ALL {
            let grounds: Vec<Ground> = Ground::all().filter(|it| it.boot == *boot).collect();
            let titles = grounds.iter().map(|it| it.title()).collect::<Vec<_>>().join("; then ");
            stages.announce(&format!("kernel {}", unpacked.release), &titles);
            for ground in &grounds {
                for (why, tests) in built.left_out(*ground) {
                    let tests = tests.join(" ");
                    println!("{}: left out, since it {why}: {tests}", ground.title());
                }
            }
            let initrd = at.join("initrd.cpio");
            pack_boot(built, &unpacked, *boot, &base, &initrd)?;
            let heard = guest::boot(&unpacked.image, &initrd, boot.command_line())?;
            let judged = judge(built, *boot, &heard);
            wrong.extend(judged.into_iter().map(|what| format!("kernel {}, {what}", kernel.name)));
        }
    }
    if !wrong.is_empty() {
        bail!("test-kernel:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

/// What was not as it must be on the grounds of one boot.
fn judge(built: &Built, boot: Boot, heard: &Heard) -> Vec<String> {
    let mut wrong = Vec::new();
    if !heard.kprobes.starts_with(boot.kprobes()) {
        wrong.push(format!("a kprobe is to be {}, and was: {}", boot.kprobes(), heard.kprobes));
    }
    let grounds = Ground::all().filter(|ground| ground.boot == boot);
    for (index, ground) in grounds.enumerate() {
        let title = ground.title();
        let Some(run) = heard.runs.get(index) else {
            wrong.push(format!("{title}: its tests were not begun"));
            continue;
        };
        if run.code != Some(0) {
            let failed = run.tests.iter().filter(|(_, passed)| !**passed);
            let failed: Vec<&str> = failed.map(|(name, _)| name.as_str()).collect();
            wrong.push(format!("{title}: exit code {:?}; failed: {}", run.code, failed.join(", ")));
        }
        let missed = built.wanted(ground).into_iter().filter(|it| !run.tests.contains_key(*it));
        wrong.extend(missed.map(|test| format!("{title}: {test} did not run")));
    }
    wrong
}

/// Everything that is the same in all guests.
fn pack_base(built: &Built, busybox: &Path, path: &Path) -> anyhow::Result<()> {
    let mut archive = Archive::create(path)?;
    for directory in ["dev", "proc", "run", "sys", "tmp", "bin", "root"] {
        archive.directory(directory)?;
    }
    archive.copy(busybox, "bin/busybox")?;
    archive.program(&built.program)?;
    archive.program(&built.peer)?;
    archive.program(&built.flood)?;
    archive.program(&built.tests)?;
    for tool in TOOLS {
        let found =
            machine::program(tool).with_context(|| format!("this machine has no {tool}"))?;
        archive.program(&found)?;
        if *tool == "dash" {
            archive.link("bin/sh", &found.to_string_lossy())?;
        }
    }
    archive.finish()
}

/// `base` with what differs from boot to boot behind it.
fn pack_boot(
    built: &Built,
    kernel: &Unpacked,
    boot: Boot,
    base: &Path,
    path: &Path,
) -> anyhow::Result<()> {
    let own = path.with_extension("own");
    let mut archive = Archive::create(&own)?;
    let mut names = Vec::new();
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.copy(module, &format!("modules/{name}"))?;
        names.push(format!("/modules/{name}"));
    }
    archive.file("init", init(built, boot, &names).as_bytes())?;
    archive.finish()?;
    let mut whole = File::create(path).with_context(|| format!("create {}", path.display()))?;
    for part in [base, &own] {
        let mut part = File::open(part).with_context(|| format!("open {}", part.display()))?;
        std::io::copy(&mut part, &mut whole).context("put the guest's archive together")?;
    }
    fs::remove_file(own).context("remove a part of the guest's archive")
}

/// The guest's first and only script: mounts what a machine has, tries a kprobe, runs the tests on
/// each ground of this boot, powers off.
fn init(built: &Built, boot: Boot, modules: &[String]) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t tracefs tracefs /sys/kernel/tracing\n\
         ip link set lo up\n",
    );
    script.extend(modules.iter().map(|module| format!("insmod {module}\n")));
    let (peer, tests) = (built.peer.display(), built.tests.display());
    script.push_str(&format!("echo \"{MARK}kprobes $({peer} kprobe 2>&1)\"\n"));
    script.push_str(&format!(
        "export EDGEWATCH_BIN={} EDGEWATCH_TEST_PATIENCE={PATIENCE}\n",
        built.program.display()
    ));
    for rights in Rights::ALL {
        let missing = Ground { boot, rights: *rights }.missing();
        let words: Vec<&str> = missing.iter().map(|need| need.word()).collect();
        let wanted = built.wanted(Ground { boot, rights: *rights });
        let wanted = wanted.into_iter().collect::<Vec<_>>().join(" ");
        script.push_str(&format!(
            "echo '{MARK}begins'\n\
             EDGEWATCH_TEST_UNDER='{}' EDGEWATCH_TEST_MISSING='{}' {tests} --exact {wanted}\n\
             ended=$?\n\
             [ $ended = 0 ] || [ $ended = 101 ] || dmesg | tail -n 40\n\
             echo \"{MARK}ended $ended\"\n",
            rights.under(),
            words.join(" ")
        ));
    }
    script.push_str("poweroff -f\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::guest::Run;

    const TRACED: &str = "capture::a_cgroup_that_lives_for_one_dial_is_named";

    fn built() -> Built {
        let names = ["capture::tcp", TRACED].map(str::to_owned);
        let path = PathBuf::from("/x");
        Built {
            program: path.clone(),
            peer: path.clone(),
            flood: path.clone(),
            tests: path,
            names: names.into(),
            depth: Depth::Whole,
        }
    }

    fn passed(tests: &[&str]) -> Run {
        Run { tests: tests.iter().map(|it| ((*it).to_owned(), true)).collect(), code: Some(0) }
    }

    #[track_caller]
    fn check(boot: Boot, kprobes: &str, runs: Vec<Run>, expected: &[&str]) {
        let heard = Heard { kprobes: kprobes.to_owned(), runs };
        assert_eq!(judge(&built(), boot, &heard), expected);
    }

    #[test]
    fn every_test_must_run_unless_its_need_is_missing() {
        let all = || passed(&["capture::tcp", TRACED]);
        let fewer = || passed(&["capture::tcp"]);
        check(Boot::Plain, "registered", vec![all(), fewer()], &[]);
        check(Boot::Lockdown, "refused: why", vec![fewer(), passed(&[])], &[]);
        check(
            Boot::Plain,
            "registered",
            vec![fewer(), fewer()],
            &[&format!("everything allowed: {TRACED} did not run")],
        );
        check(
            Boot::Plain,
            "registered",
            vec![all()],
            &["no CAP_PERFMON: its tests were not begun"],
        );
    }

    #[test]
    fn a_failure_and_an_end_before_the_end_are_told() {
        let mut failed = passed(&["capture::tcp", TRACED]);
        failed.tests.insert("capture::tcp".to_owned(), false);
        failed.code = Some(101);
        let cut = Run { code: None, ..passed(&["capture::tcp"]) };
        check(
            Boot::Plain,
            "registered",
            vec![failed, cut],
            &[
                "everything allowed: exit code Some(101); failed: capture::tcp",
                "no CAP_PERFMON: exit code None; failed: ",
            ],
        );
    }

    #[test]
    fn a_ground_without_kprobes_has_to_prove_it() {
        let fewer = || passed(&["capture::tcp"]);
        check(
            Boot::Lockdown,
            "registered",
            vec![fewer(), fewer()],
            &["a kprobe is to be refused, and was: registered"],
        );
    }

    #[test]
    fn a_kernel_outside_the_matrix_is_refused() {
        assert!(chosen(&["5.4".to_owned()]).is_err());
        assert_eq!(chosen(&["6.12".to_owned()]).unwrap()[0].name, "6.12");
        assert_eq!(chosen(&[]).unwrap().len(), KERNELS.len());
    }
}
