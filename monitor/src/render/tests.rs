//! What a person reads, exactly.

use std::sync::Arc;

use monitor_core::engine::{
    AuditEntry, BaselineRow, Difference, EdgeView, Reply, ServiceView, Status,
};
use monitor_core::incident::Alert;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

const fn wide(width: usize) -> Screen {
    Screen { width: Some(width), colour: Colour::Off }
}

#[track_caller]
fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn edge(client: &str, server: &str, port: u16, outcome: &str) -> Value {
    json!({
        "edge": {"client": client, "server": server, "protocol": "tcp", "port": port},
        "seen_from": "client", "outcome": outcome, "at": "2026-11-21T10:02:11.5Z",
        "standing": "unjudged",
        "process": {"executable": "/usr/sbin/nginx", "pid": 412, "uid": 33},
    })
}

fn evidence(mut view: Value, connections: u64, standing: &str) -> Value {
    view["standing"] = standing.into();
    view["evidence"] = json!({
        "first_seen": "2026-11-21T10:02:11Z", "last_seen": "2026-11-21T11:00:00Z",
        "connections": connections, "failures": 0, "bytes_to_server": 1, "bytes_to_client": 2,
        "rtt_us": {"p50": 1234, "p99": 20000}, "executables": ["/usr/sbin/nginx", "/bin/sh"],
        "nodes": ["n1"],
    });
    view
}

#[test]
fn live_lines_stand_under_their_head() {
    let nginx = edge("systemd:nginx.service", "compose:shop/api", 8080, "established");
    let mut world = edge("world", "systemd:nginx.service", 443, "established");
    world.as_object_mut().unwrap().remove("process");
    let long = edge("k8s:production/Deployment/checkout", "dns:eu.api.example.com", 443, "refused");
    let views: Vec<EdgeView> = of(json!([nginx, world, long]));
    let lines = |screen| {
        let head = std::iter::once(edge_head(screen));
        head.chain(views.iter().map(|view| edge_line(screen, view))).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        lines(wide(110)),
        concat!(
            "  first seen  client                        server                    port       with              outcome\n",
            "  10:02:11    systemd:nginx.service       → compose:shop/api          8080/tcp   nginx             ok\n",
            "  10:02:11    world                       → systemd:nginx.service     443/tcp                      ok\n",
            "  10:02:11    k8s:producti…ment/checkout  → dns:eu.api.example.com    443/tcp    nginx             refused",
        )
    );
    let narrow = lines(wide(80));
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    assert!(lines(Screen::PLAIN).contains("k8s:production/Deployment/checkout"));
}

#[test]
fn the_map_fits_a_terminal_and_is_whole_in_a_pipe() {
    let views: Vec<EdgeView> = of(json!([
        evidence(
            edge("compose:shop/web", "compose:shop/api", 8080, "established"),
            1234,
            "allowed"
        ),
        evidence(edge("compose:shop/web", "ip:203.0.113.9", 4444, "attempted"), 0, "pending"),
        edge("k8s:production/Deployment/checkout-frontend", "dns:api.stripe.com", 443, "timed-out"),
    ]));
    assert_eq!(
        map(wide(110), &views),
        "\
client                 server             port      with      outcome     times     rtt  baseline  last seen
compose:shop/web     → compose:shop/api   8080/tcp  nginx +1  ok         ×1,234  1.2 ms  allowed   11-21 11:00
                     → ip:203.0.113.9     4444/tcp  nginx +1  attempted          1.2 ms  pending   11-21 11:00
k8s:produ…-frontend  → dns:api…tripe.com  443/tcp             timed-out                  –         11-21 10:02
"
    );
    let piped = map(Screen::PLAIN, &views);
    assert!(piped.contains("k8s:production/Deployment/checkout-frontend  → dns:api"), "{piped}");
    assert_eq!(piped.lines().filter(|line| line.starts_with("compose:shop/web ")).count(), 2);
    assert_eq!(map(Screen::PLAIN, &[]), "no edge was seen yet\n");
}

