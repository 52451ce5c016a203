//! A job's facts as attributes and metrics, and the spans of its states, from its journal.

use std::{path::Path, time::Duration};

use ::replay::summary::PoolUse;
use diagnosis::{
    costs::{Bill, Host, Peak},
    error_type,
    timeline::Timeline,
};
use opentelemetry::{Array, KeyValue, StringValue, Value, trace::SpanId};
use states::{
    Additions, EngineError, Finished, Goal, Outcome, RunOutcome, Snapshot, StateName, StopReason,
    Timestamp,
};

use super::{
    context::{beside, parse},
    metric,
    recorder::{Recorder, recorder},
    stage::{self, Attributes, JobEnd, Open, Stage, record},
};
use crate::{definition::image_parts, job_end::has_ended, runner::Verdict};

/// Returns attributes of these names, where there is a value.
fn attributes(facts: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Attributes {
    facts.into_iter().filter_map(|(name, value)| Some(KeyValue::new(name, value?))).collect()
}

fn text(text: &str) -> Value {
    text.to_owned().into()
}

fn list(texts: impl IntoIterator<Item = String>) -> Value {
    Value::Array(Array::String(texts.into_iter().map(StringValue::from).collect()))
}

/// Returns a job's attributes, the same in every process.
pub(super) fn about(about: &states::About) -> Attributes {
    let url = format!("{}/-/jobs/{}", about.project_url, about.job_id);
    attributes([
        ("cicd.pipeline.task.name", Some(text(&about.job_name))),
        ("cicd.pipeline.task.run.id", Some(text(&about.job_id))),
        ("cicd.pipeline.run.id", Some(text(&about.pipeline_id))),
        ("cicd.pipeline.task.run.url.full", Some(url.into())),
    ])
}

/// Begins the span of a process other than a stage: `reap`, `resume`, `stop`, `archive`.
pub fn opened(directory: &Path, snapshot: &Snapshot, purpose: &str) -> Stage {
    let header = snapshot.job.header();
    let own = header.trace.as_deref();
    let begin = |_: &Recorder| {
        // The trace of an ended job was exported, unless the process that ended it was killed. Then
        // its process log still exists.
        Some((parse(own.filter(|_| !has_ended(snapshot))?, "")?, SpanId::INVALID))
    };
    Stage(stage::open(directory, &header.id, purpose, Some(&header.about), own, begin))
}

/// Ends the span begun by [`opened`]. If the job has ended, exports its own span too, which no
/// other process does. `drove` is the result of driving it to `goal`.
pub fn closed(stage: Stage, drove: &Result<Outcome, EngineError>, goal: Goal, snapshot: &Snapshot) {
    if let (Ok(Outcome::Ended(_)), Some(open)) = (drove, &stage.0) {
        end(open, Some(snapshot), &snapshot.job.header().about);
    }
    let verdict = match drove {
        // The script was followed to its end: its verdict is the job's.
        Ok(Outcome::Reachable(Some(Finished {
            outcome: RunOutcome::Exited { code, .. }, ..
        }))) if goal == Goal::Run && *code != 0 => {
            Verdict::BuildFailure { code: Some(*code), message: None }
        }
        Ok(Outcome::Unfinished | Outcome::MustEnd(_)) | Err(_) => {
            Verdict::SystemFailure(String::new())
        }
        Ok(_) => Verdict::Success,
    };
    stage.leave(&verdict, false);
}

/// Records the end of the current job: ECS has accepted to stop its task, or it is archived. It has
/// no snapshot if it never began.
pub fn ended(snapshot: Option<&Snapshot>, who: &states::About) {
    stage::current().iter().for_each(|open| end(open, snapshot, who));
}

fn end(open: &Open, snapshot: Option<&Snapshot>, who: &states::About) {
    let (mut attributes, mut result) = (about(who), None);
    if let Some(snapshot) = snapshot.filter(|snapshot| is_of(open, snapshot)) {
        record_states(open, snapshot);
        claim_of(snapshot);
        attributes.extend(placed(snapshot));
        let additions = snapshot.job.header().spec.additions.as_deref();
        attributes.extend(additions.map(containers).unwrap_or_default());
        if let Some(bill) = Bill::of(snapshot, Timestamp::now()) {
            attributes.extend(costs(&bill, Peak::of(snapshot, &bill)));
        }
        result = match snapshot.job.stop_reason() {
            Some(StopReason::Cancelled) => Some(("cancellation".to_owned(), None)),
            reason => reason.and_then(error_type).map(|error| {
                let result = if error == "deadline" { "timeout" } else { "error" };
                (result.to_owned(), Some(error))
            }),
        };
    }
    *open.end() = Some(JobEnd { name: who.job_name.clone(), attributes, result });
}

/// Records the states of a finished attempt at the current job, as spans and metrics.
pub fn states_of(snapshot: &Snapshot) {
    let open = stage::current().filter(|open| is_of(open, snapshot));
    open.iter().for_each(|open| record_states(open, snapshot));
}

/// Whether the snapshot is of this attempt. That of an earlier one was exported when it ended.
fn is_of(open: &Open, snapshot: &Snapshot) -> bool {
    snapshot.job.header().trace.as_ref() == Some(&open.job.traceparent)
}

fn record_states(open: &Open, snapshot: &Snapshot) {
    let spans = Timeline::of(snapshot, Timestamp::now()).spans;
    for (n, span) in spans.iter().enumerate() {
        let (name, lasted) = (span.state, span.length().as_secs_f64());
        let is_last = spans.get(n + 1).is_some_and(|next| next.state == StateName::Stopping);
        let mut error = snapshot.job.stop_reason().filter(|_| is_last).and_then(error_type);
        let (mut code, mut output) = (None, None);
        match &span.outcome {
            Some(RunOutcome::Exited { code: exit, total }) => {
                code = Some(i64::from(*exit).into());
                output = Some(i64::try_from(*total).unwrap_or(i64::MAX).into());
                error = (*exit != 0).then(|| format!("exit_status_{exit}"));
            }
            Some(_) => error = Some("run_lost".to_owned()),
            None => {}
        }
        let attributes = attributes([
            ("fargate.state", Some(name.to_string().into())),
            ("fargate.stage", span.stage.as_deref().map(text)),
            ("process.exit.code", code),
            ("fargate.output", output),
        ]);
        metric!(histogram.fargate.state.duration = lasted, fargate.state = %name);
        let (name, times) = (format!("state {name}"), (span.from.into(), span.to.into()));
        record(beside(&open.root), open.root.span_id(), name, times, attributes, error);
    }
}

/// Records what a job had of a pool of warm tasks.
fn claim_of(snapshot: &Snapshot) {
    let Some(part) = PoolUse::of_job(snapshot) else { return };
    let (pool, mut result) = (part.pool(), "miss");
    if let PoolUse::Hit { idle, .. } = part {
        let waited = Duration::from_millis(idle).as_secs_f64();
        metric!(histogram.fargate.warm.idle.duration = waited, fargate.pool = pool);
        result = "hit";
    }
    metric!(
        monotonic_counter.fargate.warm.claims = 1_u64,
        fargate.pool = pool,
        fargate.warm.result = result
    );
}

/// Returns attributes of the task's location.
fn placed(snapshot: &Snapshot) -> Attributes {
    let (spec, task) = (&snapshot.job.header().spec, snapshot.job.task());
    let definition = spec.task_definition.rsplit('/').next().unwrap_or_default();
    let (family, revision) = definition
        .split_once(':')
        .map_or((definition, None), |(family, revision)| (family, Some(revision)));
    let named = spec.cluster.starts_with("arn:").then(|| spec.cluster.clone());
    let cluster = named.or_else(|| task?.cluster_arn());
    attributes([
        ("cloud.provider", Some("aws".into())),
        ("cloud.platform", Some("aws_ecs".into())),
        ("cloud.region", task.and_then(|task| task.region()).map(text)),
        ("cloud.account.id", task.and_then(|task| task.account()).map(text)),
        ("aws.ecs.task.arn", task.map(|task| text(task.as_str()))),
        ("aws.ecs.task.id", task.map(|task| text(task.task_id()))),
        ("aws.ecs.task.family", Some(text(family))),
        ("aws.ecs.task.revision", revision.map(text)),
        ("aws.ecs.cluster.arn", cluster.map(Value::from)),
    ])
}

/// Returns attributes of what the task is billed by and costs, and records them as metrics. `peak`
/// is the most that the job has used of it.
fn costs(bill: &Bill, peak: Option<Peak>) -> Attributes {
    let (launch_type, provider) = match &bill.host {
        Host::Fargate => (Some("fargate"), "FARGATE"),
        Host::FargateSpot => (Some("fargate"), "FARGATE_SPOT"),
        Host::Instances(name) => (Some("ec2"), name.as_str()),
        Host::Unknown => (None, ""),
    };
    let (cpu, memory) = bill.vcpu_seconds().zip(bill.gb_seconds()).unzip();
    let prices = recorder().and_then(|recorder| recorder.prices.as_ref());
    let cost = prices.and_then(|prices| bill.cost(prices).ok());
    if let (Some(cpu), Some(memory)) = (cpu, memory) {
        metric!(monotonic_counter.fargate.cpu = cpu, fargate.capacity_provider = provider);
        metric!(monotonic_counter.fargate.memory = memory, fargate.capacity_provider = provider);
    }
    if let Some(cost) = &cost {
        metric!(
            monotonic_counter.fargate.cost = cost.amount,
            fargate.currency = cost.currency,
            fargate.capacity_provider = provider
        );
    }
    let peak = |of: fn(Peak) -> Option<u32>| Some(Value::from(f64::from(of(peak?)?) / 1024.0));
    attributes([
        ("aws.ecs.launchtype", launch_type.map(Value::from)),
        ("fargate.capacity_provider", Some(text(provider))),
        ("fargate.cpu", cpu.map(Value::from)),
        ("fargate.memory", memory.map(Value::from)),
        ("fargate.cost", cost.as_ref().map(|cost| cost.amount.into())),
        ("fargate.currency", cost.as_ref().map(|cost| text(cost.currency))),
        ("fargate.cpu.peak", peak(|peak| peak.cpu)),
        ("fargate.memory.peak", peak(|peak| peak.memory)),
    ])
}

/// Returns attributes of the images that the job chose.
fn containers(additions: &Additions) -> Attributes {
    let (name, tag) = additions.job.as_ref().map(|job| image_parts(&job.image.name)).unzip();
    let images: Vec<_> = additions.services.iter().map(|of| of.image.name.clone()).collect();
    let count = i64::try_from(images.len()).ok().filter(|count| *count > 0);
    attributes([
        ("container.image.name", name.map(text)),
        ("container.image.tags", tag.flatten().map(|tag| list([tag.to_owned()]))),
        ("fargate.service.count", count.map(Value::from)),
        ("fargate.service.images", count.map(|_| list(images))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_of_the_job_and_of_its_services_are_attributes() {
        use opentelemetry_semantic_conventions::attribute as of;
        let additions = serde_json::json!({
            "job": {
                "image": { "name": "r.example:5000/node:22", "credentials": "arn:secret" },
                "shared": { "run": "/run", "builds": "/builds", "cache": "/cache" },
            },
            "services": [
                { "name": "db", "image": { "name": "postgres:17" }, "command": ["-p", "hunter2"] },
                { "name": "redis", "image": { "name": "redis" } },
            ],
        });
        let recorded = containers(&serde_json::from_value(additions).unwrap());
        let recorded: Vec<_> =
            recorded.iter().map(|of| (of.key.as_str(), of.value.to_string())).collect();
        let expected = [
            (of::CONTAINER_IMAGE_NAME, "r.example:5000/node"),
            (of::CONTAINER_IMAGE_TAGS, r#"["22"]"#),
            ("fargate.service.count", "2"),
            ("fargate.service.images", r#"["postgres:17","redis"]"#),
        ];
        assert_eq!(recorded, expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(containers(&Additions::default()), []);
    }
}
