//! SVG: one file that needs nothing else: no script, no font, no stylesheet from outside. Text is
//! text; it has its own background, and colours for light and dark. What a line means is told by its
//! dashes and its label as well as by its colour.

use std::fmt::Write as _;

use monitor_core::engine::Standing;

use crate::picture::PictureError;
use crate::picture::layout::{
    self, Area, LABEL_HEIGHT, NAME_LINE, Placed, Point, Route, SMALL_CHARACTER, SMALL_LINE,
    TITLE_INSET, text_width,
};
use crate::picture::scene::{Kind, Node, Scene, word};

/// Beyond, laying out takes minutes, and nobody reads it.
const NODES: usize = 400;
const LINKS: usize = 1000;

const MARGIN: f64 = 20.0;
const NARROWEST: f64 = 320.0;
const LEGEND_LINE: f64 = 34.0;

const STYLE: &str = "\
:root{color-scheme:light dark}\
text{font:11px ui-sans-serif,system-ui,'Segoe UI','DejaVu Sans',Helvetica,Arial,sans-serif;fill:#59636e}\
.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}\
.name{font-size:13px;font-weight:600;fill:#1f2328}\
.title{paint-order:stroke;stroke:#f6f8fa;stroke-width:4px}\
.paper{fill:#fff;stroke:#d0d7de}\
.group{fill:#f6f8fa;stroke:#d0d7de}\
.node{fill:#fff;stroke:#6e7781}\
.outside{fill:#ddf4ff;stroke:#54aeff}\
.behind{fill:#eaeef2;stroke:#6e7781}\
.under{fill:#fff;fill-opacity:.88}\
.link{fill:none;stroke:#6e7781;stroke-width:1.4}\
.tip{fill:#6e7781}\
.not-judged{stroke-dasharray:1 4;stroke-linecap:round;stroke-width:1.8}\
.pending{stroke:#9a6700;stroke-width:2;stroke-dasharray:7 4}\
.pending-tip,.pending-text{fill:#9a6700}\
.forbidden{stroke:#cf222e;stroke-width:2.6;stroke-dasharray:12 3 2 3}\
.forbidden-tip,.forbidden-text{fill:#cf222e}\
.pending-text,.forbidden-text{font-weight:600}\
@media(prefers-color-scheme:dark){\
text{fill:#9198a1}.name{fill:#f0f6fc}\
.paper{fill:#0d1117;stroke:#3d444d}.title{stroke:#151b23}.group{fill:#151b23;stroke:#3d444d}\
.node{fill:#0d1117;stroke:#9198a1}.outside{fill:#121d2f;stroke:#388bfd}\
.behind{fill:#262c36;stroke:#9198a1}.under{fill:#0d1117}\
.link{stroke:#9198a1}.tip{fill:#9198a1}\
.pending{stroke:#d29922}.pending-tip,.pending-text{fill:#d29922}\
.forbidden{stroke:#f85149}.forbidden-tip,.forbidden-text{fill:#f85149}}";

const STANDINGS: [Standing; 4] =
    [Standing::Allowed, Standing::Unjudged, Standing::Pending, Standing::Forbidden];

