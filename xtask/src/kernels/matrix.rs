//! Which kernels, which grounds, and what a ground makes impossible: the whole matrix as a table.
//! CI's matrix names these kernels (a test here compares), and the README's table those of CI (`tidy`).

use std::collections::BTreeSet;

use anyhow::bail;

/// A kernel of Debian 12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    /// The package that depends on the newest build of it.
    pub(crate) meta: &'static str,
}

pub(crate) const KERNELS: &[Kernel] = &[
    Kernel { name: "6.1", meta: "linux-image-cloud-amd64" },
    Kernel { name: "6.12", meta: "linux-image-6.12-cloud-amd64" },
];

/// What not every ground has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Kernel programs on tracepoints: names of what lives for a moment, executables as started.
    Tracepoints,
    /// A look into other users' processes and the network namespaces they are in: what runs there,
    /// the addresses they have, the sockets that are older than the agent.
    Processes,
    /// Programs that carry their names in the kernel: the loader gives them only with CAP_PERFMON.
    ProgramNames,
}

impl Need {
    pub(crate) const ALL: &[Self] = &[Self::Tracepoints, Self::Processes, Self::ProgramNames];

    /// As the tests are told that it is missing.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Tracepoints => "tracepoints",
            Self::Processes => "processes",
            Self::ProgramNames => "program-names",
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Tracepoints => "needs the tracepoints",
            Self::Processes => "needs to look into other users' processes and namespaces",
            Self::ProgramNames => "looks programs up by name",
        }
    }
}

/// Tests that need what not every ground has. No need is missed on all of them.
pub(crate) const NEEDS: &[(&str, Need)] = &[
    ("capture::a_cgroup_that_lives_for_one_dial_is_named", Need::Tracepoints),
    ("capture::a_server_older_than_the_agent_is_known", Need::Processes),
    ("capture::connected_udp_is_seen_like_any_other", Need::Processes),
    ("capture::tcp_between_namespaces_is_one_edge_with_both_ends_named", Need::Processes),
    ("capture::udp_between_namespaces_is_one_edge_with_both_ends_named", Need::Processes),
    ("lineage::a_port_that_is_opened_is_told_with_who_opens_it", Need::Processes),
    ("lineage::a_program_that_somebody_detaches_is_missed", Need::ProgramNames),
    ("lineage::an_interpreter_under_a_services_shell_is_another_executable", Need::Tracepoints),
    ("lineage::ancestors_that_are_gone_are_named", Need::Tracepoints),
    ("lineage::from_within_a_cgroup_namespace_older_shells_are_told_apart", Need::Tracepoints),
    ("lineage::processes_older_than_the_watch_have_their_shell_too", Need::Tracepoints),
    ("lineage::the_shell_that_a_service_begins_with_does_not_count", Need::Tracepoints),
    ("lineage::what_is_no_interpreter_keeps_its_name_under_a_shell", Need::Tracepoints),
    ("lineage::what_runs_from_memory_or_from_a_deleted_file_says_so", Need::Processes),
    ("names::a_service_that_is_known_to_ask_is_heard_from_its_first_question_on", Need::Processes),
    ("older::a_connection_older_than_the_agent_is_an_edge_with_both_ends", Need::Processes),
    ("older::a_namespace_that_is_only_mounted_is_looked_into", Need::Processes),
    ("older::what_was_dialled_while_nobody_looked_is_told_as_such", Need::Processes),
    ("opened::a_server_that_moves_once_it_listens_is_told_where_it_is", Need::Processes),
    ("opened::a_socket_that_changed_hands_is_told_with_who_opened_it", Need::Processes),
    ("opened::what_a_manager_listens_for_is_told_with_who_serves_there", Need::Processes),
    ("restart::a_known_server_that_is_down_after_a_restart_is_no_news", Need::Processes),
    ("restart::ended_and_started_it_goes_on", Need::Processes),
    ("restart::killed_and_started_it_goes_on", Need::Processes),
    ("watch::a_datagram_of_who_is_gone_by_then_has_both_ends_named", Need::Processes),
    ("watch::every_edge_is_printed_once_with_both_ends_named", Need::Processes),
    ("watch::who_watches_is_told_what_is_not_seen_any_more", Need::ProgramNames),
];

