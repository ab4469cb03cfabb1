//! Reads a cgroup's path from the root down to the first place where somebody else takes over, and
//! names that somebody. Below it nothing is read: see the rule in the module's door.

use monitor_core::ids::ServiceName;

use crate::identity::unit;

/// Whose cgroup it is; the parts of a `Workload` that the path decides.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) service: ServiceName,
    pub(super) container: Option<String>,
    pub(super) pod: Option<String>,
}

impl From<ServiceName> for Owner {
    fn from(service: ServiceName) -> Self {
        Self { service, container: None, pod: None }
    }
}

impl Owner {
    fn named(scheme: &'static str, rest: &str) -> Self {
        ServiceName::new(scheme, rest).into()
    }

    fn container(scheme: &'static str, id: &str) -> Self {
        let short = &id[..SHORT_ID];
        Self { container: Some(id.to_owned()), ..Self::named(scheme, &format!("id/{short}")) }
    }

    fn pod(uid: &str, container: Option<&str>) -> Self {
        Self {
            container: container.map(str::to_owned),
            pod: Some(uid.to_owned()),
            ..Self::named("k8s", &format!("uid/{uid}"))
        }
    }
}

/// Names the owner of the cgroup at `path`, which is not the root.
pub(super) fn owner(path: &[&str]) -> Owner {
    if path.contains(&"..") {
        return unknown(path);
    }
    // One plain directory at the top may hold a hierarchy of its own: a kubelet's `cgroupRoot`,
    // another init's subtree. Only root makes one; see `Namer::give_away`.
    let nested = || match path {
        [top, below @ ..] if is_plain(top) => known(below),
        _ => None,
    };
    known(path).or_else(nested).unwrap_or_else(|| unknown(path))
}

/// The owner by the layouts of systemd and of the runtimes; None in any other place.
fn known(path: &[&str]) -> Option<Owner> {
    let depth = path.iter().take_while(|name| unit::is_slice(name)).count();
    let (slices, below) = path.split_at(depth);
    if let ["user.slice", slice, inner @ ..] = slices
        && let Some(uid) = uid_of_slice(slice)
    {
        return Some(of_login(uid, inner, below));
    }
    match (slices, below) {
        ([], _) => of_directory(below),
        ([.., slice], []) => Some(match pod_of_slice(slice) {
            Some(uid) => Owner::pod(&uid, None),
            None => Owner::named("systemd", &unit::decode(slice)),
        }),
        (_, [name, below @ ..]) if unit::is_unit(name) => Some(of_unit(slices, name, below)),
        _ => None,
    }
}

/// A unit below `slices`: it owns all below it, its name is systemd's word.
fn of_unit(slices: &[&str], name: &str, below: &[&str]) -> Owner {
    // A containerd with the cgroupfs driver under a kubelet with systemd's makes the container's
    // cgroup below its own. Only the runtime itself writes directly there.
    if matches!(slices, ["system.slice"])
        && RUNTIME_UNITS.contains(&name)
        && let Some(owner) = below.first().and_then(|name| of_colons(name))
    {
        return owner;
    }
    let contained = unit::contained(name);
    if contained.as_ref().is_some_and(unit::Contained::is_monitor) {
        return Owner::named("systemd", &unit::stable(name));
    }
    let id = contained.as_ref().map(|contained| contained.id);
    if let Some(uid) = slices.last().and_then(|slice| pod_of_slice(slice)) {
        return Owner::pod(&uid, id);
    }
    if slices.first() == Some(&"nomad.slice")
        && let Some(owner) = of_nomad(name)
    {
        return owner;
    }
    match contained {
        Some(contained) if name.ends_with(".scope") => of_contained(&contained),
        _ => Owner::named("systemd", &unit::stable(name)),
    }
}

/// A container whose place can be believed.
fn of_contained(contained: &unit::Contained<'_>) -> Owner {
    match contained.prefix {
        "docker" => Owner::container("docker", contained.id),
        "libpod" => Owner::container("podman", contained.id),
        // containerd's clients (nerdctl, a CRI without pods) leave it open whose it is.
        _ => Owner::container("cgroup", contained.id),
    }
}