#[test]
fn a_narrow_map_keeps_its_names_apart() {
    let unit = |name: &str| format!("systemd:shop-{name}.service");
    let between = |client: &str, server: &str| {
        evidence(edge(&unit(client), &unit(server), 16379, "established"), 589, "allowed")
    };
    let views: Vec<EdgeView> = of(json!([between("api", "db"), between("web", "api")]));
    assert_eq!(
        map(wide(80), &views),
        "\
client              server         port       with      outcome  times  baseline
systemd…hop-api…  → syst…shop-db…  16379/tcp  nginx +1  ok        ×589  allowed
systemd…hop-web…  → syst…hop-api…  16379/tcp  nginx +1  ok        ×589  allowed
"
    );
    assert!(map(wide(130), &views).contains("rtt  baseline  last seen"));
}

fn sample_alert() -> Alert {
    let finding = |kind: &str, port: u16, score: f64| {
        json!({
            "kind": kind, "outcome": "established", "at": "2026-11-21T10:41:07Z", "score": score,
            "edge": {"client": "compose:shop/web", "server": "compose:shop/db", "protocol": "tcp", "port": port},
            "reasons": [{"name": "new-peer", "weight": 3.0, "text": "no edge web → db in 6 d of learning"}],
            "nearest": "compose:shop/api -> compose:shop/db 5432/tcp", "attack": ["T1021"],
            "process": {"executable": "/usr/bin/bash", "pid": 991, "uid": 33},
            "where": {"node": "n1"}, "allow": "…",
        })
    };
    of(json!({
        "schema": "edgewatch-alert/1", "id": "01JABC", "revision": 1, "dedup_key": "sha256:0",
        "state": "firing", "severity": "high", "score": 7.3,
        "title": "compose:shop/web dialled compose:shop/db 5432/tcp for the first time",
        "owner": "team\u{1b}[2Jshop", "node": "n1", "service": "compose:shop/web",
        "first_seen": "2026-11-21T10:41:07Z", "last_seen": "2026-11-21T10:41:07Z", "count": 3,
        "findings": [finding("new-port", 22, 2.0), finding("new-peer", 5432, 7.3)], "more": 1,
        "inspect": "ps -o pid,ppid,user,lstart,args -p 991",
        "allow": "edgewatch baseline approve 'compose:shop/web -> compose:shop/db 5432/tcp with /usr/bin/bash' --ttl 7d",
    }))
}

