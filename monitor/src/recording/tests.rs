//! The reader and the writer: what is written is read back, what is no flow is told with its mend.

use std::io::Cursor;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

const LINE: &str = r#"{"at":"2026-11-21T10:00:00.123456Z","node":"n1","source":{"service":"compose:shop/web","container":"4f","image":"sha256:9a"},"peer":{"service":"compose:shop/api","address":"172.18.0.3"},"direction":"outbound","protocol":"tcp","port":8080,"outcome":"established","executable":"/usr/sbin/nginx","pid":412,"uid":33,"bytes_sent":512,"bytes_received":2048}"#;

fn written(flow: &RecordedFlow) -> Vec<u8> {
    let mut out = Vec::new();
    flow.write_line(&mut out);
    out
}

#[test]
fn the_documented_line_is_read() {
    let flow = read_line(LINE.as_bytes()).unwrap();
    assert_eq!(flow.edge().to_string(), "compose:shop/web -> compose:shop/api 8080/tcp");
    assert_eq!(flow.at.to_string(), "2026-11-21T10:00:00.123456Z");
    assert_eq!((flow.connections, flow.bytes_sent, flow.bytes_received), (1, 512, 2048));
    assert_eq!((flow.pid, flow.uid), (Some(412), Some(33)));
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    assert_eq!(json(&written(&flow)), json(LINE.as_bytes()));
}

#[test]
fn what_is_not_known_is_left_out() {
    let head = r#"{"at":"2026-11-21T10:00:00Z","node":"n1","source":{"service":"compose:shop/web","pod":"web-1","cgroup":"/web"},"peer":"#;
    for tail in [
        r#"{"network":"world"},"direction":"inbound","protocol":"udp","port":53,"outcome":"sent"}"#,
        r#"{"name":"x.org","address":"::1"},"direction":"outbound","protocol":"tcp","port":1,"outcome":"timed-out","connections":0,"uid":0}"#,
        r#"{"address":"192.0.2.7"},"direction":"outbound","protocol":"tcp","port":1,"outcome":"refused","connections":2,"bytes_received":1}"#,
        r#"{"network":"office"},"direction":"inbound","protocol":"tcp","port":1,"outcome":"denied","connections":2,"bytes_sent":3,"bytes_received":1,"executable":"/x","pid":4,"uid":5}"#,
        r#"{"service":"host:n2","address":"192.0.2.7"},"direction":"inbound","protocol":"tcp","port":1,"outcome":"attempted"}"#,
    ] {
        let line = format!("{head}{tail}\n");
        let flow = read_line(line.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(written(&flow)).unwrap(), line);
    }
}

