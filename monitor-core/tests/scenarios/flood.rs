//! Floods: told as a whole at a bounded pace, never learned, and kept from crowding out others.

use std::net::{Ipv4Addr, SocketAddr};

use monitor_core::attribute::Attribution;
use monitor_core::baseline::{Baseline, Mode};
use monitor_core::engine::{Input, Standing};
use monitor_core::flow::{Direction, Ended, Flood, FlowKey, Loss, Outcome, Process, Remote};
use monitor_core::ids::{BootTime, WallTime};

use crate::stage::{Stage, check, flow, ip, key, traffic};

/// Tells how far a flood of `name`, which began at `since`, has come.
fn floods(stage: &mut Stage, name: &str, since: WallTime, count: u64, ended: Ended) {
    floods_in(stage, name, Direction::Outbound, since, count, ended);
}

fn floods_in(
    stage: &mut Stage,
    name: &str,
    direction: Direction,
    since: WallTime,
    count: u64,
    ended: Ended,
) {
    let cgroup = stage.cgroup(name);
    let example = key(cgroup, direction, ip("198.51.100.7"), "443/tcp", Outcome::Attempted);
    let process =
        Process { executable: Some("/bin/sh".to_owned()), pid: 42, uid: 33, ..Process::default() };
    let flood = Flood {
        cgroup,
        direction,
        since,
        began: BootTime(since.0.unsigned_abs()),
        last_seen: stage.now.wall,
        count,
        peers: count / 2,
        examples: vec![example],
        process: Some(process.into()),
        ended,
    };
    stage.step(Input::Flooded(Box::new(flood)));
}

#[test]
fn how_many_peers_is_told_only_where_it_is_known() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    stage.until(20_000);
    let since = stage.now.wall;
    // Of one nobody knows how many peers: half of it.
    floods(&mut stage, "a", since, 1, Ended::No);
    let alerts = stage.engine.alerts(stage.now.wall);
    let text = &alerts[0].findings[0].reasons[0].text;
    assert!(text.ends_with("its budget: 1 times since 2027-01-15T08:00:20Z"), "{text}");
}

#[test]
fn a_flood_is_told_at_once_as_it_doubles_and_when_it_is_over() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    stage.until(20_000);
    let since = stage.now.wall;
    floods(&mut stage, "a", since, 3, Ended::No);
    let told = "high: fan-out fan-out with /bin/sh;\n";
    assert_eq!(stage.said, format!("firing {told}"), "in the same step");
    for half_seconds in 1..=20 {
        stage.until(20_000 + half_seconds * 500);
        floods(&mut stage, "a", since, 100_000 * half_seconds, Ended::No);
    }
    let messages = stage.said.lines().count();
    // 3, then 1, 2, 4, 8, 16 hundred thousand.
    assert_eq!(messages, 6, "{}", stage.said);
    stage.until(41_000);
    floods(&mut stage, "a", since, 2_000_007, Ended::Yes);
    assert_eq!(stage.said.lines().count(), 7, "the last figures are told");
    assert!(stage.said.lines().skip(1).all(|it| it == format!("updated {}", told.trim())));

    let alerts = stage.engine.alerts(stage.now.wall);
    let [alert] = &*alerts else { panic!("{} incidents", alerts.len()) };
    assert_eq!(alert.count, 2_000_007);
    assert_eq!(alert.title, "systemd:a.service fans out: 2000007 new dials beyond its budget");
    let [finding] = &*alert.findings else { panic!("{alert:?}") };
    assert_eq!(
        finding.reasons[0].text,
        "systemd:a.service dialled, or sent to, more that is new than its budget: 2000007 times \
         since 2027-01-15T08:00:20Z, about 1000003 different addresses and ports"
    );
    assert_eq!(finding.reasons[1].text, "among them 198.51.100.7 443/tcp");
    assert!(finding.reasons.iter().any(|it| it.name == "shell"), "{:?}", finding.reasons);
    assert_eq!(finding.attack, ["T1046"]);
    let mute = "edgewatch alerts mute 'systemd:a.service' --for 7d --reason 'it may fan out'";
    assert_eq!((alert.allow.as_str(), finding.allow.as_str()), (mute, mute));
    assert!(alert.inspect.as_ref().unwrap().contains("-p 42"), "{:?}", alert.inspect);

    // Another one soon after goes on with the incident; being flooded is another finding of it.
    let later = stage.now.wall;
    floods(&mut stage, "a", later, 1_000, Ended::No);
    assert_eq!(stage.said.lines().count(), 7);
    floods_in(&mut stage, "a", Direction::Inbound, later, 10, Ended::No);
    assert!(stage.said.ends_with("fan-out fan-out with /bin/sh; fan-out flooded with /bin/sh;\n"));
    assert_eq!(stage.engine.alerts(stage.now.wall)[0].count, 2_001_017);
}

