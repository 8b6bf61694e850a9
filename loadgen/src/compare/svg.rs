//! A chart as SVG: panels side by side with the same series and the same axes, both logarithmic.
//!
//! A few dozen lines instead of a plotting crate: there is one kind of chart, and it needs no fonts and no renderer here.
//! Colours are those of Okabe and Ito (2008), which people with any colour vision tell apart; the background is drawn, so
//! that the chart looks alike on dark pages.

use std::fmt::Write;

/// A chart.
pub(super) struct Chart {
    /// Over all panels.
    pub(super) title: String,
    /// Below all panels, in small letters.
    pub(super) notes: Vec<String>,
    /// What the horizontal axes show.
    pub(super) x_label: &'static str,
    /// The names of the series, in the order of their colours.
    pub(super) series: Vec<&'static str>,
    /// From left to right.
    pub(super) panels: Vec<Panel>,
}

/// One pair of axes.
pub(super) struct Panel {
    /// Over the panel: what its vertical axis shows.
    pub(super) title: &'static str,
    /// Points of each series, rising in x.
    pub(super) lines: Vec<Vec<(f64, f64)>>,
}

const COLOURS: [&str; 6] = ["#d55e00", "#999999", "#0072b2", "#009e73", "#cc79a7", "#56b4e9"];
const PANEL_WIDTH: f64 = 430.0;
const PANEL_HEIGHT: f64 = 330.0;
/// Beside and above each panel, for what is written there.
const LEFT: f64 = 70.0;
const TOP: f64 = 78.0;
const BELOW: f64 = 46.0;
const NOTE_HEIGHT: f64 = 15.0;
/// Labels of an axis stand at these multiples of each power of ten.
const STEPS: [f64; 3] = [1.0, 2.0, 5.0];

/// A logarithmic axis from the least value to the most.
#[derive(Clone, Copy)]
struct Axis {
    least: f64,
    most: f64,
    start: f64,
    length: f64,
}

impl Axis {
    /// The axis that holds all of `values`, with a little room at both ends.
    fn around(values: impl Iterator<Item = f64>, start: f64, length: f64) -> Self {
        let (least, most) =
            values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
        let (least, most) = if least < most { (least, most) } else { (1.0, 10.0) };
        Self { least: least / 1.25, most: most * 1.25, start, length }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value / self.least).ln() / (self.most / self.least).ln();
        self.start + share * self.length
    }

    /// Values that get a label; those with true stand at a power of ten.
    fn ticks(&self) -> Vec<(f64, bool)> {
        let decades = self.least.log10().floor() as i32..=self.most.log10().ceil() as i32;
        decades
            .flat_map(|decade| STEPS.map(|step| (step * 10f64.powi(decade), step == 1.0)))
            .filter(|(value, _)| (self.least..=self.most).contains(value))
            .collect()
    }
}

