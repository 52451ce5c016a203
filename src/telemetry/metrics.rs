//! Counters and histograms. A process lives for moments, so it exports its own differences once
//! (delta temporality).

use std::collections::BTreeMap;

use super::span::{Attributes, Value};

/// Upper bounds of the histograms' buckets, in seconds: from a call's to a job's of hours.
pub(super) const BOUNDS: [f64; 15] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10_800.0];

type Key = (&'static str, Vec<(&'static str, Value)>);

/// Counters and histograms, by name and attributes.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(super) counters: BTreeMap<Key, u64>,
    pub(super) histograms: BTreeMap<Key, Histogram>,
}

/// A distribution.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Histogram {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    /// One bucket more than there are bounds.
    pub(super) buckets: [u64; BOUNDS.len() + 1],
}

impl Metrics {
    /// Adds to a counter.
    pub fn count(&mut self, name: &'static str, mut attributes: Attributes, more: u64) {
        attributes.sort();
        *self.counters.entry((name, attributes)).or_default() += more;
    }

    /// Records a duration, in seconds.
    pub fn measure(&mut self, name: &'static str, mut attributes: Attributes, seconds: f64) {
        attributes.sort();
        let of = self.histograms.entry((name, attributes)).or_default();
        of.least = if of.count == 0 { seconds } else { of.least.min(seconds) };
        of.most = of.most.max(seconds);
        of.count += 1;
        of.sum += seconds;
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        of.buckets[bucket] += 1;
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty() && self.histograms.is_empty()
    }
}

/// Every metric: name, unit, description. Those in seconds are histograms, all others are counters.
const METRICS: [(&str, &str, &str); 8] = [
    ("fargate.job.duration", "s", "From the job's first process to its end"),
    ("fargate.state.duration", "s", "How long jobs stayed in a state"),
    ("fargate.jobs", "{job}", "Jobs that ended, by result and cause"),
    ("fargate.aws.calls", "{call}", "Calls to AWS, by operation and outcome"),
    ("fargate.connections", "{connection}", "Attempts to reach a container, by outcome"),
    ("fargate.reconnections", "{reconnection}", "Connections that were lost and made again"),
    ("fargate.output", "By", "Output of scripts that was handed on"),
    ("fargate.reaped", "{item}", "What the reaper ended"),
];

/// Returns unit and description of a metric.
pub(super) fn about(name: &str) -> (&'static str, &'static str) {
    METRICS
        .iter()
        .find(|(metric, _, _)| *metric == name)
        .map_or(("1", ""), |(_, unit, description)| (*unit, *description))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_attributes_are_one_series_whatever_their_order() {
        let mut metrics = Metrics::default();
        metrics.count("fargate.jobs", vec![("a", "1".into()), ("b", "2".into())], 1);
        metrics.count("fargate.jobs", vec![("b", "2".into()), ("a", "1".into())], 2);
        assert_eq!(metrics.counters.values().copied().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn bucket_bounds_are_inclusive() {
        let mut metrics = Metrics::default();
        for seconds in [0.05, 0.06, 99_999.0] {
            metrics.measure("fargate.job.duration", Vec::new(), seconds);
        }
        let of = metrics.histograms.values().next().unwrap();
        assert_eq!(
            (of.buckets[0], of.buckets[1], of.buckets[BOUNDS.len()], of.count),
            (1, 1, 1, 3)
        );
        assert_eq!((of.least, of.most), (0.05, 99_999.0));
    }

    /// Follows the OpenTelemetry specification, "Prometheus and OpenMetrics Compatibility".
    fn in_prometheus((name, unit, _): &(&str, &str, &str)) -> String {
        let ending = match *unit {
            "s" => "_seconds_bucket",
            "By" => "_bytes_total",
            _ => "_total",
        };
        format!("{}{ending}", name.replace('.', "_"))
    }

    #[test]
    fn the_dashboard_shows_every_metric_and_no_other() {
        use std::collections::BTreeSet;
        let dashboard: serde_json::Value =
            serde_json::from_str(include_str!("../../deploy/grafana-dashboard.json")).unwrap();
        let mut shown = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert_eq!(panel["datasource"]["uid"], "${source}", "{panel}");
            for target in panel["targets"].as_array().unwrap() {
                let words = target["expr"]
                    .as_str()
                    .unwrap()
                    .split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                // The driver's own attributes have such names, too, but not in the place of a
                // metric.
                shown.extend(words.filter(|word| {
                    word.starts_with("fargate_")
                        && !["fargate_state", "fargate_reaped_kind"].contains(word)
                }));
            }
        }
        let known: Vec<String> = METRICS.iter().map(in_prometheus).collect();
        assert_eq!(shown, known.iter().map(String::as_str).collect());
    }

    #[test]
    fn every_metric_is_documented() {
        let page = include_str!("../../docs/telemetry.md");
        for (name, unit, _) in METRICS {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{name}`")));
            assert!(
                row.is_some_and(|row| row.contains(&format!("| {unit} |"))),
                "{name} in {unit}: {row:?}"
            );
        }
    }
}
