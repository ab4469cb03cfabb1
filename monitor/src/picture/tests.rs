//! What the pictures say, and that they are what they claim to be.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::layout::Area;
use super::*;

fn view(client: &str, server: &str, port: u16, standing: &str) -> Value {
    json!({
        "edge": {"client": client, "server": server, "protocol": "tcp", "port": port},
        "seen_from": "both", "outcome": "established", "at": "2026-11-21T10:02:11Z",
        "standing": standing,
    })
}

fn views(views: Vec<Value>) -> Vec<EdgeView> {
    serde_json::from_value(views.into()).unwrap()
}

/// `CLIENT SERVER PORT STANDING`, one a line.
fn map(lines: &str) -> Vec<EdgeView> {
    let line = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [client, server, port, standing] => view(client, server, port.parse().unwrap(), standing),
        _ => panic!("{line:?} is no edge"),
    };
    views(lines.trim().lines().map(line).collect())
}

fn shop() -> Vec<EdgeView> {
    map("world compose:shop/web 443 allowed
         compose:shop/web compose:shop/api 8080 allowed
         compose:shop/api systemd:redis.service 6379 unjudged
         compose:shop/api systemd:redis.service 6380 pending
         compose:shop/web ip:169.254.169.254 80 forbidden")
}

fn patterns(patterns: &[&str]) -> Vec<Pattern> {
    patterns.iter().map(|pattern| pattern.parse().unwrap()).collect()
}

#[track_caller]
fn drawn(views: &[EdgeView], language: Language, expand: &[&str]) -> String {
    draw(views, language, &patterns(expand)).unwrap()
}

/// All texts of an SVG in the order they stand in; panics where it is not well-formed.
#[track_caller]
fn texts(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    texts.filter_map(|node| node.text()).map(ToOwned::to_owned).collect()
}

#[test]
fn a_small_map_as_dot() {
    let dot = drawn(&shop(), Language::Dot, &[]);
    let (head, body) = dot.split_once("  label=").unwrap();
    assert!(head.starts_with("digraph edgewatch {\n  graph [rankdir=LR"), "{head}");
    assert_eq!(
        body,
        r#""3 services · 5 edges";
  n0 [label="world", tooltip="world", shape=oval, fillcolor=aliceblue];
  n3 [label="systemd\nredis.service\n6379/tcp", tooltip="systemd:redis.service"];
  n4 [label="ip\n169.254.169.254", tooltip="ip:169.254.169.254", shape=oval, fillcolor=aliceblue];
  subgraph cluster_0 {
    label="compose:shop"; labelloc=t; labeljust=l; style="rounded,filled"; color=gray70; fillcolor=gray97;
    n1 [label="api\n8080/tcp", tooltip="compose:shop/api"];
    n2 [label="web\n443/tcp", tooltip="compose:shop/web"];
  }
  n0 -> n2 [label=""];
  n1 -> n3 [label="pending 6380/tcp", style=dashed, color=darkorange3, fontcolor=darkorange4, penwidth=2];
  n1 -> n3 [label="", style=dotted];
  n2 -> n1 [label=""];
  n2 -> n4 [label="forbidden 80/tcp", style=bold, color=red3, fontcolor=red4, penwidth=3, arrowhead=tee];
}
"#
    );
}

#[test]
fn a_small_map_as_mermaid() {
    assert_eq!(
        drawn(&shop(), Language::Mermaid, &[]),
        r#"---
title: "3 services · 5 edges"
---
flowchart LR
  n0(["world"])
  n3["systemd<br/>redis.service<br/>6379/tcp"]
  n4(["ip<br/>169.254.169.254"])
  subgraph g0["compose:shop"]
    n1["api<br/>8080/tcp"]
    n2["web<br/>443/tcp"]
  end
  n0 --> n2
  n1 -.->|"pending 6380/tcp"| n3
  n1 -.-> n3
  n2 --> n1
  n2 ==x|"forbidden 80/tcp"| n4
  linkStyle 1 stroke:#bf8700,stroke-width:2px
  linkStyle 4 stroke:#cf222e,stroke-width:3px
"#
    );
}

