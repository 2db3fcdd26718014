//! The plot: nanoseconds per packet over the number of flows, as SVG.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::stats::as_f64;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;
/// Flows at both ends, as powers of two.
const ENDS: [u32; 2] = [9, 25];
const COLOURS: [&str; 8] = [
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f",
];

/// Points by curve, and yardsticks.
#[derive(Debug, Default)]
pub(crate) struct Plot {
    curves: Vec<(String, Vec<(usize, f64)>)>,
    levels: Vec<(&'static str, f64)>,
}

impl Plot {
    /// A point of a curve, which begins with its first one.
    pub(crate) fn point(&mut self, curve: &str, flows: usize, ns: f64) {
        let place = self.curves.iter().position(|(name, _)| name == curve);
        match place {
            Some(at) => self.curves[at].1.push((flows, ns)),
            None => self.curves.push((curve.to_owned(), vec![(flows, ns)])),
        }
    }

    /// What is the same for any number of flows.
    pub(crate) fn level(&mut self, name: &'static str, ns: f64) {
        self.levels.push((name, ns));
    }

    /// Writes the picture.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, self.svg()?)?;
        Ok(())
    }

    fn svg(&self) -> Result<String, core::fmt::Error> {
        let mut svg = String::new();
        writeln!(
            svg,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
        )?;
        writeln!(svg, r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#)?;
        let top = self.top();
        axes(&mut svg, top)?;
        for (name, ns) in &self.levels {
            let y = down(*ns, top);
            let (from, to) = (LEFT, WIDTH - RIGHT);
            writeln!(
                svg,
                r#"<line x1="{from}" x2="{to}" y1="{y:.1}" y2="{y:.1}" stroke="black" stroke-dasharray="6 4"/>"#
            )?;
            writeln!(
                svg,
                r#"<text x="{}" y="{:.1}">{name} {ns:.1}</text>"#,
                to + 6.0,
                y + 4.0
            )?;
        }
        for (n, ((name, points), colour)) in self.curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
            curve(&mut svg, points, colour, top)?;
            let y = TOP + 16.0 * as_f64(n as u64);
            let x = LEFT + 12.0;
            writeln!(svg, r#"<text x="{x}" y="{y:.1}" fill="{colour}">{name}</text>"#)?;
        }
        writeln!(svg, "</svg>")?;
        Ok(svg)
    }

    /// The highest value of the axis: a multiple of 50.
    fn top(&self) -> f64 {
        let points = self.curves.iter().flat_map(|(_, points)| points);
        let most = points.map(|(_, ns)| *ns).fold(0.0, f64::max);
        50.0 * (most / 50.0).ceil().max(1.0)
    }
}

fn axes(svg: &mut String, top: f64) -> core::fmt::Result {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for n in 0..=5_u64 {
        let ns = top * as_f64(n) / 5.0;
        let y = down(ns, top);
        writeln!(
            svg,
            r##"<line x1="{LEFT}" x2="{right}" y1="{y:.1}" y2="{y:.1}" stroke="#ddd"/>"##
        )?;
        writeln!(
            svg,
            r#"<text x="{}" y="{:.1}" text-anchor="end">{ns:.0}</text>"#,
            LEFT - 6.0,
            y + 4.0
        )?;
    }
    for (power, name) in [(10, "1k"), (16, "64k"), (20, "1M"), (22, "4M"), (24, "16M")] {
        let x = across(1 << power);
        writeln!(
            svg,
            r##"<line x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{bottom}" stroke="#ddd"/>"##
        )?;
        writeln!(
            svg,
            r#"<text x="{x:.1}" y="{}" text-anchor="middle">{name}</text>"#,
            bottom + 18.0
        )?;
    }
    writeln!(svg, r#"<text x="{LEFT}" y="{}">flows</text>"#, HEIGHT - 10.0)?;
    writeln!(svg, r#"<text x="6" y="{}">ns/packet</text>"#, TOP - 12.0)
}

fn curve(svg: &mut String, points: &[(usize, f64)], colour: &str, top: f64) -> core::fmt::Result {
    let mut line = String::new();
    for &(flows, ns) in points {
        let (x, y) = (across(flows), down(ns, top));
        write!(line, "{x:.1},{y:.1} ")?;
        writeln!(
            svg,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/>"#
        )?;
    }
    writeln!(
        svg,
        r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.5"/>"#,
        line.trim_end()
    )
}

/// Where so many flows are.
fn across(flows: usize) -> f64 {
    let [first, last] = ENDS.map(f64::from);
    LEFT + (as_f64(flows as u64).log2() - first) / (last - first) * (WIDTH - LEFT - RIGHT)
}

/// Where so many nanoseconds are, on an axis that ends with `top`.
fn down(ns: f64, top: f64) -> f64 {
    HEIGHT - BOTTOM - ns / top * (HEIGHT - TOP - BOTTOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_curve_is_one_line_through_its_points() {
        let mut plot = Plot::default();
        for (curve, flows, ns) in [("a", 1_024, 40.0), ("b", 1_024, 60.0), ("a", 65_536, 80.0)] {
            plot.point(curve, flows, ns);
        }
        plot.level("B1", 5.0);
        let svg = plot.svg().unwrap();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains(">B1 5.0</text>") && svg.ends_with("</svg>\n"));
        let expected = format!(
            "{:.1},{:.1} {:.1},{:.1}",
            across(1_024),
            down(40.0, 100.0),
            across(65_536),
            down(80.0, 100.0)
        );
        assert!(svg.contains(&expected), "{svg}");
    }
}
