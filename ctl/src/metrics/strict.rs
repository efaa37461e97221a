//! A strict reader of metrics for the tests: it panics at all that the specifications don't allow.

use std::collections::{BTreeMap, BTreeSet};

use super::Format;

/// A sample: its name, its labels in order, its value.
type Sample = (String, BTreeMap<String, String>, f64);

/// What was read.
pub(super) struct Parsed {
    samples: Vec<Sample>,
}

/// The metric that lines belong to.
#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    has_help: bool,
    has_samples: bool,
}

impl Parsed {
    /// Reads a text.
    pub(super) fn of(text: &str, format: Format) -> Self {
        assert!(text.ends_with('\n'));
        let mut lines: Vec<_> = text.strip_suffix('\n').unwrap().split('\n').collect();
        if format == Format::OpenMetrics {
            assert_eq!(lines.pop(), Some("# EOF"));
        }
        let mut seen = BTreeSet::new();
        let mut family = Family::default();
        let mut samples: Vec<Sample> = Vec::new();
        for line in lines {
            if let Some(rest) = line.strip_prefix("# ") {
                let (word, rest) = rest.split_once(' ').expect(line);
                let (name, rest) = rest.split_once(' ').expect(line);
                if word == "TYPE" {
                    assert!(seen.insert(name.to_owned()), "twice: {name}");
                    family = Family {
                        name: name.into(),
                        kind: rest.into(),
                        ..Family::default()
                    };
                }
                family.describe(word, name, rest, format);
            } else {
                let sample = sample(line);
                family.check(&sample, format);
                samples.push(sample);
            }
        }
        let keys: BTreeSet<_> = samples
            .iter()
            .map(|(name, labels, _)| (name, labels))
            .collect();
        assert_eq!(keys.len(), samples.len(), "a sample is there twice");
        check_histograms(&samples);
        Self { samples }
    }

    /// The value of a sample with exactly these labels.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: BTreeMap<_, _> = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut found = self
            .samples
            .iter()
            .filter(|sample| sample.0 == name && sample.1 == labels);
        found.next().map(|sample| sample.2)
    }
}

impl Family {
    fn describe(&mut self, word: &str, name: &str, rest: &str, format: Format) {
        assert_eq!(name, self.name, "out of order");
        assert!(!self.has_samples, "{name}: described after its samples");
        match word {
            "TYPE" => {
                let known = ["counter", "gauge", "histogram"].contains(&rest);
                assert!(known || rest == "info" && format == Format::OpenMetrics);
                let total = name.ends_with("_total");
                assert_eq!(total, rest == "counter" && format == Format::Prometheus);
            }
            "UNIT" => {
                assert_eq!(format, Format::OpenMetrics);
                assert!(name.ends_with(&format!("_{rest}")), "{name}");
            }
            "HELP" => {
                assert!(!self.has_help && !rest.is_empty());
                assert!(!rest.contains(['\\', '"']), "to be escaped: {rest}");
                self.has_help = true;
            }
            _ => panic!("# {word}"),
        }
    }

    fn check(&mut self, (name, labels, value): &Sample, format: Format) {
        assert!(self.has_help, "{name}");
        self.has_samples = true;
        let rest = name.strip_prefix(&self.name).expect(name);
        let allowed: &[&str] = match (self.kind.as_str(), format) {
            ("counter", Format::OpenMetrics) => &["_total"],
            ("info", _) => &["_info"],
            ("histogram", _) => &["_bucket", "_count", "_sum"],
            _ => &[""],
        };
        assert!(allowed.contains(&rest), "{name} is a {}", self.kind);
        assert_eq!(rest == "_bucket", labels.contains_key("le"), "{name}");
        if self.kind != "gauge" {
            assert!(*value >= 0.0, "{name}");
        }
    }
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).expect(line);
    let name = &line[..end];
    let first = name.chars().next().expect(line);
    assert!(first.is_ascii_lowercase());
    assert!(
        name.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    );
    let mut rest = &line[end..];
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect(line);
            assert!(!label.is_empty() && label.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            if let Some(after) = after.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = after.strip_prefix(',').expect(line);
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    let digits = |c: char| c.is_ascii_digit() || "+-.".contains(c);
    assert!(value.chars().all(digits), "{line}");
    (name.into(), labels, value.parse().expect(line))
}

/// The text before the quotation mark that isn't escaped, and what follows.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, same @ ('\\' | '"'))) => same,
                other => panic!("\\{other:?}"),
            }),
            other => value.push(other),
        }
    }
    panic!("no end: {text}");
}

/// Buckets rise in their bounds and counts, and the last is the count.
fn check_histograms(samples: &[Sample]) {
    let buckets = samples
        .iter()
        .filter(|sample| sample.0.ends_with("_bucket"));
    let mut last: Option<(&str, BTreeMap<String, String>, f64, f64)> = None;
    for (name, labels, value) in buckets {
        let mut labels = labels.clone();
        let le = labels.remove("le").unwrap();
        assert!(le.contains('.') || le == "+Inf", "{le}");
        let le: f64 = le.parse().unwrap();
        if let Some((other, of, bound, count)) = &last {
            if (*other, of) == (name, &labels) {
                assert!(*bound < le && count <= value, "{name} {labels:?}");
            } else {
                assert_eq!(*bound, f64::INFINITY);
            }
        }
        if le == f64::INFINITY {
            let name = name.replace("_bucket", "_count");
            let count = samples
                .iter()
                .find(|sample| sample.0 == name && sample.1 == labels);
            assert_eq!(count.expect("a count").2, *value);
        }
        last = Some((name, labels, le, *value));
    }
}
