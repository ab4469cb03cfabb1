//! What Slack is sent, held against the vendor's own validator and against people who choose their
//! words: every kind of finding in every state, as small and as large as it can be. The validator is
//! Slack's `slack-sdk` for Python, installed once below `target/`. Where it cannot be had, its test
//! is skipped with the reason, but for CI, where it must run.
#![expect(clippy::unwrap_used, clippy::panic, reason = "all of this is a test")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use monitor::notify::slack_message;
use monitor_core::delivery::{Digest, Message};
use monitor_core::detect::Kind;
use monitor_core::incident::{Alert, Incident};
use serde_json::{Value, json};

/// The release whose rules were read.
const SDK: &str = "slack-sdk==3.47.0";

const VALIDATE: &str = r#"
import json, sys
from slack_sdk.models.blocks import Block
from slack_sdk.models.messages.message import Message
refused = 0
for line in sys.stdin:
    name, payload = json.loads(line)
    try:
        blocks = Block.parse_all(payload["blocks"])
        assert len(blocks) == len(payload["blocks"]) <= 50, "blocks it does not know, or too many"
        for block in blocks:
            block.validate_json()
        Message(text=payload["text"], blocks=blocks).validate_json()
    except Exception as error:
        refused += 1
        print(f"{name}: {error!r}")
print(f"{refused} refused")
"#;

/// Every kind, as the compiler knows them.
fn kinds() -> Vec<Kind> {
    let next = |kind: &Kind| match kind {
        Kind::Forbidden => Some(Kind::NewPeer),
        Kind::NewPeer => Some(Kind::NewPort),
        Kind::NewPort => Some(Kind::NewClient),
        Kind::NewClient => Some(Kind::NewExecutable),
        Kind::NewExecutable => Some(Kind::NewListener),
        Kind::NewListener => Some(Kind::RoleInversion),
        Kind::RoleInversion => Some(Kind::MetadataAccess),
        Kind::MetadataAccess => Some(Kind::SensitivePort),
        Kind::SensitivePort => Some(Kind::RawSocket),
        Kind::RawSocket => Some(Kind::FanOut),
        Kind::FanOut => Some(Kind::Unbaselined),
        Kind::Unbaselined => Some(Kind::Sensor),
        Kind::Sensor => None,
    };
    std::iter::successors(Some(Kind::Forbidden), next).collect()
}

const STATES: [&str; 3] = ["firing", "updated", "resolved"];

/// The text of which every name, path and sentence of an alert is made.
struct Size {
    name: String,
    path: String,
    text: String,
    findings: usize,
}

impl Size {
    fn small() -> Self {
        Self {
            name: "web.service".to_owned(),
            path: "/usr/bin/bash".to_owned(),
            text: "no edge to it; it has 2 known edges, watched for 6 d".to_owned(),
            findings: 1,
        }
    }

    /// Names as long as they get, all else longer than it gets.
    fn large() -> Self {
        Self {
            name: "n".repeat(253 - "systemd:".len()),
            path: format!("/{}", "%C3%A9".repeat(2_000)),
            text: "&<>".repeat(4_000),
            findings: Incident::FINDINGS,
        }
    }
}

fn finding(kind: Kind, size: &Size, number: usize) -> Value {
    let Size { name, path, text, .. } = size;
    let service = format!("systemd:{name}");
    let reason = |_| json!({"name": "outside", "weight": 1.5, "text": text});
    let ancestor = |pid| json!({"pid": pid, "executable": path});
    let mut finding = json!({
        "kind": kind, "severity": "high", "outcome": "established",
        "at": "2026-11-21T10:41:07.5Z", "score": 7.0,
        "edge": {"client": service, "server": service, "protocol": "tcp", "port": 10_000 + number},
        "reasons": (0..8).map(reason).collect::<Vec<_>>(),
        "nearest": format!("{service} -> {service} 65535/tcp with {path}"),
        "attack": ["T1552.005", "T1071"],
        "process": {"executable": path, "pid": u32::MAX - 1, "uid": u32::MAX - 1, "command": text,
            "ancestors": (0..8).map(ancestor).collect::<Vec<_>>()},
        "where": {"node": name, "cgroup": text},
        "allow": format!("edgewatch baseline approve '{service} -> {service} 1/tcp with {path}' --ttl 7d"),
    });
    let fields = finding.as_object_mut().unwrap();
    match kind {
        Kind::FanOut => {
            for gone in ["edge", "outcome", "nearest"] {
                fields.remove(gone);
            }
        }
        Kind::Sensor => {
            for gone in ["edge", "outcome", "process", "allow", "nearest"] {
                fields.remove(gone);
            }
        }
        Kind::NewListener => drop(fields["edge"].as_object_mut().unwrap().remove("client")),
        _ => {}
    }
    finding
}