/// What the tests of a module depend on, and with that where they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// What kernel and rights give.
    Ground,
    /// The same, and little enough of it to be tried where nearly all is missing.
    BareGround,
    /// The same, with rights that the test takes for itself: fewer for the agent change nothing.
    OwnRights,
    /// A kernel that gives all.
    WholeKernel,
    /// The same, at such length that the quick run leaves it to the running kernel.
    WholeKernelAtLength,
    /// How fast all is, which says nothing where every instruction is emulated.
    Load,
    /// Programs of others, which no guest has.
    Tools,
    /// What is decided, stored, drawn and sent, which knows no kernel: the running one is enough.
    NoKernel,
}

/// Every module of tests, by its path.
const MODULES: &[(&str, About)] = &[
    ("alerts", About::NoKernel),
    ("baseline", About::NoKernel),
    ("capture", About::Ground),
    ("carried", About::WholeKernelAtLength),
    ("chat", About::NoKernel),
    ("crafted", About::Tools),
    ("delivery", About::NoKernel),
    ("deploy", About::OwnRights),
    ("doctor", About::WholeKernel),
    ("drawn", About::NoKernel),
    ("errors", About::NoKernel),
    ("faults::canary", About::WholeKernelAtLength),
    ("faults::cgroups", About::Load),
    ("faults::clocks", About::NoKernel),
    ("faults::disk", About::NoKernel),
    ("faults::end", About::NoKernel),
    ("faults::kill", About::NoKernel),
    ("faults::losses", About::WholeKernel),
    ("faults::receivers", About::NoKernel),
    ("flood", About::Load),
    ("ground", About::BareGround),
    ("harness", About::NoKernel),
    ("lasting", About::WholeKernelAtLength),
    ("lineage", About::Ground),
    ("named", About::WholeKernel),
    ("names", About::Ground),
    ("odd", About::WholeKernelAtLength),
    ("oddities", About::WholeKernel),
    ("older", About::Ground),
    ("opened", About::Ground),
    ("record", About::WholeKernel),
    ("restart", About::Ground),
    ("state", About::NoKernel),
    ("strangers", About::WholeKernelAtLength),
    ("tools", About::Tools),
    ("translated", About::Tools),
    ("watch", About::Ground),
    ("ways::connections", About::WholeKernelAtLength),
    ("ways::datagrams", About::WholeKernelAtLength),
    ("ways::listeners", About::WholeKernelAtLength),
];

/// Tests that are about load, in modules that are not.
const OF_LOAD: &[&str] = &[
    "faults::canary::each_canary_comes_back_in_time",
    "names::who_asks_without_end_hides_no_answer_of_others",
    "older::a_hundred_thousand_sockets_are_taken_in_at_once",
    "restart::under_load_it_ends_in_time_and_leaves_nothing",
];

/// What a test depends on; whatever can be missing, where nobody said so.
fn about(test: &str) -> About {
    if OF_LOAD.contains(&test) {
        return About::Load;
    }
    let module = MODULES.iter().find(|(module, _)| *module == module_of(test));
    module.map_or(About::Ground, |(_, about)| *about)
}

fn module_of(test: &str) -> &str {
    test.rsplit_once("::").map_or("", |(module, _)| module)
}

/// Fails where the tests are others than those of which it is said here where they run.
pub(crate) fn check_names(tests: &BTreeSet<String>) -> anyhow::Result<()> {
    let named = NEEDS.iter().map(|(test, _)| *test).chain(OF_LOAD.iter().copied());
    let gone = named.filter(|test| !tests.contains(*test));
    let modules: BTreeSet<&str> = tests.iter().map(|test| module_of(test)).collect();
    let known: BTreeSet<&str> = MODULES.iter().map(|(module, _)| *module).collect();
    let wrong: Vec<String> = gone
        .map(|test| format!("there is no test {test}"))
        .chain(known.difference(&modules).map(|it| format!("there is no test in {it}")))
        .chain(modules.difference(&known).map(|it| format!("what {it} is about is not said")))
        .collect();
    if !wrong.is_empty() {
        bail!("xtask/src/kernels/matrix.rs: {}", wrong.join("; "));
    }
    Ok(())
}

