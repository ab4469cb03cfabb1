//! Which kernels, which grounds, and what a ground makes impossible: the whole matrix as a table.
//! The README's table and CI's matrix name the same kernels (`tidy` compares them).

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

/// What a test may need that not every ground has. A test says so by standing in a module of this
/// name; where its need is not met it is left out, and some ground of the matrix must have run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Kernel programs on tracepoints: short-lived cgroups and processes are known by name.
    Tracepoints,
    /// A look at other users' processes: what runs there, the sockets they had before us.
    Processes,
}

impl Need {
    pub(crate) const ALL: &[Self] = &[Self::Tracepoints, Self::Processes];

    /// The module that tests with this need stand in.
    pub(crate) const fn module(self) -> &'static str {
        match self {
            Self::Tracepoints => "needs_tracepoints",
            Self::Processes => "needs_processes",
        }
    }

    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Tracepoints => "need the tracepoints",
            Self::Processes => "need to look into other processes",
        }
    }

    /// Whether a test of this path stands in the need's module.
    pub(crate) fn is_of(self, test: &str) -> bool {
        test.split("::").any(|part| part == self.module())
    }
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
    /// What `deploy/` asks for: no CAP_PERFMON, no CAP_SYS_PTRACE, no CAP_SYS_ADMIN.
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
            Need::Processes => self.rights == Rights::Least,
        };
        Need::ALL.iter().copied().filter(missing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_is_met_and_missed_somewhere() {
        for need in Need::ALL {
            let missed = Ground::all().filter(|ground| ground.missing().contains(need)).count();
            assert!(missed > 0, "{need:?} is missed nowhere: it is no need");
            assert!(missed < Ground::all().count(), "{need:?} is met nowhere");
        }
    }

    #[test]
    fn a_test_has_the_needs_of_the_modules_it_stands_in() {
        let test = "capture::needs_tracepoints::a_cgroup_that_lives_for_one_dial_is_named";
        assert!(Need::Tracepoints.is_of(test) && !Need::Processes.is_of(test));
        assert!(!Need::Tracepoints.is_of("capture::about_needs_tracepoints"));
    }
}
