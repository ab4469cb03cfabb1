//! Tools that craft their packets themselves, past TCP and UDP of the kernel: the socket that they need
//! for it is seen when it is made, and blamed on who made it.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::SWEPT;
use tests::eventually;
use tests::process::{Running, finish};
use tests::tool::Tool;

use crate::lab;

#[test]
fn who_crafts_packets_is_seen_by_the_socket_for_them() {
    let lab = lab();
    let wire = lab.wire();
    let target = wire.server.v4.to_string();
    let mut watch = Running::start(&mut lab.looks(&["watch", "--format", "json"]));
    let mut lines: Vec<Value> = Vec::new();
    let mut tells = |what: &str, fits: &dyn Fn(&Value) -> bool| {
        eventually(SWEPT, what, || {
            while let Some(line) = watch.line_within(Duration::from_millis(50)) {
                lines.push(serde_json::from_str(&line).expect("one document a line"));
            }
            let found = lines.iter().find(|it| fits(it)).cloned();
            found.ok_or_else(|| format!("{lines:#?}"))
        })
    };
    // What listened before is told once all is attached.
    let early = lab.service("early");
    let at = std::net::SocketAddr::new(wire.server.v4, 7_000);
    let _early = lab.serve_in_a_way(&early, &wire.server, "tcp", at);
    tells("all is attached", &|it| it["socket"]["service"] == early.name.as_str());

    // It would have the network say these.
    let own = wire.client.v4.to_string();
    let masscan = ["-e", "wire", "--source-ip", &own, "--router-mac", "02-00-00-00-00-01"];
    let masscan = [&masscan[..], &[&target, "-p", "7000-7009", "--wait", "1"]].concat();
    for (name, tool, words) in [
        ("nmap-syn", "nmap", &["-sS", "-Pn", "-n", "-p", "7000-7009", &target][..]),
        ("nmap-udp", "nmap", &["-sU", "-Pn", "-n", "-p", "7000-7001", &target]),
        ("nmap-arp", "nmap", &["-sn", "-n", &target]),
        ("hping3", "hping3", &["-S", "-c", "3", "-i", "u1000", "-p", "7000", &target]),
        ("masscan", "masscan", &masscan),
    ] {
        let service = lab.service(name);
        let tool = Tool::find(tool);
        // What it finds is its own business, and so is whether that makes it content.
        let _found = finish(tool.command(&lab, &service, &wire.client).args(words));
        let executable = fs::canonicalize(&tool.executable).expect("it was found");
        let opened = json!({"service": service.name, "opens": "packet"});
        let line = tells(name, &|it| it["socket"] == opened);
        assert_eq!(line["process"]["executable"], executable.display().to_string(), "{line:#}");
    }
}