#[test]
fn a_small_map_as_svg() {
    let svg = drawn(&shop(), Language::Svg, &[]);
    let mut expected = vec!["compose:shop", "world", "api", "8080/tcp", "web", "443/tcp"];
    expected.extend(["systemd", "redis.service", "6379/tcp", "ip", "169.254.169.254"]);
    expected.extend(["pending 6380/tcp", "forbidden 80/tcp"]);
    expected.extend(["allowed", "not judged", "pending", "forbidden", "3 services · 5 edges"]);
    assert_eq!(texts(&svg), expected);
    for class in ["link allowed", "link not-judged", "link pending", "link forbidden"] {
        assert!(svg.contains(&format!("class=\"{class}\"")), "{class}");
    }
    for foreign in ["<script", "href", "url(http", "@import", "<image", "<foreignObject"] {
        assert!(!svg.contains(foreign), "{foreign}");
    }
    // Nothing but what is allowed needs no legend.
    let svg = drawn(&map("world systemd:a.service 80 allowed"), Language::Svg, &[]);
    assert_eq!(texts(&svg), ["world", "systemd", "a.service", "80/tcp", "1 service · 1 edge"]);
}

#[test]
fn an_empty_map_is_a_picture_too() {
    for language in [Language::Dot, Language::Mermaid] {
        assert!(drawn(&[], language, &[]).contains("0 services · 0 edges"));
    }
    assert_eq!(texts(&drawn(&[], Language::Svg, &[])), ["0 services · 0 edges"]);
}

#[test]
fn ports_stand_at_the_server_unless_its_clients_differ() {
    let labels = |lines: &str| {
        let scene = Scene::new(&map(lines), &[]);
        let links = scene.links.iter().map(|link| link.label.clone());
        links.filter(|label| !label.is_empty()).collect::<Vec<_>>()
    };
    let same = "docker:a docker:c 80 allowed\ndocker:b docker:c 80 allowed";
    assert_eq!(labels(same), [""; 0]);
    let others = "docker:a docker:c 80 allowed\ndocker:b docker:c 81 allowed";
    assert_eq!(labels(others), ["80/tcp", "81/tcp"]);
    let many =
        "docker:a docker:c 80 allowed\ndocker:a docker:c 81 allowed\ndocker:a docker:c 82 allowed";
    assert_eq!(labels(many), ["3 edges"]);
    let mut views = map("docker:a docker:c 80 pending");
    views[0].outcome = monitor_core::flow::Outcome::Refused;
    assert_eq!(Scene::new(&views, &[]).links[0].label, "pending 80/tcp refused");
    let own = Scene::new(&map("docker:a docker:a 80 allowed\ndocker:a docker:b 1 allowed"), &[]);
    assert_eq!(own.nodes[0].below[0].1, "↻ 80/tcp");
}

#[test]
fn the_picture_in_the_readme_is_what_is_drawn() {
    let demo = map("world systemd:shop-web.service 80 allowed
         systemd:shop-web.service systemd:shop-api.service 8080 allowed
         systemd:shop-api.service systemd:shop-db.service 6379 allowed
         systemd:shop-web.service systemd:shop-db.service 6379 pending
         systemd:shop-web.service ip:169.254.169.254 80 pending
         systemd:shop-web.service ip:203.0.113.66 4444 pending");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/map.svg");
    let svg = drawn(&demo, Language::Svg, &[]);
    if std::env::var_os("EDGEWATCH_RENEW").is_some() {
        std::fs::write(file, &svg).unwrap();
    }
    let same = std::fs::read_to_string(file).unwrap() == svg;
    assert!(same, "{file} is of another version: EDGEWATCH_RENEW=1 cargo test -p monitor readme");
}

/// A cluster of `namespaces`, each of `size` services that call each other and some name outside.
fn cluster(namespaces: usize, size: usize) -> Vec<EdgeView> {
    let mut edges = vec![view("world", "k8s:n0/Deployment/s0", 443, "allowed")];
    for namespace in 0..namespaces {
        let name = |index: usize| format!("k8s:n{namespace}/Deployment/s{index}");
        for index in 1..size {
            edges.push(view(&name(index - 1), &name(index), 8080, "allowed"));
            let outside = format!("dns:d{index}.example.com");
            edges.push(view(&name(index), &outside, 443, "allowed"));
        }
        let next = format!("k8s:n{}/Deployment/s0", (namespace + 1) % namespaces);
        edges.push(view(&name(size - 1), &next, 9090, "allowed"));
    }
    edges.push(view("k8s:n1/Deployment/s1", "ip:203.0.113.9", 4444, "pending"));
    edges.push(view("k8s:n1/Deployment/s1", "k8s:n1/Deployment/s9", 22, "forbidden"));
    views(edges)
}

