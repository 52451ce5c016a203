//! Metrics in Prometheus' text format. Names and labels are those of OpenTelemetry as Prometheus
//! translates them: dots are underscores, and the unit is in the name.

use std::{fmt, time::Duration};

use ::replay::summary::JobVerdict;
use diagnosis::{Cause, timeline::STATES};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, prometheus_text,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::service::source::View;

pub(super) use prometheus_text::CONTENT_TYPE;

/// A result that the conventions do not have: no script of the job ran, and nothing failed.
const UNUSED: &str = "unused";
const RESULT: &str = "cicd_pipeline_task_run_result";

/// Writes the metrics of a view.
pub(super) fn encode(view: View, is_healthy: bool) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Metrics { view, is_healthy }));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Metrics {
    view: View,
    is_healthy: bool,
}

/// The labels of one value.
type Labels = Vec<(&'static str, String)>;

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let overview = &self.view.overview;
        let states =
            || STATES.into_iter().map(|state| (state, vec![("fargate_state", state.to_string())]));
        gauge(
            &mut encoder,
            ("fargate_jobs_open", "Jobs that are not archived, by state", None),
            states().map(|(state, labels)| (labels, count(overview.in_state(Some(state)).count()))),
        )?;
        gauge(
            &mut encoder,
            (
                "fargate_jobs_open_age",
                "How long the job that has been longest in a state has been in it",
                Some(Unit::Seconds),
            ),
            states().map(|(state, labels)| {
                (labels, overview.oldest(state).unwrap_or_default().as_secs_f64())
            }),
        )?;
        gauge(
            &mut encoder,
            ("fargate_jobs_unreadable", "Jobs whose snapshots cannot be used", None),
            [(Labels::new(), count(overview.in_state(None).count()))],
        )?;
        // A cause without jobs is not a series. The sum is always there, for alerts.
        gauge(
            &mut encoder,
            ("fargate_jobs_stuck", "Jobs that need help", None),
            [(Labels::new(), count(overview.stuck().count()))],
        )?;
        gauge(
            &mut encoder,
            ("fargate_jobs_stuck_by_cause", "Jobs that need help, by what is wrong", None),
            overview.stuck_by_cause().into_iter().map(|(cause, jobs)| {
                let cause = if cause == Cause::Nothing { "slow".to_owned() } else { cause.name() };
                (vec![("fargate_cause", cause)], jobs)
            }),
        )?;
        counter(
            &mut encoder,
            ("fargate_jobs", "Jobs that ended since this process began, by result and cause"),
            overview.finished.ended.iter().map(|((verdict, cause), jobs)| {
                let labels = vec![
                    (RESULT, result(*verdict).to_owned()),
                    ("fargate_cause", cause_name(*cause)),
                ];
                (labels, *jobs)
            }),
        )?;
        gauge(
            &mut encoder,
            ("fargate_jobs_archived", "Finished jobs in the archive, by result", None),
            overview
                .finished
                .verdicts
                .iter()
                .map(|(verdict, jobs)| (vec![(RESULT, result(*verdict).to_owned())], *jobs)),
        )?;
        self.encode_calls(&mut encoder)?;
        self.encode_pools(&mut encoder)?;
        gauge(
            &mut encoder,
            ("fargate_healthy", "1 if jobs can be worked on, otherwise 0", None),
            [(Labels::new(), u64::from(self.is_healthy))],
        )?;
        gauge(
            &mut encoder,
            ("fargate_build_info", "The driver's version", None),
            [(vec![("service_version", env!("CARGO_PKG_VERSION").to_owned())], 1_u64)],
        )
    }
}

impl Metrics {
    fn encode_calls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let calls = self.view.calls.iter().flat_map(|call| {
            let labels = |error: &str| {
                vec![("rpc_method", call.method.clone()), ("error_type", error.to_owned())]
            };
            let well = (labels(""), call.calls.saturating_sub(call.failed()));
            let failed = call.errors.iter().map(move |(code, count)| (labels(code), *count));
            [well].into_iter().chain(failed)
        });
        counter(encoder, ("fargate_aws_calls", "Calls to AWS, by operation and outcome"), calls)
    }

    fn encode_pools(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let pools = &self.view.pools;
        let pool = |name: &str| ("fargate_pool", name.to_owned());
        gauge(
            encoder,
            ("fargate_warm_tasks", "Warm tasks, by pool and state", None),
            pools.iter().flat_map(|of| {
                [("wanted", of.wanted), ("ready", of.ready), ("starting", of.starting)].map(
                    |(state, tasks)| {
                        (vec![pool(&of.name), ("fargate_warm_state", state.to_owned())], tasks)
                    },
                )
            }),
        )?;
        counter(
            encoder,
            ("fargate_warm_claims", "Jobs that wanted a warm task, by whether one was ready"),
            pools.iter().flat_map(|of| {
                [("hit", of.hits), ("miss", of.misses)].map(|(result, jobs)| {
                    (vec![pool(&of.name), ("fargate_warm_result", result.to_owned())], jobs)
                })
            }),
        )?;
        gauge(
            encoder,
            ("fargate_warm_idle", "How long warm tasks have waited for jobs", Some(Unit::Seconds)),
            pools.iter().map(|of| (vec![pool(&of.name)], Duration::as_secs_f64(&of.idle))),
        )
    }
}

/// Writes a gauge. One without values is left out.
fn gauge<V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<Unit>),
    values: impl IntoIterator<Item = (Labels, V)>,
) -> fmt::Result {
    let mut values = values.into_iter().peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    for (labels, value) in values {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

/// Writes a counter, whose name gets the suffix `_total`. One without values is left out.
fn counter<V: EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    values: impl IntoIterator<Item = (Labels, V)>,
) -> fmt::Result {
    let mut values = values.into_iter().peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
    }
    Ok(())
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Returns the value of `cicd.pipeline.task.run.result`.
fn result(verdict: JobVerdict) -> &'static str {
    match verdict {
        JobVerdict::Success => "success",
        JobVerdict::Failed => "failure",
        JobVerdict::Cancelled => "cancellation",
        JobVerdict::SystemFailure => "error",
        JobVerdict::Unused | JobVerdict::Open => UNUSED,
    }
}

/// Returns what was wrong with a finished job, as a label.
fn cause_name(cause: Cause) -> String {
    if cause == Cause::Nothing { "none".to_owned() } else { cause.name() }
}
