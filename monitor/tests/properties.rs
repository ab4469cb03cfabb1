//! What holds for every text from outside, tried on many: names of cgroups, baseline files and the
//! configuration. The fuzz targets ask the same of stranger texts for longer; here the number of cases
//! is fixed, so that the run stays short.

use std::collections::BTreeMap;

use monitor::baseline_file::{from_text, to_text};
use monitor::capture::fuzzing;
use monitor::config::Config;
use monitor::identity::Namer;
use monitor_core::baseline::Phase;
use monitor_core::baseline::document::{Document, Entry, FORMAT, Line, LineEvidence};
use monitor_core::edge::{Peer, Port};
use monitor_core::flow::Protocol;
use monitor_core::ids::{ServiceName, WallTime};
use monitor_core::socket::Socket;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

const ID: &str = "4f1c0a2b3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcd";

/// A path of parts that mean something to somebody, and of parts that mean nothing.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        select(vec![
            "system.slice",
            "user.slice",
            "user-1000.slice",
            "user@1000.service",
            "docker",
            "kubepods",
            "burstable",
            "containerd.service",
            "libpod_parent",
            "lxc.payload.web",
            "nomad.slice",
            "init.scope",
            "..",
            "",
        ])
        .prop_map(str::to_owned),
        Just(ID.to_owned()),
        Just(format!("docker-{ID}.scope")),
        Just(format!("pod.slice:cri-containerd:{ID}")),
        "[a-z@:.\\\\x0-9-]{1,12}(\\.service|\\.scope|\\.slice)?",
        "\\PC{0,8}",
        any::<String>(),
    ];
    vec(part, 0..6).prop_map(|parts| parts.iter().map(|part| format!("/{part}")).collect())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z .:#'\"\\\\-]{0,20}", "\\PC{0,12}", any::<String>()]
}

fn service() -> impl Strategy<Value = ServiceName> {
    (select(vec!["systemd", "compose", "user", "lxc"]), "[a-z/ .:%@]{1,20}")
        .prop_map(|(scheme, rest)| ServiceName::new(scheme, &rest))
}

fn time() -> impl Strategy<Value = WallTime> {
    (0_i64..4_000_000_000_000_000).prop_map(WallTime)
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        service().prop_map(Peer::Service),
        "[a-z.-]{1,12}".prop_map(|it| Peer::Name(it.into())),
        "[a-z.-]{1,12}".prop_map(|it| Peer::Network(it.into())),
        any::<std::net::IpAddr>().prop_map(|it| Peer::Address(it.to_canonical())),
    ]
}

fn line(peer: impl Strategy<Value = (Option<Peer>, Option<Peer>)>) -> impl Strategy<Value = Line> {
    let protocol = select(Protocol::ALL.to_vec());
    let port = (any::<u16>(), protocol).prop_map(|(number, protocol)| Port { number, protocol });
    let evidence = (time(), time(), any::<u32>()).prop_map(|(first_seen, last_seen, count)| {
        LineEvidence { first_seen, last_seen, connections: count.into() }
    });
    let said = (option::of(time()), option::of(text()), option::of(text()), option::of(evidence));
    (peer, vec(port, 1..4), vec(text(), 0..3), any::<bool>(), said).prop_map(
        |((to, from), ports, by, attempted_only, (until, approver, reason, evidence))| Line {
            to,
            from,
            ports,
            sockets: Vec::new(),
            by,
            attempted_only,
            until,
            approver,
            reason,
            evidence,
        },
    )
}

