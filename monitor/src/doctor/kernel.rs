//! The kernel: its release, what it allows, and whether it takes our programs.

use monitor_core::flow::Joined;

use crate::capture::{
    self, CaptureError, Config, Lockdown, Machine, Neighbours, Pinned, Privileges, Sharing, Trial,
};
use crate::doctor::{Check, Finding, told};
use crate::wording::counted;

/// What can be seen without loading anything.
pub(super) fn machine(machine: &Machine) -> Vec<Finding> {
    let release = capture::kernel();
    // Maps count as locked memory up to 5.10.
    let counts_memory = release.as_ref().is_ok_and(|kernel| !kernel.is_at_least(5, 11));
    let mut findings = vec![match release {
        Ok(kernel) => Finding::ok(Check::Kernel, format!("kernel {kernel}"), "5.10 or later"),
        Err(error @ CaptureError::KernelTooOld(_)) => {
            Finding::fail(Check::Kernel, "kernel", told(error)).mend("upgrade it")
        }
        Err(error) => Finding::fail(Check::Kernel, "kernel", told(error)),
    }];
    findings.push(lockdown(machine.lockdown));
    findings.push(jit(machine.jit));
    if counts_memory {
        findings.push(memory(machine.lockable));
    }
    if let Some(mount) = &machine.socket_marker {
        let detail = "before 5.15 a socket that net_cls or net_prio marks loses its version-2 cgroup, so that its connections count as the root's";
        let finding = Finding::warn(Check::SocketMarks, mount.display().to_string(), detail);
        findings.push(finding.mend("take the marks away, or upgrade the kernel"));
    }
    let present = |(name, present): &(&str, bool)| {
        format!("{name} ({})", if *present { "here" } else { "not here" })
    };
    let list: Vec<String> = machine.not_needed.iter().map(present).collect();
    findings.push(Finding::ok(Check::NotNeeded, "not needed", list.join(", ")));
    findings
}

fn lockdown(found: Option<Lockdown>) -> Finding {
    match found {
        Some(Lockdown::Off) => Finding::ok(Check::Lockdown, "lockdown", "off"),
        Some(Lockdown::Integrity) => {
            Finding::ok(Check::Lockdown, "lockdown", "integrity: forbids nothing that is used here")
        }
        Some(Lockdown::Confidentiality) => {
            let detail = "confidentiality may forbid tracepoints and their names";
            let mend =
                "start the kernel with lockdown=integrity, or do without what is named below";
            Finding::warn(Check::Lockdown, "lockdown", detail).mend(mend)
        }
        None => {
            let detail = "not told (securityfs is not mounted, or the kernel has none); the programs below show what it allows";
            Finding::ok(Check::Lockdown, "lockdown", detail)
        }
    }
}

fn jit(enabled: Option<u32>) -> Finding {
    let what = "BPF compiler";
    match enabled {
        Some(0) => {
            let detail =
                "off, so that kernel programs are interpreted and every connection costs more";
            Finding::warn(Check::Jit, what, detail).mend("sysctl net.core.bpf_jit_enable=1")
        }
        Some(1) => Finding::ok(Check::Jit, what, "on"),
        Some(_) => {
            let detail = "on, with debugging, so that every program is written to the kernel's log";
            Finding::warn(Check::Jit, what, detail).mend("sysctl net.core.bpf_jit_enable=1")
        }
        None => {
            let detail = "not there, so that kernel programs are interpreted and every connection costs more";
            let mend = "run a kernel with CONFIG_BPF_JIT";
            Finding::warn(Check::Jit, what, detail).mend(mend)
        }
    }
}

