//! Lines over an axis, each with its name at the end.

use std::fmt::Write;

use super::{Canvas, LINES, TITLE_HEIGHT, WIDTH};
use crate::report::format::thousands;

pub(in crate::report) struct LineChart {
    pub lines: Vec<Line>,
    pub x_title: String,
    /// Position and label; the first and the last bound the axis.
    pub x_ticks: Vec<(f64, String)>,
    pub y_title: String,
    pub scale: Scale,
}

pub(in crate::report) struct Line {
    pub label: String,
    pub points: Vec<(f64, f64)>,
    pub emphasised: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::report) enum Scale {
    Linear,
    Logarithmic,
}

impl LineChart {
    const HEIGHT: f64 = 470.0;
    const LEFT: f64 = 74.0;
    const RIGHT: f64 = WIDTH - 190.0;
    const TOP: f64 = TITLE_HEIGHT + 20.0;
    const BOTTOM: f64 = Self::HEIGHT - 56.0;
    /// The least distance between the names beside the lines.
    const NAME_HEIGHT: f64 = 15.0;

    pub(in crate::report) fn render(&self, title: &str) -> String {
        let mut canvas = Canvas::new();
        let axis = Axis::of(self);
        self.draw_grid(&mut canvas, &axis);
        // The emphasised line is drawn last, on top of the others.
        let mut classes = LINES.into_iter().cycle();
        let mut styled: Vec<(&Line, &str)> = Vec::new();
        for line in &self.lines {
            let class = if line.emphasised {
                "base"
            } else {
                classes.next().unwrap_or("faint")
            };
            styled.push((line, class));
        }
        styled.sort_by_key(|(line, _)| line.emphasised);
        for (line, class) in &styled {
            self.draw_line(&mut canvas, &axis, line, class);
        }
        self.draw_names(&mut canvas, &axis, &styled);
        canvas.finish(title, Self::HEIGHT)
    }

    fn x(&self, position: f64) -> f64 {
        let first = self.x_ticks.first().map_or(0.0, |tick| tick.0);
        let last = self.x_ticks.last().map_or(1.0, |tick| tick.0);
        let share = (position - first) / (last - first).max(f64::EPSILON);
        Self::LEFT + share * (Self::RIGHT - Self::LEFT)
    }

    fn draw_grid(&self, canvas: &mut Canvas, axis: &Axis) {
        for tick in &axis.ticks {
            let y = axis.y(*tick);
            canvas.rule((Self::LEFT, y), (Self::RIGHT, y), "grid", "");
            let beside = (Self::LEFT - 8.0, y + 4.0);
            canvas.text(beside, "end", "faint", "", &tick_label(*tick));
        }
        for (position, name) in &self.x_ticks {
            let x = self.x(*position);
            canvas.rule((x, Self::TOP), (x, Self::BOTTOM), "grid", "");
            canvas.text((x, Self::BOTTOM + 18.0), "middle", "faint", "", name);
        }
        let middle = f64::midpoint(Self::LEFT, Self::RIGHT);
        let below = (middle, Self::BOTTOM + 40.0);
        canvas.text(below, "middle", "faint", "", &self.x_title);
        let above = (Self::LEFT, Self::TOP - 10.0);
        canvas.text(above, "start", "faint", "", &self.y_title);
    }

    fn draw_line(&self, canvas: &mut Canvas, axis: &Axis, line: &Line, class: &str) {
        let width = if line.emphasised { 3.0 } else { 1.7 };
        let mut path = String::new();
        for (index, (x, y)) in line.points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1} ", self.x(*x), axis.y(*y));
        }
        let _ = writeln!(
            canvas.body,
            r#"<path d="{}" class="{class}" stroke-width="{width}" stroke-linejoin="round"/>"#,
            path.trim_end()
        );
        for (x, y) in &line.points {
            let _ = writeln!(
                canvas.body,
                r#"<circle cx="{:.1}" cy="{:.1}" r="{:.1}" class="{class}"/>"#,
                self.x(*x),
                axis.y(*y),
                width + 0.8
            );
        }
    }

    /// Draws the names beside the ends of the lines, moved apart where they would overlap.
    fn draw_names(&self, canvas: &mut Canvas, axis: &Axis, lines: &[(&Line, &str)]) {
        let mut names: Vec<(f64, (f64, f64), &Line, &str)> = lines
            .iter()
            .filter_map(|(line, class)| {
                let (x, y) = *line.points.last()?;
                let end = (self.x(x), axis.y(y));
                Some((end.1, end, *line, *class))
            })
            .collect();
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let wanted: Vec<f64> = names.iter().map(|name| name.0).collect();
        let spread = spread_out(&wanted, Self::NAME_HEIGHT, Self::BOTTOM + 4.0);
        for ((_, end, line, class), y) in names.into_iter().zip(spread) {
            let style = r#"stroke-width="0.8" opacity="0.6""#;
            canvas.rule((end.0 + 5.0, end.1), (Self::RIGHT + 18.0, y), class, style);
            let weight = if line.emphasised { "700" } else { "400" };
            let style = format!(r#"font-weight="{weight}""#);
            let beside = (Self::RIGHT + 22.0, y + 4.0);
            canvas.text(beside, "start", class, &style, &line.label);
        }
    }
}