fn alert(kind: Kind, state: &str, size: &Size) -> Alert {
    let Size { name, path, text, findings } = size;
    let findings: Vec<Value> = (0..*findings).map(|it| finding(kind, size, it)).collect();
    let resolved = if state == "resolved" { "resolved: " } else { "" };
    let alert = json!({
        "schema": "edgewatch-alert/1", "id": "01J0ABCDEFGHJKMNPQRSTVWXYZ", "revision": 3,
        "dedup_key": "sha256:0", "state": state, "severity": "critical", "score": 9.1,
        "title": format!("{resolved}systemd:{name} dialled systemd:{name} 5432/tcp with {path}"),
        "owner": text, "node": name, "service": format!("systemd:{name}"),
        "first_seen": "2026-11-21T10:41:07Z", "last_seen": "2026-11-21T10:41:07Z",
        "count": u64::MAX, "more": if findings.len() > 1 { u64::MAX / 2 } else { 0 },
        "inspect": format!("ps -p 1 || systemctl status '{name}{}'", "x".repeat(path.len())),
        "allow": findings[0]["allow"].as_str().unwrap_or_default(), "findings": findings,
    });
    serde_json::from_value(alert).unwrap()
}

fn digest(size: &Size) -> Digest {
    let Size { name, text, .. } = size;
    let count = if size.findings > 1 { 20 } else { 1 };
    let service =
        |it| json!({"service": format!("systemd:{it:02}{}", &name[2..]), "messages": u64::MAX});
    let incident =
        |it| json!({"id": format!("01J{it:023}"), "severity": "critical", "title": text});
    let mute = |_| {
        json!({"pattern": format!("systemd:{name}"), "since": "2026-11-21T10:41:07Z",
            "until": "2026-11-21T14:41:07Z", "approver": text, "reason": text, "messages": u64::MAX})
    };
    let kinds = kinds();
    let kinds = kinds.iter().map(|kind| json!({"kind": kind, "messages": u64::MAX}));
    let digest = json!({
        "schema": Digest::SCHEMA, "id": "01J0ABCDEFGHJKMNPQRSTVWXYZ", "revision": 1,
        "severity": "critical", "title": text, "node": name, "from": "2026-11-21T10:41:07Z",
        "to": "2026-11-21T10:51:07Z", "messages": u64::MAX, "replaced": u64::MAX,
        "services": (0..count).map(service).collect::<Vec<_>>(), "service_count": 100,
        "kinds": kinds.collect::<Vec<_>>(),
        "incidents": (0..count).map(incident).collect::<Vec<_>>(),
        "mutes": (0..count).map(mute).collect::<Vec<_>>(), "look": "edgewatch alerts",
    });
    serde_json::from_value(digest).unwrap()
}

/// Everything that can be sent, by what it is.
fn everything() -> Vec<(String, Message)> {
    let mut all = Vec::new();
    for (named, size) in [("small", Size::small()), ("large", Size::large())] {
        for kind in kinds() {
            for state in STATES {
                let alert = Message::Alert(Box::new(alert(kind, state, &size)));
                all.push((format!("{kind} {state} {named}"), alert));
            }
        }
        all.push((format!("digest {named}"), Message::Digest(Box::new(digest(&size)))));
        let test =
            monitor_core::delivery::Test::new(size.text.clone(), &size.text, Default::default());
        all.push((format!("test {named}"), Message::Test(Box::new(test))));
    }
    all
}

