//! Files as people write them.

use super::*;
use monitor_core::baseline::Grounds;

const SAMPLE: &str = r#"format: edgewatch-baseline/1
environment: staging
services:
  compose:shop/web:
    owner: team-shop
    about: "the shop: front"
    outbound:
      - {to: "compose:shop/api", ports: [8080/tcp], by: [/usr/sbin/nginx]}
      - {to: "dns:api.stripe.com", ports: [443/tcp], by: [/usr/bin/python3.11], until: "2026-12-01T00:00:00Z", approver: anna, reason: "new \"payments\""}
    inbound:
      - {from: world, ports: [80/tcp, 443/tcp]}
    forbidden:
      - {to: "ip:169.254.169.254", ports: [80/tcp]}
  systemd:nginx.service: {}
"#;

fn at() -> WallTime {
    WallTime(0)
}

#[test]
fn a_document_reads_as_it_is_written() {
    let document = from_text(SAMPLE, "web.yaml").unwrap();
    assert_eq!(to_text(&document), SAMPLE);
    assert_eq!(document.services.len(), 2);
}

#[test]
fn texts_are_quoted_where_yaml_would_read_something_else() {
    let mut document = from_text(SAMPLE, "web.yaml").unwrap();
    for text in [
        "no",
        "~",
        "12",
        "a: b",
        "- x",
        "#c",
        "",
        " ",
        "x ",
        "null",
        "on",
        "é",
        "{a}",
        "a\nb",
        "\u{7}\u{85}\u{2028}",
        "'",
        "\"\\",
        "2026-01-01",
        "0x1",
        "!t",
        "&a",
        "*a",
        "%x",
        "@x",
        "|",
    ] {
        for entry in document.services.values_mut() {
            entry.owner = Some(text.to_owned());
        }
        document.environment = Some(text.to_owned());
        let written = to_text(&document);
        assert_eq!(from_text(&written, "web.yaml").unwrap(), document, "{written}");
    }
}

#[test]
fn mistakes_are_told_with_their_line_and_what_was_meant() {
    let cases = [
        (
            "owner: team-shop",
            "ownre: team-shop",
            "5: unknown key \"ownre\"; did you mean \"owner\"?",
        ),
        ("{from: world, ", "{form: world, ", "11: unknown key \"form\"; did you mean \"from\"?"),
        (
            "[8080/tcp]",
            "[8080/tpc]",
            "8: \"8080/tpc\" is not a port and protocol: write one like 443/tcp",
        ),
        ("environment: staging", "format: x", "2: format is there twice"),
        (
            "baseline/1",
            "baseline/9",
            "1: format: \"edgewatch-baseline/9\" is not one this program reads; it reads edgewatch-baseline/1",
        ),
        (
            ", ports: [8080/tcp], by: [/usr/sbin/nginx]",
            "",
            "4: services.compose:shop/web.outbound: the entry for compose:shop/api has no ports: list them, like [443/tcp]",
        ),
        (
            "compose:shop/web",
            "shop-web",
            "4: \"shop-web\" is not a service name: write one as `edgewatch services` shows it, like systemd:nginx.service",
        ),
        (
            "{from: world, ",
            "{to: world, ",
            "4: services.compose:shop/web.inbound: an entry needs \"from\" and nothing else to say its peer",
        ),
        (
            "  systemd:nginx.service: {}",
            "  docker:id/4f1c: {}",
            "14: services.docker:id/4f1c: the name is provisional: it holds an id that the next start will change",
        ),
        ("services:", "services: 5 #", "3: "),
        ("outbound:", "outbound: [", "8: "),
    ];
    let mut wrong = Vec::new();
    for (good, bad, expected) in cases {
        let told = from_text(&SAMPLE.replacen(good, bad, 1), "web.yaml").unwrap_err().to_string();
        let expected = format!("web.yaml:{expected}");
        if !(told == expected || (expected.len() < 15 && told.starts_with(&expected))) {
            wrong.push((told, expected));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_that_others_can_change_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.yaml");
    std::fs::write(&file, SAMPLE).unwrap();
    let pattern = [dir.path().join("*.yaml").to_string_lossy().into_owned()];
    assert_eq!(read_all(&pattern, at()).unwrap().len(), 1);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o646)).unwrap();
    let error = read_all(&pattern, at()).unwrap_err().to_string();
    assert!(error.contains("can be changed by others"), "{error}");
    let missing = [dir.path().join("no.yaml").to_string_lossy().into_owned()];
    assert!(read_all(&missing, at()).unwrap_err().to_string().contains("read "));
}