/// What the kernel's command line rules out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    Plain,
    /// Kernel lockdown forbids kprobes, tracefs, perf events, and programs that read kernel memory.
    Lockdown,
}

impl Boot {
    pub(crate) const ALL: &[Self] = &[Self::Plain, Self::Lockdown];

    pub(crate) const fn command_line(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Lockdown => "lockdown=confidentiality",
        }
    }

    /// What trying to register a kprobe must come to in the guest.
    pub(crate) const fn kprobes(self) -> &'static str {
        match self {
            Self::Plain => "registered",
            Self::Lockdown => "refused",
        }
    }
}

/// What the agent may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    Root,
    /// What `deploy/kubernetes` asks for: no CAP_PERFMON, no CAP_SYS_PTRACE, no CAP_SYS_ADMIN.
    Least,
}

impl Rights {
    pub(crate) const ALL: &[Self] = &[Self::Root, Self::Least];

    /// What every program under test is started through.
    pub(crate) const fn under(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Least => "setpriv --bounding-set=-all,+bpf,+net_admin",
        }
    }
}

/// Where the tests run: what the kernel allows and what the agent may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ground {
    pub(crate) boot: Boot,
    pub(crate) rights: Rights,
}

impl Ground {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let each = |boot| move |rights| Self { boot, rights };
        Boot::ALL.iter().flat_map(move |boot| Rights::ALL.iter().copied().map(each(*boot)))
    }

    pub(crate) const fn title(self) -> &'static str {
        match (self.boot, self.rights) {
            (Boot::Plain, Rights::Root) => "everything allowed",
            (Boot::Plain, Rights::Least) => "no CAP_PERFMON",
            (Boot::Lockdown, Rights::Root) => "no kprobes",
            (Boot::Lockdown, Rights::Least) => "no kprobes, no CAP_PERFMON",
        }
    }

    /// What is missing here. The tests hold the agent to saying so (`EDGEWATCH_TEST_MISSING`).
    pub(crate) fn missing(self) -> Vec<Need> {
        let missing = |need: &Need| match need {
            Need::Tracepoints => self.boot == Boot::Lockdown || self.rights == Rights::Least,
            Need::Processes | Need::ProgramNames => self.rights == Rights::Least,
        };
        Need::ALL.iter().copied().filter(missing).collect()
    }

    /// Why a test is left out here; none where it has to pass.
    pub(crate) fn leaves_out(self, test: &str) -> Option<&'static str> {
        let missing = self.missing();
        let need = NEEDS.iter().find(|(name, need)| *name == test && missing.contains(need));
        if let Some((_, need)) = need {
            return Some(need.reason());
        }
        match (about(test), self.boot, self.rights) {
            (About::Load, ..) => Some("is about load, which emulation does not bear"),
            (About::Tools, ..) => Some("is about programs that no guest has"),
            (About::NoKernel, ..) => Some("is not about kernel or rights"),
            (About::WholeKernel | About::WholeKernelAtLength, Boot::Plain, Rights::Root) => None,
            (About::WholeKernel | About::WholeKernelAtLength, ..) => {
                Some("is about a kernel that gives all")
            }
            (About::OwnRights, _, Rights::Least) => Some("takes its rights for itself"),
            (About::Ground, Boot::Lockdown, Rights::Least) => {
                Some("is for where only one of the two is missing")
            }
            (About::Ground | About::BareGround | About::OwnRights, ..) => None,
        }
    }
}

/// How much of the matrix is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What `cargo xtask test` runs beside everything else: all where all is allowed, and elsewhere
    /// that the agent works and says what it lacks.
    Quick,
    /// What `cargo xtask test-kernel` runs.
    Whole,
}