/// All strings of a payload that are shown.
fn texts(payload: &Value) -> Vec<(String, String)> {
    let mut texts = vec![("fallback".to_owned(), payload["text"].as_str().unwrap().to_owned())];
    for block in payload["blocks"].as_array().unwrap() {
        let of = |text: &Value| {
            let kind = text["type"].as_str().unwrap().to_owned();
            if kind == "mrkdwn" {
                assert_eq!(text["verbatim"], true, "{text}");
            } else {
                assert_eq!((kind.as_str(), &text["emoji"]), ("plain_text", &json!(false)));
            }
            (kind, text["text"].as_str().unwrap().to_owned())
        };
        match block["type"].as_str().unwrap() {
            "header" | "section" => texts.push(of(&block["text"])),
            "context" => texts.extend(block["elements"].as_array().unwrap().iter().map(of)),
            other => panic!("{other}"),
        }
    }
    texts
}

#[test]
fn the_largest_message_keeps_every_limit() {
    let mut largest = 0;
    for (name, message) in everything() {
        let payload = slack_message(&message);
        let blocks = payload["blocks"].as_array().unwrap();
        assert!(blocks.len() <= 50, "{name}");
        assert_eq!(payload["link_names"], false);
        assert_eq!(
            (&payload["unfurl_links"], &payload["unfurl_media"]),
            (&json!(false), &json!(false))
        );
        for block in blocks {
            let most = if block["type"] == "header" { 150 } else { 3_000 };
            let text = block["text"]["text"].as_str().unwrap_or_default();
            assert!(text.len() <= most, "{name}: {} of {most}: {text}", text.len());
        }
        let whole: usize = texts(&payload).iter().map(|(_, text)| text.len()).sum();
        assert!(whole <= 12_000, "{name}: {whole}");
        largest = largest.max(whole);
    }
    assert!(largest > 5_000, "{largest}: was it a large message at all?");
}

#[test]
fn what_is_left_out_is_counted_with_where_to_find_it() {
    let alert = alert(Kind::NewPeer, "firing", &Size { findings: 50, ..Size::small() });
    let text = slack_message(&Message::Alert(Box::new(Alert { more: 7, ..alert }))).to_string();
    assert!(text.contains("*56 more findings in this incident*"), "{text}");
    let left = "… and 51 more: `edgewatch alerts show 01J0ABCDEFGHJKMNPQRSTVWXYZ`";
    assert!(text.contains(left), "{text}");
    // A command is whole or not there.
    let long = slack_message(&Message::Alert(Box::new(self::alert(
        Kind::NewPeer,
        "firing",
        &Size::large(),
    ))));
    let text = long.to_string();
    assert!(
        text.contains("*Expected?*\\ntoo long for this message: `edgewatch alerts show 01J"),
        "{text}"
    );
    assert!(!text.contains("baseline approve"), "{text}");
}

/// What is left of a markup text once its code is taken out.
fn bare(text: &str) -> String {
    let text = text.replace("```", "`");
    let parts: Vec<&str> = text.split('`').collect();
    assert!(parts.len() % 2 == 1, "a code span that never ends: {text}");
    parts.into_iter().step_by(2).collect()
}

#[test]
fn nobody_can_mention_link_or_format_through_us() {
    for hostile in [
        "<!channel> <!here> <@U024BE7LH> @channel #general",
        "*bold* _italic_ ~struck~ :rotating_light:",
        "` ``` `*bold*` ```<!channel>``` `",
        "&lt;!channel&gt; http://evil.example <http://evil.example|edgewatch>",
        "a\n*High · forged*\r\n> quote",
        "\u{202e}\u{200b}\u{0}\u{1b}[31m<!channel>",
        &"<!channel>`*".repeat(1_000),
    ] {
        // Where names are safe text by construction they stay what they are.
        let size = Size { text: hostile.to_owned(), path: hostile.to_owned(), ..Size::small() };
        for kind in kinds() {
            for state in STATES {
                let mut alert = alert(kind, state, &size);
                alert.node = hostile.to_owned();
                check_harmless(&Message::Alert(Box::new(alert)));
            }
        }
        let mut digest = digest(&size);
        digest.node = hostile.to_owned();
        digest.look = hostile.to_owned();
        check_harmless(&Message::Digest(Box::new(digest)));
        let test =
            monitor_core::delivery::Test::new(hostile.to_owned(), hostile, Default::default());
        check_harmless(&Message::Test(Box::new(test)));
    }
}