/// Moves ascending positions apart until each is `distance` from the next and none is beyond `end`.
fn spread_out(wanted: &[f64], distance: f64, end: f64) -> Vec<f64> {
    let mut positions = wanted.to_vec();
    for index in 1..positions.len() {
        positions[index] = positions[index].max(positions[index - 1] + distance);
    }
    let mut lowest = end;
    for position in positions.iter_mut().rev() {
        *position = position.min(lowest);
        lowest = *position - distance;
    }
    positions
}

struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    scale: Scale,
}

impl Axis {
    fn of(chart: &LineChart) -> Self {
        let figures = || {
            chart
                .lines
                .iter()
                .flat_map(|line| &line.points)
                .map(|point| point.1)
        };
        let (least, greatest) = (
            figures().fold(f64::INFINITY, f64::min),
            figures().fold(0.0, f64::max),
        );
        match chart.scale {
            Scale::Linear => Self::linear(greatest.max(1.0)),
            Scale::Logarithmic => Self::logarithmic(least.max(1e-3), greatest.max(2e-3)),
        }
    }

    fn linear(greatest: f64) -> Self {
        let rough = greatest / 5.0;
        let magnitude = 10_f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .find(|f| f * magnitude >= rough);
        let step = factor.unwrap_or(10.0) * magnitude;
        let count = (greatest / step).ceil() as u32;
        let ticks: Vec<f64> = (0..=count).map(|n| f64::from(n) * step).collect();
        Self {
            low: 0.0,
            high: f64::from(count) * step,
            ticks,
            scale: Scale::Linear,
        }
    }

    /// Sets ticks at 1, 2 and 5 of each power of ten.
    fn logarithmic(least: f64, greatest: f64) -> Self {
        let steps = (-3..=6).flat_map(|power| [1.0, 2.0, 5.0].map(|f| f * 10_f64.powi(power)));
        let steps: Vec<f64> = steps.collect();
        let low = steps
            .iter()
            .rev()
            .find(|step| **step <= least)
            .copied()
            .unwrap_or(1e-3);
        let high = steps
            .iter()
            .find(|step| **step >= greatest)
            .copied()
            .unwrap_or(5e6);
        let ticks = steps
            .into_iter()
            .filter(|step| (low..=high).contains(step))
            .collect();
        Self {
            low,
            high,
            ticks,
            scale: Scale::Logarithmic,
        }
    }

    fn y(&self, figure: f64) -> f64 {
        let scaled = |figure: f64| match self.scale {
            Scale::Linear => figure,
            Scale::Logarithmic => figure.max(1e-9).log10(),
        };
        let (low, high) = (scaled(self.low), scaled(self.high));
        let share = (scaled(figure) - low) / (high - low).max(f64::EPSILON);
        LineChart::BOTTOM - share * (LineChart::BOTTOM - LineChart::TOP)
    }
}

fn tick_label(tick: f64) -> String {
    if tick == 0.0 || tick >= 10.0 {
        return thousands(tick);
    }
    let text = format!("{tick:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_moved_apart_and_stay_inside() {
        assert_eq!(
            spread_out(&[10.0, 11.0, 50.0], 15.0, 100.0),
            [10.0, 25.0, 50.0]
        );
        assert_eq!(
            spread_out(&[95.0, 99.0, 100.0], 15.0, 100.0),
            [70.0, 85.0, 100.0]
        );
        assert!(spread_out(&[], 15.0, 100.0).is_empty());
    }

    #[test]
    fn axes_have_round_ticks() {
        let axis = Axis::linear(9_300.0);
        assert_eq!(axis.ticks, [0.0, 2000.0, 4000.0, 6000.0, 8000.0, 10_000.0]);
        let axis = Axis::logarithmic(0.3, 12.0);
        assert_eq!((axis.low, axis.high), (0.2, 20.0));
        assert_eq!(tick_label(0.2), "0.2");
        assert_eq!(tick_label(20_000.0), "20,000");
    }
}