#[test]
fn two_hundred_services_are_drawn_as_their_groups() {
    let views = cluster(20, 10);
    let texts = texts(&drawn(&views, Language::Svg, &[]));
    let has = |text: &str| texts.iter().any(|it| it == text);
    assert!(texts.len() < 160, "{}", texts.len());
    assert!(has("200 services · 383 edges"), "{texts:?}");
    assert!(has("k8s:n1") && has("10 services"), "{texts:?}");
    assert!(has("9 edges within") && has("calls 9 names"), "{texts:?}");
    // What waits for a decision is still there, with its address.
    assert!(has("pending 4444/tcp") && has("203.0.113.9"), "{texts:?}");
    assert!(has("1 forbidden edge within"), "{texts:?}");
    let note = "Merged to stay readable: --expand 'k8s:n0/**' shows its services";
    assert!(has(note), "{texts:?}");

    // One group is shown as it is, and those around it stay merged.
    let scene = Scene::new(&views, &patterns(&["k8s:n3/**"]));
    let shown = |full: &str| scene.nodes.iter().any(|node| node.full == full);
    assert!(shown("k8s:n3/Deployment/s4") && !shown("k8s:n4/Deployment/s4"));
    assert!(scene.nodes.len() <= 40, "{}", scene.nodes.len());
}

#[test]
fn more_groups_than_fit_are_joined() {
    let scene = Scene::new(&cluster(120, 2), &[]);
    assert!(scene.nodes.len() <= 40 && scene.links.len() <= 50, "{}", scene.links.len());
    let more = scene.nodes.iter().find(|node| node.label.contains("more namespaces")).unwrap();
    assert_eq!(more.above.as_deref(), Some("k8s"));
    assert!(more.full.contains(", ") && more.full.ends_with(" more"), "{}", more.full);
}

#[test]
fn a_single_large_group_keeps_its_busiest_services() {
    let mut edges: Vec<Value> = (0..90)
        .map(|index| {
            view(&format!("systemd:s{index:02}.service"), "systemd:db.service", 5432, "allowed")
        })
        .collect();
    edges.push(view("systemd:s89.service", "ip:192.0.2.1", 25, "pending"));
    let scene = Scene::new(&views(edges), &[]);
    assert!(scene.nodes.len() <= 40, "{}", scene.nodes.len());
    let kept = |full: &str| scene.nodes.iter().any(|node| node.full == full);
    assert!(kept("systemd:db.service") && kept("systemd:s89.service"));
    let rest = scene.nodes.iter().find(|node| node.label.ends_with("more services")).unwrap();
    assert_eq!(rest.group, Some(0));
}

#[test]
fn what_a_language_cannot_bear_is_not_expanded() {
    let views = cluster(60, 20);
    for language in [Language::Mermaid, Language::Svg] {
        let text = drawn(&views, language, &["**"]);
        assert!(text.contains("too much to draw"), "{language:?}");
        assert!(text.len() < 50_000, "{language:?}: {}", text.len());
    }
    // Graphviz has no such limit.
    assert!(drawn(&views, Language::Dot, &["**"]).contains("k8s:n59/Deployment/s19"));
}

#[test]
fn names_are_nothing_but_text() {
    let hostile = "<b>\"'&\\ ]] end --> %%{init} #59; `x` _y_ *z* \u{1}\u{202e}\u{fffe}|}";
    let node = scene::Node {
        kind: scene::Kind::Service,
        group: Some(0),
        full: hostile.to_owned(),
        above: Some(hostile.to_owned()),
        label: hostile.to_owned(),
        below: vec![(monitor_core::engine::Standing::Pending, hostile.to_owned())],
    };
    let link = scene::Link {
        from: 0,
        to: 1,
        standing: monitor_core::engine::Standing::Pending,
        label: hostile.to_owned(),
    };
    let other = scene::Node { below: Vec::new(), kind: scene::Kind::Outside, ..clone(&node) };
    let scene = Scene {
        title: "t".to_owned(),
        groups: vec![scene::Group { title: hostile.to_owned() }],
        nodes: vec![node, other],
        links: vec![link],
        notes: vec![hostile.to_owned()],
    };
    let read_back = hostile.replace(['\u{1}', '\u{fffe}'], "\u{fffd}");
    let texts = texts(&svg::text(&scene).unwrap());
    assert_eq!(texts.iter().filter(|text| **text == read_back).count(), 8, "{texts:?}");
    let mermaid = mermaid::text(&scene).unwrap();
    for line in mermaid.lines().filter(|line| line.contains("#60;")) {
        // Two quotes, around all of it.
        assert_eq!(line.matches('"').count(), 2, "{line}");
        assert!(!line.contains(['`', '_', '*', '\\', '\u{202e}']), "{line}");
    }
    is_dot(&dot::text(&scene));
}