#[track_caller]
fn check_harmless(message: &Message) {
    let payload = slack_message(message);
    for (kind, text) in texts(&payload) {
        assert!(!text.contains(['<', '>', '\r', '\u{0}', '\u{1b}', '\u{202e}']), "{text}");
        let entities =
            ["&amp;", "&lt;", "&gt;"].iter().fold(text.clone(), |it, e| it.replace(e, ""));
        assert!(!entities.contains('&'), "{text}");
        if kind != "mrkdwn" {
            assert!(!text.contains('\n'), "{text}");
            continue;
        }
        // Ours is bold; nothing else is anything.
        let ours = [
            "*Why*",
            "*Look*",
            "*Expected?*",
            "*Most of them*",
            "*Most severe*",
            "*Mutes that ended*",
        ];
        let mut rest = ours.iter().fold(bare(&text), |it, bold| it.replace(bold, ""));
        if let (Some(start), Some(end)) = (rest.find('*'), rest.find(" in this incident*")) {
            rest.replace_range(start..end + " in this incident*".len(), "");
        }
        assert!(!rest.contains(['*', '_', '~', '@', '#']), "{rest}");
        assert!(!rest.contains("//") && !rest.contains("forged"), "{rest}");
    }
}

#[test]
fn an_alert_reads_like_one() {
    let alert = json!({
        "schema": "edgewatch-alert/1", "id": "01J0ABCDEFGHJKMNPQRSTVWXYZ", "revision": 2,
        "dedup_key": "sha256:0", "state": "updated", "severity": "high", "score": 7.3,
        "title": "compose:shop/web dialled compose:shop/db 5432/tcp for the first time, and 1 more edge",
        "owner": "team-shop", "node": "n1", "service": "compose:shop/web",
        "first_seen": "2026-11-21T10:41:07Z", "last_seen": "2026-11-21T10:41:07Z", "count": 3,
        "findings": [
            {"kind": "new-peer", "severity": "high", "outcome": "established",
             "at": "2026-11-21T10:41:07Z", "score": 7.3,
             "edge": {"client": "compose:shop/web", "server": "compose:shop/db", "protocol": "tcp", "port": 5432},
             "reasons": [
                {"name": "new-peer", "weight": 3.0, "text": "no edge to compose:shop/db; compose:shop/web has 3 known edges, watched for 6 d"},
                {"name": "executable", "weight": 2.5, "text": "/usr/bin/bash never dialled from compose:shop/web; known: /usr/bin/python3.11"},
                {"name": "forbidden", "weight": 1.0, "text": "forbidden by anna: see <https://wiki/db> & *ask*"}],
             "nearest": "compose:shop/api -> compose:shop/db 5432/tcp with /usr/bin/python3.11",
             "attack": ["T1021"],
             "process": {"executable": "/usr/bin/bash", "pid": 991, "uid": 33,
                "ancestors": [{"pid": 990, "executable": "/usr/sbin/nginx"}, {"pid": 1, "executable": "/sbin/tini"}]},
             "where": {"node": "n1"}, "allow": "x"},
            {"kind": "new-port", "severity": "medium", "outcome": "refused",
             "at": "2026-11-21T10:41:07Z", "score": 2.0,
             "edge": {"client": "compose:shop/web", "server": "compose:shop/api", "protocol": "tcp", "port": 9},
             "reasons": [], "where": {"node": "n1"}, "allow": "y"}],
        "inspect": "docker exec shop_web_1 ps -o pid,ppid,args -p 991",
        "allow": "edgewatch baseline approve 'compose:shop/web -> compose:shop/db 5432/tcp with /usr/bin/bash' --ttl 7d",
    });
    let alert: Alert = serde_json::from_value(alert).unwrap();
    let payload = slack_message(&Message::Alert(Box::new(alert)));
    let shown: Vec<String> = texts(&payload).into_iter().map(|(_, text)| text).collect();
    assert_eq!(
        shown,
        [
            "High, updated · compose:shop/web dialled compose:shop/db 5432/tcp for the first time, and 1 more edge",
            "High, updated · compose:shop/web dialled compose:shop/db 5432/tcp for the first time, and 1 more edge",
            "`compose:shop/web → compose:shop/db 5432/tcp` · 3 connections in this incident, established · node `n1` · 10:41:07 UTC\n\
             with `/usr/bin/bash` (pid 991, uid 33) ← `nginx` ← `tini`",
            "*Why*\n\
             • no edge to compose:shop/db; compose:shop/web has 3 known edges, watched for 6 d\n\
             • /usr/bin/bash never dialled from compose:shop/web; known: /usr/bin/python3.11\n\
             • `forbidden by anna: see &lt;https://wiki/db&gt; &amp; *ask*`\n\
             • nearest known edge: `compose:shop/api -&gt; compose:shop/db 5432/tcp with /usr/bin/python3.11`",
            "*Look*\n```docker exec shop_web_1 ps -o pid,ppid,args -p 991```\n\
             *Expected?*\n```edgewatch baseline approve 'compose:shop/web -&gt; compose:shop/db 5432/tcp with /usr/bin/bash' --ttl 7d```",
            "*1 more finding in this incident*\n• new-port: `compose:shop/web → compose:shop/api 9/tcp` · refused",
            "ATT&amp;CK `T1021` · owner `team-shop` · update 1 · `edgewatch alerts show 01J0ABCDEFGHJKMNPQRSTVWXYZ`",
        ]
    );
}