#[test]
fn a_flood_that_goes_on_over_a_restart_is_counted_and_told_once() {
    let mut stage = check("0 a -> 192.0.2.1 443/tcp established with /bin/app\n 5 guard a", "");
    stage.until(20_000);
    let since = stage.now.wall;
    floods(&mut stage, "a", since, 3, Ended::No);
    stage.until(21_000);
    floods(&mut stage, "a", since, 1_000, Ended::No);
    let said = stage.said.lines().count();
    stage.restart(Mode::Auto);
    // The kernel goes on counting, and says all of it.
    stage.until(22_000);
    floods(&mut stage, "a", since, 1_500, Ended::No);
    assert_eq!(stage.said.lines().count(), said, "nothing that was not said: {}", stage.said);
    assert_eq!(stage.engine.alerts(stage.now.wall)[0].count, 1_500);
    stage.until(23_000);
    floods(&mut stage, "a", since, 2_100, Ended::No);
    assert_eq!(stage.said.lines().count(), said + 1, "it doubled: {}", stage.said);
    floods(&mut stage, "a", since, 2_200, Ended::Yes);
    assert_eq!(stage.engine.alerts(stage.now.wall)[0].count, 2_200);
    // Another of the same cgroup is counted from its own beginning.
    stage.restart(Mode::Auto);
    let later = stage.now.wall;
    floods(&mut stage, "a", later, 100, Ended::No);
    assert_eq!(stage.engine.alerts(stage.now.wall)[0].count, 2_300);
}

#[test]
fn what_a_service_does_beside_its_flood_is_told_by_itself() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    let (cgroup, since) = (stage.cgroup("a"), stage.now.wall);
    floods_in(&mut stage, "a", Direction::Inbound, since, 9, Ended::No);
    for host in 0..100 {
        let client = ip(&format!("10.1.0.{host}"));
        let accepted = key(cgroup, Direction::Inbound, client, "80/tcp", Outcome::Established);
        stage.step(Input::Flow(flow(stage.now.wall, accepted, None, "")));
    }
    stage.event("10 a -> 192.0.2.1 443/tcp established with /bin/app");
    stage.event("10 c => a 81/tcp");
    stage.until(12_000);
    assert_eq!(
        stage.said,
        "firing high: fan-out flooded with /bin/sh;\n\
         firing high: new-client c -> a 81/tcp established with /bin/app;\n\
         firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/app;\n"
    );
    let status = stage.engine.status(stage.now.wall);
    assert_eq!(status.pending, 102, "none of it is learned");
    let alerts = stage.engine.alerts(stage.now.wall);
    let flood = alerts.iter().find(|it| it.findings[0].edge.is_none()).unwrap();
    assert_eq!(flood.more, 100);
    assert!(flood.title.ends_with("beyond its budget, and 100 more edges"), "{}", flood.title);
    // A port that hands out the machine is no matter of how many.
    floods(&mut stage, "a", since, 9, Ended::No);
    stage.event("20 a -> 192.0.2.2 2375/tcp established with /bin/app");
    stage.until(21_000);
    assert!(stage.said.contains("sensitive-port"), "{}", stage.said);
}

#[test]
fn nothing_of_a_flood_is_learned() {
    let mut stage = check("0 a => b 80/tcp", "");
    stage.event("100 a -> 192.0.2.1 443/tcp established with /bin/app");
    stage.until(101_000);
    let since = stage.now.wall;
    floods(&mut stage, "a", since, 3, Ended::No);
    assert!(stage.said.starts_with("firing medium: fan-out"), "{}", stage.said);
    stage.event("102 a -> 192.0.2.2 443/tcp established with /bin/app");
    // Others learn as ever.
    stage.event("102 c -> 192.0.2.3 443/tcp established with /bin/app");
    stage.until(103_000);
    let standing = |stage: &Stage| -> Vec<Standing> {
        stage.engine.map(stage.now.wall).iter().map(|it| it.standing).collect()
    };
    let (yes, no) = (Standing::Allowed, Standing::Unjudged);
    // What it dialled as the flood began is not learned either.
    assert_eq!(standing(&stage), [yes, no, no, yes]);
    let row = |stage: &Stage| {
        let rows = stage.engine.baseline_rows(stage.now);
        rows.into_iter().find(|it| it.service.as_str() == "systemd:a.service").unwrap()
    };
    assert_eq!(row(&stage).quiet_s, 2, "its learning is set back");
    // It is news again when the flood is over.
    stage.rearmed.clear();
    floods(&mut stage, "a", since, 9, Ended::Yes);
    let rearmed: Vec<Remote> = stage.rearmed.iter().map(|it| it.remote).collect();
    assert_eq!(rearmed, [ip("192.0.2.1"), ip("192.0.2.2")]);
    stage.event("120 a -> 192.0.2.2 443/tcp established with /bin/app");
    stage.until(121_000);
    assert_eq!(standing(&stage), [yes, no, yes, yes]);
}

