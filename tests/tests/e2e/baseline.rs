//! Baselines as files: taken elsewhere, written by hand, watched, compared, edited.

use std::fs;
use std::net::SocketAddr;

use rustix::process::Signal;
use tests::agent::{Agent, SOON, Setup, verb};
use tests::eventually;
use tests::lab::Service;
use tests::process::finish;
use tests::receiver::Receiver;
use tests::traffic::Protocol;

use crate::lab;
use crate::shop::{Shop, is_about, kinds};

#[test]
fn taken_elsewhere_it_judges_the_same() {
    let mut shop = Shop::guarded();
    let document = shop.lab.path("shop.yaml");
    fs::write(&document, shop.exported()).expect("the place is ours");
    let file = document.display().to_string();

    shop.agent.end(Signal::TERM);
    let setup = Setup::mode("learn").told_to(&shop.lab, &shop.receiver);
    shop.agent = shop.lab.agent("elsewhere", &setup);
    let difference = shop.agent.text(&["baseline", "import", &file]);
    let known = shop.api.edge_from(&shop.web.service);
    assert!(difference.contains(&known), "{difference}");
    shop.agent.guards(&[&shop.web.service]);
    let lookout = shop.web.service.name.replace("systemd:web", "systemd:lookout");
    shop.agent.text(&["baseline", "guard", &lookout]);

    shop.web.reaches(&shop.api);
    shop.was_silent(0);
    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    assert_eq!(kinds(&shop.alert_about(&edge), &edge), ["new-peer"]);
    shop.was_silent(1);
}

#[test]
fn an_import_may_guard_at_once() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let web = lab.planned("web");
    let file = lab.path("web.yaml");
    fs::write(&file, document(&web.name, "ip:10.0.0.9", 80)).expect("the place is ours");
    let file = file.display().to_string();
    agent.text(&["baseline", "import", &file, "--guard"]);
    assert_eq!(phase(&agent, &web.name).as_deref(), Ok("guarded"));
    // What is exported can be imported again and changes nothing.
    let exported = || agent.text(&["baseline", "export", &web.name]);
    let first = exported();
    fs::write(&file, &first).expect("the place is ours");
    agent.text(&["baseline", "import", &file, "--guard"]);
    assert_eq!(exported(), first);
}

#[test]
fn a_file_guards_as_written_and_is_read_again() {
    let lab = lab();
    let dir = lab.path("baseline.d");
    fs::create_dir(&dir).expect("the place is ours");
    let file = dir.join("web.yaml");
    let web = lab.planned("web").name;
    let api = lab.planned("api").name;
    write_whole(&file, &document(&web, &api, 8080));
    let files = format!("baseline_files = [\"{}/*.yaml\"]\n", dir.display());
    let mut shop = Shop::with(lab, &Setup::mode("learn").top(&files));
    assert_eq!(phase(&shop.agent, &web).as_deref(), Ok("guarded"));
    shop.was_silent(0);

    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    shop.alert_about(&edge);

    // Invalid: the previous one stays in force, and log and alert say where the mistake is.
    write_whole(&file, "format: edgewatch-baseline/1\nservices: [\n");
    eventually(SOON, "the mistake is told", || {
        let said = shop.agent.said();
        if said.contains("web.yaml:") { Ok(()) } else { Err(said) }
    });
    assert_eq!(phase(&shop.agent, &web).as_deref(), Ok("guarded"));
    let alert = shop.alert_titled("a baseline file on stand cannot be read");
    let text = alert["findings"][0]["reasons"][0]["text"].as_str().unwrap_or_default();
    assert!(text.contains("web.yaml:"), "{alert:#}");
    shop.web.reaches(&shop.api);
    shop.was_silent(2);

    let cache = shop.server("cache", 6379);
    write_whole(
        &file,
        &format!(
            "{}      - {{to: {:?}, ports: [6379/tcp]}}\n",
            document(&web, &api, 8080),
            cache.service.name
        ),
    );
    eventually(SOON, "the new line is in force", || {
        let text = shop.exported();
        if text.contains("6379/tcp") { Ok(()) } else { Err(text) }
    });
    shop.alert_titled("resolved: a baseline file on stand cannot be read");
    shop.web.reaches(&cache);
    shop.was_silent(3);
}

