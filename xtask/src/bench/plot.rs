//! The drawing of what a connection costs against what grows: panels side by side on one scale. On a
//! ground of its own, so that it can be read on a light page and on a dark one.

use anyhow::{Context as _, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::bench::figure::Spread;

/// One drawing of several lines.
pub(crate) struct Panel {
    title: &'static str,
    /// What there is more of to the right.
    pub(crate) axis: &'static str,
    /// How many of it, for each point.
    pub(crate) at: Vec<usize>,
    pub(crate) series: Vec<Series>,
}

/// A line: a point for each place.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<Spread>,
}

impl Panel {
    pub(crate) fn new(title: &'static str, axis: &'static str, at: &[usize]) -> Self {
        Self { title, axis, at: at.to_vec(), series: Vec::new() }
    }
}

const SIZE: (u32, u32) = (1200, 400);
const GROUND: RGBColor = RGBColor(0xff, 0xff, 0xff);
const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const FAINT: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
/// Of the empty programs, the normal and the full detail; told apart without colours too.
const COLOURS: [(&str, RGBColor); 3] = [
    ("empty programs", RGBColor(0x6e, 0x77, 0x81)),
    ("normal", RGBColor(0x09, 0x69, 0xda)),
    ("full", RGBColor(0xbc, 0x4c, 0x00)),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws the panels as one SVG.
pub(crate) fn draw(panels: &[Panel]) -> anyhow::Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        drawn(&area, panels).map_err(|error| anyhow!("draw: {error}"))?;
        area.present().context("draw")?;
    }
    Ok(text)
}

type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn drawn(area: &Area<'_>, panels: &[Panel]) -> Drawn {
    area.fill(&GROUND)?;
    let title = ("sans-serif", 20).into_font().color(&INK);
    let area = area.titled("In the kernel's programs, µs a connection on a known edge", title)?;
    let points = panels.iter().flat_map(|it| &it.series).flat_map(|it| &it.points);
    // Room above for what the lines are called.
    let top = points.map(|it| it.high).fold(1.0, f64::max) * 1.3;
    for (place, panel) in area.split_evenly((1, panels.len())).iter().zip(panels) {
        self::panel(place, panel, top)?;
    }
    Ok(())
}

fn panel(area: &Area<'_>, panel: &Panel, top: f64) -> Drawn {
    let last = panel.at.len().saturating_sub(1) as f64;
    let small = ("sans-serif", 14).into_font().color(&INK);
    let mut chart: Chart<'_, '_> = ChartBuilder::on(area)
        .margin(14)
        .caption(panel.title, ("sans-serif", 16).into_font().color(&INK))
        .x_label_area_size(42)
        .y_label_area_size(46)
        .build_cartesian_2d(-0.25..last + 0.25, 0.0..top)?;
    let many = |at: &f64| {
        let index =
            panel.at.iter().enumerate().find(|(index, _)| (*index as f64 - at).abs() < 0.01);
        index.map_or_else(String::new, |(_, many)| grouped(*many))
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(small.clone())
        .x_labels(panel.at.len() * 2)
        .y_labels(6)
        .x_label_formatter(&many)
        .y_label_formatter(&|at| format!("{at:.1}"))
        .x_desc(panel.axis)
        .y_desc("µs")
        .draw()?;
    for series in &panel.series {
        line(&mut chart, series)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(GROUND)
        .border_style(FAINT)
        .label_font(small)
        .draw()?;
    Ok(())
}

fn line(chart: &mut Chart<'_, '_>, series: &Series) -> Drawn {
    let colour = COLOURS.iter().find(|(name, _)| *name == series.name).map_or(INK, |(_, it)| *it);
    let style = colour.stroke_width(2);
    let at = |index: usize, value: f64| (index as f64, value);
    let points = || series.points.iter().enumerate();
    chart
        .draw_series(LineSeries::new(points().map(|(index, it)| at(index, it.median)), style))?
        .label(series.name)
        .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
    let intervals = points()
        .map(|(index, it)| PathElement::new(vec![at(index, it.low), at(index, it.high)], style));
    chart.draw_series(intervals)?;
    let dots = points().map(|(index, it)| Circle::new(at(index, it.median), 4, colour.filled()));
    chart.draw_series(dots)?;
    Ok(())
}

/// Thousands apart.
fn grouped(number: usize) -> String {
    if number < 1000 {
        number.to_string()
    } else {
        format!("{} {:03}", number / 1000, number % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_measured_is_in_the_drawing() {
        let mut panel = Panel::new("Edges known", "edges", &[10, 100, 10_000]);
        let points = [1.0, 1.5, 2.0].map(|median| Spread { low: 0.9, median, high: 2.1 });
        panel.series.push(Series { name: "normal", points: points.to_vec() });
        let text = draw(&[panel]).unwrap();
        for said in ["Edges known", "edges", "µs", "normal", "10 000", "100"] {
            assert!(text.contains(said), "{said} is missing from {text}");
        }
        assert_eq!(text.matches("<circle").count(), 3, "{text}");
    }
}
