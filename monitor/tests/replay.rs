//! `edgewatch replay` from outside: what it prints and how it exits, on lines written here and on
//! recordings of real systems, one of which was hijacked. Those are read from `shared/data` beside the
//! repository where they are there; the tests that need them say so where they are not.
#![expect(clippy::panic, clippy::unwrap_used, reason = "all of this is a test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    /// Replays in this place; the exit code, and both outputs.
    #[track_caller]
    fn replay(&self, words: &[&str]) -> (i32, String, String) {
        let ran = Command::new(env!("CARGO_BIN_EXE_edgewatch"))
            .arg("replay")
            .args(words)
            .env_clear()
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let Output { status, stdout, stderr } = ran;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    #[track_caller]
    fn json(&self, code: i32, words: &[&str]) -> Value {
        let (ended, stdout, stderr) = self.replay(&[words, &["--format", "json"]].concat());
        assert_eq!(ended, code, "{stdout}{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }
}

const WEB: &str = "\
format: edgewatch-baseline/1
services:
  systemd:web.service:
    outbound:
      - {to: systemd:api.service, ports: [80/tcp]}
";

/// One dial of `systemd:web.service`.
fn line(second: u32, server: &str, port: u16) -> String {
    let at = format!("2026-11-21T10:{:02}:{:02}Z", second / 60, second % 60);
    let line = json!({
        "at": at, "node": "n1", "source": {"service": "systemd:web.service", "container": "4f"},
        "peer": {"service": server}, "direction": "outbound", "protocol": "tcp", "port": port,
        "outcome": "established", "executable": "/usr/bin/bash", "pid": 412, "uid": 33,
    });
    format!("{line}\n")
}

#[test]
fn what_would_have_been_alerted_is_printed_and_told_by_the_exit_code() {
    let place = Place::new();
    place.file("web.yaml", WEB);
    place.file("good.jsonl", &line(0, "systemd:api.service", 80));
    let (code, stdout, stderr) = place.replay(&["good.jsonl", "--baseline", "web.yaml"]);
    let told = "1 flow of 1 node, 2026-11-21 10:00:00 to 2026-11-21 10:00:00 UTC (0 s)\n\
                no message would have been sent\n";
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, told, ""));

    let bad = line(0, "systemd:api.service", 80) + &line(5, "systemd:db.service", 5432);
    place.file("bad.jsonl", &bad);
    let (code, stdout, _) = place.replay(&["bad.jsonl", "--baseline", "web.yaml"]);
    let title = "systemd:web.service dialled systemd:db.service 5432/tcp for the first time";
    assert!(code == 2 && stdout.contains(title), "{stdout}");
    assert!(stdout.contains("1 message would have been sent (1 a day) about 1 incident"));
    let (_, full, _) = place.replay(&["bad.jsonl", "--baseline", "web.yaml", "--full"]);
    assert!(full.contains("with /usr/bin/bash (pid 412, uid 33)\nWhy: no edge to"), "{full}");

    let words = ["bad.jsonl", "--baseline", "web.yaml"];
    let found = place.json(2, &words);
    let finding = &found["alerts"][0]["findings"][0];
    assert_eq!(finding["where"], json!({"node": "n1", "container": "4f"}));
    let rate = json!({"messages": 1, "messages_per_day": 1.0});
    assert_eq!(found["summary"]["by_kind"], json!({"new-peer": rate}));
    assert_eq!(found["summary"]["by_service"], json!({"systemd:web.service": rate}));
    assert_eq!(place.replay(&words), place.replay(&words));
}