#[test]
fn a_service_guarded_on_one_node_is_guarded_with_its_edges_on_all() {
    let shop = Shop::guarded();
    // As a ConfigMap of baseline files is for every node.
    let dir = shop.lab.path("baseline.d");
    fs::create_dir(&dir).expect("the place is ours");
    write_whole(&dir.join("shop.yaml"), &shop.exported());

    // The other node: its agent sees nothing of the first, and has never seen the services.
    let (node, receiver) = (lab(), Receiver::start());
    let wire = node.wire();
    let files = format!("baseline_files = [\"{}/*.yaml\"]\n", dir.display());
    let setup = Setup::mode("learn").top(&files).within(&node, "").told_to(&node, &receiver);
    let agent = node.agent("agent", &setup);
    assert_eq!(phase(&agent, &shop.web.service.name).as_deref(), Ok("guarded"));
    let there = |service: &Service| {
        let unit = service.cgroup.file_name().expect("it has a name");
        let there = Service { name: service.name.clone(), cgroup: node.slice().join(unit) };
        fs::create_dir(&there.cgroup).expect("the slice is ours");
        there
    };
    let (web, api) = (there(&shop.web.service), there(&shop.api.service));
    let serve = |service: &Service, port| {
        node.serve(service, &wire.server, Protocol::Tcp, SocketAddr::new(wire.server.v4, port))
    };
    let (api, db) = (serve(&api, 8080), serve(&node.service("db"), 5432));
    let mut dialler = node.dialler(&web, &wire.client);
    dialler.reaches(&api);
    let known = api.edge_from(&web);
    agent.shows(&known, SOON, |view| view["standing"] == "allowed");
    dialler.reaches(&db);
    let edge = db.edge_from(&web);
    let alert = receiver.alert(SOON, &edge, |alert| is_about(alert, &edge));
    assert_eq!(kinds(&alert, &edge), ["new-peer"]);
    let told = receiver.alerts();
    assert!(!told.iter().any(|alert| is_about(alert, &known)), "{told:#?}");
}

/// Replaces a file in one step, as configuration management does.
#[track_caller]
fn write_whole(path: &std::path::Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).expect("the place is ours");
    fs::rename(&draft, path).expect("the place is ours");
}

/// A baseline of one service with one edge; a line with another may follow.
fn document(service: &str, to: &str, port: u16) -> String {
    format!(
        "format: edgewatch-baseline/1\nservices:\n  {service:?}:\n    outbound:\n      - {{to: {to:?}, ports: [{port}/tcp]}}\n"
    )
}

/// The phase of a service.
#[track_caller]
fn phase(agent: &Agent, service: &str) -> Result<String, String> {
    let rows = agent.json(&["baseline", "status"]);
    let row = rows.as_array().into_iter().flatten().find(|row| row["service"] == service);
    row.and_then(|row| row["phase"].as_str()).map(str::to_owned).ok_or_else(|| rows.to_string())
}

#[test]
fn a_difference_is_told_by_the_exit_code() {
    let mut shop = Shop::guarded();
    assert_eq!(shop.agent.run(&["baseline", "diff"]).code, Some(0));
    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    shop.alert_about(&edge);
    let diff = shop.agent.run(&["baseline", "diff"]);
    assert_eq!(diff.code, Some(2), "{diff:#?}");
    assert!(diff.stdout.contains(&edge), "{diff:#?}");
    shop.agent.text(&["baseline", "approve", &edge]);
    let diff = shop.agent.run(&["baseline", "diff"]);
    assert_eq!(diff.code, Some(0), "{diff:#?}");
}

#[test]
fn a_file_is_edited_without_an_agent() {
    let lab = lab();
    let (web, api) = (lab.planned("web").name, lab.planned("api").name);
    let path = lab.path("web.yaml");
    fs::write(&path, document(&web, &api, 8080)).expect("the place is ours");
    let file = path.display().to_string();
    let edge = format!("{web} -> ip:192.0.2.7 443/tcp");
    let socket = lab.path("nobody.sock").display().to_string();
    let edit = |words: &[&str]| {
        let words = [&["baseline"], words, &["--file", &file, "--socket", &socket]].concat();
        finish(&mut verb(&words)).done()
    };
    edit(&["approve", &edge, "--approver", "ann", "--reason", "a report"]);
    let text = fs::read_to_string(&path).expect("it was written");
    for part in ["ip:192.0.2.7", "443/tcp", "8080/tcp", "ann", "a report"] {
        assert!(text.contains(part), "{part:?}: {text}");
    }
    edit(&["forbid", &edge]);
    let text = fs::read_to_string(&path).expect("it was written");
    assert!(text.contains("forbidden:"), "{text}");

    let agent = lab.agent("agent", &Setup::mode("learn"));
    agent.text(&["baseline", "import", &file]);
    assert_eq!(phase(&agent, &web).as_deref(), Ok("proposed"));
}