fn memory(lockable: Option<u64>) -> Finding {
    /// The maps as they are sized unless configured otherwise.
    const ENOUGH: u64 = 64 << 20;
    match lockable {
        None => Finding::ok(Check::Memory, "lockable memory", "not limited"),
        Some(bytes) if bytes >= ENOUGH => {
            Finding::ok(Check::Memory, "lockable memory", format!("{} MiB", bytes >> 20))
        }
        Some(bytes) => {
            let detail = format!(
                "{} KiB, and before 5.11 the kernel's tables count (edgewatch raises the limit where it may)",
                bytes >> 10
            );
            let mend = "set LimitMEMLOCK=infinity, or grant CAP_SYS_RESOURCE";
            Finding::warn(Check::Memory, "lockable memory", detail).mend(mend)
        }
    }
}

/// What outlives the agent, and whether anything can.
pub(super) fn pins(config: &Config) -> Finding {
    let (check, what) = (Check::Pins, "what outlives the agent");
    if !config.pin {
        return Finding::ok(check, what, "nothing, as configured (capture.pin = false)");
    }
    let dir = config.pins.display();
    match capture::pinned(&config.pins) {
        Ok(Pinned::Unpinnable(why)) => {
            let detail = format!("nothing, and what happens between two agents is not seen: {why}");
            Finding::warn(check, what, detail).mend("mount -t bpf bpf /sys/fs/bpf")
        }
        Ok(Pinned::Nothing) => {
            Finding::ok(check, what, format!("what is attached is to be pinned in {dir}"))
        }
        Ok(Pinned::Left) => {
            let detail = format!("{dir} holds what an agent left, which goes on counting");
            let mend = "the next agent takes it up; `edgewatch doctor --clean` removes it";
            Finding::ok(check, what, detail).mend(mend)
        }
        Err(CaptureError::PinsHeld { pid, .. }) => {
            let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            Finding::ok(check, what, format!("{dir}, held by the agent that runs{pid}"))
        }
        Err(error) => Finding::fail(check, what, told(error)),
    }
}

/// Loads and attaches every program for a moment, and asks who else is there.
pub(super) fn hooks(config: &Config) -> Vec<Finding> {
    if !Privileges::own().is_ok_and(Privileges::suffice) {
        let detail = "not tried, for want of CAP_BPF and CAP_NET_ADMIN";
        return vec![
            Finding::warn(Check::Programs, "kernel programs", detail).mend("run it as root"),
        ];
    }
    let mut findings = match capture::try_out(config) {
        Ok(trial) => tried(trial),
        Err(CaptureError::KernelTooOld(_) | CaptureError::NoCgroup2) => {
            let detail = "not tried, for the reason above";
            vec![Finding::warn(Check::Programs, "kernel programs", detail)]
        }
        Err(error) => vec![Finding::fail(Check::Programs, "kernel programs", told(error))],
    };
    match capture::neighbours(config.cgroup.as_deref()) {
        Ok(neighbours) => {
            let others = others(&neighbours);
            // Told again with the name of who is there.
            findings.retain(|tried| others.iter().all(|other| other.what != tried.what));
            findings.extend(others);
        }
        // Told by the trial, or with the hierarchy.
        Err(CaptureError::OpenCgroup { .. } | CaptureError::NoCgroup2) => {}
        Err(error) => {
            findings.push(Finding::warn(Check::OtherPrograms, "programs of others", told(error)));
        }
    }
    findings.extend(capture::below(config.cgroup.as_deref()).ok().as_deref().and_then(below));
    findings
}

/// Cgroups are many, and a line is short.
const SHOWN: usize = 8;

/// Programs of others in single cgroups below the watched one.
fn below(joined: &[Joined]) -> Option<Finding> {
    let one = |it: &Joined| {
        let Joined { program, hook, cgroup, more, .. } = it;
        let more = if *more == 0 { String::new() } else { format!(" and {more} more") };
        format!("{program} at {hook} in {cgroup}{more}")
    };
    let list: Vec<String> = joined.iter().map(one).collect();
    let (first, rest) = list.split_at_checked(SHOWN).unwrap_or((&list, &[]));
    let more = if rest.is_empty() { String::new() } else { format!("; and {} more", rest.len()) };
    let list = first.join("; ");
    let detail = format!(
        "{list}{more}: they run beside ours; where BPF_F_PREORDER is missing, one that changes addresses \
         hides the dialled one"
    );
    let what = "programs of others in single cgroups";
    (!first.is_empty()).then(|| Finding::ok(Check::OtherPrograms, what, detail))
}