#[test]
fn an_alert_says_what_with_what_why_and_what_to_do() {
    assert_eq!(
        alert(wide(80), &sample_alert()),
        "\
High · compose:shop/web dialled compose:shop/db 5432/tcp for the first time
compose:shop/web → compose:shop/db 5432/tcp · 3 connections in this incident, established · node n1 · 10:41:07 UTC
with /usr/bin/bash (pid 991, uid 33)
Why: no edge web → db in 6 d of learning · nearest known edge: compose:shop/api -> compose:shop/db 5432/tcp
ATT&CK: T1021
Owner: team\\u{1b}[2Jshop
Look: ps -o pid,ppid,user,lstart,args -p 991
Expected? edgewatch baseline approve 'compose:shop/web -> compose:shop/db 5432/tcp with /usr/bin/bash' --ttl 7d
2 more findings in this incident:
  new-port: compose:shop/web → compose:shop/db 22/tcp with /usr/bin/bash · established
  … and 1 more
"
    );
}

#[test]
fn the_list_of_alerts_shortens_only_what_happened() {
    assert_eq!(
        alerts(wide(90), &[sample_alert()]),
        "\
last seen            severity  state  times  id      what
2026-11-21 10:41:07  high      open       3  01JABC  compose:shop/web d…for the first time
"
    );
    assert_eq!(alerts(Screen::PLAIN, &[]), "no alert\n");
}

#[test]
fn a_whole_alert_leaves_nothing_out() {
    let mut sample = sample_alert();
    sample.muted_until = Some("2026-11-21T14:00:00Z".parse().unwrap());
    Arc::make_mut(&mut sample.findings[1]).process = of(json!({
              "executable": "/usr/bin/bash", "pid": 991, "uid": 33, "command": "sh\u{1b}",
              "ancestors": [{"pid": 990, "executable": "/usr/sbin/nginx"}, {"pid": 1}],
    }));
    Arc::make_mut(&mut sample.findings[1]).place = of(
        json!({"node": "n1", "container": "4f", "container_name": "shop-web-1", "image": "sha256:9a", "cgroup": "/docker/4f"}),
    );
    assert_eq!(
              whole_alert(wide(80), &sample),
              "\
High · compose:shop/web dialled compose:shop/db 5432/tcp for the first time
01JABC · firing, revision 1 · score 7.3 · compose:shop/web on node n1
first seen 2026-11-21 10:41:07 · last seen 2026-11-21 10:41:07 UTC · 3 connections
Muted until 2026-11-21 14:00:00 UTC: listed here and not sent
Owner: team\\u{1b}[2Jshop
Look: ps -o pid,ppid,user,lstart,args -p 991

1. new-port · compose:shop/web → compose:shop/db 22/tcp · established · 2026-11-21 10:41:07 UTC · medium, score 2
   with       /usr/bin/bash (pid 991, uid 33)
   Why        no edge web → db in 6 d of learning
   nearest    compose:shop/api -> compose:shop/db 5432/tcp
   ATT&CK     T1021
   Expected?  …

2. new-peer · compose:shop/web → compose:shop/db 5432/tcp · established · 2026-11-21 10:41:07 UTC · medium, score 7.3
   with       /usr/bin/bash (pid 991, uid 33, called sh\\u{1b})
              ← /usr/sbin/nginx (pid 990)
              ← ? (pid 1)
   container  shop-web-1 (4f)
   image      sha256:9a
   cgroup     /docker/4f
   Why        no edge web → db in 6 d of learning
   nearest    compose:shop/api -> compose:shop/db 5432/tcp
   ATT&CK     T1021
   Expected?  …

1 more finding was left out; the first 2 are kept
"
    );
}

#[test]
fn an_id_that_is_not_known_is_not_shown() {
    let mut sample = sample_alert();
    for (process, ids) in [
        (json!({"executable": "/usr/bin/java"}), ""),
        (json!({"executable": "/usr/bin/java", "uid": 0}), " (uid 0)"),
        (json!({"executable": "/usr/bin/java", "command": "sh"}), " (called sh)"),
    ] {
        Arc::make_mut(&mut sample.findings[0]).process = of(process);
        let whole = whole_alert(Screen::PLAIN, &sample);
        let line = format!("   with       /usr/bin/java{ids}\n");
        assert!(whole.contains(&line), "{whole}");
    }
}

fn rows() -> Vec<BaselineRow> {
    let row = |service: &str, phase: &str, quiet: u64, observations: u64| {
        json!({
            "service": service, "phase": phase, "edges": 9, "pending": 0, "forbidden": 0,
            "quiet_s": quiet, "quiet_needed_s": 3600, "observations": observations,
            "observations_needed": 100, "from_file": false,
        })
    };
    let mut open = row("compose:shop/worker", "guarded", 9999, 500);
    open["open_until"] = "2026-11-21T12:30:00Z".into();
    open["pending"] = 2.into();
    let mut file = row("k8s:pay/Deployment/api", "guarded", 9999, 500);
    file["from_file"] = true.into();
    of(json!([
        row("compose:shop/api", "proposed", 9999, 500),
        row("systemd:nginx.service", "learning", 1200, 99),
        row("systemd:ssh.service", "learning", 3590, 500),
        row("docker:id/4f1c", "learning", 0, 0),
        open,
        file,
    ]))
}

#[test]
fn the_baseline_says_what_is_missing_and_how_to_go_on() {
    assert_eq!(
        baseline_rows(wide(110), &rows()),
        "\
service                 phase     edges  pending  what is missing
compose:shop/api        proposed      9        0  approve it: edgewatch baseline guard compose:shop/api
systemd:nginx.service   learning      9        0  1 more connection · 40 min quiet
systemd:ssh.service     learning      9        0  10 s quiet
docker:id/4f1c          learning      9        0  its lasting name
compose:shop/worker     guarded       9        2  open until 12:30:00 UTC, then guarded
k8s:pay/Deployment/api  guarded       9        0  – (in a baseline file)
"
    );
    assert_eq!(
        baseline_rows(wide(76), &rows()[..2]),
        "\
service           phase     edges  pending  what is missing
compose:shop/api  proposed      9        0  your approval
systemd:nginx…    learning      9        0  1 more connection · 40 min quiet

  edgewatch baseline guard compose:shop/api
"
    );
}

#[test]
fn differences_are_signed_lines() {
    let waiting: Vec<Difference> = of(json!([
        {"sign": "+", "edge": "systemd:a.service -> ip:192.0.2.1 80/tcp with /bin/sh", "note": "alerted"},
    ]));
    assert_eq!(
        undecided(Screen::PLAIN, &waiting),
        "+ systemd:a.service -> ip:192.0.2.1 80/tcp with /bin/sh  (alerted)\n"
    );
    let changed: Reply = of(json!({
        "services": ["systemd:a.service", "systemd:b.service"],
        "added": ["systemd:a.service -> ip:192.0.2.1 80/tcp"],
        "removed": ["systemd:a.service -> ip:192.0.2.2 80/tcp"],
        "notes": ["it was forbidden and no longer is"],
    }));
    assert_eq!(
        reply(Screen::PLAIN, "imported", &changed),
        "\
imported 2 services: systemd:a.service, systemd:b.service
- systemd:a.service -> ip:192.0.2.2 80/tcp
+ systemd:a.service -> ip:192.0.2.1 80/tcp
note: it was forbidden and no longer is
"
    );
    let painted = Screen { colour: Colour::On, ..Screen::PLAIN };
    assert_eq!(
        reply(
            painted,
            "",
            &of(
                json!({"services": [], "added": ["world -> systemd:a.service 1/tcp"], "removed": []})
            )
        ),
        "\u{1b}[32m+ world -> systemd:a.service 1/tcp\u{1b}[0m\n"
    );
}

#[test]
fn the_status_leads_to_what_needs_a_person() {
    let busy: Status = of(json!({
        "node": "n1", "mode": "auto", "since": "2026-11-21T10:00:00Z", "edges": 1141, "pending": 2,
        "services": 12, "guarded": 3, "proposed": 2, "learning": 7, "open_incidents": 1,
        "sinks": [
            {"name": "ops", "delivered": 41, "queued": 0},
            {"name": "pager", "delivered": 0, "queued": 3, "held_back": 37,
             "failure": "503 Service Unavailable"},
        ],
        "mutes": [{
            "pattern": "compose:shop/*", "since": "2026-11-21T10:00:00Z",
            "until": "2026-11-21T14:00:00Z", "approver": "anna", "reason": "rollout",
            "incidents": 1, "messages": 12,
        }],
        "lost": {"ring-full": 12, "untracked": 1},
    }));
    assert_eq!(
        status(Screen::PLAIN, &busy),
        "\
edgewatch on n1 · mode auto · since 2026-11-21 10:00:00 UTC
services   12: 3 guarded, 2 proposed, 7 learning
edges      1,141, 2 wait for a decision: edgewatch baseline diff
incidents  1 open: edgewatch alerts
MUTED      compose:shop/* until 2026-11-21 14:00:00 UTC by anna: rollout (1 open incident, 12 messages not sent)
receivers  ops: 41 delivered, 0 queued
           pager: 0 delivered, 3 queued, 37 held back for a digest; 503 Service Unavailable
lost       12 ring-full, 1 untracked: edgewatch doctor
"
    );
    let idle: Status = of(json!({
        "node": "n1", "mode": "learn", "edges": 0, "pending": 0, "services": 0, "guarded": 0,
        "proposed": 0, "learning": 0, "open_incidents": 0, "sinks": [], "lost": {},
    }));
    assert_eq!(
        status(Screen::PLAIN, &idle),
        "\
edgewatch on n1 · mode learn
services   0: 0 guarded, 0 proposed, 0 learning
edges      0, none waits for a decision
incidents  none open
receivers  none: alerts are listed by edgewatch alerts
lost       nothing
"
    );
}

#[test]
fn services_and_changes_are_listed() {
    let seen: Vec<ServiceView> = of(json!([{
        "service": "compose:shop/web", "phase": "guarded", "owner": "team-shop", "outbound": 3,
        "inbound": 1, "pending": 2, "first_seen": "2026-11-21T10:00:00Z",
        "last_seen": "2026-11-21T10:41:07Z",
    }]));
    assert_eq!(
        services(wide(80), &seen),
        "\
service           phase    out  in  pending  owner      last seen
compose:shop/web  guarded    3   1        2  team-shop  2026-11-21 10:41:07
"
    );
    let changes: Vec<AuditEntry> = of(json!([
        {"at": "2026-11-21T10:00:00Z", "actor": {"uid": 1000, "pid": 7, "executable": "/usr/bin/edgewatch"}, "what": "guarded compose:shop/web"},
        {"at": "2026-11-21T11:00:00Z", "actor": {"uid": 0, "pid": 0}, "what": "expired: x"},
    ]));
    assert_eq!(
        audit(wide(80), &changes),
        "\
when                 who       by                  what
2026-11-21 10:00:00  uid 1000  /usr/bin/edgewatch  guarded compose:shop/web
2026-11-21 11:00:00  agent                         expired: x
"
    );
}

#[test]
fn times_are_said_in_few_letters() {
    for (seconds, span) in
        [(0, "0 s"), (90, "90 s"), (91, "2 min"), (7_200, "2 h"), (172_801, "3 d")]
    {
        assert_eq!(text::span(seconds), span);
    }
    for (micros, shown) in
        [(950, "950 µs"), (1_250, "1.2 ms"), (20_000, "20 ms"), (3_000_000, "3 s")]
    {
        assert_eq!(text::micros(micros), shown);
    }
}

#[test]
fn a_report_fits_the_screen_and_ends_with_its_sum() {
    use crate::doctor::{Check, Finding, Report, Verdict};
    let finding = |verdict, what: &str, detail: &str, mend: Option<&str>| Finding {
        check: Check::Agent,
        verdict,
        what: what.to_owned(),
        detail: detail.to_owned(),
        mend: mend.map(ToOwned::to_owned),
    };
    let mut found = Report {
        verdict: Verdict::Warn,
        findings: vec![
            finding(Verdict::Ok, "kernel 6.18", "5.10 or later", None),
            finding(Verdict::Warn, "CAP_PERFMON missing", "names are\nmissing", Some("grant it")),
            finding(Verdict::Ok, "agent at /run/edgewatch/edgewatch.sock", "ready", None),
        ],
    };
    let expected = "\
ok    kernel 6.18       5.10 or later
warn  CAP_PERFMON       names are\\u{a}missing:
      missing           grant it
ok    agent at          ready
      /run/edgewatch/e
      dgewatch.sock

edgewatch can work here; 1 warning above
";
    assert_eq!(report(wide(48), &found), expected);
    let plain = report(Screen::PLAIN, &found);
    assert!(plain.contains("warn  CAP_PERFMON missing                     names are"), "{plain}");
    found.findings.push(finding(Verdict::Fail, "cgroup v2", "none", None));
    let red = report(Screen { width: None, colour: Colour::On }, &found);
    assert!(
        red.ends_with("\x1b[31medgewatch cannot work like this; 1 failure above\x1b[0m\n"),
        "{red}"
    );
    found.findings.truncate(1);
    assert!(report(wide(80), &found).ends_with("\neverything edgewatch needs is here\n"));
}