/// `<allocation>.<task>.scope`: the job's name is not in the path, so the name is provisional.
fn of_nomad(name: &str) -> Option<Owner> {
    let (allocation, task) = name.strip_suffix(".scope")?.split_once('.')?;
    let short = allocation.get(..8)?;
    let rest = format!("id/{short}/{task}");
    (unit::is_uuid(allocation) && !task.is_empty()).then(|| Owner::named("cgroup", &rest))
}

/// A plain directory at the top: what the runtimes make without systemd.
fn of_directory(path: &[&str]) -> Option<Owner> {
    match path {
        ["docker", id, ..] if unit::is_container_id(id) => Some(Owner::container("docker", id)),
        ["docker", "buildkit", ..] => Some(Owner::named("cgroup", "/docker/buildkit")),
        ["kubelet", "kubepods", below @ ..] | ["kubepods", below @ ..] => of_kubepods(below),
        ["libpod_parent", pod, name, ..] if unit::is_container_id(pod) => of_podman(name),
        ["libpod_parent", name, ..] => of_podman(name),
        ["lxc" | "lxc.payload", name, ..] => Some(Owner::named("lxc", name)),
        [name, below @ ..] => match name.strip_prefix("lxc.payload.") {
            Some(name) if !name.is_empty() => Some(Owner::named("lxc", name)),
            _ if unit::is_unit(name) => Some(of_unit(&[], name, below)),
            _ => of_colons(name),
        },
        [] => None,
    }
}

fn of_podman(name: &str) -> Option<Owner> {
    let contained = unit::contained(name)?;
    (contained.prefix == "libpod").then(|| of_contained(&contained))
}

/// Below `kubepods` of the cgroupfs driver: `[QOS/]pod<uid>[/CONTAINER]`.
fn of_kubepods(path: &[&str]) -> Option<Owner> {
    let path = match path {
        ["burstable" | "besteffort", below @ ..] => below,
        _ => path,
    };
    let (pod, below) = path.split_first()?;
    let uid = pod_uid(pod.strip_prefix("pod")?)?;
    let contained = below.first().and_then(|name| unit::contained(name));
    match contained {
        Some(contained) if contained.is_monitor() => {
            Some(Owner::named("cgroup", &format!("/{}", contained.prefix)))
        }
        contained => Some(Owner::pod(&uid, contained.map(|contained| contained.id))),
    }
}

/// `SLICE:PREFIX:ID`, systemd's form of a cgroup's path given to a runtime that made a directory
/// of it.
fn of_colons(name: &str) -> Option<Owner> {
    let (slice, rest) = name.split_once(':')?;
    let (prefix, id) = rest.split_once(':')?;
    if !unit::is_slice(slice) || !unit::is_container_id(id) {
        return None;
    }
    Some(match pod_of_slice(slice) {
        Some(uid) => Owner::pod(&uid, Some(id)),
        None => of_contained(&unit::Contained { prefix, id }),
    })
}

/// Below `user-UID.slice`: whatever a user runs stays that user's.
fn of_login(uid: u32, slices: &[&str], below: &[&str]) -> Owner {
    let user = |rest: &str| Owner::named("user", &format!("{uid}/{rest}"));
    let Some((name, below)) = below.split_first() else {
        let slice = slices.last().map(|slice| unit::decode(slice));
        return Owner::named("systemd", &slice.unwrap_or_else(|| format!("user-{uid}.slice")));
    };
    if *name != format!("user@{uid}.service") {
        return user(&if unit::is_session(name) {
            "session".to_owned()
        } else {
            unit::application(name)
        });
    }
    // The user's own manager: its slices are the user's to arrange.
    match below.iter().find(|name| !unit::is_slice(name)) {
        None => {
            user(&below.last().map_or_else(|| "init.scope".to_owned(), |slice| unit::decode(slice)))
        }
        Some(name) => match unit::contained(name) {
            Some(contained) if !contained.is_monitor() => Owner {
                container: Some(contained.id.to_owned()),
                ..user(match contained.prefix {
                    "docker" => "docker",
                    "libpod" => "podman",
                    _ => "container",
                })
            },
            _ => user(&unit::application(name)),
        },
    }
}

