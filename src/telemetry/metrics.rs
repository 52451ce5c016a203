//! The list of metrics. They are events of `tracing`, with `states::trace::METRICS` as target and
//! `monotonic_counter.<name>` or `histogram.<name>` as a field. Most processes live for moments,
//! so each exports its own differences (delta temporality): at its end, and the service meanwhile.

#[cfg(feature = "telemetry")]
use opentelemetry_sdk::metrics::{Aggregation, Instrument, Stream};

/// Upper bounds of the histograms' buckets, in seconds: from a call's to a job's of hours.
#[cfg(feature = "telemetry")]
const BOUNDS: [f64; 15] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10_800.0];

/// Every metric: name, unit (of UCUM), description. Those in seconds are histograms, all others are counters.
pub const METRICS: [(&str, &str, &str); 13] = [
    ("fargate.job.duration", "s", "From the job's first process to its end"),
    ("fargate.state.duration", "s", "How long jobs stayed in a state"),
    ("fargate.jobs", "{job}", "Jobs that ended, by result and cause"),
    ("fargate.aws.calls", "{call}", "Calls to AWS, by operation and outcome"),
    ("fargate.connections", "{connection}", "Attempts to reach a container, by outcome"),
    ("fargate.reconnections", "{reconnection}", "Connections that were lost and made again"),
    ("fargate.output", "By", "Output of scripts that was handed on"),
    ("fargate.cost", "{currency}", "What jobs' tasks cost, as far as that is known when they end"),
    ("fargate.cpu", "{vCPU.s}", "CPU that jobs' tasks are billed for"),
    ("fargate.memory", "{GB.s}", "Memory that jobs' tasks are billed for"),
    ("fargate.reaped", "{item}", "What the reaper ended"),
    ("fargate.warm.claims", "{job}", "Jobs that wanted a warm task, by whether one was ready"),
    (
        "fargate.warm.idle.duration",
        "s",
        "How long warm tasks waited for the jobs that claimed them",
    ),
];

/// Gives an instrument, of which an event says no more than the name, its unit, description and
/// buckets.
#[cfg(feature = "telemetry")]
pub(super) fn view(instrument: &Instrument) -> Option<Stream> {
    let (_, unit, description) = METRICS.iter().find(|(name, ..)| *name == instrument.name())?;
    let stream = Stream::builder().with_unit(*unit).with_description(*description);
    let stream = match *unit {
        "s" => stream.with_aggregation(Aggregation::ExplicitBucketHistogram {
            boundaries: BOUNDS.to_vec(),
            record_min_max: true,
        }),
        _ => stream,
    };
    stream.build().ok()
}