fn taken(program: &str) -> String {
    format!("hook {program} is taken")
}

fn tried(trial: Trial) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut required, mut optional) = (Vec::new(), Vec::new());
    for tried in trial.programs {
        match (tried.outcome, tried.optional) {
            (Ok(()), None) => required.push(tried.program),
            (Ok(()), Some(_)) => optional.push(tried.program),
            (Err(error @ CaptureError::Exclusive { program, .. }), _) => {
                findings.push(Finding::fail(Check::OtherPrograms, taken(program), told(error)));
            }
            (Err(error), None) => {
                findings.push(Finding::fail(Check::Programs, tried.hook, told(error)));
            }
            (Err(error), Some(without)) => {
                let detail = format!("not seen without it: {without} ({})", told(error));
                findings.push(Finding::warn(Check::Programs, tried.hook, detail));
            }
        }
    }
    let how = match trial.unattached {
        None => {
            "loaded, and attached for a moment (the required ones to an empty cgroup)".to_owned()
        }
        Some(error) => format!("loaded only: no cgroup can be made to attach them to ({error})"),
    };
    let took = trial.took.as_millis();
    let what = format!("{} kernel programs", required.len() + optional.len());
    let names = [required, optional].concat().join(", ");
    findings.push(Finding::ok(Check::Programs, what, format!("{names}: {how}; {took} ms")));
    let (present, missing): (Vec<_>, Vec<_>) =
        trial.abilities.into_iter().partition(|ability| ability.present);
    for ability in missing {
        let detail = format!("programs may not ask for it here, so that {}", ability.without);
        let finding = Finding::warn(Check::Abilities, ability.name, detail);
        findings.push(
            finding.mend("newer kernels allow it, some only with CAP_PERFMON; or ignore this"),
        );
    }
    if !present.is_empty() {
        let names: Vec<&str> = present.iter().map(|ability| ability.name).collect();
        let what = counted(names.len(), "optional helper");
        findings.push(Finding::ok(
            Check::Abilities,
            what,
            format!("programs may ask for {}", names.join("; ")),
        ));
    }
    findings
}

/// Programs on our hooks that are not ours.
fn others(hooks: &[Neighbours]) -> Vec<Finding> {
    let check = Check::OtherPrograms;
    let mut findings = Vec::new();
    for hook in hooks.iter().filter(|hook| hook.sharing == Sharing::Exclusive) {
        let what = taken(hook.program);
        let detail = format!("{} is attached for itself alone", names(hook));
        let mend =
            "its owner must attach it with BPF_F_ALLOW_MULTI; `bpftool cgroup tree` shows it";
        findings.push(Finding::fail(check, what, detail).mend(mend));
    }
    let shared: Vec<&Neighbours> =
        hooks.iter().filter(|hook| hook.sharing == Sharing::Shared).collect();
    let foreign = |hook: &&&Neighbours| hook.attached.iter().any(|it| !it.is_ours());
    let list: Vec<String> = shared
        .iter()
        .filter(foreign)
        .map(|hook| format!("{}: {}", hook.program, names(hook)))
        .collect();
    let rewriting = |hook: &Neighbours| {
        hook.program.starts_with("connect") || hook.program.starts_with("sendmsg")
    };
    if shared.iter().filter(foreign).any(|hook| rewriting(hook)) {
        let detail = format!(
            "{}; one that changes addresses, as a service proxy does, hides the dialled one: the map then shows what stands behind it",
            list.join("; ")
        );
        findings.push(Finding::warn(check, "programs of others", detail));
    } else if !list.is_empty() {
        let detail = format!("{}; they and ours do not disturb each other", list.join("; "));
        findings.push(Finding::ok(check, "programs of others", detail));
    }
    let ours: usize =
        hooks.iter().map(|hook| hook.attached.iter().filter(|it| it.is_ours()).count()).sum();
    if ours > 0 {
        let detail = format!("{} attached: an agent or `watch` runs", counted(ours, "program"));
        findings.push(Finding::ok(check, "another edgewatch", detail));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(check, "programs of others", "none on the hooks used here"));
    }
    findings
}