/// Named by its path; where the path holds a container's id, by that, provisionally.
fn unknown(path: &[&str]) -> Owner {
    let mut named = String::new();
    for name in path {
        named.push('/');
        match unit::contained(name) {
            Some(contained) if contained.is_monitor() => named.push_str(contained.prefix),
            Some(contained) => return Owner::container("cgroup", contained.id),
            None => named.push_str(name),
        }
    }
    Owner::named("cgroup", &named)
}

/// Whether a top-level directory says nothing by itself, so that a hierarchy may lie below it.
fn is_plain(name: &str) -> bool {
    let of_a_runtime = matches!(name, "docker" | "kubepods" | "kubelet" | "libpod_parent")
        || name.starts_with("lxc");
    let managed = unit::is_slice(name) || unit::is_unit(name) || unit::contained(name).is_some();
    !of_a_runtime && !managed
}

fn uid_of_slice(name: &str) -> Option<u32> {
    let uid = name.strip_prefix("user-")?.strip_suffix(".slice")?;
    let number = uid.parse().ok()?;
    // Only as systemd writes it: no sign, no leading zeros.
    (u32::to_string(&number) == uid).then_some(number)
}

/// `[PARENT-]kubepods[-QOS]-pod<uid_with_underscores>.slice`
fn pod_of_slice(name: &str) -> Option<String> {
    let (parent, uid) = name.strip_suffix(".slice")?.rsplit_once("-pod")?;
    let parent = parent
        .strip_suffix("-burstable")
        .or_else(|| parent.strip_suffix("-besteffort"))
        .unwrap_or(parent);
    let of_a_kubelet = parent == "kubepods" || parent.ends_with("-kubepods");
    of_a_kubelet.then(|| pod_uid(uid)).flatten()
}

/// A UUID, or 32 hex digits for a static pod (the hash of its manifest).
fn pod_uid(text: &str) -> Option<String> {
    let uid = text.replace('_', "-");
    let hash = uid.len() == 32 && unit::is_lower_hex(&uid);
    (unit::is_uuid(&uid) || hash).then_some(uid)
}

/// As long as every runtime's own tables show it.
const SHORT_ID: usize = 12;