impl Depth {
    /// Why a test that a ground allows is left out.
    pub(crate) fn leaves_out(self, ground: Ground, test: &str) -> Option<&'static str> {
        let few = matches!(about(test), About::BareGround | About::OwnRights);
        let long = about(test) == About::WholeKernelAtLength;
        let bare = ground.missing().is_empty() && !long || few;
        (self == Self::Quick && !bare).then_some("is left to `cargo xtask test-kernel`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_runs_the_matrix() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let ci = std::fs::read_to_string(root.join(".github/workflows/ci.yml")).unwrap();
        let names: Vec<String> = KERNELS.iter().map(|it| format!("{:?}", it.name)).collect();
        assert!(ci.contains(&format!("kernel: [{}]", names.join(", "))), "{names:?}");
    }

    #[test]
    fn the_quick_run_tries_every_ground() {
        for ground in Ground::all() {
            assert_eq!(Depth::Quick.leaves_out(ground, "ground::anything"), None);
            assert_eq!(Depth::Quick.leaves_out(ground, "deploy::anything"), None);
            assert_eq!(Depth::Whole.leaves_out(ground, "capture::anything"), None);
            let all = ground.missing().is_empty();
            assert_eq!(Depth::Quick.leaves_out(ground, "capture::anything").is_none(), all);
        }
    }

    #[test]
    fn every_need_is_met_and_missed_somewhere() {
        for need in Need::ALL {
            let missed = Ground::all().filter(|ground| ground.missing().contains(need)).count();
            assert!(missed > 0, "{need:?} is missed nowhere: it is no need");
            assert!(missed < Ground::all().count(), "{need:?} is met nowhere");
        }
    }

    #[test]
    fn a_test_is_left_out_for_a_reason_and_runs_where_all_is_allowed() {
        for ground in Ground::all() {
            let lacks = |need| ground.missing().contains(&need);
            for (test, need) in NEEDS {
                let left_out = ground.leaves_out(test) == Some(need.reason());
                assert_eq!(left_out, lacks(*need), "{test} with {}", ground.title());
            }
            assert_eq!(ground.leaves_out("ground::anything"), None);
        }
        let all = Ground { boot: Boot::Plain, rights: Rights::Root };
        assert_eq!(all.leaves_out("capture::anything"), None);
        assert!(all.leaves_out("alerts::anything").is_some());
        let few = Ground { boot: Boot::Plain, rights: Rights::Least };
        assert_eq!(few.leaves_out("capture::anything"), None);
        assert!(few.leaves_out("alerts::anything").is_some());
    }

    #[test]
    fn what_takes_its_rights_for_itself_runs_once_a_boot() {
        for boot in Boot::ALL {
            let runs = |rights| Ground { boot: *boot, rights }.leaves_out("deploy::anything");
            assert_eq!(runs(Rights::Root), None);
            assert!(runs(Rights::Least).is_some());
        }
    }

    #[test]
    fn a_renamed_test_and_a_new_module_are_errors() {
        let named = NEEDS.iter().map(|(test, _)| *test).chain(OF_LOAD.iter().copied());
        let named = named.map(str::to_owned);
        let some = MODULES.iter().map(|(module, _)| format!("{module}::anything"));
        let tests: BTreeSet<String> = named.chain(some).collect();
        check_names(&tests).unwrap();
        let said = |tests: &BTreeSet<String>| check_names(tests).unwrap_err().to_string();

        let mut renamed = tests.clone();
        renamed.remove(NEEDS[0].0);
        assert!(said(&renamed).contains(&format!("no test {}", NEEDS[0].0)));
        let mut renamed = tests.clone();
        renamed.retain(|test| module_of(test) != "faults::losses");
        assert!(said(&renamed).contains("no test in faults::losses"));
        let mut more = tests;
        more.insert("faults::floods::anything".to_owned());
        assert!(said(&more).contains("what faults::floods is about is not said"));
    }
}