#[test]
fn every_peer_is_an_end_of_an_edge() {
    for (peer, direction, edge) in [
        (r#"{"name":"api.stripe.com"}"#, "outbound", "compose:shop/web -> dns:api.stripe.com"),
        (r#"{"name":"dns:api.stripe.com"}"#, "outbound", "compose:shop/web -> dns:api.stripe.com"),
        (r#"{"network":"office"}"#, "inbound", "net:office -> compose:shop/web"),
        (r#"{"network":"world"}"#, "inbound", "world -> compose:shop/web"),
        (r#"{"address":"::ffff:192.0.2.7"}"#, "outbound", "compose:shop/web -> ip:192.0.2.7"),
        (r#"{"service":"host:n2"}"#, "inbound", "host:n2 -> compose:shop/web"),
    ] {
        let head =
            r#"{"at":"2026-11-21T10:00:00Z","node":"n1","source":{"service":"compose:shop/web"}"#;
        let tail = r#""protocol":"udp","port":53,"outcome":"sent"}"#;
        let line = format!("{head},\"peer\":{peer},\"direction\":\"{direction}\",{tail}\n");
        let flow = read_line(line.as_bytes()).unwrap();
        assert_eq!(flow.edge().to_string(), format!("{edge} 53/udp"));
        assert_eq!(read_line(&written(&flow)), Ok(flow));
    }
}

#[test]
fn what_a_stranger_wrote_becomes_safe_text() {
    let line = LINE.replace("/usr/sbin/nginx", "/tmp/a b\\u001b[2J").replace("\"n1\"", "\"n 1\"");
    let flow = read_line(line.as_bytes()).unwrap();
    assert_eq!(flow.executable.as_deref(), Some("/tmp/a%20b%1B%5B2J"));
    assert_eq!(flow.node, "n%201");
}

/// The documented line with `from` replaced by `to` is refused with `told`.
#[track_caller]
fn refused(from: &str, to: &str, told: &str) {
    let line = LINE.replacen(from, to, 1);
    assert_ne!(line, LINE, "{from}");
    assert_eq!(read_line(line.as_bytes()).unwrap_err().to_string(), told);
}

#[test]
fn what_is_wrong_is_told_with_its_mend() {
    refused(
        "\"established\"",
        "\"estblished\"",
        "outcome \"estblished\" is not one of attempted, established, refused, timed-out, unreachable, denied, sent",
    );
    refused("\"tcp\"", "\"sctp\"", "protocol \"sctp\" is not one of tcp, udp, udplite, icmp, ip");
    refused("executable", "excutable", "unknown key \"excutable\"; did you mean \"executable\"?");
    refused(
        "executable",
        "executable`\\u001b",
        "unknown key \"executable`\\u{1b}\"; did you mean \"executable\"?",
    );
    refused("\"outcome\":\"established\",", "", "outcome is missing");
    refused("\"service\":\"compose:shop/web\",", "", "source.service is missing");
    refused("\"n1\"", "\"\"", "node is empty: leave it out where it is not known");
    refused("8080", "80800", "column 238: invalid value: integer `80800`, expected u16");
    refused(
        "2026-11-21T10",
        "yesterday",
        "at: \"yesterday:00:00.123456Z\" is not a time: write RFC 3339 in UTC, like 2026-11-21T10:00:00Z",
    );
    refused(
        "compose:shop/web",
        "web",
        "source.service: \"web\" is not a service name: write one as `edgewatch services` shows it, like systemd:nginx.service",
    );
    let peer = "{\"service\":\"compose:shop/api\",\"address\":\"172.18.0.3\"}";
    refused(
        peer,
        "{\"service\":\"compose:shop/api\",\"name\":\"api\"}",
        "peer: one of service, name, network, or an address alone says who it is; 2 are there",
    );
    refused(
        peer,
        "{}",
        "peer: one of service, name, network, or an address alone says who it is; 0 are there",
    );
    refused(
        peer,
        "{\"network\":\"world\"}",
        "peer: world cannot be dialled; write the address or the name that was",
    );
    refused(
        "172.18.0.3",
        "172.18.0",
        "peer.address: \"172.18.0\" is not an address: write one like 203.0.113.9",
    );
    refused(
        peer,
        "{\"name\":\"api stripe\"}",
        "peer.name: \"api stripe\" is no name: write it in A-Z a-z 0-9 . _ : / @ + -",
    );
    refused("\"bytes_received\":2048}", "", "is no JSON object: it ends too early");
    refused("{", "[", "is no JSON object: it does not begin with {");
}

/// Safe text, as all that the core holds is.
fn text() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._:/@+-]{1,40}"
}

fn service() -> impl Strategy<Value = ServiceName> {
    let scheme = prop::sample::select(&ServiceName::SCHEMES[..]);
    (scheme, "\\PC{1,60}").prop_map(|(scheme, rest)| ServiceName::new(scheme, &rest))
}

fn peer() -> impl Strategy<Value = FarEnd> {
    let address = || any::<IpAddr>().prop_map(|it| it.to_canonical());
    let plain = || "[a-z0-9.-]{1,30}".prop_filter("it means something else", |it| it != WORLD);
    let named = prop_oneof![
        service().prop_map(Peer::Service),
        plain().prop_map(|it| Peer::Name(it.into())),
        plain().prop_map(|it| Peer::Network(it.into())),
    ];
    prop_oneof![
        (named, option::of(address())).prop_map(|(peer, address)| FarEnd { peer, address }),
        address().prop_map(|it| FarEnd { peer: Peer::Address(it), address: None }),
    ]
}

prop_compose! {
    fn source()(
        service in service(),
        container in option::of(text()),
        pod in option::of(text()),
        image in option::of(text()),
        cgroup in option::of(text()),
    ) -> Source {
        Source { service, container, pod, image, cgroup }
    }
}

prop_compose! {
    fn flow()(
        // From the year 1 to 9999.
        at in (-62_135_596_800_000_000_i64..253_402_207_200_000_000).prop_map(WallTime),
        node in text(),
        source in source(),
        (peer, direction) in prop_oneof![
            peer().prop_map(|peer| (peer, Direction::Outbound)),
            peer().prop_map(|peer| (peer, Direction::Inbound)),
            Just((FarEnd { peer: Peer::World, address: None }, Direction::Inbound)),
        ],
        (_, protocol) in prop::sample::select(&PROTOCOLS[..]),
        port: u16,
        (_, outcome) in prop::sample::select(&OUTCOMES[..]),
        counts: [u64; 3],
        executable in option::of(text()),
        (pid, uid) in any::<(Option<u32>, Option<u32>)>(),
    ) -> RecordedFlow {
        let [connections, bytes_sent, bytes_received] = counts;
        RecordedFlow {
            at, node, source, peer, direction, protocol, port, outcome, connections,
            bytes_sent, bytes_received, executable, pid, uid,
        }
    }
}

/// All lines, or what was wrong with them.
fn all(bytes: Vec<u8>) -> Vec<(u64, Result<RecordedFlow, LineError>)> {
    let mut reader = Reader::new(Box::new(Cursor::new(bytes)));
    let next = || reader.read().unwrap().map(|it| (it.number, it.flow));
    std::iter::from_fn(next).collect()
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..400)) {
        drop(read_line(&bytes));
        all(bytes);
    }

    /// Bytes that look like a line get further into the reader than any do.
    #[test]
    fn a_damaged_line_is_read_or_refused(at in 0..LINE.len(), byte: u8, cut: bool) {
        let mut bytes = LINE.as_bytes().to_vec();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(flow) = read_line(&bytes) {
            prop_assert_eq!(read_line(&written(&flow)), Ok(flow));
        }
    }

    #[test]
    fn what_is_written_is_read_back_in_its_order(flows in vec(flow(), 0..20)) {
        let mut bytes = Vec::new();
        for flow in &flows {
            flow.write_line(&mut bytes);
        }
        let read: Result<Vec<_>, _> = all(bytes).into_iter().map(|(_, flow)| flow).collect();
        prop_assert_eq!(read, Ok(flows));
    }
}

#[test]
fn lines_keep_their_numbers_whatever_is_between_them() {
    let long = "x".repeat(3 * file::LONGEST);
    let text = format!("{LINE}\n\n  \r\n{long}\n{LINE}\r\nnothing\n{LINE}");
    let read: Vec<(u64, bool)> =
        all(text.into_bytes()).into_iter().map(|(number, flow)| (number, flow.is_ok())).collect();
    assert_eq!(read, [(1, true), (4, false), (5, true), (6, false), (7, true)]);
}

#[test]
fn a_recording_is_created_continued_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.jsonl");
    create(&path, Existing::Refused).unwrap().write_all(b"cut off").unwrap();
    let error = create(&path, Existing::Refused).err().unwrap().to_string();
    assert!(error.ends_with("exists: name another file, or add to it with --append"), "{error}");
    let mut more = create(&path, Existing::Continued).unwrap();
    more.write_all(format!("{LINE}\n").as_bytes()).unwrap();
    create(&path, Existing::Continued).unwrap().write_all(b"end\n").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, format!("cut off\n{LINE}\nend\n"));
    assert!(matches!(open(&dir.path().join("no")), Err(RecordingError::Open { .. })));
}
