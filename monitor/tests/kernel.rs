//! What the kernel programs ask of the kernel, read from what the build has made of them and held
//! against what 5.10 offers to programs of their type. `docs/kernels.md` states it hook by hook and is
//! written by `EDGEWATCH_WRITE_DOCS=1 cargo test --package monitor --test kernel`. That a kernel takes
//! them is for the end-to-end tests to show.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use aya_obj::{Function, Object, ProgramSection};

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/edgewatch-bpf"));
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/kernels.md");

/// Where a program goes, and since which kernel there is such a place.
struct Place {
    program: &'static str,
    hook: &'static str,
    since: &'static str,
}

const fn place(program: &'static str, hook: &'static str, since: &'static str) -> Place {
    Place { program, hook, since }
}

/// Links of programs to cgroups are younger than any of these: 5.7. As above each hook of `monitor-ebpf`.
const PLACES: &[Place] = &[
    place("connect4", "cgroup connect4", "4.17"),
    place("connect6", "cgroup connect6", "4.17"),
    place("sendmsg4", "cgroup sendmsg4", "4.18"),
    place("sendmsg6", "cgroup sendmsg6", "4.18"),
    place("recvmsg4", "cgroup recvmsg4", "5.2"),
    place("recvmsg6", "cgroup recvmsg6", "5.2"),
    place("post_bind4", "cgroup post_bind4", "4.17"),
    place("post_bind6", "cgroup post_bind6", "4.17"),
    place("stream", "cgroup sock_ops", "4.13, its listen callback 4.19"),
    place(
        "stream_unasked",
        "cgroup sock_ops, in place of stream",
        "4.13, its listen callback 4.19",
    ),
    place("sock_create", "cgroup sock_create", "4.10"),
    place("net", "cgroup egress, where such a socket was made", "4.10"),
    place("asked", "cgroup egress, where names are asked for", "4.10, socket storage 5.2"),
    place("answered", "cgroup ingress, where names are asked for", "4.10, socket storage 5.2"),
    place("cap_capable", "raw tracepoint cap_capable", "6.14, else packet sockets are looked for"),
    place("cgroup_mkdir", "tracepoint cgroup:cgroup_mkdir", "4.13, 64-bit ids 5.5"),
    place("cgroup_rmdir", "tracepoint cgroup:cgroup_rmdir", "4.13, 64-bit ids 5.5"),
    place("process_fork", "tracepoint sched:sched_process_fork", "2.6.30"),
    place("process_exec", "tracepoint sched:sched_process_exec", "3.4"),
];

/// What 5.10 offers to every type of program here, from `bpf_base_func_proto` and
/// `bpf_tracing_func_proto`: id, name, since when.
const ANYWHERE: &[(i32, &str, &str)] = &[
    (1, "map_lookup_elem", "3.19"),
    (2, "map_update_elem", "3.19"),
    (3, "map_delete_elem", "3.19"),
    (5, "ktime_get_ns", "4.1"),
    (7, "get_prandom_u32", "4.1"),
    (118, "jiffies64", "5.6"),
    (125, "ktime_get_boot_ns", "5.8"),
    (130, "ringbuf_output", "5.8"),
    (131, "ringbuf_reserve", "5.8"),
    (132, "ringbuf_submit", "5.8"),
    (133, "ringbuf_discard", "5.8"),
    (134, "ringbuf_query", "5.8"),
];

/// What it offers to one type beside that (`net/core/filter.c`, `kernel/trace/bpf_trace.c`), and what
/// later kernels do.
struct Offer {
    kind: &'static str,
    oldest: &'static [(i32, &'static str)],
    /// With what has to hold before it is called.
    later: &'static [(i32, &'static str, &'static str)],
}

/// What both types that run for whoever makes a call are offered.
const OF_CALLERS: &[(i32, &str)] = &[
    (14, "get_current_pid_tgid"),
    (15, "get_current_uid_gid"),
    (16, "get_current_comm"),
    (46, "get_socket_cookie"),
    (80, "get_current_cgroup_id"),
    (107, "sk_storage_get"),
    (122, "get_netns_cookie"),
];

