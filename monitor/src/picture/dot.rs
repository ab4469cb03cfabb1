//! DOT, for Graphviz: groups are clusters. Names stand in labels alone and always in quotes; ids are
//! numbers.

use std::fmt::Write as _;

use monitor_core::engine::Standing;

use crate::picture::scene::{Kind, Node, Scene};

/// The scene as DOT.
pub(crate) fn text(scene: &Scene) -> String {
    let mut dot = String::from(
        "digraph edgewatch {\n  graph [rankdir=LR, fontname=\"Helvetica\", fontsize=11, labelloc=b, nodesep=0.2, ranksep=0.7];\n  \
         node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"Courier\", fontsize=12];\n  \
         edge [fontname=\"Courier\", fontsize=10, color=gray35];\n",
    );
    let caption: Vec<&str> =
        std::iter::once(&scene.title).chain(&scene.notes).map(String::as_str).collect();
    let _infallible = writeln!(dot, "  label={};", quoted(&caption));
    for (index, node) in scene.nodes.iter().enumerate() {
        if node.group.is_none() {
            let _infallible = writeln!(dot, "  {}", statement(index, node));
        }
    }
    for (group, frame) in scene.groups.iter().enumerate() {
        let title = quoted(&[&frame.title]);
        let _infallible = writeln!(
            dot,
            "  subgraph cluster_{group} {{\n    label={title}; labelloc=t; labeljust=l; style=\"rounded,filled\"; color=gray70; fillcolor=gray97;"
        );
        for (index, node) in scene.nodes.iter().enumerate() {
            if node.group == Some(group) {
                let _infallible = writeln!(dot, "    {}", statement(index, node));
            }
        }
        dot.push_str("  }\n");
    }
    for link in &scene.links {
        let look = match link.standing {
            Standing::Allowed => "",
            Standing::Unjudged => ", style=dotted",
            Standing::Pending => {
                ", style=dashed, color=darkorange3, fontcolor=darkorange4, penwidth=2"
            }
            Standing::Forbidden => {
                ", style=bold, color=red3, fontcolor=red4, penwidth=3, arrowhead=tee"
            }
        };
        let (from, to, label) = (link.from, link.to, quoted(&[&link.label]));
        let _infallible = writeln!(dot, "  n{from} -> n{to} [label={label}{look}];");
    }
    dot.push_str("}\n");
    dot
}

fn statement(index: usize, node: &Node) -> String {
    let above = node.above.iter().map(String::as_str);
    let below = node.below.iter().map(|(_, text)| text.as_str());
    let lines: Vec<&str> = above.chain([node.label.as_str()]).chain(below).collect();
    let look = match node.kind {
        Kind::Service => "",
        Kind::Services => ", peripheries=2",
        Kind::Outside => ", shape=oval, fillcolor=aliceblue",
    };
    format!("n{index} [label={}, tooltip={}{look}];", quoted(&lines), quoted(&[&node.full]))
}

/// Lines of text as one quoted string. A backslash begins an escape, so it is doubled.
fn quoted(lines: &[&str]) -> String {
    let mut quoted = String::from("\"");
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            quoted.push_str("\\n");
        }
        for character in line.chars() {
            match character {
                '"' | '\\' => quoted.extend(['\\', character]),
                // `&lt;` would be read as an HTML entity.
                '&' => quoted.push_str("&amp;"),
                control if control.is_control() => quoted.push('\u{fffd}'),
                other => quoted.push(other),
            }
        }
    }
    quoted.push('"');
    quoted
}
