//! The names of attributes are those of OpenTelemetry's semantic conventions, as their crate has
//! them, or the driver's own.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::{common::v1::KeyValue, metrics::v1::metric::Data};
use opentelemetry_semantic_conventions::attribute as of;

use crate::collector::Collector;

/// The recorded attributes. The compiler warns here of one that the conventions deprecate.
const CONVENTIONS: [&str; 27] = [
    of::AWS_ECS_CLUSTER_ARN,
    of::AWS_ECS_LAUNCHTYPE,
    of::AWS_ECS_TASK_ARN,
    of::AWS_ECS_TASK_FAMILY,
    of::AWS_ECS_TASK_ID,
    of::AWS_ECS_TASK_REVISION,
    of::AWS_REQUEST_ID,
    of::CICD_PIPELINE_RUN_ID,
    of::CICD_PIPELINE_TASK_NAME,
    of::CICD_PIPELINE_TASK_RUN_ID,
    of::CICD_PIPELINE_TASK_RUN_RESULT,
    of::CICD_PIPELINE_TASK_RUN_URL_FULL,
    of::CICD_WORKER_NAME,
    of::CLOUD_ACCOUNT_ID,
    of::CLOUD_PLATFORM,
    of::CLOUD_PROVIDER,
    of::CLOUD_REGION,
    of::ERROR_TYPE,
    of::HOST_NAME,
    of::HTTP_REQUEST_RESEND_COUNT,
    of::HTTP_RESPONSE_STATUS_CODE,
    of::PROCESS_EXIT_CODE,
    of::RPC_METHOD,
    of::RPC_SYSTEM_NAME,
    of::SERVER_ADDRESS,
    of::SERVICE_NAME,
    of::SERVICE_VERSION,
];

/// The resource's that every SDK has.
const SDK: [&str; 3] =
    [of::TELEMETRY_SDK_LANGUAGE, of::TELEMETRY_SDK_NAME, of::TELEMETRY_SDK_VERSION];

/// Names of attributes, wherever they were recorded.
fn recorded(collector: &Collector) -> BTreeSet<String> {
    let mut all: Vec<KeyValue> = collector.resource();
    for span in collector.spans() {
        all.extend(span.attributes);
        all.extend(span.events.into_iter().flat_map(|event| event.attributes));
    }
    for metric in collector.metrics() {
        match metric.data {
            Some(Data::Sum(sum)) => {
                all.extend(sum.data_points.into_iter().flat_map(|point| point.attributes))
            }
            Some(Data::Histogram(histogram)) => {
                all.extend(histogram.data_points.into_iter().flat_map(|point| point.attributes))
            }
            other => panic!("{} is {other:?}", metric.name),
        }
    }
    all.into_iter().map(|pair| pair.key).collect()
}

/// Of a job that failed.
pub fn assert_followed(collector: &Collector) {
    let recorded = recorded(collector);
    let is_known = |name: &str| {
        CONVENTIONS.contains(&name) || SDK.contains(&name) || name.starts_with("fargate.")
    };
    let unknown: Vec<&String> = recorded.iter().filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "neither the conventions' nor ours: {unknown:?}");
    let never: Vec<&&str> = CONVENTIONS.iter().filter(|name| !recorded.contains(**name)).collect();
    assert!(never.is_empty(), "in the list, but not recorded of a whole job: {never:?}");
}