#[test]
fn a_bad_line_is_told_skipped_and_outranks_alerts() {
    let place = Place::new();
    place.file("web.yaml", WEB);
    let good = line(5, "systemd:db.service", 5432);
    let misspelt = good.replace("established", "estblished");
    place.file("traffic.jsonl", &format!("{good}\n{misspelt}{good}{{\n"));
    let (code, stdout, stderr) = place.replay(&["traffic.jsonl", "--baseline", "web.yaml"]);
    let told = "\
traffic.jsonl:3: outcome \"estblished\" is not one of attempted, established, refused, timed-out, unreachable, denied, sent; line skipped (1 of 4)
traffic.jsonl:5: is no JSON object: it ends too early; line skipped (2 of 4)
edgewatch: traffic.jsonl: 2 of 4 lines skipped
";
    assert_eq!((code, stderr.as_str()), (1, told));
    assert!(stdout.contains("2 flows of 1 node") && stdout.contains("1 message would"), "{stdout}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let place = Place::new();
    place.file("web.yaml", WEB);
    place.file("flows.jsonl", &line(0, "systemd:api.service", 80));
    for words in [
        &["missing.jsonl", "--baseline", "web.yaml"][..],
        &["flows.jsonl", "--baseline", "missing.yaml"],
        &["flows.jsonl", "--baseline", "web.yaml", "--config", "missing.toml"],
        &["flows.jsonl"],
        &["flows.jsonl", "--learn", "half"],
        &["-", "--learn", "0.5"],
    ] {
        let (code, _, stderr) = place.replay(words);
        assert_eq!(code, 64, "{words:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
    let (code, _, stderr) = place.replay(&["flows.jsonl", "--learn", "1h"]);
    let told = "edgewatch: nothing was judged: --learn goes beyond the end of the recording, which spans 0s\n";
    assert_eq!((code, stderr.as_str()), (1, told));
    let (code, _, stderr) = place.replay(&["flows.jsonl", "--learn", "2026-11-20T10:00:00Z"]);
    let told = "edgewatch: nothing was learned: --learn ends before the recording begins, at 2026-11-21T10:00:00Z\n";
    assert_eq!((code, stderr.as_str()), (1, told));
}

#[test]
fn what_cannot_be_read_twice_or_holds_nothing_is_no_success() {
    let place = Place::new();
    place.file(
        "flows.jsonl",
        &(line(0, "systemd:api.service", 80) + &line(9, "systemd:db.service", 1)),
    );
    let piped = |learn: &str| {
        // The shell's `<(cat flows.jsonl)`.
        let script = "cat flows.jsonl | \"$0\" replay /dev/stdin --learn \"$1\"";
        let ran = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_edgewatch"), learn])
            .current_dir(place.0.path())
            .output()
            .unwrap();
        (ran.status.code().unwrap(), String::from_utf8(ran.stderr).unwrap())
    };
    let told = "edgewatch: a part of /dev/stdin is not known before its end: give --learn a duration or a time, or replay a regular file\n";
    assert_eq!(piped("0.5"), (64, told.to_owned()));
    assert_eq!(piped("5s"), (2, String::new()));
    place.file("web.yaml", WEB);
    place.file("empty.jsonl", "\n");
    for words in [["--baseline", "web.yaml"], ["--learn", "0.5"], ["--learn", "1h"]] {
        let (code, stdout, stderr) = place.replay(&[&["empty.jsonl"], &words[..]].concat());
        assert_eq!((code, stdout.as_str()), (1, "no flow was read\n"));
        let told = "edgewatch: empty.jsonl: no flow is in it, so nothing was replayed\n";
        assert_eq!(stderr, told);
    }
}

/// The recordings beside the repository, or beside what it lies in.
fn shared(name: &str) -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = here.ancestors().skip(2).map(|dir| dir.join("shared/data").join(name));
    let found = beside.into_iter().find(|path| path.exists());
    if found.is_none() {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: shared/data/{name} is not beside the repository");
        }
    }
    found
}

/// The value of `<Data Name="KEY">VALUE</Data>`.
fn data<'a>(event: &'a str, key: &str) -> &'a str {
    let (_, rest) = event.split_once(&format!("<Data Name=\"{key}\">")).unwrap();
    rest.split_once('<').unwrap().0
}

/// What ran as the web application is one service; what else ran on that host, another.
fn service_of(image: &str) -> &'static str {
    match image.rsplit('/').next() {
        Some("java" | "bash") => "systemd:tomcat9.service",
        _ => "systemd:mdatp.service",
    }
}

/// The connections that the host's map of processes shows.
fn connections(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let flow = |it: Value| {
        let outbound = it["Direction"] == "outbound";
        json!({
            "at": it["TimeGenerated"], "node": it["Computer"],
            "source": {"service": service_of(it["ProcessName"].as_str().unwrap())},
            "peer": {"address": it["RemoteIp"]},
            "direction": it["Direction"], "protocol": it["Protocol"], "port": it["DestinationPort"],
            "outcome": if it["Protocol"] == "udp" { "sent" } else { "established" },
            "bytes_sent": it[if outbound { "BytesSent" } else { "BytesReceived" }],
            "bytes_received": it[if outbound { "BytesReceived" } else { "BytesSent" }],
        })
    };
    lines.map(flow).collect()
}

