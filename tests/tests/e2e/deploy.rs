//! The agent as `deploy/kubernetes` would run it: with the manifest's own capabilities, user, root
//! file system and mounts, in namespaces like a pod's. What a container runtime adds (seccomp, the
//! image, the cgroup's limits) is not here.

use std::fs;

use k8s_openapi::api::core::v1::VolumeMount;
use tests::agent::{Setup, program};
use tests::bpffs::Bpffs;
use tests::lab::{Lab, Namespace};
use tests::manifest::Manifest;
use tests::process::copy_program;

use crate::ground::check_edges;
use crate::lab;

/// Lays out a root file system and becomes the program in it. `$1` is the root; then come mounts, as
/// `ro` or `rw`, what is mounted, and where; then `--` and the command.
const POD: &str = r#"
set -e
root=$1; shift
mount --make-rprivate /
mount -o bind "$root" "$root"
# What an image would hold beside the program: the libraries that it loads.
for dir in lib lib64 usr/lib; do
    [ ! -e /$dir ] || { mkdir -p "$root/$dir"; mount --rbind /$dir "$root/$dir"; }
done
mkdir -p "$root/proc" "$root/sys" "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
for node in null urandom; do : > "$root/dev/$node"; mount --bind /dev/$node "$root/dev/$node"; done
# As of a private cgroup namespace: the pod's own cgroup is all there is.
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
while [ "$1" != -- ]; do
    mkdir -p "$root$3"
    mount --rbind "$2" "$root$3"
    [ "$1" = rw ] || mount -o remount,bind,ro "$root$3"
    shift 3
done
shift
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"#;

#[test]
fn a_pod_of_the_manifest_sees_the_nodes_edges() {
    let lab = lab();
    let pod = Pod::of(&Manifest::read(), &lab);
    let mut agent =
        lab.prepared_agent("pod", &Setup::mode("learn").through(&pod.line(&lab.alone())));
    agent.socket = pod.on_this_side("/run/edgewatch").join("edgewatch.sock");
    agent.start();
    check_edges(&lab, &lab.wire(), &agent);

    let may = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
    // CAP_NET_ADMIN is 12, CAP_BPF 39.
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(may.contains(&format!("{set}:\t0000008000001000\n")), "{may}");
    }
    assert!(may.contains("NoNewPrivs:\t1\n"), "{may}");
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", agent.pid()));
    let mounts = mounts.expect("it runs");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    assert!(root.is_some_and(|line| line.contains(" / ro")), "{mounts}");
    let state = pod.on_this_side("/var/lib/edgewatch").join("state.redb");
    assert!(state.exists(), "the state is the node's: {}", state.display());
    let pinned = pod.bpffs.pins().join("current/links/connect4");
    assert!(pinned.exists(), "what is attached outlives the pod: {}", agent.said());
}

/// What the test makes of the manifest.
struct Pod {
    root: std::path::PathBuf,
    volumes: std::path::PathBuf,
    /// The node's.
    bpffs: Bpffs,
    mounts: Vec<VolumeMount>,
    /// Mounts as the script takes them, and the command.
    words: Vec<String>,
    namespaces: Vec<&'static str>,
}

impl Pod {
    #[track_caller]
    fn of(manifest: &Manifest, lab: &Lab) -> Self {
        let (pod, container) = (manifest.pod(), manifest.container());
        let mut namespaces = vec!["--mount", "--cgroup", "--uts", "--ipc"];
        if pod.host_pid != Some(true) {
            namespaces.extend(["--pid", "--fork", "--kill-child"]);
        }
        let mut made = Self {
            root: lab.path("pod"),
            volumes: lab.path("volumes"),
            bpffs: lab.bpffs(),
            mounts: container.volume_mounts.clone().unwrap_or_default(),
            words: Vec::new(),
            namespaces,
        };
        for mount in made.mounts.clone() {
            let access = if mount.read_only == Some(true) { "ro" } else { "rw" };
            let source = made.source(manifest, &mount);
            made.words.extend([access.to_owned(), source, mount.mount_path]);
        }
        made.words.push("--".to_owned());
        made.command(manifest);
        made
    }