fn clone(node: &scene::Node) -> scene::Node {
    let scene::Node { kind, group, full, above, label, below } = node;
    scene::Node {
        kind: *kind,
        group: *group,
        full: full.clone(),
        above: above.clone(),
        label: label.clone(),
        below: below.clone(),
    }
}

/// Asks Graphviz, where it is installed.
#[track_caller]
fn is_dot(dot: &str) {
    let child =
        Command::new("dot").arg("-Tcanon").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: Graphviz is not installed");
        return;
    };
    child.stdin.take().unwrap().write_all(dot.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{dot}");
}

/// Any map at all: any services of any scheme that call each other and the outside.
fn any_map(seed: u64) -> Vec<EdgeView> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = move |end: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) % end
    };
    let services = 2 + below(if seed.is_multiple_of(4) { 240 } else { 40 });
    let groups = 1 + below(12);
    let mut edges = Vec::new();
    for _ in 0..services * 2 {
        let mut service = || {
            let (index, group) = (below(services), below(groups));
            match group {
                0 => format!("systemd:unit-{index}.service"),
                1 => format!("docker:id/{index:012x}"),
                2 => format!("cgroup:/a%20{index}/b"),
                3 => format!("user:1000/app-with-a-name-that-nobody-would-call-short-{index}"),
                _ => format!("k8s:n{group}/Deployment/{index}"),
            }
        };
        let (one, other) = (service(), service());
        let standing = ["allowed", "allowed", "unjudged", "pending", "forbidden"];
        let standing = standing[usize::try_from(below(5)).unwrap()];
        let port = u16::try_from(below(4) + 80).unwrap();
        edges.push(match below(6) {
            0 => view("world", &one, port, "allowed"),
            1 => view(&format!("ip:192.0.2.{}", below(200)), &one, port, standing),
            2 => view(&one, &format!("dns:d{}.example.com", below(50)), port, standing),
            _ => view(&one, &other, port, standing),
        });
    }
    views(edges)
}

#[test]
fn every_map_is_a_picture() {
    for seed in 0..24 {
        let views = any_map(seed);
        let svg = drawn(&views, Language::Svg, &[]);
        let texts = texts(&svg);
        let urgent = |word: &str| texts.iter().any(|text| text.contains(&format!("{word} ")));
        for (standing, word) in [
            (monitor_core::engine::Standing::Pending, "pending"),
            (monitor_core::engine::Standing::Forbidden, "forbidden"),
        ] {
            let expected = views.iter().any(|view| view.standing == standing);
            assert_eq!(urgent(word), expected, "{seed}: {texts:?}");
        }
        let mermaid = drawn(&views, Language::Mermaid, &[]);
        assert!(mermaid.len() < 50_000, "{seed}");
        if seed.is_multiple_of(10) {
            is_dot(&drawn(&views, Language::Dot, &[]));
        }
        // The picture is of the map, not of the order in which somebody told it.
        let reversed: Vec<EdgeView> = views.iter().rev().cloned().collect();
        assert_eq!(svg, drawn(&reversed, Language::Svg, &[]), "{seed}");
    }
}

#[test]
fn nothing_lies_on_top_of_anything() {
    let apart = |one: &Area, other: &Area| {
        (one.middle.x - other.middle.x).abs() * 2.0 >= one.width + other.width - 0.1
            || (one.middle.y - other.middle.y).abs() * 2.0 >= one.height + other.height - 0.1
    };
    for seed in 0..30 {
        let scene = Scene::new(&any_map(seed), &[]);
        let placed = layout::place(&scene).unwrap();
        let labels = scene.links.iter().zip(&placed.routes);
        let labels =
            labels.filter(|(link, _)| !link.label.is_empty()).map(|(_, route)| &route.label);
        let areas: Vec<&Area> = placed.nodes.iter().chain(labels).collect();
        for (index, one) in areas.iter().enumerate() {
            for other in &areas[index + 1..] {
                assert!(apart(one, other), "{seed}: {one:?} {other:?}");
            }
        }
        for (node, area) in scene.nodes.iter().zip(&placed.nodes) {
            for (index, frame) in placed.groups.iter().enumerate() {
                let inside = area.left() >= frame.left() && area.right() <= frame.right();
                assert!(
                    if node.group == Some(index) { inside } else { apart(area, frame) },
                    "{seed}"
                );
            }
        }
    }
}
