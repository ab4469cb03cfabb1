//! What is read and how mistakes are told, line by line.

use super::*;

#[track_caller]
fn told(text: &str) -> String {
    Config::parse(text, "edgewatch.toml").unwrap_err().to_string()
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(Config::parse("", "edgewatch.toml"), Ok(Config::default()));
}

#[test]
fn a_whole_file_is_read() {
    let text = r#"
mode = "guard"
baseline_files = ["/etc/edgewatch/baseline.d/*.yaml"]
state_dir = "/srv/edgewatch"
node = "n 1"
grace_period = "5s"
[capture]
edges = 1024
ring = "64KiB"
[learn]
promote = "auto"
quiet = "30m"
observations = 7
[detect]
only = ["compose:shop/*"]
internal = ["10.0.0.0/8"]
[serve]
socket = "/tmp/e.sock"
[[notify]]
name = "ops"
kind = "slack"
url_file = "/run/secrets/slack-url"
min_severity = "medium"
services = ["compose:shop/*"]
timeout = "3s"
[[notify]]
name = "local"
kind = "webhook"
url = "http://127.0.0.1:9/hook"
[[notify]]
name = "out"
kind = "stdout"
"#;
    let config = Config::parse(text, "edgewatch.toml").unwrap();
    assert_eq!(config.mode, Mode::Guard);
    assert_eq!(config.learn.rule().quiet_s, 1800);
    assert_eq!(config.capture.ring, Size::bytes(65_536));
    assert_eq!(config.node_name(), "n%201");
    assert_eq!(config.notify.len(), 3);
    assert_eq!(config.notify[0].timeout, Period::seconds(3));
}

