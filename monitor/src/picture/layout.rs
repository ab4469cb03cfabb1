//! Where everything of a scene goes. A layered layout, left to right, is made by the layout crate;
//! here stand the sizes of texts, and the way of a line between two nodes. Draws nothing.

use std::collections::BTreeMap;

use dugong::graphlib::{Graph, GraphOptions};
use dugong::{EdgeLabel, GraphLabel, NodeLabel, RankDir};

pub use dugong::LayoutError;

use crate::picture::scene::{Node, Scene};

/// A character of the names' font, which is monospaced so that its width is known, at 13 px.
const NAME_CHARACTER: f64 = 7.9;
/// A character of small names, at 11 px.
pub(crate) const SMALL_CHARACTER: f64 = 6.7;
pub(crate) const NAME_LINE: f64 = 18.0;
pub(crate) const SMALL_LINE: f64 = 14.0;
pub(crate) const LABEL_HEIGHT: f64 = 16.0;
const PADDING: (f64, f64) = (12.0, 8.0);
const NARROWEST: f64 = 56.0;
/// Between a frame's corner and its title.
pub(crate) const TITLE_INSET: f64 = 10.0;

/// A place on the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

/// A box by its middle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Area {
    pub(crate) middle: Point,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Area {
    pub(crate) fn left(&self) -> f64 {
        self.middle.x - self.width / 2.0
    }

    pub(crate) fn right(&self) -> f64 {
        self.middle.x + self.width / 2.0
    }

    pub(crate) fn top(&self) -> f64 {
        self.middle.y - self.height / 2.0
    }
}

/// A line from node to node: through these points, level at each of them.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) points: Vec<Point>,
    pub(crate) label: Area,
}

/// The scene's parts, in the scene's order.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) groups: Vec<Area>,
    pub(crate) nodes: Vec<Area>,
    pub(crate) routes: Vec<Route>,
}

type Layout = Graph<NodeLabel, EdgeLabel, GraphLabel>;