const OFFERS: &[Offer] = &[
    Offer { kind: "cgroup_sock", oldest: OF_CALLERS, later: &[] },
    Offer { kind: "cgroup_sock_addr", oldest: OF_CALLERS, later: &[] },
    Offer {
        kind: "sock_ops",
        oldest: &[
            (46, "get_socket_cookie"),
            (59, "sock_ops_cb_flags_set"),
            (107, "sk_storage_get"),
        ],
        later: &[
            (122, "get_netns_cookie", "5.15, else left out when loaded"),
            (14, "get_current_pid_tgid", "after 6.1, else stream_unasked is loaded"),
            (80, "get_current_cgroup_id", "after 6.1, else stream_unasked is loaded"),
        ],
    },
    Offer {
        kind: "cgroup_skb",
        oldest: &[
            (26, "skb_load_bytes"),
            (46, "get_socket_cookie"),
            (79, "skb_cgroup_id"),
            (95, "sk_fullsock"),
            (107, "sk_storage_get"),
        ],
        later: &[],
    },
    Offer {
        kind: "tracing",
        oldest: &[
            (14, "get_current_pid_tgid"),
            (15, "get_current_uid_gid"),
            (16, "get_current_comm"),
            (67, "get_stack"),
            (80, "get_current_cgroup_id"),
            (113, "probe_read_kernel"),
            (115, "probe_read_kernel_str"),
        ],
        later: &[(123, "get_current_ancestor_cgroup_id", "5.15, in what is loaded since 6.14")],
    },
];

/// What the verifier of 5.10 follows at most, all paths together; a program of this many instructions
/// without a loop is well below.
const STEPS: usize = 1_000_000;

/// A program as it is loaded: with the functions that it calls.
struct Linked {
    kind: &'static str,
    helpers: BTreeSet<i32>,
    instructions: usize,
}

fn linked() -> BTreeMap<String, Linked> {
    let object = Object::parse(OBJECT).unwrap();
    let mut with_calls = object.clone();
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    with_calls.relocate_calls(&sections).unwrap();
    let programs = with_calls.programs.iter();
    let linked = programs.map(|(name, program)| {
        let function: &Function = &with_calls.functions[&program.function_key()];
        let helpers = function.instructions.iter().filter(|it| {
            // BPF_JMP | BPF_CALL; any other source is a function of ours.
            it.code == 0x85 && it.src_reg() == 0
        });
        let helpers = helpers.map(|it| it.imm).collect();
        let instructions = function.instructions.len();
        (name.clone(), Linked { kind: kind(&program.section), helpers, instructions })
    });
    linked.collect()
}

fn kind(section: &ProgramSection) -> &'static str {
    match section {
        ProgramSection::CgroupSock { .. } => "cgroup_sock",
        ProgramSection::CgroupSockAddr { .. } => "cgroup_sock_addr",
        ProgramSection::SockOps => "sock_ops",
        ProgramSection::CgroupSkb { .. } => "cgroup_skb",
        ProgramSection::TracePoint | ProgramSection::RawTracePoint => "tracing",
        other => panic!("what 5.10 offers to {other:?} is not said here"),
    }
}