/// The scene as SVG.
pub(crate) fn text(scene: &Scene) -> Result<String, PictureError> {
    if scene.nodes.len() > NODES || scene.links.len() > LINKS {
        return Err(PictureError::TooLarge);
    }
    let placed = layout::place(scene)?;
    let below = footer(scene);
    let widest = below.iter().map(|line| text_width(line, SMALL_CHARACTER)).fold(0.0, f64::max);
    let legend = legend(scene);
    let legend_width = legend.len() as f64 * 128.0;
    let inner = placed.width.max(widest).max(legend_width).max(NARROWEST);
    let lines = below.len() as f64 * (SMALL_LINE + 2.0);
    let legend_height = if legend.is_empty() { 0.0 } else { LEGEND_LINE };
    let width = inner + 2.0 * MARGIN;
    let foot = placed.height + 2.0 * MARGIN + 6.0;
    let height = foot + legend_height + lines + MARGIN / 2.0;

    let mut svg = String::new();
    head(&mut svg, scene, width, height);
    let middle = Point { x: width / 2.0, y: height / 2.0 };
    let paper = Area { middle, width: width - 1.0, height: height - 1.0 };
    rect(&mut svg, "paper", &paper, 8.0);
    let _infallible = writeln!(
        svg,
        "<g transform=\"translate({} {})\">",
        n((width - placed.width) / 2.0),
        n(MARGIN)
    );
    body(&mut svg, scene, &placed);
    svg.push_str("</g>\n");
    let mut x = MARGIN;
    for standing in &legend {
        key(&mut svg, *standing, Point { x, y: foot + 6.0 });
        x += 128.0;
    }
    let mut y = foot + legend_height + SMALL_LINE / 2.0;
    for line in &below {
        words(&mut svg, "", Point { x: MARGIN, y }, "start", line);
        y += SMALL_LINE + 2.0;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn head(svg: &mut String, scene: &Scene, width: f64, height: f64) {
    let (width, height) = (n(width), n(height));
    let title = escaped(&scene.title);
    let _infallible = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"Who talks to whom: {title}\">\n\
         <title>Who talks to whom: {title}</title>\n<style>{STYLE}</style>\n<defs>\n"
    );
    for standing in STANDINGS {
        let (class, tip) = (class(standing), tip_class(standing));
        let _infallible = writeln!(
            svg,
            "<marker id=\"tip-{class}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" \
             markerHeight=\"8\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">\
             <path class=\"{tip}\" d=\"M0 0L8 4L0 8z\"/></marker>"
        );
    }
    svg.push_str("</defs>\n");
}

fn body(svg: &mut String, scene: &Scene, placed: &Placed) {
    for area in &placed.groups {
        rect(svg, "group", area, 8.0);
    }
    for (link, route) in scene.links.iter().zip(&placed.routes) {
        let class = class(link.standing);
        let _infallible = writeln!(
            svg,
            "<path class=\"link {class}\" d=\"{}\" marker-end=\"url(#tip-{class})\"/>",
            path(route)
        );
    }
    for (group, area) in scene.groups.iter().zip(&placed.groups) {
        let at = Point { x: area.left() + TITLE_INSET, y: area.top() + 11.0 };
        words(svg, "mono title", at, "start", &group.title);
    }
    for (node, area) in scene.nodes.iter().zip(&placed.nodes) {
        draw_node(svg, node, area);
    }
    for (link, route) in scene.links.iter().zip(&placed.routes) {
        if link.label.is_empty() {
            continue;
        }
        rect(svg, "under", &Area { height: LABEL_HEIGHT - 2.0, ..route.label }, 3.0);
        words(svg, text_class(link.standing), route.label.middle, "middle", &link.label);
    }
}

fn draw_node(svg: &mut String, node: &Node, area: &Area) {
    let _infallible = writeln!(svg, "<g><title>{}</title>", escaped(&node.full));
    match node.kind {
        Kind::Service => rect(svg, "node", area, 6.0),
        Kind::Outside => rect(svg, "outside", area, area.height.min(44.0) / 2.0),
        Kind::Services => {
            for offset in [6.0, 3.0] {
                let middle = Point { x: area.middle.x + offset, y: area.middle.y + offset };
                rect(svg, "behind", &Area { middle, ..*area }, 6.0);
            }
            rect(svg, "node", area, 6.0);
        }
    }
    let lines = node.above.iter().count() + node.below.len();
    let text = NAME_LINE + lines as f64 * SMALL_LINE;
    let mut at = Point { x: area.middle.x, y: area.middle.y - text / 2.0 };
    if let Some(above) = &node.above {
        at.y += SMALL_LINE / 2.0;
        words(svg, "", at, "middle", above);
        at.y += SMALL_LINE / 2.0;
    }
    at.y += NAME_LINE / 2.0;
    words(svg, "mono name", at, "middle", &node.label);
    at.y += NAME_LINE / 2.0;
    for (standing, below) in &node.below {
        at.y += SMALL_LINE / 2.0;
        words(svg, text_class(*standing), at, "middle", below);
        at.y += SMALL_LINE / 2.0;
    }
    svg.push_str("</g>\n");
}

/// A curve that is level at each point: it rises and falls only between them.
fn path(route: &Route) -> String {
    let mut path = String::new();
    for (index, point) in route.points.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| route.points[before]);
        let _infallible = match before {
            None => write!(path, "M{} {}", n(point.x), n(point.y)),
            Some(before) if (before.y - point.y).abs() < 0.05 => write!(path, "H{}", n(point.x)),
            Some(before) => {
                let half = n(f64::midpoint(before.x, point.x));
                let (from, x, y) = (n(before.y), n(point.x), n(point.y));
                write!(path, "C{half} {from} {half} {y} {x} {y}")
            }
        };
    }
    path
}

