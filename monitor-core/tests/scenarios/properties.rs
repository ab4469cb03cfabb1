//! What holds for every input, tried on many: texts read as they are written, patterns mean what they
//! say, the engine is a function of its inputs, an export is the baseline.
//! The number of cases is fixed, so that the run stays short.

use monitor_core::baseline::Mode;
use monitor_core::baseline::document::Figures;
use monitor_core::edge::{Edge, EdgeWith, Peer, Port, executable_name};
use monitor_core::engine::{Command, Guarding, Selection};
use monitor_core::flow::{Protocol, RttHistogram};
use monitor_core::ids::{ServiceName, percent_encode_into};
use monitor_core::pattern::Pattern;
use proptest::prelude::*;
use proptest::sample::select;

use crate::stage::Stage;

pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn is_safe(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/@+-%".contains(&byte))
}

fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        (rest, _) = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let hex = std::str::from_utf8(&digits).unwrap();
                (tail, bytes.push(u8::from_str_radix(hex, 16).unwrap()))
            }
            _ => (tail, bytes.push(*byte)),
        };
    }
    bytes
}

fn service() -> impl Strategy<Value = ServiceName> {
    (select(ServiceName::SCHEMES.to_vec()), "[a-z/ .é%@]{1,20}")
        .prop_map(|(scheme, rest)| ServiceName::new(scheme, &rest))
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9.-]{1,20}"
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        4 => service().prop_map(Peer::Service),
        1 => label().prop_map(|it| Peer::Name(it.into())),
        1 => label().prop_map(|it| Peer::Network(it.into())),
        2 => any::<std::net::IpAddr>().prop_map(|it| Peer::Address(it.to_canonical())),
        1 => Just(Peer::World),
        1 => Just(Peer::Nobody),
    ]
}

fn edge_with() -> impl Strategy<Value = EdgeWith> {
    let port = (any::<u16>(), prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)])
        .prop_map(|(number, protocol)| Port { number, protocol });
    let executable =
        proptest::option::of("/[a-zA-Z0-9 /.%é:-]{0,20}".prop_map(|it| executable_name(&it)));
    (peer(), peer(), port, executable)
        .prop_map(|(client, server, port, executable)| EdgeWith {
            edge: Edge { client, server, port },
            executable,
        })
        .prop_filter("an edge that can be", |it| {
            let Edge { client, server, .. } = &it.edge;
            let opened = client.is_nobody() && server.service().is_some();
            let dialled = !client.is_nobody() && it.edge.owner().is_some();
            !server.is_nobody() && *server != Peer::World && (opened || dialled)
        })
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn encoded_text_is_safe_and_says_the_same(text: String) {
        let mut encoded = String::new();
        percent_encode_into(&mut encoded, &text);
        prop_assert!(is_safe(&encoded), "{encoded:?}");
        prop_assert_eq!(decoded(&encoded), text.as_bytes());
    }

    #[test]
    fn an_executable_is_safe_and_named_once(text: String) {
        let name = executable_name(&text);
        prop_assert!(is_safe(&name), "{name:?}");
        prop_assert_eq!(executable_name(&name), name);
    }

    #[test]
    fn a_service_is_a_safe_name_of_bounded_length(
        scheme in select(ServiceName::SCHEMES.to_vec()),
        rest in prop_oneof!["\\PC{0,40}", ".{200,400}"],
    ) {
        let name = ServiceName::new(scheme, &rest);
        prop_assert!(is_safe(name.as_str()) && name.as_str().len() <= ServiceName::MAX_BYTES);
        if !rest.is_empty() {
            prop_assert_eq!(name.as_str().parse(), Ok(name));
        }
    }

    #[test]
    fn an_edge_reads_as_it_is_written(edge in edge_with()) {
        prop_assert_eq!(edge.to_string().parse(), Ok(edge));
    }

    #[test]
    fn what_reads_as_an_edge_is_written_as_it_reads(
        text in "((systemd|ip|dns|world|nobody|user):?[a-z0-9.:/%]{0,8} ){1,2}(->|listens|→) ?[a-z:.0-9]{0,9} ?[0-9]{1,5}/(tcp|udp)( with /?[a-z %/]{0,5})?"
    ) {
        if let Ok(edge) = text.parse::<EdgeWith>() {
            prop_assert!(is_safe(&edge.to_string().replace([' ', '>'], "")), "{edge}");
            prop_assert_eq!(edge.to_string().parse(), Ok(edge));
        }
    }

    #[test]
    fn a_pattern_reads_as_it_is_written_and_a_name_matches_itself(text in "(systemd|k8s|dns|\\*\\*)?:?[a-z/*.%]{0,12}") {
        if let Ok(pattern) = text.parse::<Pattern>() {
            prop_assert_eq!(pattern.to_string(), text.clone());
            prop_assert!(pattern.matches(&text.replace('*', "")), "stars match nothing, too");
            let wider: Pattern = text.replace("**", "*").replace('*', "**").parse().unwrap();
            let inside = text.replace('*', "x");
            prop_assert!(pattern.matches(&inside) && wider.matches(&inside), "{inside}");
            prop_assert!(!text.contains('*') || wider.matches(&text.replace('*', "x/y")));
        }
    }

    #[test]
    fn quantiles_rise_and_sums_commute(
        one in any::<[u32; 16]>(),
        other in any::<[u32; 16]>(),
        quantiles in prop::collection::vec(0.0..=1.0, 2..6),
    ) {
        let (one, other) = (RttHistogram(one), RttHistogram(other));
        let (mut sum, mut back) = (one, other);
        sum.add(&other);
        back.add(&one);
        prop_assert_eq!(sum, back);
        prop_assert!(sum.0.iter().zip(one.0).all(|(sum, part)| *sum >= part), "saturates");
        let mut quantiles = quantiles;
        quantiles.sort_by(f64::total_cmp);
        let values: Vec<_> = quantiles.iter().map(|q| sum.quantile_us(*q)).collect();
        prop_assert!(values.is_sorted(), "{values:?}");
        prop_assert!(values.iter().flatten().all(|it| *it <= 32 << 15), "{values:?}");
    }
}