/// The network connects of the host's event log. An image that it names without its path had another
/// event of the same process.
fn connects(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let events: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|record| record["SyslogMessage"].as_str().unwrap().to_owned())
        .filter(|event| event.contains("<EventID>3</EventID>"))
        .collect();
    let whole = |pid: &str| {
        let images = events.iter().filter(|it| data(it, "ProcessId") == pid);
        images.map(|it| data(it, "Image")).find(|image| image.starts_with('/')).unwrap()
    };
    let flow = |event: &String| {
        let image = whole(data(event, "ProcessId"));
        json!({
            "at": format!("{}Z", data(event, "UtcTime").replace(' ', "T")), "node": "UBUNTU5",
            "source": {"service": service_of(image)},
            "peer": {"address": data(event, "DestinationIp")},
            "direction": "outbound", "protocol": data(event, "Protocol"),
            "port": data(event, "DestinationPort").parse::<u16>().unwrap(),
            "outcome": "established", "executable": image,
            "pid": data(event, "ProcessId").parse::<u32>().unwrap(),
        })
    };
    // A socket that has dialled nobody yet is no flow.
    events.iter().filter(|it| data(it, "DestinationPort") != "0").map(flow).collect()
}

fn lines(flows: &[Value]) -> String {
    let mut flows: Vec<&Value> = flows.iter().collect();
    flows.sort_by_key(|it| it["at"].as_str().unwrap().to_owned());
    flows.into_iter().fold(String::new(), |mut text, flow| {
        writeln!(text, "{flow}").unwrap();
        text
    })
}

/// The server and port that each finding of an alert names, and the executable where it is known.
fn told(alert: &Value) -> Vec<(String, String)> {
    let findings = alert["findings"].as_array().unwrap();
    let mut told: Vec<(String, String)> = findings
        .iter()
        .map(|it| {
            let edge = format!("{} {}", it["edge"]["server"].as_str().unwrap(), it["edge"]["port"]);
            let executable = it["process"]["executable"].as_str().unwrap_or("-");
            (edge, executable.to_owned())
        })
        .collect();
    told.sort();
    told
}