/// The runtimes' own units, in `system.slice`.
const RUNTIME_UNITS: [&str; 7] = [
    "containerd.service",
    "crio.service",
    "docker.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Two containers' ids, a static pod's hash, a pod's uid in both spellings, an allocation.
    const A: &str = "4f1c0a2b3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcd";
    const B: &str = "b00b1e5000000000000000000000000000000000000000000000000000000001";
    const HASH: &str = "0d6a9d3c3a1b2c4d5e6f708192a3b4c5";
    const UID: &str = "2b801b7a-f266-4930-84c2-f87339a85a41";
    const UNDERSCORED: &str = "2b801b7a_f266_4930_84c2_f87339a85a41";

    /// The place, with `A`, `B`, `HASH` and the pod's uids in braces, and the name expected.
    #[track_caller]
    fn check(cases: &[(&str, &str)]) {
        for (path, expected) in cases {
            let path = fill(path);
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            let owner = owner(&segments);
            assert_eq!(owner.service.as_str(), fill(expected), "{path}");
        }
    }

    fn fill(text: &str) -> String {
        text.replace("{A}", A)
            .replace("{B}", B)
            .replace("{a}", &A[..12])
            .replace("{b}", &B[..12])
            .replace("{hash}", HASH)
            .replace("{uid}", UID)
            .replace("{u_id}", UNDERSCORED)
    }

    #[track_caller]
    fn provenance(path: &str) -> (Option<String>, Option<String>) {
        let path = fill(path);
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let owner = owner(&segments);
        (owner.container, owner.pod)
    }

    #[test]
    fn systemd() {
        check(&[
            ("/init.scope", "systemd:init.scope"),
            ("/system.slice/nginx.service", "systemd:nginx.service"),
            ("/system.slice/system-getty.slice/getty@tty1.service", "systemd:getty@tty1.service"),
            ("/shop.slice/shop-data.slice/db.service", "systemd:db.service"),
            ("/nginx.service", "systemd:nginx.service"),
            ("/system.slice", "systemd:system.slice"),
            ("/shop.slice/shop-data.slice", "systemd:shop-data.slice"),
            ("/system.slice/foo.service/worker/1", "systemd:foo.service"),
            ("/system.slice/run-u12.service", "systemd:run.service"),
            ("/system.slice/run-r0123456789abcdef0123456789abcdef.scope", "systemd:run.scope"),
            (
                "/system.slice/system-sshd.slice/sshd@3-192.0.2.1:22-192.0.2.9:51234.service",
                "systemd:sshd@.service",
            ),
            (
                "/system.slice/slurmstepd.scope/job_12/step_0/user/task_0",
                "systemd:slurmstepd.scope",
            ),
            ("/system.slice/user@1000.service", "systemd:user@1000.service"),
        ]);
    }

    #[test]
    fn docker() {
        check(&[
            ("/docker/{A}", "docker:id/{a}"),
            ("/docker/{A}/init.scope", "docker:id/{a}"),
            ("/system.slice/docker-{A}.scope", "docker:id/{a}"),
            ("/shop.slice/docker-{A}.scope/init", "docker:id/{a}"),
            ("/ecstasks.slice/ecstasks-0a1b.slice/docker-{A}.scope", "docker:id/{a}"),
            ("/docker/buildkit/p1yq0a6xh3bmt2sn4k5l6o7wz", "cgroup:/docker/buildkit"),
            ("/docker", "cgroup:/docker"),
            // In a container, its own runtime's containers: the outer one is the service.
            ("/docker/{A}/docker/{B}", "docker:id/{a}"),
            ("/docker/{A}/kubelet/kubepods/burstable/pod{uid}/{B}", "docker:id/{a}"),
            ("/docker/{A}/system.slice/nginx.service", "docker:id/{a}"),
        ]);
        assert_eq!(provenance("/docker/{A}/docker/{B}"), (Some(A.to_owned()), None));
    }

    #[test]
    fn kubernetes() {
        check(&[
            ("/kubepods/burstable/pod{uid}/{A}", "k8s:uid/{uid}"),
            ("/kubepods/pod{uid}/{A}", "k8s:uid/{uid}"),
            ("/kubepods/besteffort/pod{uid}", "k8s:uid/{uid}"),
            ("/kubepods/burstable/pod{hash}/{A}", "k8s:uid/{hash}"),
            ("/kubepods/burstable/pod{uid}/crio-{A}", "k8s:uid/{uid}"),
            ("/kubepods/burstable/pod{uid}/crio-conmon-{A}", "cgroup:/crio-conmon"),
            ("/kubelet/kubepods/besteffort/pod{uid}/{A}/sub", "k8s:uid/{uid}"),
            ("/kubepods/burstable", "cgroup:/kubepods/burstable"),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{u_id}.slice/cri-containerd-{A}.scope",
                "k8s:uid/{uid}",
            ),
            ("/kubepods.slice/kubepods-pod{u_id}.slice/crio-{A}.scope/container", "k8s:uid/{uid}"),
            (
                "/kubepods.slice/kubepods-pod{u_id}.slice/crio-conmon-{A}.scope",
                "systemd:crio-conmon.scope",
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{u_id}.slice/docker-{A}.scope",
                "k8s:uid/{uid}",
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{hash}.slice/cri-containerd-{A}.scope",
                "k8s:uid/{hash}",
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{u_id}.slice/cri-containerd-{A}.scope",
                "k8s:uid/{uid}",
            ),
            (
                "/system.slice/containerd.service/kubepods-burstable-pod{u_id}.slice:cri-containerd:{A}",
                "k8s:uid/{uid}",
            ),
            ("/kubepods-besteffort-pod{u_id}.slice:cri-containerd:{A}", "k8s:uid/{uid}"),
            ("/node/kubepods/besteffort/pod{uid}/{A}", "k8s:uid/{uid}"),
            ("/kubepods.slice", "systemd:kubepods.slice"),
        ]);
        let both = (Some(A.to_owned()), Some(UID.to_owned()));
        for path in [
            "/kubepods/burstable/pod{uid}/{A}/sub",
            "/kubepods.slice/kubepods-pod{u_id}.slice/cri-containerd-{A}.scope",
            "/system.slice/containerd.service/kubepods-pod{u_id}.slice:cri-containerd:{A}",
        ] {
            assert_eq!(provenance(path), both, "{path}");
        }
    }

    #[test]
    fn podman() {
        check(&[
            ("/machine.slice/libpod-{A}.scope", "podman:id/{a}"),
            ("/machine.slice/libpod-{A}.scope/container", "podman:id/{a}"),
            ("/libpod_parent/libpod-{A}", "podman:id/{a}"),
            ("/libpod_parent/{B}/libpod-{A}", "podman:id/{a}"),
            ("/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope", "podman:id/{a}"),
            ("/node/libpod_parent/libpod-{A}", "podman:id/{a}"),
            ("/libpod_parent/conmon", "cgroup:/libpod_parent/conmon"),
            ("/machine.slice/libpod-conmon-{A}.scope", "systemd:libpod-conmon.scope"),
            // Quadlet: the unit is the service.
            ("/system.slice/web.service/libpod-payload-{A}", "systemd:web.service"),
        ]);
    }

    #[test]
    fn containerd_and_crio_without_pods() {
        check(&[
            ("/default/c1", "cgroup:/default/c1"),
            ("/default/{A}", "cgroup:id/{a}"),
            ("/k8s.io/{A}/sub", "cgroup:id/{a}"),
            ("/system.slice/nerdctl-{A}.scope", "cgroup:id/{a}"),
            ("/system.slice/cri-containerd-{A}.scope", "cgroup:id/{a}"),
            ("/crio-{A}", "cgroup:id/{a}"),
            ("/crio-conmon-{A}", "cgroup:/crio-conmon"),
            ("/ecs/0a1b2c3d/{A}", "cgroup:id/{a}"),
            ("/../crio-{A}", "cgroup:id/{a}"),
        ]);
    }

    #[test]
    fn lxc_nspawn_and_nomad() {
        check(&[
            ("/lxc/web", "lxc:web"),
            ("/lxc/101/ns/system.slice/nginx.service", "lxc:101"),
            ("/lxc.payload.web/init.scope", "lxc:web"),
            ("/lxc.payload/web", "lxc:web"),
            ("/lxc.payload.web/docker/{A}", "lxc:web"),
            ("/lxc.monitor.web", "cgroup:/lxc.monitor.web"),
            ("/lxc.payload.", "cgroup:/lxc.payload."),
            ("/machine.slice/machine-web.scope", "systemd:machine-web.scope"),
            (
                "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
                "systemd:systemd-nspawn@web.service",
            ),
            (
                "/machine.slice/machine-qemu\\x2d3\\x2dbuild.scope/libvirt/vcpu0",
                "systemd:machine-qemu-build.scope",
            ),
            (
                "/nomad.slice/share.slice/4744f0ea-7616-ab3a-a420-8e25056e3861.web.scope",
                "cgroup:id/4744f0ea/web",
            ),
            (
                "/nomad.slice/4744f0ea-7616-ab3a-a420-8e25056e3861.api.v2.scope",
                "cgroup:id/4744f0ea/api.v2",
            ),
            ("/nomad.slice/share.slice/web.scope", "systemd:web.scope"),
        ]);
    }

    #[test]
    fn logins() {
        check(&[
            ("/user.slice/user-1000.slice/session-3.scope", "user:1000/session"),
            ("/user.slice/user-0.slice/session-c12.scope", "user:0/session"),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", "user:1000/init.scope"),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-1234.scope",
                "user:1000/firefox",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-org.mozilla.firefox-2345.scope",
                "user:1000/org.mozilla.firefox",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-dbus\\x2d:1.2\\x2dorg.foo.slice/dbus-:1.2-org.foo@0.service",
                "user:1000/org.foo",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service/sub",
                "user:1000/syncthing.service",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container",
                "user:1000/podman",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope",
                "user:1000/docker",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-{A}.scope",
                "user:1000/libpod-conmon.scope",
            ),
            ("/user.slice/user-1000.slice", "systemd:user-1000.slice"),
            ("/user.slice", "systemd:user.slice"),
            (
                "/user.slice/user-1000.slice/user-runtime-dir@1000.service",
                "user:1000/user-runtime-dir@1000.service",
            ),
        ]);
    }

    #[test]
    fn nobody_becomes_another_by_naming_its_cgroups() {
        check(&[
            // Below a unit.
            ("/system.slice/evil.service/docker/{A}", "systemd:evil.service"),
            ("/system.slice/evil.service/kubepods/burstable/pod{uid}/{A}", "systemd:evil.service"),
            ("/system.slice/evil.service/system.slice/nginx.service", "systemd:evil.service"),
            (
                "/system.slice/evil.service/kubepods-pod{u_id}.slice:cri-containerd:{A}",
                "systemd:evil.service",
            ),
            (
                "/evil.slice/containerd.service/kubepods-pod{u_id}.slice:cri-containerd:{A}",
                "systemd:containerd.service",
            ),
            (
                "/system.slice/containerd.service/x/kubepods-pod{u_id}.slice:cri-containerd:{A}",
                "systemd:containerd.service",
            ),
            // Below a user's own manager.
            (
                "/user.slice/user-1000.slice/user@1000.service/system.slice/docker-{A}.scope",
                "user:1000/docker",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-pod{u_id}.slice/cri-containerd-{A}.scope",
                "user:1000/container",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/user-0.slice/session-1.scope",
                "user:1000/session.scope",
            ),
            ("/user.slice/user-1000.slice/user@1000.service/docker/{A}", "user:1000/docker"),
            (
                "/user.slice/user-1000.slice/user@0.service/nginx.service",
                "user:1000/user@0.service",
            ),
            ("/evil.slice/user.slice/user-0.slice", "systemd:user-0.slice"),
            ("/user.slice/user-+1.slice/x.service", "systemd:x.service"),
            ("/user.slice/user-01.slice/x.service", "systemd:x.service"),
            // Deep below plain directories, and out of the hierarchy's own root.
            ("/a/b/system.slice/nginx.service", "cgroup:/a/b/system.slice/nginx.service"),
            ("/a/b/docker/{A}", "cgroup:id/{a}"),
            ("/../system.slice/nginx.service", "cgroup:/../system.slice/nginx.service"),
            ("/kubepods/system.slice/nginx.service", "cgroup:/kubepods/system.slice/nginx.service"),
            ("/lxc.monitor.a/docker/{A}", "cgroup:id/{a}"),
        ]);
    }

    #[test]
    fn a_hierarchy_may_lie_in_one_plain_directory() {
        check(&[
            ("/node/docker/{A}", "docker:id/{a}"),
            ("/node/system.slice/nginx.service", "systemd:nginx.service"),
            ("/node/shop.slice/shop-data.slice/db.service", "systemd:db.service"),
            ("/node/init.scope", "systemd:init.scope"),
            ("/node/user.slice/user-1000.slice/session-3.scope", "user:1000/session"),
            ("/node/web", "cgroup:/node/web"),
            ("/node", "cgroup:/node"),
        ]);
    }

    #[test]
    fn what_only_looks_like_an_id_is_none() {
        let short = &A[1..];
        let loud = A.to_uppercase();
        for id in [short, &loud, &format!("{A}0"), &A.replace('4', "g"), ""] {
            for path in [format!("/docker/{id}"), format!("/a/{id}")] {
                assert_eq!(provenance(&path), (None, None), "{path}");
            }
            let scope = format!("/system.slice/docker-{id}.scope");
            assert_eq!(provenance(&scope), (None, None), "{scope}");
        }
        check(&[
            ("/kubepods/burstable/pods/{A}", "cgroup:id/{a}"),
            ("/kubepods.slice/kubepods-pod2b801b7a.slice/x.service", "systemd:x.service"),
            ("/x.slice/x-pod{u_id}.slice/docker-{A}.scope", "docker:id/{a}"),
            ("/.slice/.scope", "cgroup:/.slice/.scope"),
        ]);
    }
}
