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
seen = 1024
ring = "64KiB"
[learn]
promote = "auto"
quiet = "30m"
observations = 7
[detect]
only = ["compose:shop/*"]
internal = ["10.0.0.0/8"]
budget = 4096
[serve]
socket = "/tmp/e.sock"
[[notify]]
name = "ops"
kind = "webhook"
url_file = "/run/secrets/hook-url"
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
    assert_eq!(config.capture.ring.bytes(), 65_536);
    assert_eq!(config.node_name(), "n%201");
    assert_eq!(config.notify.len(), 3);
    assert_eq!(config.notify[0].timeout.as_secs(), 3);
}

#[test]
fn mistakes_are_told_with_their_line_and_what_was_meant() {
    let ops = "[[notify]]\nname = \"ops\"\nkind = \"webhook\"\n";
    let cases: [(&str, &str); 24] = [
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
        ("mode = \"a`b`\\tc\"", "1: mode: \"a`b`\\tc\" is unknown; known here: learn, auto, guard"),
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
            "2: ring in [capture]: \"1MB\" is not a ring size: a power of two from 4KiB to 256MiB, written like \"1MiB\"",
        ),
        (
            "[capture]\nring = \"64MiB\"\nseen = 4000000",
            "3: seen in [capture]: takes 1254 MiB of the kernel's memory, all sizes there 1322 MiB: lower it until they take 1024 MiB at most",
        ),
        (
            "[detect]\ninternal = [\"10.0.0.0/8\", \"10\"]",
            "2: internal in [detect]: \"10\" is not a network: write one like 10.0.0.0/8 or fd00::/8",
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
            "3: kind in [[notify]] \"a\": \"carrier-pigeon\" is not known: write \"slack\", \"webhook\" or \"stdout\"",
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
    let twice = "url_file = \"a\"\n[[notify]]\nname = \"ops\"\nkind = \"stdout\"";
    assert_eq!(
        told(&format!("{ops}{twice}")),
        "edgewatch.toml:6: name of [[notify]] \"ops\": there is another of this name; give each its own"
    );
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

const REFERENCE: &str = include_str!("../../../docs/configuration.md");

/// The example of the reference.
fn example() -> &'static str {
    let (_, rest) = REFERENCE.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// The example with what has no default switched on.
fn example_in_full() -> String {
    let on = |line: &str| {
        let key = line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_alphabetic));
        key.unwrap_or(line).to_owned() + "\n"
    };
    example().lines().map(on).collect()
}

#[test]
fn the_reference_shows_the_defaults() {
    let mut shown = Config::parse(example(), "configuration.md").unwrap();
    shown.notify.clear();
    assert_eq!(shown, Config::default());
    Config::parse(&example_in_full(), "configuration.md").unwrap();
}

#[test]
fn the_reference_names_every_key() {
    let full: toml::Table = toml::from_str(&example_in_full()).unwrap();
    let mut tables = vec![(String::new(), full.clone())];
    for (name, value) in full {
        match value {
            toml::Value::Table(table) => tables.push((format!("[{name}]"), table)),
            toml::Value::Array(array) => {
                let table = array.first().and_then(toml::Value::as_table);
                tables.extend(table.map(|table| (format!("[[{name}]]"), table.clone())));
            }
            _ => {}
        }
    }
    assert_eq!(tables.len(), 8, "{tables:?}");
    // Whose keys are names.
    tables.retain(|(name, _)| name != "[networks]");
    for (name, documented) in tables {
        // What is unknown is refused with all that is known.
        let text = format!("{name}\nzzz = 1");
        let refusal = toml::from_str::<Config>(&text).unwrap_err().message().to_owned();
        assert!(refusal.starts_with("unknown field `zzz`, expected"), "{name}: {refusal}");
        let known: Vec<&str> = refusal.split('`').skip(3).step_by(2).collect();
        assert!(!known.is_empty(), "{refusal}");
        for key in known {
            assert!(documented.contains_key(key), "docs/configuration.md: {name} {key} is missing");
        }
    }
}