#[test]
fn mistakes_are_told_with_their_line_and_what_was_meant() {
    let ops = "[[notify]]\nname = \"ops\"\nkind = \"webhook\"\n";
    let cases: [(&str, &str); 22] = [
        ("\nmodes = \"auto\"", "2: unknown key \"modes\"; did you mean \"mode\"?"),
        (
            "\n\n[[notify]]\nname = \"ops\"\nkind = \"stdout\"\n\nmin_severty = \"low\"",
            "7: unknown key \"min_severty\" in [[notify]] \"ops\"; did you mean \"min_severity\"?",
        ),
        (
            "[capture]\nrings = \"1MiB\"",
            "2: unknown key \"rings\" in [capture]; did you mean \"ring\"?",
        ),
        (
            "[learn]\nxyzzy = 1",
            "2: unknown key \"xyzzy\" in [learn]; known here: promote, quiet, observations",
        ),
        ("mode = \"gaurd\"", "1: mode: \"gaurd\" is unknown; did you mean \"guard\"?"),
        (
            "[learn]\npromote = \"never\"",
            "2: promote in [learn]: \"never\" is unknown; known here: auto, ask",
        ),
        ("mode = 5", "1: mode wants text in quotes"),
        ("state_dir = true", "1: state_dir wants text in quotes, not boolean true"),
        ("baseline_files = \"a.yaml\"", "1: baseline_files wants a list, not string \"a.yaml\""),
        (
            "[learn]\nquiet = 30",
            "2: quiet in [learn] wants a duration in quotes, like \"30s\", not integer 30",
        ),
        (
            "[learn]\n\nquiet = \"soon\"",
            "3: quiet in [learn]: \"soon\" is not a duration: write one like 30s, 15m, 4h or 7d",
        ),
        (
            "[capture]\nring = \"1MB\"",
            "2: ring in [capture]: \"1MB\" is not a size: write one like 64KiB, 1MiB or 2GiB",
        ),
        (
            "[detect]\ninternal = [\"10.0.0.0/8\", \"10\"]",
            "2: internal in [detect]: \"10\" is not a network: write one like 10.0.0.0/8",
        ),
        ("[zones]\npci = [\"k8s:pay/**\"]", "1: [zones] is not supported by this version"),
        (
            "[serve]\nlisten = \"0.0.0.0:80\"",
            "2: serve.listen (only the Unix socket is served) is not supported by this version",
        ),
        ("[[notify]]\nkind = \"stdout\"", "1: [[notify]] number 1 has no name"),
        ("notify = 1", "1: notify wants a list, not integer 1"),
        ("[notify]\nname = \"a\"", "1: notify wants a list, not a table"),
        ("mode = ", "1: "),
        ("node = \" \"", "1: node: is empty: leave it out to use the host's name"),
        ("mode = \"auto\"\nmode = \"auto\"", "2: duplicate key"),
        (
            "[[notify]]\nname = \"a\"\nkind = \"carrier-pigeon\"",
            "3: kind in [[notify]] \"a\": \"carrier-pigeon\" is unknown; known here: slack, teams, discord, mattermost, google-chat, webhook, alertmanager, pagerduty, syslog, stdout",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let told = told(text);
        let expected = format!("edgewatch.toml:{expected}");
        let matches = told == expected || (expected.len() < 40 && told.starts_with(&expected));
        if !matches {
            wrong.push(told);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let receivers: [(&str, &str); 8] = [
        ("", "3: kind of [[notify]] \"ops\": its URL is missing: name its file with url_file"),
        (
            "url = \"https://hooks.example/T/B/x\"",
            "4: url of [[notify]] \"ops\": a webhook's URL is a secret: put it into a file and name that with url_file, or use url_env",
        ),
        (
            "url = \"hooks\"",
            "4: url of [[notify]] \"ops\": it is no URL: write one like https://receiver.example/hook",
        ),
        (
            "url_file = \"a\"\nurl_env = \"B\"",
            "5: url_env of [[notify]] \"ops\": its URL is given twice",
        ),
        (
            "url_file = \"a\"\nsecret_env = \"B\"\nsecret_file = \"c\"",
            "5: secret_env of [[notify]] \"ops\": its secret is given twice",
        ),
        (
            "url_file = \"a\"\n[[notify]]\nname = \"ops\"\nkind = \"stdout\"",
            "6: name of [[notify]] \"ops\": there is another of this name; give each its own",
        ),
        (
            "url_file = \"a\"\n[[notify]]\nname = \"am\"\nkind = \"alertmanager\"\nurl = \"http://am.example\"",
            "8: url of [[notify]] \"am\": plain http goes to loopback only: use https",
        ),
        (
            "url_file = \"a\"\n[[notify]]\nname = \"out\"\nkind = \"stdout\"\nurl = \"http://[::1]/\"",
            "8: url of [[notify]] \"out\": stdout needs no URL",
        ),
    ];
    for (rest, expected) in receivers {
        assert_eq!(told(&format!("{ops}{rest}")), format!("edgewatch.toml:{expected}"));
    }
}

#[test]
fn only_a_file_that_is_named_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let error = Config::load(Some(&dir.path().join("no.toml"))).unwrap_err().to_string();
    assert!(error.contains("no.toml: cannot be read: No such file"), "{error}");
    let file = dir.path().join("yes.toml");
    std::fs::write(&file, "mode = \"learn\"").unwrap();
    assert_eq!(Config::load(Some(&file)).unwrap().mode, Mode::Learn);
}

#[test]
fn secrets_that_are_missing_or_empty_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("url");
    let text = format!("[[notify]]\nname = \"ops\"\nkind = \"slack\"\nurl_file = {file:?}");
    let config = Config::parse(&text, "edgewatch.toml").unwrap();
    let told = || config.check_secrets().map_err(|error| error.to_string());
    let named = format!("[[notify]] \"ops\": url_file {}: ", file.display());
    assert!(told().unwrap_err().starts_with(&format!("{named}cannot be read")));
    std::fs::write(&file, " \n").unwrap();
    assert_eq!(told(), Err(format!("{named}is empty")));
    std::fs::write(&file, "https://hooks.example/T/B/x\n").unwrap();
    assert_eq!(told(), Ok(()));
}