impl Chart {
    /// The chart as an SVG document.
    pub(super) fn to_svg(&self) -> String {
        let width = (LEFT + PANEL_WIDTH) * self.panels.len() as f64 + 20.0;
        let height = TOP + PANEL_HEIGHT + BELOW + NOTE_HEIGHT * (self.notes.len() as f64 + 1.0);
        let mut svg = String::new();
        // Writing to a string can't fail.
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        text(&mut svg, LEFT, 24.0, "font-size=\"16\" font-weight=\"bold\"", &self.title);
        let mut x = LEFT;
        for (name, colour) in self.series.iter().zip(COLOURS) {
            let _ = writeln!(
                svg,
                "<line x1=\"{x}\" y1=\"42\" x2=\"{}\" y2=\"42\" stroke=\"{colour}\" stroke-width=\"3\"/>",
                x + 24.0
            );
            text(&mut svg, x + 30.0, 46.0, "", name);
            x += 110.0;
        }
        let points = || self.panels.iter().flat_map(|panel| &panel.lines).flatten();
        let y_axis = Axis::around(points().map(|point| point.1), TOP + PANEL_HEIGHT, -PANEL_HEIGHT);
        for (index, panel) in self.panels.iter().enumerate() {
            let left = LEFT + index as f64 * (LEFT + PANEL_WIDTH);
            let x_axis = Axis::around(points().map(|point| point.0), left, PANEL_WIDTH);
            self.draw_panel(panel, left, (x_axis, y_axis), &mut svg);
        }
        for (index, note) in self.notes.iter().enumerate() {
            let y = TOP + PANEL_HEIGHT + BELOW + NOTE_HEIGHT * (index as f64 + 0.5);
            text(&mut svg, LEFT, y, "font-size=\"10\" fill=\"#555555\"", note);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_panel(&self, panel: &Panel, left: f64, (x_axis, y_axis): (Axis, Axis), svg: &mut String) {
        let (bottom, right) = (TOP + PANEL_HEIGHT, left + PANEL_WIDTH);
        for (value, is_decade) in x_axis.ticks() {
            let x = x_axis.place(value);
            grid_line(svg, (x, TOP), (x, bottom), is_decade);
            text(svg, x, bottom + 16.0, "text-anchor=\"middle\"", &count(value));
        }
        for (value, is_decade) in y_axis.ticks() {
            let y = y_axis.place(value);
            grid_line(svg, (left, y), (right, y), is_decade);
            text(svg, left - 6.0, y + 4.0, "text-anchor=\"end\"", &microseconds(value));
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{TOP}\" width=\"{PANEL_WIDTH}\" height=\"{PANEL_HEIGHT}\" fill=\"none\" stroke=\"#333333\"/>"
        );
        text(svg, left, TOP - 8.0, "font-weight=\"bold\"", panel.title);
        text(svg, left + PANEL_WIDTH / 2.0, bottom + 34.0, "text-anchor=\"middle\"", self.x_label);
        for (line, colour) in panel.lines.iter().zip(COLOURS) {
            let places: Vec<(f64, f64)> = line.iter().map(|&(x, y)| (x_axis.place(x), y_axis.place(y))).collect();
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            );
            for (x, y) in places {
                let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
            }
        }
    }
}

fn grid_line(svg: &mut String, from: (f64, f64), to: (f64, f64), is_decade: bool) {
    let colour = if is_decade { "#bbbbbb" } else { "#e6e6e6" };
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, x: f64, y: f64, attributes: &str, text: &str) {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{escaped}</text>");
}

/// 20 k, 1 M.
fn count(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{} M", value / 1e6),
        _ if value >= 1e3 => format!("{} k", value / 1e3),
        _ => format!("{value}"),
    }
}

/// 20 µs, 1 ms.
fn microseconds(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{} s", value / 1e6),
        _ if value >= 1e3 => format!("{} ms", value / 1e3),
        _ => format!("{value} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let axis = Axis { least: 8.0, most: 250.0, start: 0.0, length: 100.0 };
        let ticks = axis.ticks();
        assert_eq!(ticks, [(10.0, true), (20.0, false), (50.0, false), (100.0, true), (200.0, false)]);
        assert!((axis.place(8.0), axis.place(250.0)) == (0.0, 100.0));
        assert!(ticks.windows(2).all(|pair| axis.place(pair[0].0) < axis.place(pair[1].0)));
    }

    #[test]
    fn labels_have_units() {
        assert_eq!([count(20_000.0), count(2e6), count(5.0)], ["20 k", "2 M", "5"]);
        assert_eq!([microseconds(50.0), microseconds(2000.0), microseconds(1e6)], ["50 µs", "2 ms", "1 s"]);
    }

    #[test]
    fn every_series_is_drawn_in_every_panel_and_text_is_escaped() {
        let panel = |title| Panel { title, lines: vec![vec![(1e3, 10.0), (1e4, 20.0)], vec![(1e3, 30.0)], vec![]] };
        let chart = Chart {
            title: "a < b".to_owned(),
            notes: vec!["note".to_owned()],
            x_label: "x",
            series: vec!["one", "two", "three"],
            panels: vec![panel("left"), panel("right")],
        };
        let svg = chart.to_svg();
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (6, 6));
        assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