#[test]
fn who_is_not_to_be_judged_may_flood() {
    let mut stage = Stage::new(Mode::Auto);
    let mut settings = crate::stage::settings(Mode::Auto);
    settings.only = vec!["systemd:c.service".parse().unwrap()];
    stage.engine = monitor_core::engine::Engine::restore(settings, Default::default());
    let since = stage.now.wall;
    floods(&mut stage, "a", since, 3, Ended::No);
    assert_eq!(stage.said, "");
    floods(&mut stage, "c", since, 3, Ended::No);
    assert!(stage.said.starts_with("firing medium: fan-out"), "{}", stage.said);
}

#[test]
fn one_service_cannot_fill_the_table() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    let beyond = 10;
    let dials = u32::try_from(Baseline::UNDECIDED).unwrap() + beyond;
    for number in 0..dials {
        let address = Ipv4Addr::from(0xc612_0000 + number).to_string();
        stage.dial("a", &address, "443/tcp", "refused", "/bin/sh");
    }
    stage.until(60_000);
    let status = stage.engine.status(stage.now.wall);
    assert_eq!(status.pending, Baseline::UNDECIDED);
    assert_eq!(status.lost.get(&Loss::ServiceFull), Some(&u64::from(beyond)));
    let alerts = stage.engine.alerts(stage.now.wall);
    let judged = alerts[0].findings.len() as u64 + alerts[0].more;
    assert_eq!(judged, u64::from(dials), "each was judged");
    assert!(!stage.said.contains("lost-"), "that is no trouble of the agent's");
    // Others have their room, and so has the service once somebody decides.
    stage.event("70 c -> 192.0.2.3 443/tcp established with /bin/app");
    stage.event("70 a -> 198.18.0.0 443/tcp refused with /bin/sh");
    stage.event("71 approve a -> ip:198.18.0.0 443/tcp");
    stage.event("72 a -> 192.0.2.9 443/tcp refused with /bin/sh");
    stage.until(75_000);
    let status = stage.engine.status(stage.now.wall);
    assert_eq!(status.pending, Baseline::UNDECIDED);
    assert_eq!(status.lost.get(&Loss::ServiceFull), Some(&u64::from(beyond)));
    let map = stage.engine.map(stage.now.wall);
    assert!(map.iter().any(|it| it.standing == Standing::Allowed && it.edge.port == 443));

    // What finds room later is counted also by the key that it had none by.
    let late = ip("198.18.16.5");
    stage.event("81 approve a -> ip:198.18.0.1 443/tcp");
    stage.event("82 a -> 198.18.16.5 443/tcp established with /bin/sh");
    stage.until(85_000);
    let refused = key(stage.cgroup("a"), Direction::Outbound, late, "443/tcp", Outcome::Refused);
    let counted = traffic(&stage, refused, 3);
    stage.step(Input::Traffic(counted));
    let map = stage.engine.map(stage.now.wall);
    let mut evidence = map.iter().filter(|it| it.edge.server.to_string() == "ip:198.18.16.5");
    let evidence = evidence.next().and_then(|it| it.evidence.as_ref()).unwrap();
    assert_eq!(evidence.failures, 3);
}

#[test]
fn others_keep_their_time_to_be_paired() {
    let mut stage = Stage::new(Mode::Auto);
    let (client, server) = (stage.cgroup("a"), stage.cgroup("b"));
    let own = SocketAddr::from(([10, 0, 0, 1], 40_000));
    let dialled = key(client, Direction::Outbound, ip("10.0.0.2"), "80/tcp", Outcome::Established);
    stage.step(Input::Flow(flow(stage.now.wall, dialled, Some(own), "/bin/app")));
    for number in 0..u32::try_from(Attribution::WAITING).unwrap() * 2 {
        let address = Ipv4Addr::from(0xc612_0000 + number).to_string();
        stage.dial("c", &address, "443/tcp", "attempted", "/bin/sh");
    }
    let from = Remote::Cgroup(client);
    let accepted: FlowKey = key(server, Direction::Inbound, from, "80/tcp", Outcome::Established);
    stage.step(Input::Flow(flow(stage.now.wall, accepted, Some(own), "")));
    stage.until(2_000);
    let map = stage.engine.map(stage.now.wall);
    let mine: Vec<String> = map
        .iter()
        .filter(|it| it.edge.client.service().is_some_and(|it| it.as_str() == "systemd:a.service"))
        .map(|it| it.edge.server.to_string())
        .collect();
    assert_eq!(mine, ["systemd:b.service"]);
}