/// A line of a story about four services, after `second`.
fn line() -> impl Strategy<Value = String> {
    let name = || select(vec!["a", "b", "c", "d"]);
    let path = || select(vec!["/bin/app", "/bin/sh", "/tmp/x y"]);
    let port = || select(vec!["80/tcp", "443/tcp", "53/udp"]);
    prop_oneof![
        4 => (name(), name(), port()).prop_map(|(a, b, port)| format!("{a} => {b} {port}")),
        3 => (name(), 1..6, port(), select(vec!["attempted", "refused", "established"]), select(vec!["/bin/app", "/bin/sh"]))
            .prop_map(|(a, host, port, outcome, path)| {
                format!("{a} -> 192.0.2.{host} {port} {outcome} with {path}")
            }),
        1 => (name(), port()).prop_map(|(a, port)| format!("world => {a} {port}")),
        1 => (name(), port(), path()).prop_map(|(a, port, path)| {
            format!("{a} listens {port} with {}", path.replace(' ', "_"))
        }),
    ]
}

fn decision() -> impl Strategy<Value = String> {
    let name = || select(vec!["a", "b", "c", "d"]);
    prop_oneof![
        name().prop_map(|a| format!("guard {a}")),
        name().prop_map(|a| format!("learn {a}")),
        name().prop_map(|a| format!("open {a} 60")),
        (name(), 1..6).prop_map(|(a, host)| {
            format!("approve {a} -> ip:192.0.2.{host} 443/tcp with /bin/sh ttl 30")
        }),
        (name(), 1..6).prop_map(|(a, host)| format!("forbid {a} -> ip:192.0.2.{host} 443/tcp")),
    ]
}

fn story(line: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec((0_u64..40, line), 1..25).prop_map(|lines| {
        let mut second = 0;
        let line = |(pause, line): (u64, String)| {
            second += pause;
            format!("{second} {line}")
        };
        lines.into_iter().map(line).collect()
    })
}

fn told(lines: &[String]) -> Stage {
    let mut stage = Stage::new(Mode::Auto);
    for line in lines {
        stage.event(line);
    }
    stage.until(stage.now.boot.0 / 1_000_000 + 2_000);
    stage
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn the_same_inputs_give_the_same_effects(story in story(prop_oneof![3 => line(), 1 => decision()])) {
        let (one, two) = (told(&story), told(&story));
        prop_assert_eq!(&one.said, &two.said);
        prop_assert_eq!(&one.rearmed, &two.rearmed);
        prop_assert_eq!(&one.answers, &two.answers);
        prop_assert_eq!(format!("{:?}", one.stored), format!("{:?}", two.stored));
        let json = |stage: &Stage| serde_json::to_string(&stage.engine.map(stage.now.wall)).unwrap();
        prop_assert_eq!(json(&one), json(&two));
    }

    /// Killed at any line, it goes on as if nothing had been: what was said is not said again.
    #[test]
    fn a_restart_says_nothing_twice(story in story(line()), cut in 0_usize..25) {
        let mut stage = Stage::new(Mode::Auto);
        let cut = cut.min(story.len());
        for line in &story[..cut] {
            stage.event(line);
        }
        stage.until(stage.now.boot.0 / 1_000_000 + 2_000);
        stage.command(Command::Guard { services: Selection::All });
        for line in &story[cut..] {
            let (_, event) = line.split_once(' ').unwrap();
            stage.event(&format!("{} {event}", stage.now.boot.0 / 1_000_000_000 + 1));
        }
        stage.until(stage.now.boot.0 / 1_000_000 + 60_000);
        stage.said.clear();
        stage.restart(Mode::Auto);
        for line in &story {
            let (_, event) = line.split_once(' ').unwrap();
            stage.event(&format!("{} {event}", stage.now.boot.0 / 1_000_000_000 + 1));
        }
        stage.until(stage.now.boot.0 / 1_000_000 + 60_000);
        prop_assert_eq!(&stage.said, "");
    }

    #[test]
    fn an_export_imported_is_the_same_baseline(story in story(line())) {
        let learned = told(&story);
        let exported = |stage: &Stage| {
            stage.engine.export(stage.now.wall, &Selection::All, Figures::Left).unwrap()
        };
        let document = exported(&learned);
        let text = serde_json::to_string(&document).unwrap();
        let mut elsewhere = Stage::new(Mode::Auto);
        let read = serde_json::from_str(&text).unwrap();
        elsewhere.command(Command::Import { document: read, guard: Guarding::Guarded });
        prop_assert_eq!(&elsewhere.answers, &[Ok(())]);
        prop_assert_eq!(serde_json::to_string(&exported(&elsewhere)).unwrap(), text);
        let same = elsewhere.engine.difference_to(&document).unwrap();
        prop_assert!(same.added.is_empty() && same.removed.is_empty(), "{same:?}");
        // And it judges the same: what was learned there is no news here.
        for name in ["a", "b", "c", "d"] {
            elsewhere.cgroup(name);
        }
        for line in &story {
            elsewhere.event(line);
        }
        elsewhere.until(elsewhere.now.boot.0 / 1_000_000 + 2_000);
        prop_assert_eq!(&elsewhere.said, "");
    }
}
