//! What people wrote, and where the state is kept.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use monitor_core::baseline::document::written;
use monitor_core::ids::WallTime;
use rustix::fs::{Access, AtFlags, CWD, accessat, statvfs};

use crate::baseline_file;
use crate::doctor::{Check, Finding, Receivers, Subject, Verdict, told};
use crate::notify::{Notifier, SinkConfig};
use crate::store::{Look, Store};
use crate::wording::counted;

pub(super) fn configuration(subject: &Subject) -> Vec<Finding> {
    let check = Check::Configuration;
    vec![match &subject.config {
        Ok(config) => {
            let file = subject.file.display();
            let detail = if subject.file.exists() {
                format!("{file} is valid: mode {}", config.mode)
            } else {
                format!("no {file}, which is fine: defaults, mode {}", config.mode)
            };
            Finding::ok(check, "configuration", detail)
        }
        Err(error) => Finding::fail(check, "configuration", error.to_string())
            .mend("mend it; what follows is looked at with the defaults"),
    }]
}

/// Reads their secrets; dials them only where asked to.
pub(super) async fn receivers(sinks: &[SinkConfig], receivers: Receivers) -> Vec<Finding> {
    let check = Check::Receiver;
    let mut findings = Vec::new();
    for sink in sinks {
        let what = format!("receiver {}", sink.name);
        let notifier = Notifier::build(std::slice::from_ref(sink), Box::new(std::io::sink()));
        findings.push(match (notifier, receivers) {
            (Err(error), _) => Finding::fail(check, what, error.problem.to_string()),
            (Ok(_), Receivers::Left) => {
                Finding::ok(check, what, "its secrets can be read; --receivers also dials it")
            }
            (Ok(notifier), Receivers::Dialled) => match notifier.reach(&sink.name).await {
                None => Finding::ok(check, what, "standard output"),
                Some(Ok(at)) => Finding::ok(check, what, format!("reached {at}; nothing was sent")),
                // The machine's trouble or the network's, not the file's.
                Some(Err(why)) => {
                    Finding::warn(check, what, why).mend("alerts wait until it can be reached")
                }
            },
        });
    }
    if findings.is_empty() {
        let detail = "none configured: alerts are listed by `edgewatch alerts` and told to nobody";
        findings.push(Finding::ok(check, "receivers", detail));
    }
    findings
}

pub(super) fn baseline_files(patterns: &[String]) -> Vec<Finding> {
    let check = Check::BaselineFiles;
    let what = "baseline files";
    if patterns.is_empty() {
        return Vec::new();
    }
    vec![match baseline_file::read_all(patterns, WallTime::default()) {
        Ok(files) => {
            let guarded = written(&files).guarded.len();
            let services = counted(guarded, "service");
            let detail = format!("{} valid, {services} guarded by them", files.len());
            match files.len() {
                0 => Finding::warn(check, what, format!("none is there: {}", patterns.join(", "))),
                _ => Finding::ok(check, what, detail),
            }
        }
        Err(error) => Finding::fail(check, what, told(error)),
    }]
}

/// Less than this, and the next commits may find no room.
const LITTLE: u64 = 64 << 20;

pub(super) fn state(dir: &Path) -> Vec<Finding> {
    let check = Check::State;
    let what = format!("state {}", dir.display());
    let mut findings = Vec::new();
    let metadata = dir.metadata();
    let look = match &metadata {
        Ok(metadata) if !metadata.is_dir() => {
            let finding = Finding::fail(check, what, "is no directory");
            return vec![finding.mend("remove it, or name another state_dir")];
        }
        Ok(_) => Store::look(dir),
        Err(_) => Ok(Look::Nothing),
    };
    let there = metadata.is_ok();
    let place = if there { Some(dir) } else { existing(dir) };
    let writable = place.is_some_and(may_write);
    findings.push(match look {
        Ok(Look::Held(holder)) => {
            let pid = holder.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            Finding::ok(check, what.as_str(), format!("in use by the running agent{pid}"))
        }
        Err(error) if writable => Finding::fail(check, what.as_str(), told(error)),
        _ if !writable => {
            let place = place.unwrap_or(dir).display();
            let finding = Finding::fail(check, what.as_str(), format!("{place} cannot be written"));
            finding.mend("run it as the user that owns it, or name another state_dir")
        }
        Ok(Look::Nothing) if there => Finding::ok(check, what.as_str(), "empty"),
        Ok(Look::Nothing) => Finding::ok(check, what.as_str(), "not there yet: the agent makes it"),
        Ok(Look::Readable { services, edges, bytes }) => {
            let (services, edges) = (counted(services, "service"), counted(edges, "edge"));
            let detail = format!("{services}, {edges} in {}; no agent holds it", size(bytes));
            Finding::ok(check, what.as_str(), detail)
        }
        Err(error) => Finding::fail(check, what.as_str(), told(error)),
    });
    findings.extend(metadata.ok().and_then(|metadata| exposure(&what, &metadata)));
    if let Some(place) = place {
        match room(place) {
            Ok(free) if findings[0].verdict == Verdict::Ok => {
                findings[0].detail.push_str(&format!("; {free} free"));
            }
            Ok(_) => {}
            Err(finding) => findings.push(*finding),
        }
    }
    findings
}

/// Whoever can write to it can rewrite the baseline; whoever can read it reads who talks to whom.
fn exposure(what: &str, metadata: &std::fs::Metadata) -> Option<Finding> {
    let mode = metadata.mode() & 0o777;
    let ours = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != ours {
        let detail = format!("belongs to user {}", metadata.uid());
        return Some(
            Finding::warn(Check::State, what, detail).mend("chown it to the agent's user"),
        );
    }
    (mode & 0o077 != 0).then(|| {
        let detail = format!("open to others (mode {mode:o})");
        Finding::warn(Check::State, what, detail).mend("chmod 700")
    })
}

/// What is free there, where that is enough.
fn room(place: &Path) -> Result<String, Box<Finding>> {
    let (check, what) = (Check::State, "room for the state");
    let warn = |detail| Box::new(Finding::warn(check, what, detail));
    let system = statvfs(place).map_err(|error| warn(format!("cannot be told: {error}")))?;
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    if free >= LITTLE {
        return Ok(size(free));
    }
    let finding = warn(format!("{} free at {}", size(free), place.display()));
    let mend = "make room: what cannot be stored is kept in memory and tried again";
    Err(Box::new(finding.mend(mend)))
}

/// The nearest directory above that is there.
fn existing(dir: &Path) -> Option<&Path> {
    let here = Path::new(".");
    let above = dir.ancestors().skip(1);
    above.map(|it| if it.as_os_str().is_empty() { here } else { it }).find(|it| it.is_dir())
}

fn may_write(dir: &Path) -> bool {
    accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// `1.2 MiB`
fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..0x10_0000 => (1 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    let tenths = u128::from(bytes) * 10 / unit;
    if tenths < 100 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", tenths / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_figures_or_more() {
        for (bytes, text) in
            [(0, "0.0 KiB"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (43 << 30, "43 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn the_nearest_directory_is_where_the_state_will_be_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b")), Some(dir.path()));
        assert_eq!(existing(Path::new("nowhere-yet")), Some(Path::new(".")));
    }
}