/// The standings that need explaining: a picture of nothing but what is allowed needs none.
fn legend(scene: &Scene) -> Vec<Standing> {
    let there: Vec<Standing> = STANDINGS
        .into_iter()
        .filter(|standing| {
            let within = scene.nodes.iter().flat_map(|node| &node.below);
            scene.links.iter().any(|link| link.standing == *standing)
                || within.into_iter().any(|(it, _)| it == standing)
        })
        .collect();
    if there == [Standing::Allowed] { Vec::new() } else { there }
}

fn key(svg: &mut String, standing: Standing, at: Point) {
    let class = class(standing);
    let _infallible = writeln!(
        svg,
        "<path class=\"link {class}\" d=\"M{} {}h36\" marker-end=\"url(#tip-{class})\"/>",
        n(at.x),
        n(at.y)
    );
    words(svg, "", Point { x: at.x + 44.0, y: at.y }, "start", word(standing));
}

fn footer(scene: &Scene) -> Vec<String> {
    std::iter::once(scene.title.clone()).chain(scene.notes.iter().cloned()).collect()
}

fn rect(svg: &mut String, class: &str, area: &Area, radius: f64) {
    let (x, y, radius) = (n(area.left()), n(area.top()), n(radius));
    let (width, height) = (n(area.width), n(area.height));
    let _infallible = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{radius}\"/>"
    );
}

/// One line of text, its middle at the height of `at`. Where the middle of letters is depends on the
/// font; a third of their size below is right for all.
fn words(svg: &mut String, class: &str, at: Point, anchor: &str, text: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let (x, y) = (n(at.x), n(at.y + 4.0));
    let text = escaped(text);
    let _infallible =
        writeln!(svg, "<text{class} x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>");
}

const fn class(standing: Standing) -> &'static str {
    match standing {
        Standing::Allowed => "allowed",
        Standing::Unjudged => "not-judged",
        Standing::Pending => "pending",
        Standing::Forbidden => "forbidden",
    }
}

const fn tip_class(standing: Standing) -> &'static str {
    match standing {
        Standing::Allowed | Standing::Unjudged => "tip",
        Standing::Pending => "pending-tip",
        Standing::Forbidden => "forbidden-tip",
    }
}

const fn text_class(standing: Standing) -> &'static str {
    match standing {
        Standing::Allowed | Standing::Unjudged => "mono",
        Standing::Pending => "mono pending-text",
        Standing::Forbidden => "mono forbidden-text",
    }
}

/// A number as short as it can be: a tenth of a pixel is not seen.
fn n(number: f64) -> String {
    let mut text = format!("{number:.1}");
    if text.ends_with(".0") {
        text.truncate(text.len() - 2);
    }
    if text == "-0" { "0".to_owned() } else { text }
}

/// Text that is nothing but text, also within quotes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no way to write these.
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}
