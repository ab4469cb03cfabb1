//! What the ground under the tests lacks, as whoever laid it says (`EDGEWATCH_TEST_MISSING`): words
//! between blanks. Nothing is missing where nobody says so.

/// Something that the agent cannot have here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Kernel programs on tracepoints.
    Tracepoints,
    /// A look into other users' processes and their namespaces.
    Processes,
    /// Programs that carry their names in the kernel.
    ProgramNames,
}

/// All that is missing.
#[track_caller]
#[must_use]
pub fn missing() -> Vec<Missing> {
    let words = std::env::var("EDGEWATCH_TEST_MISSING").unwrap_or_default();
    let missing = words.split_whitespace().map(|word| match word {
        "tracepoints" => Missing::Tracepoints,
        "processes" => Missing::Processes,
        "program-names" => Missing::ProgramNames,
        other => panic!("EDGEWATCH_TEST_MISSING: {other:?} is nothing that can be missing"),
    });
    missing.collect()
}

/// Whether this kernel shows who asks for a capability (since 6.14), and with that who makes a packet or
/// a vsock socket.
#[must_use]
pub fn asks_for_capabilities_are_seen() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(14))
}

impl Missing {
    /// What the agent has to say of it.
    #[must_use]
    pub const fn told(self) -> &'static [&'static str] {
        match self {
            Self::Tracepoints => &[
                "names of cgroups that live less than a second",
                "executables of processes that are gone",
                "packet sockets as they are made",
            ],
            Self::Processes => &["CAP_SYS_PTRACE is missing"],
            // Nobody is kept from seeing an edge by that.
            Self::ProgramNames => &[],
        }
    }
}