/// What is said of a helper in a program of this kind.
enum Availability {
    Anywhere,
    Oldest(&'static str),
    Later(String),
}

fn availability(kind: &str, helper: i32) -> Option<Availability> {
    if ANYWHERE.iter().any(|(id, ..)| *id == helper) {
        return Some(Availability::Anywhere);
    }
    let offer = OFFERS.iter().find(|it| it.kind == kind)?;
    let oldest = offer.oldest.iter().find(|(id, _)| *id == helper);
    let later = offer.later.iter().find(|(id, ..)| *id == helper);
    match (oldest, later) {
        (Some((_, name)), _) => Some(Availability::Oldest(name)),
        (None, Some((_, name, when))) => Some(Availability::Later(format!("{name} ({when})"))),
        (None, None) => None,
    }
}

#[test]
fn no_program_calls_what_5_10_lacks_unless_it_is_guarded() {
    for (name, program) in linked() {
        for helper in &program.helpers {
            assert!(
                availability(program.kind, *helper).is_some(),
                "{name} calls helper {helper}, of which it is not said here since when programs of \
                 type {} may",
                program.kind
            );
        }
    }
    for offer in OFFERS {
        let called: BTreeSet<i32> = linked()
            .into_values()
            .filter(|it| it.kind == offer.kind)
            .flat_map(|it| it.helpers)
            .collect();
        let idle = offer.later.iter().find(|(id, ..)| !called.contains(id));
        assert!(idle.is_none(), "{} is guarded and called by no {}", idle.unwrap().1, offer.kind);
    }
}

#[test]
fn what_stands_for_a_program_on_older_kernels_does_without() {
    let programs = linked();
    let later: BTreeSet<i32> = BTreeSet::from([14, 80]);
    assert!(programs["stream"].helpers.is_superset(&later));
    assert!(programs["stream_unasked"].helpers.is_disjoint(&later));
}

#[test]
fn every_program_is_far_below_the_limits() {
    for (name, program) in linked() {
        // Each instruction can be followed many times over, but not this many.
        assert!(program.instructions * 100 < STEPS, "{name}: {}", program.instructions);
    }
}

#[test]
fn the_document_states_it_hook_by_hook() {
    let programs = linked();
    let placed: BTreeSet<&str> = PLACES.iter().map(|it| it.program).collect();
    let built: BTreeSet<&str> = programs.keys().map(String::as_str).collect();
    assert_eq!(placed, built, "PLACES is to name every program");
    if std::env::var_os("EDGEWATCH_WRITE_DOCS").is_some() {
        std::fs::write(DOCUMENT, document(&programs, |_, program| ceiling(program))).unwrap();
    }
    let written = std::fs::read_to_string(DOCUMENT).unwrap();
    // Compilers differ a little: what is stated is a ceiling, and one that means something.
    let stated = |name: &str, program: &Linked| {
        let stated = stated(&written, name);
        let fits = program.instructions <= stated && stated <= 2 * ceiling(program);
        assert!(fits, "{name}: {} instructions, {stated} stated", program.instructions);
        stated
    };
    let expected = document(&programs, stated);
    assert_eq!(
        written, expected,
        "write it again: EDGEWATCH_WRITE_DOCS=1 cargo test -p monitor --test kernel"
    );
}

/// A little more than there are.
fn ceiling(program: &Linked) -> usize {
    (program.instructions * 5 / 4).next_multiple_of(50)
}

/// The instructions that the document states of a program.
fn stated(document: &str, name: &str) -> usize {
    let start = format!("| `{name}` |");
    let row = document.lines().find(|line| line.starts_with(&start));
    let last = row.and_then(|row| row.trim_end_matches('|').rsplit('|').next());
    last.and_then(|it| it.trim().parse().ok()).unwrap_or(0)
}

fn document(
    programs: &BTreeMap<String, Linked>,
    instructions: impl Fn(&str, &Linked) -> usize,
) -> String {
    let mut text = String::from(
        "# What each kernel program asks of the kernel\n\n\
         Generated from the compiled programs by a test (`monitor/tests/kernel.rs`), which also fails\n\
         where one calls what Linux 5.10 does not offer to programs of its type, unless that call is\n\
         guarded. Links of programs to cgroups need 5.7, the ring buffer 5.8. No program uses the\n\
         kernel's type information (BTF), a kprobe or an offset into a structure of the kernel.\n\n\
         | program | hook | since | helpers | since later than 5.10 | instructions, at most |\n\
         |---|---|---|---|---|---|\n",
    );
    for place in PLACES {
        let program = &programs[place.program];
        let said = program.helpers.iter().filter_map(|it| availability(program.kind, *it));
        let (mut own, mut later) = (Vec::new(), Vec::new());
        for availability in said {
            match availability {
                Availability::Anywhere => {}
                Availability::Oldest(name) => own.push(name.to_owned()),
                Availability::Later(what) => later.push(what),
            }
        }
        let or_none = |list: Vec<String>| {
            if list.is_empty() { "none".to_owned() } else { list.join(", ") }
        };
        let (own, later) = (or_none(own), or_none(later));
        let instructions = instructions(place.program, program);
        let Place { program, hook, since } = place;
        writeln!(text, "| `{program}` | {hook} | {since} | {own} | {later} | {instructions} |")
            .unwrap();
    }
    let anywhere =
        ANYWHERE.iter().filter(|(id, ..)| programs.values().any(|it| it.helpers.contains(id)));
    let anywhere: Vec<String> =
        anywhere.map(|(_, name, since)| format!("{name} ({since})")).collect();
    writeln!(text, "\nBeside these, as programs of every type may: {}.", anywhere.join(", "))
        .unwrap();
    text.push_str(
        "\nThe verifier of 5.10 follows a million steps at most; an end-to-end test asks every kernel of\n\
         the matrix how many it took (at most a tenth of that), with CAP_PERFMON and without.\n\n\
         ## What these hooks do not show\n\n\
         - What a connected datagram socket sends after its dial: the dial is counted, and told as sent\n  \
         where it is seen to come in.\n\
         - Who sends to a UDP server that never asks who sent: on the same machine the client tells, and\n  \
         the server is shown by its address.\n\
         - Why a dial failed to which the machine itself knows no way: it stays attempted.\n\
         - Names that are asked for otherwise than at port 53 (DNS over TLS or HTTPS), at one to which a\n  \
         program of others turns a dial before ours is told it, or in messages longer than 4 KiB.\n\
         - Up to 6.1, whose a port is that was bound by nobody before it listened: it is looked up once\n  \
         somebody was accepted there, and that one is counted as unattributed.\n\
         - Up to 5.11, the cgroup of an io_uring dial that the kernel polls for (SQPOLL): its thread is the\n  \
         caller's own since 5.12.\n",
    );
    text
}