    /// What stands for a volume: the node's own directory where it is only read.
    #[track_caller]
    fn source(&self, manifest: &Manifest, mount: &VolumeMount) -> String {
        let volume = manifest.volume(&mount.name);
        let ours = self.on_this_side(&mount.mount_path);
        fs::create_dir_all(&ours).expect("the place is ours");
        match (&volume.host_path, &volume.config_map, &volume.empty_dir) {
            (Some(host), None, None) if mount.read_only == Some(true) => host.path.clone(),
            (Some(host), None, None) if host.path == "/sys/fs/bpf" => {
                self.bpffs.path().display().to_string()
            }
            (None, Some(map), None) => {
                for (name, text) in manifest.files(&map.name) {
                    fs::write(ours.join(name), text).expect("the place is ours");
                }
                ours.display().to_string()
            }
            (Some(_), None, None) | (None, None, Some(_)) => ours.display().to_string(),
            other => panic!("no such volume is known here: {other:?}"),
        }
    }

    /// Where a mount of the pod lies for the test.
    fn on_this_side(&self, path: &str) -> std::path::PathBuf {
        self.volumes.join(path.trim_start_matches('/'))
    }

    /// The container's command, with its rights alone.
    #[track_caller]
    fn command(&mut self, manifest: &Manifest) {
        let container = manifest.container();
        let security = container.security_context.as_ref().expect("it has one");
        let capabilities = security.capabilities.clone().unwrap_or_default();
        let lower = |names: Option<Vec<String>>, sign: char| -> Vec<String> {
            let names = names.unwrap_or_default().into_iter();
            names.map(|name| format!("{sign}{}", name.to_lowercase())).collect()
        };
        let bounds = [lower(capabilities.drop, '-'), lower(capabilities.add, '+')].concat();
        let id = |id: Option<i64>| id.unwrap_or_default().to_string();
        self.words.extend(["/setpriv".to_owned(), format!("--bounding-set={}", bounds.join(","))]);
        self.words.push(format!("--reuid={}", id(security.run_as_user)));
        self.words.push(format!("--regid={}", id(security.run_as_group)));
        self.words.push("--clear-groups".to_owned());
        if security.allow_privilege_escalation == Some(false) {
            self.words.push("--no-new-privs".to_owned());
        }
        let command = container.command.as_deref().unwrap_or_default();
        let args = container.args.iter().flatten().map(|it| it.replace("$(NODE_NAME)", "stand"));
        self.words.extend(command.iter().cloned().chain(args));
        // The image: the program where the manifest calls it, and what takes its rights away.
        let at = self.root.join(command[0].trim_start_matches('/'));
        fs::create_dir_all(at.parent().expect("an absolute path")).expect("the place is ours");
        copy_program(&program(), &at);
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|dir| dir.join("setpriv"))
            .find(|it| it.is_file());
        copy_program(
            &found.expect("setpriv, of the package util-linux"),
            &self.root.join("setpriv"),
        );
    }

    /// What becomes the agent: in its namespaces, a network of its own among them. What the stand
    /// would start comes behind it and is left alone.
    fn line(&self, network: &Namespace) -> Vec<String> {
        let mut line = vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", network.name)];
        line.push("unshare".to_owned());
        line.extend(self.namespaces.iter().map(ToString::to_string));
        // The words stand in the script, since more come behind it.
        let quoted = |word: &String| format!("'{word}'");
        let words = self.words.iter().map(quoted).collect::<Vec<_>>().join(" ");
        let script = format!("set -- '{}' {words}\n{POD}", self.root.display());
        line.extend(["sh".to_owned(), "-c".to_owned(), script]);
        line
    }
}