fn opening() -> impl Strategy<Value = Line> {
    let socket = prop_oneof![
        select(vec![Socket::Packet, Socket::Vsock, Socket::Ping, Socket::UdpLite]),
        any::<u8>().prop_map(Socket::Raw),
        any::<u8>().prop_map(Socket::Other),
    ];
    (line(Just((None, None))), vec(socket, 1..4)).prop_map(|(line, sockets)| Line {
        ports: Vec::new(),
        sockets,
        ..line
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    let phase = select(vec![Phase::Learning, Phase::Proposed, Phase::Guarded]);
    let to = || peer().prop_map(|peer| (Some(peer), None));
    let from = || peer().prop_map(|peer| (None, Some(peer)));
    let forbidden = prop_oneof![line(prop_oneof![to(), from(), Just((None, None))]), opening()];
    let forbidden = vec(forbidden, 0..3);
    let listens = vec(line(Just((None, None))), 0..3);
    let lists = (vec(line(to()), 0..3), vec(line(from()), 0..3), listens, vec(opening(), 0..3));
    (option::of(phase), option::of(text()), option::of(text()), lists, forbidden).prop_map(
        |(phase, owner, about, (outbound, inbound, listens, opens), forbidden)| Entry {
            phase,
            owner,
            about,
            outbound,
            inbound,
            listens,
            opens,
            forbidden,
        },
    )
}

fn document() -> impl Strategy<Value = Document> {
    (option::of(text()), btree_map(service(), entry(), 0..4)).prop_map(|(environment, services)| {
        let services: BTreeMap<_, _> = services;
        Document { format: FORMAT.to_owned(), environment, services }
    })
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn any_cgroup_has_a_safe_name_that_reads_as_it_is_written(path in path()) {
        let workload = Namer::new("n1").workload(&path);
        let name = workload.service.as_str();
        prop_assert_eq!(name.parse(), Ok(workload.service.clone()));
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+%-".contains(&byte);
        let texts = [Some(&workload.cgroup), workload.container.as_ref(), workload.pod.as_ref()];
        for text in texts.into_iter().flatten() {
            prop_assert!(text.bytes().all(safe), "{text:?}");
        }
    }

    #[test]
    fn whatever_lies_below_a_service_is_that_service(path in path()) {
        prop_assume!(!path.contains(".."));
        let workload = Namer::new("n1").workload(&format!("/system.slice/web.service{path}"));
        // What the kernel appends to a removed directory is no part of its name.
        prop_assert_eq!(workload.service.as_str(), "systemd:web.service");
        prop_assert_eq!((workload.container, workload.pod), (None, None));
    }

    #[test]
    fn any_bytes_of_the_kernel_are_refused_or_read_and_written_back(
        bytes in vec(any::<u8>(), 0..700),
        kind in 0_u8..5,
        // Where a key has enums: without these hardly a key could be read.
        enums in (select(vec![6_u8, 17]), 1_u8..4, 1_u8..4, 1_u8..7),
    ) {
        let mut bytes = bytes;
        let lay = |bytes: &mut Vec<u8>, at: usize| {
            if let Some(place) = bytes.get_mut(at + 50..at + 56) {
                place.copy_from_slice(&[enums.0, enums.1, enums.2, enums.3, 0, 0]);
            }
        };
        let mut entry = bytes.clone();
        lay(&mut entry, 0);
        bytes.truncate([136, 528, 16, 700][usize::from(kind) % 4]);
        if let Some(head) = bytes.first_chunk_mut::<4>() {
            *head = u32::from(kind).to_ne_bytes();
        }
        lay(&mut bytes, 16);
        for trip in [fuzzing::record(&bytes), fuzzing::entry(&entry)].into_iter().flatten() {
            prop_assert_eq!(Some(trip.read), trip.again);
        }
    }
}

proptest! {
    #![proptest_config(cases(160))]

    #[test]
    fn a_baseline_file_reads_as_it_is_written(document in document()) {
        let written = to_text(&document);
        let read = from_text(&written, "base.yaml");
        prop_assert_eq!(read.map_err(|error| format!("{error}\n{written}")), Ok(document.clone()));
        prop_assert_eq!(to_text(&document), written, "the same document is the same text");
    }

    #[test]
    fn what_is_no_baseline_file_is_refused_in_one_safe_line(text in text(), at in 0_usize..400, document in document()) {
        let mut broken = to_text(&document);
        let at = (0..=at.min(broken.len())).rev().find(|at| broken.is_char_boundary(*at)).unwrap();
        broken.insert_str(at, &text);
        if let Err(error) = from_text(&broken, "base.yaml") {
            let said = error.to_string();
            prop_assert!(said.starts_with("base.yaml"), "{said:?}");
            prop_assert!(!said.chars().any(char::is_control), "{said:?}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused_in_one_safe_line(
        key in select(vec!["mode", "node", "grace_period", "baseline_files", "capture.ring", "learn.quiet", "detect.only", "notify", "nothing", "\"a\\u001bb\""]),
        value in prop_oneof![
            select(vec!["\"auto\"", "5", "true", "[]", "{}", "\"1MiB\"", "\"2s\"", "[{name = \"a\\u001b\", kind = \"stdout\", x = 1}]", "\"\\u001b[2J\""]).prop_map(str::to_owned),
            "\\PC{0,12}",
            any::<String>(),
        ],
    ) {
        let text = format!("{key} = {value}\n");
        match Config::parse(&text, "edgewatch.toml") {
            Ok(config) => prop_assert_eq!(Config::parse(&text, "edgewatch.toml"), Ok(config)),
            Err(error) => {
                let said = error.to_string();
                prop_assert!(said.starts_with("edgewatch.toml"), "{said:?}");
                prop_assert!(!said.chars().any(char::is_control), "{said:?}");
            }
        }
    }
}