fn names(hook: &Neighbours) -> String {
    let name = |it: &capture::Neighbour| match &it.name {
        Some(name) => format!("{name} (program {})", it.id),
        None => format!("program {} (without a name, perhaps another edgewatch's)", it.id),
    };
    let names: Vec<String> = hook.attached.iter().filter(|it| !it.is_ours()).map(name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Neighbour;
    use crate::doctor::Verdict;

    fn hook(program: &'static str, sharing: Sharing, names: &[&str]) -> Neighbours {
        let named = |name: &&str| Neighbour { id: 7, name: Some((*name).to_owned()) };
        Neighbours { program, sharing, attached: names.iter().map(named).collect() }
    }

    #[track_caller]
    fn check(hooks: &[Neighbours], expected: &[(Verdict, &str)]) {
        let found = others(hooks);
        let found: Vec<_> = found.iter().map(|it| (it.verdict, it.detail.as_str())).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((verdict, detail), (expected, said)) in found.iter().zip(expected) {
            assert!(verdict == expected && detail.contains(said), "{found:?}");
        }
    }

    #[test]
    fn who_else_is_on_a_hook_is_told_by_what_it_may_do_to_us() {
        let shared = Sharing::Shared;
        check(&[hook("connect4", shared, &[])], &[(Verdict::Ok, "none")]);
        check(&[hook("post_bind4", shared, &["x"])], &[(Verdict::Ok, "post_bind4: x (program 7)")]);
        check(&[hook("sendmsg6", shared, &["x"])], &[(Verdict::Warn, "hides the dialled one")]);
        let beside = [hook("connect4", shared, &["connect4"]), hook("stream", shared, &["stream"])];
        check(&beside, &[(Verdict::Ok, "2 programs attached")]);
        let taken = hook("connect4", Sharing::Exclusive, &["x"]);
        let alone = (Verdict::Fail, "x (program 7) is attached for itself alone");
        check(&[taken, hook("stream", shared, &["y"])], &[alone, (Verdict::Ok, "stream: y")]);
    }

    #[test]
    fn a_program_without_a_name_may_be_ours() {
        let attached = vec![Neighbour { id: 7, name: None }];
        let hook = Neighbours { program: "stream", sharing: Sharing::Shared, attached };
        let said = "stream: program 7 (without a name, perhaps another edgewatch's)";
        check(&[hook], &[(Verdict::Ok, said)]);
    }

    #[test]
    fn what_slows_or_forbids_is_told_with_its_mend() {
        let mended = |finding: Finding| (finding.verdict, finding.mend.is_some());
        assert_eq!(mended(jit(Some(1))), (Verdict::Ok, false));
        for off in [None, Some(0), Some(2)] {
            assert_eq!(mended(jit(off)), (Verdict::Warn, true), "{off:?}");
        }
        assert_eq!(mended(memory(None)), (Verdict::Ok, false));
        assert_eq!(mended(memory(Some(1 << 30))), (Verdict::Ok, false));
        assert_eq!(mended(memory(Some(64 << 10))), (Verdict::Warn, true));
        for fine in [None, Some(Lockdown::Off), Some(Lockdown::Integrity)] {
            assert_eq!(mended(lockdown(fine)), (Verdict::Ok, false), "{fine:?}");
        }
        assert_eq!(mended(lockdown(Some(Lockdown::Confidentiality))), (Verdict::Warn, true));
    }
}
