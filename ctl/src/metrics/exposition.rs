//! The text of metrics: OpenMetrics 1.0, and the older format of Prometheus, 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;

use skd_control::Histogram;

/// The labels of a sample, in the order in which they are written.
pub(crate) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// The format of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    #[default]
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4.
    Prometheus,
}

impl Format {
    /// Returns the media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    /// A gauge that is 0 or 1.
    Flag,
    /// A metric whose value is in its labels.
    Info,
    Histogram,
}

impl Kind {
    fn name(self, format: Format) -> &'static str {
        match (self, format) {
            (Self::Counter, _) => "counter",
            (Self::Histogram, _) => "histogram",
            (Self::Info, Format::OpenMetrics) => "info",
            (Self::Gauge | Self::Flag | Self::Info, _) => "gauge",
        }
    }

    /// The end of the names of samples that the name of the metric lacks in OpenMetrics.
    fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Flag | Self::Histogram => "",
        }
    }
}

/// Metrics that are written one after the other. Samples of the same labels are summed: no reader
/// takes two of them.
#[derive(Debug)]
pub(crate) struct Exposition {
    text: String,
    format: Format,
}

impl Exposition {
    /// Returns a text without metrics.
    pub(crate) fn new(format: Format) -> Self {
        Self {
            text: String::new(),
            format,
        }
    }

    /// Returns the text.
    pub(crate) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    /// Writes a counter. Its name ends with `_total`.
    pub(crate) fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) {
        self.numbers(Kind::Counter, name, help, samples);
    }

    /// Writes a gauge.
    pub(crate) fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) {
        self.numbers(Kind::Gauge, name, help, samples);
    }

    /// Writes a gauge that is 0 or 1: 1 where one of several samples is.
    pub(crate) fn flag<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) {
        self.numbers(Kind::Flag, name, help, samples);
    }

    /// Writes a metric whose value is in its labels. Its name ends with `_info`.
    pub(crate) fn info<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) {
        self.numbers(Kind::Info, name, help, samples);
    }

    /// Writes a histogram.
    pub(crate) fn histogram<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, &'a Histogram)>,
    ) {
        let mut merged: BTreeMap<String, Histogram> = BTreeMap::new();
        for (labels, histogram) in samples {
            match merged.get_mut(&written(&labels)) {
                Some(other) => add(other, histogram),
                None => {
                    merged.insert(written(&labels), histogram.clone());
                }
            }
        }
        self.head(Kind::Histogram, name, help);
        for (labels, histogram) in &merged {
            self.buckets(name, labels, histogram);
        }
    }

    fn buckets(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let comma = if labels.is_empty() { "" } else { "," };
        let mut sum = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            sum += count;
            let labels = format!("{labels}{comma}le=\"{}\"", bound_text(*bound));
            self.sample(&bucket, &labels, sum as f64);
        }
        let count = histogram.counts.iter().sum::<u64>() as f64;
        self.sample(&bucket, &format!("{labels}{comma}le=\"+Inf\""), count);
        self.sample(&format!("{name}_count"), labels, count);
        self.sample(&format!("{name}_sum"), labels, histogram.sum_seconds);
    }

    fn numbers<'a>(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) {
        let mut merged: BTreeMap<String, f64> = BTreeMap::new();
        for (labels, value) in samples {
            let sum = merged.entry(written(&labels)).or_default();
            *sum = match kind {
                Kind::Flag | Kind::Info => sum.max(value),
                Kind::Counter | Kind::Gauge | Kind::Histogram => *sum + value,
            };
        }
        self.head(kind, name, help);
        for (labels, value) in &merged {
            self.sample(name, labels, *value);
        }
    }

    fn head(&mut self, kind: Kind, name: &str, help: &str) {
        let name = match self.format {
            Format::OpenMetrics => name.strip_suffix(kind.suffix()).unwrap_or(name),
            Format::Prometheus => name,
        };
        let unit = ["seconds", "bytes"]
            .into_iter()
            .find(|unit| name.ends_with(unit));
        self.line(format_args!("# TYPE {name} {}", kind.name(self.format)));
        if let (Some(unit), Format::OpenMetrics) = (unit, self.format) {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
        self.line(format_args!("# HELP {name} {help}"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let value = number(value);
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{labels}}} {value}"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string doesn't fail.
        let _ = writeln!(self.text, "{line}");
    }
}

/// Adds a histogram to another. They have the same bounds: all of one skd have.
fn add(to: &mut Histogram, histogram: &Histogram) {
    to.sum_seconds += histogram.sum_seconds;
    for (sum, count) in to.counts.iter_mut().zip(&histogram.counts) {
        *sum += count;
    }
}

fn written(labels: &Labels<'_>) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text
}

fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".into()
    } else if value == f64::NEG_INFINITY {
        "-Inf".into()
    } else {
        value.to_string()
    }
}

/// The upper bound of a bucket. It is a label, and has to be the same text in both formats: OpenMetrics
/// wants a decimal point.
fn bound_text(bound: f64) -> String {
    let text = number(bound);
    if text.contains('.') || !bound.is_finite() {
        text
    } else {
        text + ".0"
    }
}
