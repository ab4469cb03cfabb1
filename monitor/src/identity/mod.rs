//! Names the workload behind a cgroup, from its path alone: where a cgroup lies says who made it.
//! Asks nobody: what only a runtime or the cluster can tell (a container's name, a pod's owner)
//! replaces the provisional names given here later.
//!
//! The rule that keeps names honest: reading from the root, the first delegation decides. Whoever
//! owns a unit, a container or a login may make any cgroup below its own, so nothing below is
//! believed: `/system.slice/evil.service/docker/<id>` is `systemd:evil.service`, and a container
//! inside a container is the outer one. The cost: a runtime that nests (Docker in Docker, kind seen
//! from its host) is one service.

mod cgroup;
mod unit;

use monitor_core::attribute::Workload;
use monitor_core::ids::{ServiceName, percent_encode_into};

/// Gives cgroups of one node their names.
#[derive(Debug, Clone)]
pub struct Namer {
    host: ServiceName,
    given_away: Vec<String>,
}

impl Namer {
    /// `node` names what runs in the root cgroup itself.
    #[must_use]
    pub fn new(node: &str) -> Self {
        let node = if node.is_empty() { "localhost" } else { node };
        Self { host: ServiceName::new("host", node), given_away: Vec::new() }
    }

    /// Notes that the top-level `directory` belongs to somebody other than root (a libcgroup
    /// sandbox): all below it is one service, `cgroup:/DIRECTORY`, whatever it looks like.
    pub fn give_away(&mut self, directory: &str) {
        self.given_away.push(directory.replace('/', ""));
    }

    /// Names the cgroup at `path`, below the root of the version-2 hierarchy, such as
    /// `/system.slice/nginx.service`. Any text gives a name.
    #[must_use]
    pub fn workload(&self, path: &str) -> Workload {
        let living = path.strip_suffix(" (deleted)").unwrap_or(path);
        let segments: Vec<&str> = living.split('/').filter(|name| !name.is_empty()).collect();
        let owner = match segments.first() {
            None => cgroup::Owner::from(self.host.clone()),
            Some(&top) if self.given_away.iter().any(|given| given == top) => {
                ServiceName::new("cgroup", &format!("/{top}")).into()
            }
            Some(_) => cgroup::owner(&segments),
        };
        Workload {
            service: owner.service,
            container: owner.container,
            container_name: None,
            pod: owner.pod,
            image: None,
            cgroup: shown(&segments),
            node: None,
        }
    }
}

fn shown(segments: &[&str]) -> String {
    let mut text = String::new();
    percent_encode_into(&mut text, "/");
    percent_encode_into(&mut text, &segments.join("/"));
    text.truncate(MAX_SHOWN_BYTES);
    text
}

/// Deeper than any runtime nests; a path is provenance, not a key.
const MAX_SHOWN_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_host() {
        for path in ["/", "", "//"] {
            let root = Namer::new("n1").workload(path);
            assert_eq!(root.service.as_str(), "host:n1");
            assert_eq!(root.cgroup, "/");
        }
        let nameless = Namer::new("").workload("/");
        assert_eq!(nameless.service.as_str(), "host:localhost");
    }

    #[test]
    fn a_directory_given_away_cannot_name_itself() {
        let mut namer = Namer::new("n1");
        let path = "/sandbox/system.slice/nginx.service";
        assert_eq!(namer.workload(path).service.as_str(), "systemd:nginx.service");
        namer.give_away("/sandbox");
        assert_eq!(namer.workload(path).service.as_str(), "cgroup:/sandbox");
        let sibling = namer.workload("/sandbox2/system.slice/nginx.service");
        assert_eq!(sibling.service.as_str(), "systemd:nginx.service");
    }

    #[test]
    fn a_cgroup_that_is_gone_keeps_its_name() {
        let gone = Namer::new("n1").workload("/system.slice/nginx.service (deleted)");
        assert_eq!(gone.service.as_str(), "systemd:nginx.service");
        assert_eq!(gone.cgroup, "/system.slice/nginx.service");
    }

    #[test]
    fn any_text_gives_a_safe_name() {
        let namer = Namer::new("n\n1");
        let id = "4f1c".repeat(16);
        let pieces = [
            "/",
            "//",
            "..",
            ".",
            "",
            ".slice",
            ".scope",
            "user.slice",
            "user-1000.slice",
            "user-",
            "user@1000.service",
            "session-3.scope",
            "system.slice",
            "evil.service",
            "\\x2d",
            "\\x",
            "\\xff",
            "\\x2f",
            "@",
            "-",
            "_",
            "docker",
            "docker-",
            "libpod-",
            "kubepods",
            "pod",
            ":",
            "kubepods-burstable-pod.slice",
            "\u{1b}[2J",
            "\n",
            "\0",
            "é",
            "\u{202e}",
            "%",
            " ",
            "'",
            "$(reboot)",
            " (deleted)",
            "lxc",
            "lxc.payload.",
            "dbus-:1.2-",
            "app-",
            "run-u1",
            &id,
            &id[1..],
            "nomad.slice",
            "2f9d1f9e-6d0d-4ad4-a0b1-5a1f0a8d9c11",
            "1-2-3",
            "libpod_parent",
            "machine-qemu\\x2d1\\x2d",
            "init.scope",
            "a",
            "0",
        ];
        let mut seed = 1_u64;
        for _ in 0..50_000 {
            let mut path = String::new();
            for _ in 0..next(&mut seed, 9) {
                path.push_str(pieces[next(&mut seed, pieces.len())]);
                path.push_str(["", "/", "-", ".scope", ".service/"][next(&mut seed, 5)]);
            }
            check_safe(&namer.workload(&path), &path);
        }
        let long = "/é".repeat(100_000);
        check_safe(&namer.workload(&long), "a long one");
    }

    #[track_caller]
    fn check_safe(workload: &Workload, path: &str) {
        let name = workload.service.as_str();
        assert_eq!(name.parse().as_ref(), Ok(&workload.service), "{path:?}");
        let container = workload.container.as_deref().unwrap_or_default();
        let pod = workload.pod.as_deref().unwrap_or_default();
        for text in [name, &workload.cgroup, container, pod] {
            let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+%-".contains(&byte);
            assert!(text.bytes().all(safe), "{path:?} gave {text:?}");
            assert!(text.len() <= MAX_SHOWN_BYTES);
        }
    }

    /// The next of a fixed series of numbers below `end` (xorshift).
    fn next(seed: &mut u64, end: usize) -> usize {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        usize::try_from(*seed >> 33).unwrap() % end
    }
}
