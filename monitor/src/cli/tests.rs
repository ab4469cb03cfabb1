//! What the command line may say.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn command_lines_are_read_or_refused() {
    let good = [
        "run",
        "run --config /etc/e.toml --mode guard --state-dir /srv/e --socket /run/e.sock --show",
        "watch --for 5m --format json",
        "record flows.jsonl --for 5m --append",
        "record -",
        "replay flows.jsonl --baseline web.yaml --baseline api.yaml --full",
        "replay flows.jsonl --learn 24h --format json",
        "replay - --baseline web.yaml --learn 2026-11-21T10:00:00Z --config e.toml",
        "map --format json",
        "map --focus compose:shop/web --format svg --expand k8s:prod/**",
        "alerts",
        "alerts list",
        "alerts show 01J",
        "alerts follow --format json",
        "alerts mute compose:shop/* --for 4h --reason rollout",
        "alerts unmute compose:shop/*",
        "alerts mutes",
        "notify test",
        "notify test ops --config /etc/e.toml",
        "baseline guard --all",
        "baseline learn compose:shop/web --for 30m",
        "baseline diff",
        "baseline diff web.yaml",
        "baseline export compose:shop/web --with-evidence --output web.yaml",
        "baseline import web.yaml --guard",
        "policy export --format kubernetes k8s:prod/** --baseline b.yaml --selector-label app",
    ];
    for line in good {
        let words = std::iter::once("edgewatch").chain(line.split(' '));
        assert!(Cli::try_parse_from(words).is_ok(), "{line}");
    }
    let bad = [
        "",
        "frob",
        "run --mode sometimes",
        "watch --for 5",
        "record",
        "replay flows.jsonl",
        "replay flows.jsonl --learn 24",
        "map --format yaml",
        "alerts show",
        "alerts show ../status",
        "alerts mute compose:shop/*",
        "alerts mute compose:shop/* --for 4h",
        "alerts mute nginx --for 4h --reason x",
        "notify",
        "baseline guard",
        "baseline guard --all compose:shop/web",
        "baseline learn",
        "baseline import",
        "policy export --selector-label no/label/key",
        "baseline approve",
        "baseline learn compose:shop/web --for 0s",
        "alerts mute compose:shop/* --for 500ms --reason x",
    ];
    for line in bad {
        let words = std::iter::once("edgewatch").chain(line.split(' ').filter(|it| !it.is_empty()));
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
    let edge = "compose:shop/web -> ip:203.0.113.9 4444/tcp with /usr/bin/bash";
    let words = ["edgewatch", "baseline", "approve", edge, "--ttl", "7d"];
    assert!(Cli::try_parse_from(words).is_ok());
    for ttl in ["0s", "soon"] {
        let words = ["edgewatch", "baseline", "forbid", edge, "--ttl", ttl];
        assert!(Cli::try_parse_from(words).is_err(), "{ttl}");
    }
    let words = ["edgewatch", "baseline", "approve", "compose:shop/web ip:203.0.113.9"];
    let error = Cli::try_parse_from(words).unwrap_err().to_string();
    assert!(error.contains("is not an edge: write 'CLIENT -> SERVER"), "{error}");
}

#[test]
fn a_verb_refuses_the_formats_of_others() {
    let check = |line: &str| {
        let words = std::iter::once("edgewatch").chain(line.split(' '));
        let cli = Cli::try_parse_from(words).unwrap();
        check_format(cli.format, &cli.verb)
    };
    for line in ["map --format svg", "map --format json", "policy export --format kubernetes"] {
        assert!(check(line).is_ok(), "{line}");
    }
    for (line, takes) in [
        ("services --format svg", "this verb has no --format svg: it takes table or json"),
        ("policy export", "--format kubernetes"),
        ("policy export --format cilium", "--format cilium is not there yet"),
        ("map --format kubernetes", "table, json, dot, mermaid or svg"),
    ] {
        match check(line) {
            Err(Failure::Usage(error)) => assert!(error.to_string().contains(takes), "{error}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn mistakes_and_failures_are_told_apart() {
    let usage = |failure: Failure| matches!(failure, Failure::Usage(_));
    assert!(usage(crate::config::Config::parse("x", "f").unwrap_err().into()));
    assert!(usage(crate::baseline_file::from_text("x", "f").unwrap_err().into()));
    let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    assert!(matches!(broken.into(), Failure::Unread));
    let other = std::io::Error::from(std::io::ErrorKind::NotFound);
    assert!(matches!(other.into(), Failure::Failed(_)));
}