/// Places the scene.
///
/// # Errors
/// None of the ways to rank the nodes gave a drawing.
pub(crate) fn place(scene: &Scene) -> Result<Placed, LayoutError> {
    // One in some hundred graphs of this size is too knotted for one way of ranking, and none was
    // seen that was so for all.
    let ways = [
        (None, None),
        (None, Some("greedy")),
        (Some("tight-tree"), None),
        (Some("longest-path"), None),
    ];
    let mut failed = None;
    for (ranker, acyclicer) in ways {
        let mut layout = graph(scene);
        layout.graph_mut().ranker = ranker.map(ToOwned::to_owned);
        layout.graph_mut().acyclicer = acyclicer.map(ToOwned::to_owned);
        match dugong::layout(&mut layout) {
            Ok(()) => return Ok(read(scene, &layout)),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or_else(|| Ok(read(scene, &graph(scene))), Err)
}

fn node_id(index: usize) -> String {
    format!("n{index}")
}

fn group_id(index: usize) -> String {
    format!("g{index}")
}

fn link_id(index: usize) -> String {
    format!("e{index}")
}

fn graph(scene: &Scene) -> Layout {
    let mut graph = Graph::new(GraphOptions { directed: true, multigraph: true, compound: true });
    graph.set_graph(GraphLabel {
        rankdir: RankDir::LR,
        nodesep: 20.0,
        edgesep: 20.0,
        // Where many lines rise and fall in one gap, it is wider.
        ranksep: 44.0 + 0.5 * f64::from(u32::try_from(scene.links.len().min(80)).unwrap_or(80)),
        ..GraphLabel::default()
    });
    for index in 0..scene.groups.len() {
        graph.set_node(group_id(index), NodeLabel::default());
    }
    for (index, node) in scene.nodes.iter().enumerate() {
        let (width, height) = size(node);
        // A frame must hold its title.
        let width = node.group.map_or(width, |group| {
            let title = text_width(&scene.groups[group].title, SMALL_CHARACTER);
            width.max(title + TITLE_INSET)
        });
        graph.set_node(node_id(index), NodeLabel { width, height, ..NodeLabel::default() });
        if let Some(group) = node.group {
            graph.set_parent(node_id(index), group_id(group));
        }
    }
    for (index, link) in scene.links.iter().enumerate() {
        let mut label = EdgeLabel { weight: 1.0, ..EdgeLabel::default() };
        if !link.label.is_empty() {
            label.width = text_width(&link.label, SMALL_CHARACTER) + 8.0;
            label.height = LABEL_HEIGHT;
        }
        graph.set_edge_named(
            node_id(link.from),
            node_id(link.to),
            Some(link_id(index)),
            Some(label),
        );
    }
    graph
}

pub(crate) fn text_width(text: &str, character: f64) -> f64 {
    let characters = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    f64::from(characters) * character
}

fn size(node: &Node) -> (f64, f64) {
    let small = node.above.iter().chain(node.below.iter().map(|(_, text)| text));
    let (mut width, mut height) = (text_width(&node.label, NAME_CHARACTER), NAME_LINE);
    for line in small {
        width = width.max(text_width(line, SMALL_CHARACTER));
        height += SMALL_LINE;
    }
    ((width + 2.0 * PADDING.0).max(NARROWEST), height + 2.0 * PADDING.1)
}

fn read(scene: &Scene, layout: &Layout) -> Placed {
    let area = |id: String| {
        let label = layout.node(&id).cloned().unwrap_or_default();
        let middle = Point { x: label.x.unwrap_or(0.0), y: label.y.unwrap_or(0.0) };
        Area { middle, width: label.width, height: label.height }
    };
    let nodes: Vec<Area> = (0..scene.nodes.len()).map(|index| area(node_id(index))).collect();
    let groups = (0..scene.groups.len()).map(|index| area(group_id(index))).collect();
    let mut routes: Vec<Route> = Vec::new();
    for (index, link) in scene.links.iter().enumerate() {
        let (from, to) = (node_id(link.from), node_id(link.to));
        let found = layout.edge(&from, &to, Some(&link_id(index))).cloned().unwrap_or_default();
        let middle = Point { x: found.x.unwrap_or(0.0), y: found.y.unwrap_or(0.0) };
        // The first and the last lie on the nodes' borders, wherever the straight line met them.
        let inner = found.points.get(1..found.points.len().saturating_sub(1)).unwrap_or_default();
        let points = inner.iter().map(|point| Point { x: point.x, y: point.y }).collect();
        let label = Area { middle, width: found.width, height: found.height };
        routes.push(Route { points, label });
    }
    dock(scene, &nodes, &mut routes);
    level(scene, &nodes, &mut routes);
    let GraphLabel { width, height, .. } = layout.graph().clone();
    Placed { width, height, groups, nodes, routes }
}

/// Lets the lines of a node start and end side by side on its left and its right.
fn dock(scene: &Scene, nodes: &[Area], routes: &mut [Route]) {
    /// A line's end: its link, and whether it is the first or the last point.
    type End = (usize, bool);
    let mut sides: BTreeMap<(usize, bool), Vec<(f64, End)>> = BTreeMap::new();
    for (index, link) in scene.links.iter().enumerate() {
        let points = &routes[index].points;
        let ends = [(link.from, points.first(), true), (link.to, points.last(), false)];
        for (node, next, first) in ends {
            let next = next.copied().unwrap_or(nodes[node].middle);
            let right = next.x > nodes[node].middle.x;
            sides.entry((node, right)).or_default().push((next.y, (index, first)));
        }
    }
    for ((node, right), mut ends) in sides {
        ends.sort_by(|(one, a), (other, b)| one.total_cmp(other).then(a.cmp(b)));
        let area = &nodes[node];
        let count = f64::from(u32::try_from(ends.len()).unwrap_or(u32::MAX));
        let step = ((area.height - 12.0) / count).min(12.0);
        let x = if right { area.right() } else { area.left() };
        let mut y = area.middle.y - step * (count - 1.0) / 2.0;
        for (_, (index, first)) in ends {
            let at = if first { 0 } else { routes[index].points.len() };
            routes[index].points.insert(at, Point { x, y });
            y += step;
        }
    }
}

/// Keeps lines level as long as they pass between nodes or labels, so that they rise and fall only
/// in the gaps.
fn level(scene: &Scene, nodes: &[Area], routes: &mut [Route]) {
    let labels: Vec<Area> = routes.iter().map(|route| route.label).collect();
    let half_at = |x: f64| {
        let near = nodes.iter().chain(&labels).filter(|area| (area.middle.x - x).abs() < 1.0);
        near.map(|area| area.width / 2.0).fold(0.0, f64::max)
    };
    for (link, route) in scene.links.iter().zip(routes) {
        let last = route.points.len().saturating_sub(1);
        let mut points: Vec<Point> = Vec::with_capacity(route.points.len() * 2);
        for (index, &point) in route.points.iter().enumerate() {
            let beside =
                |middle: f64, side: f64| Point { x: middle + side * half_at(middle), y: point.y };
            let side_of = |middle: f64| (point.x - middle).signum();
            if index == 0 {
                let middle = nodes[link.from].middle.x;
                points.extend([point, beside(middle, side_of(middle))]);
            } else if index == last {
                let middle = nodes[link.to].middle.x;
                points.extend([beside(middle, side_of(middle)), point]);
            } else {
                let ahead = (route.points[index + 1].x - point.x).signum();
                points.extend([beside(point.x, -ahead), beside(point.x, ahead)]);
            }
        }
        route.points = points;
    }
}
