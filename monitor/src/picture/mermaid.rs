//! Mermaid, which code hosts and wikis draw by themselves: groups are subgraphs. Names stand in
//! labels alone, with everything encoded that could mean something there; ids are numbers.

use std::fmt::Write as _;

use monitor_core::engine::Standing;

use crate::picture::scene::{Kind, Node, Scene};

/// Mermaid's own limits (`maxEdges`, `maxTextSize`), which whoever shows it seldom raises.
const LINKS: usize = 500;
const CHARACTERS: usize = 50_000;

/// The scene as Mermaid; None where it would refuse to draw that much.
pub(crate) fn text(scene: &Scene) -> Option<String> {
    let mut text = format!("---\ntitle: \"{}\"\n---\nflowchart LR\n", scene.title);
    for (index, node) in scene.nodes.iter().enumerate() {
        if node.group.is_none() {
            let _infallible = writeln!(text, "  {}", statement(index, node));
        }
    }
    for (group, frame) in scene.groups.iter().enumerate() {
        let _infallible = writeln!(text, "  subgraph g{group}[\"{}\"]", encoded(&frame.title));
        for (index, node) in scene.nodes.iter().enumerate() {
            if node.group == Some(group) {
                let _infallible = writeln!(text, "    {}", statement(index, node));
            }
        }
        text.push_str("  end\n");
    }
    for (index, note) in scene.notes.iter().enumerate() {
        let _infallible = writeln!(text, "  note{index}[\"{}\"]:::note", encoded(note));
    }
    for link in &scene.links {
        let arrow = match link.standing {
            Standing::Allowed => "-->",
            Standing::Unjudged | Standing::Pending => "-.->",
            Standing::Forbidden => "==x",
        };
        let (from, to, label) = (link.from, link.to, encoded(&link.label));
        let _infallible = if label.is_empty() {
            writeln!(text, "  n{from} {arrow} n{to}")
        } else {
            writeln!(text, "  n{from} {arrow}|\"{label}\"| n{to}")
        };
    }
    for (standing, look) in [
        (Standing::Pending, "stroke:#bf8700,stroke-width:2px"),
        (Standing::Forbidden, "stroke:#cf222e,stroke-width:3px"),
    ] {
        let links = scene.links.iter().enumerate();
        let those: Vec<String> = links
            .filter(|(_, link)| link.standing == standing)
            .map(|(index, _)| index.to_string())
            .collect();
        if !those.is_empty() {
            let _infallible = writeln!(text, "  linkStyle {} {look}", those.join(","));
        }
    }
    if !scene.notes.is_empty() {
        text.push_str("  classDef note fill:none,stroke:none\n");
    }
    (scene.links.len() <= LINKS && text.chars().count() <= CHARACTERS).then_some(text)
}

fn statement(index: usize, node: &Node) -> String {
    let above = node.above.iter().map(|line| encoded(line));
    let below = node.below.iter().map(|(_, line)| encoded(line));
    let lines: Vec<String> = above.chain([encoded(&node.label)]).chain(below).collect();
    let label = lines.join("<br/>");
    match node.kind {
        Kind::Service => format!("n{index}[\"{label}\"]"),
        Kind::Services => format!("n{index}[[\"{label}\"]]"),
        Kind::Outside => format!("n{index}([\"{label}\"])"),
    }
}

/// Text in which nothing ends the quotes, is markup, or is Markdown.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for character in text.chars() {
        let plain = character.is_ascii_alphanumeric() || " .,:/+-·↻…".contains(character);
        if plain {
            encoded.push(character);
        } else {
            let _infallible = write!(encoded, "#{};", u32::from(character));
        }
    }
    encoded
}
