//! What this process may, and what the place it runs in hides from it.

use monitor_core::ids::WallTime;

use crate::capture::{self, Capability, Home, Machine, Privileges, Tracing};
use crate::doctor::{Check, Finding, told};
use crate::wording::counted;

pub(super) fn examine(machine: &Machine, tracing: &Tracing) -> Vec<Finding> {
    let mut findings = match Privileges::own() {
        Ok(privileges) => capabilities(privileges, machine.user_namespace),
        Err(error) => vec![Finding::warn(Check::Privileges, "capabilities", told(error))],
    };
    findings.extend(namespaces());
    findings.push(tracefs(tracing));
    findings.push(executables(machine));
    findings.push(older_sockets(machine));
    findings.push(clock(machine));
    findings
}

fn older_sockets(machine: &Machine) -> Finding {
    let (check, what) = (Check::OlderSockets, "older sockets");
    match &machine.listeners {
        Ok(count) => {
            let sockets = counted(*count, "socket");
            Finding::ok(check, what, format!("sock_diag tells who waits for peers here: {sockets}"))
        }
        Err(why) => {
            let lost = "who listens since before the agent stays unknown";
            let detail = format!("sock_diag does not answer ({why}), so that {lost}");
            let mend =
                "load the modules tcp_diag and udp_diag, or restart those servers after the agent";
            Finding::warn(check, what, detail).mend(mend)
        }
    }
}

fn executables(machine: &Machine) -> Finding {
    let (check, what) = (Check::Executables, "executables");
    let capture::Insight { readable, refused } = machine.executables;
    let detail = format!("{readable} of {} show theirs", counted(readable + refused, "process"));
    if refused <= readable / 4 {
        return Finding::ok(check, what, detail);
    }
    let detail = format!("{detail}; for the others only what they execute from now on is known");
    Finding::warn(check, what, detail).mend("run it as root, or grant CAP_SYS_PTRACE")
}

fn capabilities(privileges: Privileges, user: Home) -> Vec<Finding> {
    let check = Check::Privileges;
    let (held, missing): (Vec<_>, Vec<_>) =
        Capability::ALL.into_iter().partition(|capability| privileges.has(*capability));
    let mut findings = Vec::new();
    if user == Home::Own && privileges.suffice() {
        let detail = "capabilities of a user namespace do not reach the kernel";
        let mend = "run it as the machine's root, not in a rootless container";
        findings.push(Finding::fail(check, "user namespace", detail).mend(mend));
    }
    if !held.is_empty() {
        let names: Vec<&str> = held.iter().map(|capability| capability.name()).collect();
        findings.push(Finding::ok(check, "capabilities", names.join(", ")));
    }
    for capability in missing {
        let what = format!("{} missing", capability.name());
        let without = format!("not had without it: {}", capability.gives());
        findings.push(match capability {
            Capability::Bpf | Capability::NetAdmin => {
                Finding::fail(check, what, without).mend("run it with sudo, or grant it")
            }
            Capability::Perfmon | Capability::SysPtrace | Capability::SysAdmin => {
                Finding::warn(check, what, without).mend("grant it, or ignore this")
            }
        });
    }
    findings
}

fn namespaces() -> Vec<Finding> {
    let check = Check::Namespaces;
    let mut findings: Vec<Finding> = capture::hidden()
        .into_iter()
        .map(|hidden| match hidden.split_once(": ") {
            Some((what, mend)) => Finding::warn(check, what, "not seen from in here").mend(mend),
            None => Finding::warn(check, hidden, "not seen from in here"),
        })
        .collect();
    if findings.is_empty() {
        let detail = "the machine's own: every cgroup and process can be seen";
        findings.push(Finding::ok(check, "namespaces", detail));
    }
    findings
}

fn tracefs(tracing: &Tracing) -> Finding {
    let check = Check::Tracefs;
    match tracing {
        Tracing::Mounted(path) => Finding::ok(check, "tracefs", format!("at {path}")),
        Tracing::MountedHere => {
            Finding::ok(check, "tracefs", "not mounted here: edgewatch mounts it for itself alone")
        }
        Tracing::Refused(error) => {
            let detail = format!(
                "not mounted, and edgewatch may not mount it ({error}), so that there are no tracepoints"
            );
            let mend = "mount -t tracefs tracefs /sys/kernel/tracing";
            Finding::warn(check, "tracefs", detail).mend(mend)
        }
    }
}

fn clock(machine: &Machine) -> Finding {
    /// 2020: before there was a kernel that edgewatch runs on.
    const EARLIEST: WallTime = WallTime(1_577_836_800_000_000);
    let booted = machine.booted_at;
    if booted < EARLIEST {
        let detail = format!(
            "says that the machine was started {booted}, so that times in alerts and the ends of approvals are wrong"
        );
        return Finding::warn(Check::Clock, "clock", detail).mend("synchronise it");
    }
    Finding::ok(Check::Clock, "clock", format!("machine started {booted}"))
}