/// The web application as it was before it was hijacked: dialled on 8080, and asking its resolver.
const TOMCAT: &str = "\
format: edgewatch-baseline/1
services:
  systemd:tomcat9.service:
    outbound:
      - {to: \"ip:127.0.0.53\", ports: [53/udp]}
    inbound:
      - {from: \"ip:192.168.2.6\", ports: [8080/tcp]}
";

#[test]
fn a_hijacked_java_service_makes_one_incident_that_names_every_dial_of_it() {
    let files = shared("log4shell_connections.json").zip(shared("log4shell_sysmon.json"));
    let Some((map, log)) = files else { return };
    let place = Place::new();
    place.file("tomcat.yaml", TOMCAT);

    // By the map alone: who, to whom.
    place.file("map.jsonl", &lines(&connections(&map)));
    let found = place.json(2, &["map.jsonl", "--baseline", "tomcat.yaml"]);
    let [alert] = found["alerts"].as_array().unwrap().as_slice() else { panic!("{found:#}") };
    let dialled = ["ip:192.168.2.6 1389", "ip:192.168.2.6 443", "ip:192.168.2.6 8888"];
    assert_eq!(told(alert), dialled.map(|edge| (edge.to_owned(), "-".to_owned())));

    // With the log: when, and with what. The map's other lines are what the baseline allows.
    let benign =
        connections(&map).into_iter().filter(|it| it["direction"] == "inbound" || it["port"] == 53);
    let flows: Vec<Value> = benign.chain(connects(&log)).collect();
    place.file("host.jsonl", &lines(&flows));
    let found = place.json(2, &["host.jsonl", "--baseline", "tomcat.yaml"]);
    let [alert] = found["alerts"].as_array().unwrap().as_slice() else { panic!("{found:#}") };
    let java = "/usr/lib/jvm/java-8-openjdk-amd64/jre/bin/java";
    let with = [java, "/bin/bash", java];
    let expected: Vec<(String, String)> = dialled
        .iter()
        .zip(with)
        .map(|(edge, with)| ((*edge).to_owned(), with.to_owned()))
        .collect();
    assert_eq!(told(alert), expected);
    assert_eq!(alert["service"], "systemd:tomcat9.service");
    assert_eq!(alert["node"], "UBUNTU5");
    assert_eq!(found["summary"]["flows"], 7);
}

/// The live shop's calls of 37 hours as flows: sampled minutes on two days, other pods on the second.
fn shop(calls: &Path, ports: &Path) -> String {
    let ports = std::fs::read_to_string(ports).unwrap();
    let port = |client: &str, server: &str| -> u16 {
        // Whoever calls from outside does so as the load generator.
        let client = if client == "external" { "loadgenerator" } else { client };
        let edge = format!("{client},{server},");
        let found = ports.lines().find_map(|line| line.strip_prefix(&edge)).unwrap();
        found.split(',').next().unwrap().parse().unwrap()
    };
    let unpacked = Command::new("gzip").arg("-dc").arg(calls).output().unwrap();
    assert!(unpacked.status.success());
    let calls = String::from_utf8(unpacked.stdout).unwrap();
    let service = |name: &str| format!("k8s:default/Deployment/{name}");
    let mut lines = String::new();
    for row in calls.lines().skip(1) {
        let [at, from, to, from_pod, to_pod, count] = row.split(',').collect::<Vec<_>>()[..] else {
            panic!("no row: {row}")
        };
        let at = monitor_core::ids::WallTime(0).plus_seconds(at.parse().unwrap());
        let (source, pod, peer, direction) = if from == "external" {
            (to, to_pod, json!({"network": "world"}), "inbound")
        } else {
            (from, from_pod, json!({"service": service(to)}), "outbound")
        };
        let line = json!({
            "at": at, "node": "n1", "source": {"service": service(source), "pod": pod},
            "peer": peer, "direction": direction, "protocol": "tcp", "port": port(from, to),
            "outcome": "established", "connections": count.parse::<u64>().unwrap(),
        });
        writeln!(lines, "{line}").unwrap();
    }
    lines
}

#[test]
fn a_shop_that_was_learned_is_silent_for_two_days_of_other_pods() {
    let files = shared("ob_calls_per_second.csv.gz").zip(shared("ob_edges_with_ports.csv"));
    let Some((calls, ports)) = files else { return };
    let place = Place::new();
    let recording = shop(&calls, &ports);
    place.file("shop.jsonl", &recording);
    let found = place.json(0, &["shop.jsonl", "--learn", "1h"]);
    assert_eq!(found["alerts"], json!([]));
    let summary = &found["summary"];
    assert_eq!(summary["flows"], 56_121);
    assert_eq!(summary["learned"]["edges"], 14);
    assert!(summary["judged"].as_u64().unwrap() > 40_000, "{summary}");

    // What is not the shop's own is seen among all that.
    let last = recording.lines().last().unwrap();
    let odd = last.replace("productcatalogservice", "emailservice");
    assert_ne!(odd, last);
    place.file("shop.jsonl", &format!("{recording}{odd}\n"));
    let found = place.json(2, &["shop.jsonl", "--learn", "50%"]);
    assert_eq!(found["alerts"].as_array().unwrap().len(), 1, "{found:#}");
}

/// Fifty services that call each other for five days; in the second half, one flow in five hundred
/// goes somewhere new.
fn busy(flows: u32) -> String {
    let start: monitor_core::ids::WallTime = "2026-11-21T10:00:00Z".parse().unwrap();
    let mut lines = String::new();
    for index in 0..flows {
        let second = i64::from(index) * 432_000 / i64::from(flows);
        let peer = if index > flows / 2 && index % 500 == 0 {
            json!({"address": format!("203.0.113.{}", index / 500 % 200)})
        } else {
            json!({"service": format!("compose:shop/s{}", index / 50 % 40), "address": "172.18.0.3"})
        };
        let line = json!({
            "at": start.plus_seconds(second), "node": "n1",
            "source": {
                "service": format!("compose:shop/s{}", index % 50),
                "container": "4f1c", "image": "sha256:9a",
            },
            "peer": peer, "direction": "outbound", "protocol": "tcp", "port": 8080,
            "outcome": "established", "executable": "/usr/sbin/nginx", "pid": 412, "uid": 33,
            "bytes_sent": 512, "bytes_received": 2048,
        });
        writeln!(lines, "{line}").unwrap();
    }
    lines
}

/// Processor seconds that a shell's children took, as its `times` prints them: `0m1.25s 0m0.10s`.
fn seconds(times: &str) -> f64 {
    let part = |text: &str| {
        let (minutes, seconds) = text.split_once('m').unwrap();
        let seconds: f64 = seconds.trim_end_matches('s').parse().unwrap();
        minutes.parse::<f64>().unwrap() * 60.0 + seconds
    };
    times.lines().last().unwrap().split_whitespace().map(part).sum()
}

#[test]
fn a_hundred_thousand_flows_are_replayed_in_seconds() {
    let place = Place::new();
    place.file("busy.jsonl", &busy(100_000));
    // The processor's time and not the wall's: other tests run beside this one.
    let ran = Command::new("sh")
        .args(["-c", "\"$0\" replay busy.jsonl --learn 60h --format json >told; echo $?; times"])
        .arg(env!("CARGO_BIN_EXE_edgewatch"))
        .current_dir(place.0.path())
        .output()
        .unwrap();
    let text = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(text.lines().next(), Some("2"), "{text}");
    let told = std::fs::read(place.0.path().join("told")).unwrap();
    let found: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(found["summary"]["flows"], 100_000);
    assert!(found["summary"]["messages"].as_u64().unwrap() > 1, "{}", found["summary"]);
    // Two seconds are promised of the release build; this one may not be optimised.
    assert!(seconds(&text) < 10.0, "{text}");
}