#[track_caller]
fn edited(decision: Decision, edge: &str, grounds: Grounds) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.yaml");
    std::fs::write(&file, format!("# ours\n\n{SAMPLE}")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let it = Edit { decision, edge: edge.parse().unwrap(), grounds };
    match edit(&file, &it) {
        Ok(done) => assert_eq!(done.comments_lost, 0),
        Err(error) => {
            let text = std::fs::read_to_string(&file).unwrap();
            assert_eq!(text, format!("# ours\n\n{SAMPLE}"));
            return error.to_string().rsplit_once("web.yaml: ").unwrap().1.to_owned();
        }
    }
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.strip_prefix("# ours\n\n").unwrap();
    let old: Vec<&str> = SAMPLE.lines().collect();
    let new: Vec<&str> = text.lines().collect();
    let gone = old.iter().filter(|it| !new.contains(it)).map(|it| format!("-{}", it.trim()));
    let come = new.iter().filter(|it| !old.contains(it)).map(|it| format!("+{}", it.trim()));
    gone.chain(come).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_approval_is_one_changed_line() {
    assert_eq!(
        edited(
            Decision::Approve,
            "compose:shop/web -> compose:shop/db 5432/tcp with /usr/bin/psql",
            Grounds { approver: Some("anna".to_owned()), ..Grounds::default() },
        ),
        "+- {to: \"compose:shop/db\", ports: [5432/tcp], by: [/usr/bin/psql], approver: anna}"
    );
    assert_eq!(
        edited(Decision::Approve, "world -> compose:shop/web 8443/tcp", Grounds::default()),
        "-- {from: world, ports: [80/tcp, 443/tcp]}\n+- {from: world, ports: [80/tcp, 443/tcp, 8443/tcp]}"
    );
    assert_eq!(
        edited(
            Decision::Approve,
            "compose:shop/web -> ip:169.254.169.254 80/tcp",
            Grounds::default()
        ),
        "-forbidden:\n-- {to: \"ip:169.254.169.254\", ports: [80/tcp]}\n+- {to: \"ip:169.254.169.254\", ports: [80/tcp]}"
            .lines()
            .take(1)
            .collect::<String>(),
    );
}

#[test]
fn what_is_forbidden_is_no_longer_allowed() {
    assert_eq!(
        edited(Decision::Forbid, "world -> compose:shop/web 80/tcp", Grounds::default()),
        "-- {from: world, ports: [80/tcp, 443/tcp]}\n+- {from: world, ports: [443/tcp]}\n+- {from: world, ports: [80/tcp]}"
    );
    let edge = "compose:shop/web -> dns:x.org 80/tcp with /bin/sh";
    assert_eq!(
        edited(Decision::Forbid, edge, Grounds::default()),
        "an edge is forbidden with every executable: leave out `with`"
    );
}

#[test]
fn a_port_that_is_opened_is_written_where_it_is_read_again() {
    let edge = "compose:shop/web listens 8080/tcp";
    assert_eq!(
        edited(Decision::Approve, &format!("{edge} with /usr/bin/app"), Grounds::default()),
        "+listens:\n+- {ports: [8080/tcp], by: [/usr/bin/app]}"
    );
    assert_eq!(edited(Decision::Forbid, edge, Grounds::default()), "+- {ports: [8080/tcp]}");
    let mut document = from_text(SAMPLE, "web.yaml").unwrap();
    let decide =
        |decision| Edit { decision, edge: edge.parse().unwrap(), grounds: Grounds::default() };
    for (decision, lifted, allowed) in [
        (Decision::Forbid, None, false),
        (Decision::Approve, Some(edge.parse().unwrap()), true),
        (Decision::Forbid, None, false),
    ] {
        assert_eq!(decide(decision).apply(&mut document), Ok(lifted));
        let entry = &document.services[&"compose:shop/web".parse().unwrap()];
        assert_eq!(
            (entry.listens.len(), entry.forbidden.len()),
            (allowed.into(), 2 - usize::from(allowed))
        );
    }
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let endless = Grounds { until: Some(WallTime(i64::MAX)), ..Grounds::default() };
    assert_eq!(
        edited(Decision::Approve, "world -> compose:shop/web 80/tcp", endless),
        "it stays as it is: nobody could read what it would become: \"9999-12-31T23:59:59Z\" is not a time: write RFC 3339 in UTC, like 2026-11-21T10:00:00Z"
    );
}

#[test]
fn a_section_is_never_made_for_a_single_edge() {
    assert_eq!(
        edited(Decision::Approve, "systemd:a.service -> dns:x.org 80/tcp", Grounds::default()),
        "it has no section for systemd:a.service: add it first, for example from `edgewatch baseline export systemd:a.service`"
    );
}
