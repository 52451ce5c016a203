//! The metrics of a process, as a collector gets them. All in one test: a process records in one
//! place.

#![cfg(feature = "telemetry")]
#![allow(unreachable_pub, dead_code, reason = "modules of the end-to-end tests")]
#![allow(clippy::unwrap_used, reason = "tests end by panics")]

#[path = "e2e/collector.rs"]
mod collector;
#[path = "e2e/http.rs"]
mod http;

use std::path::Path;

use collector::Collector;
use fargate_driver::{config::Config, logging, telemetry};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, metric::Data, number_data_point::Value,
};
use states::metric;

fn eventually(_: &str, _: impl FnMut() -> bool) {
    unreachable!("only a real collector is waited for")
}

#[tokio::test]
async fn metrics_are_exported_as_differences_with_their_units_and_bounds() {
    let collector = Collector::start();
    let text = format!(
        "[Fargate]\nCluster = 'c'\nSubnet = 's'\nTaskDefinition = 't'\n[TaskMetadata]\nDirectory = '/m'\n[Telemetry]\nEndpoint = '{}'\nFlushTimeout = '5s'",
        collector.endpoint
    );
    let settings = Config::parse(&text, Path::new("fargate.toml")).unwrap().0.telemetry;
    assert_eq!(telemetry::start(&settings, None, "manager", None), Vec::<String>::new());
    logging::start_telemetry();

    // Nothing is exported before something is recorded.
    tracing::info!("a line of the log");
    telemetry::flush().await;
    assert!(collector.received().is_empty());

    // Equal attributes are one series, whatever their order.
    metric!(monotonic_counter.fargate.jobs = 1_u64, a = "1", b = "2");
    metric!(monotonic_counter.fargate.jobs = 2_u64, b = "2", a = "1", c = None::<&str>);
    telemetry::flush().await;
    let recorded = collector.metrics();
    let [jobs] = &recorded[..] else { panic!("{recorded:?}") };
    let Some(Data::Sum(sum)) = &jobs.data else { panic!("{jobs:?}") };
    assert_eq!((jobs.name.as_str(), jobs.unit.as_str()), ("fargate.jobs", "{job}"));
    assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Delta);
    let values: Vec<_> = sum.data_points.iter().map(|point| point.value).collect();
    assert_eq!(values, [Some(Value::AsInt(3))]);

    // The bounds of buckets are inclusive.
    for seconds in [0.05, 0.06, 99_999.0] {
        metric!(histogram.fargate.job.duration = seconds);
    }
    telemetry::flush().await;
    let recorded = collector.metrics();
    let [_, duration] = &recorded[..] else { panic!("not the difference: {recorded:?}") };
    let Some(Data::Histogram(histogram)) = &duration.data else { panic!("{duration:?}") };
    let point = &histogram.data_points[0];
    let buckets = &point.bucket_counts;
    assert_eq!((duration.unit.as_str(), point.count, buckets.len()), ("s", 3, 16));
    assert_eq!((buckets[0], buckets[1], buckets[15]), (1, 1, 1));
    assert_eq!((point.min, point.max), (Some(0.05), Some(99_999.0)));

    // And once.
    telemetry::flush().await;
    assert_eq!(collector.received().len(), 2);
}