#[test]
fn an_id_that_is_not_known_is_not_shown() {
    let mut alert = alert(Kind::NewPeer, "firing", &Size::small());
    for (process, shown) in [
        (json!({"executable": "/usr/bin/java"}), "\nwith `/usr/bin/java`"),
        (json!({"executable": "/usr/bin/java", "uid": 0}), "\nwith `/usr/bin/java` (uid 0)"),
    ] {
        Arc::make_mut(&mut alert.findings[0]).process = serde_json::from_value(process).unwrap();
        let payload = slack_message(&Message::Alert(Box::new(alert.clone())));
        assert!(texts(&payload).iter().any(|(_, text)| text.ends_with(shown)), "{payload:#}");
    }
}

#[test]
fn the_vendors_validator_takes_everything_and_can_refuse() {
    let python = match validator() {
        Ok(python) => python,
        Err(why) if std::env::var_os("CI").is_some() => panic!("{why}"),
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    let all: Vec<(String, Value)> =
        everything().into_iter().map(|(name, message)| (name, slack_message(&message))).collect();
    assert_eq!(validated(&python, &all), "0 refused\n");
    // It is a validator, and not a yes-man.
    let (_, good) = &all[0];
    let mut broken = Vec::new();
    for (name, pointer, text) in [
        ("header", "/blocks/0/text/text", "x".repeat(151)),
        ("section", "/blocks/1/text/text", "x".repeat(3_001)),
        ("type", "/blocks/1/type", "paragraph".to_owned()),
    ] {
        let mut payload = good.clone();
        *payload.pointer_mut(pointer).unwrap() = Value::String(text);
        broken.push((name.to_owned(), payload));
    }
    let said = validated(&python, &broken);
    assert!(said.ends_with("3 refused\n"), "{said}");
}

/// A Python that has Slack's validator, made if there is none yet.
fn validator() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(SDK.replace("==", "-"));
    let python = dir.join("bin/python");
    let ready = |python: &Path| {
        let asked = Command::new(python).args(["-c", "import slack_sdk.models.blocks"]).output();
        asked.is_ok_and(|it| it.status.success())
    };
    if ready(&python) {
        return Ok(python);
    }
    let told = |what: &str, done: std::io::Result<std::process::Output>| match done {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(format!("{what}: {}", String::from_utf8_lossy(&done.stderr))),
        Err(error) => Err(format!("{what}: {error}")),
    };
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir).output();
    told("make a Python environment for Slack's validator", made)?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", SDK];
    told("install Slack's validator", Command::new(&python).args(pip).output())?;
    if ready(&python) { Ok(python) } else { Err(format!("{SDK} cannot be imported")) }
}

/// What the validator says of `payloads`.
#[track_caller]
fn validated(python: &Path, payloads: &[(String, Value)]) -> String {
    let mut child = Command::new(python)
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines: String =
        payloads.iter().map(|it| serde_json::to_string(it).unwrap() + "\n").collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
