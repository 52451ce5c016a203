//! The spans of a job that are exported when it ends: its states, from the journal, and its own.

use std::{path::Path, time::Duration};

use ::replay::summary::PoolUse;
use diagnosis::{
    costs::{Bill, Host, Peak},
    error_type,
    timeline::Timeline,
};
use opentelemetry::{Array, KeyValue, StringValue, Value};
use states::{
    Additions, EngineError, Finished, Goal, Header, Outcome, RunOutcome, Snapshot, StateName,
    StopReason, Timestamp,
};

use super::{
    Purpose,
    context::traceparent,
    metric,
    stage::{self, Attributes, JobEnd, Open, Stage, past},
};
use crate::{definition::image_parts, job_end::has_ended, runner::Verdict};

/// Returns a job's attributes, the same in every process.
#[must_use]
pub(super) fn about(about: &states::About) -> Attributes {
    let url = format!("{}/-/jobs/{}", about.project_url, about.job_id);
    vec![
        KeyValue::new("cicd.pipeline.task.name", about.job_name.clone()),
        KeyValue::new("cicd.pipeline.task.run.id", about.job_id.clone()),
        KeyValue::new("cicd.pipeline.run.id", about.pipeline_id.clone()),
        KeyValue::new("cicd.pipeline.task.run.url.full", url),
    ]
}

/// Begins the span of a process other than a stage: `reap`, `resume`, `stop`, `archive`.
pub fn opened(directory: &Path, snapshot: &Snapshot, purpose: &str) -> Stage {
    let header = snapshot.job.header();
    let (directory, job, name) = (directory.to_owned(), header.id.to_string(), purpose.to_owned());
    let purpose = Purpose { directory, job, name, begins: None, only: header.trace.clone() };
    // The trace of an ended job was exported, unless the process that ended it was killed. Then its
    // process log still exists.
    let kept = header.trace.as_deref().filter(|_| !has_ended(snapshot));
    stage::enter(&purpose, kept, Some(&header.about))
}

/// Ends the span begun by [`opened`]. If the job has ended, exports its own span too, which no
/// other process does. `drove` is the result of driving it to `goal`.
pub fn closed(stage: Stage, drove: &Result<Outcome, EngineError>, goal: Goal, snapshot: &Snapshot) {
    if let (Ok(Outcome::Ended(_)), Some(open)) = (drove, stage.open()) {
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
    let mut end = JobEnd { attributes: about(who), ..JobEnd::default() };
    if let Some(snapshot) = snapshot.filter(|snapshot| is_of(open, snapshot)) {
        record_states(open, snapshot);
        claim_of(snapshot);
        end.attributes.extend(placed(snapshot));
        let additions = snapshot.job.header().spec.additions.as_deref();
        end.attributes.extend(additions.map(containers).unwrap_or_default());
        if let Some(bill) = Bill::of(snapshot, Timestamp::now()) {
            end.attributes.extend(costs(&bill, Peak::of(snapshot, &bill)));
        }
        let reason = snapshot.job.stop_reason();
        end.cancelled = matches!(reason, Some(StopReason::Cancelled));
        end.error = reason.and_then(error_type);
    }
    open.end(end);
}

/// Records the states of a finished attempt at the current job, as spans and metrics.
pub fn states_of(snapshot: &Snapshot) {
    let open = stage::current().filter(|open| is_of(open, snapshot));
    open.iter().for_each(|open| record_states(open, snapshot));
}

/// Whether the snapshot is of this attempt. That of an earlier one was exported when it ended.
fn is_of(open: &Open, snapshot: &Snapshot) -> bool {
    snapshot.job.header().trace == Some(traceparent(&open.root))
}

fn record_states(open: &Open, snapshot: &Snapshot) {
    let spans = Timeline::of(snapshot, Timestamp::now()).spans;
    for (n, span) in spans.iter().enumerate() {
        let name = span.state;
        let is_last = spans.get(n + 1).is_some_and(|next| next.state == StateName::Stopping);
        let mut error = snapshot.job.stop_reason().filter(|_| is_last).and_then(error_type);
        let mut attributes = vec![KeyValue::new("fargate.state", name.to_string())];
        attributes.extend(span.stage.clone().map(|stage| KeyValue::new("fargate.stage", stage)));
        match &span.outcome {
            Some(RunOutcome::Exited { code, total }) => {
                let total = i64::try_from(*total).unwrap_or(i64::MAX);
                attributes.push(KeyValue::new("process.exit.code", i64::from(*code)));
                attributes.push(KeyValue::new("fargate.output", total));
                error = (*code != 0).then(|| format!("exit_status_{code}"));
            }
            Some(_) => error = Some("run_lost".to_owned()),
            None => {}
        }
        metric!(
            histogram.fargate.state.duration = span.length().as_secs_f64(),
            fargate.state = %name
        );
        let times = (span.from.into(), span.to.into());
        open.record_state(past(format!("state {name}"), times, attributes, error));
    }
}

/// Records what a job had of a pool of warm tasks.
fn claim_of(snapshot: &Snapshot) {
    let Some(part) = PoolUse::of_job(snapshot) else { return };
    let pool = part.pool();
    let result = if let PoolUse::Hit { idle, .. } = part {
        let waited = Duration::from_millis(idle).as_secs_f64();
        metric!(histogram.fargate.warm.idle.duration = waited, fargate.pool = pool);
        "hit"
    } else {
        "miss"
    };
    metric!(
        monotonic_counter.fargate.warm.claims = 1_u64,
        fargate.pool = pool,
        fargate.warm.result = result
    );
}

/// Returns attributes of the task's location.
fn placed(snapshot: &Snapshot) -> Attributes {
    let Header { spec, .. } = snapshot.job.header();
    let mut attributes =
        vec![KeyValue::new("cloud.provider", "aws"), KeyValue::new("cloud.platform", "aws_ecs")];
    let mut add = |name: &'static str, value: Option<&str>| {
        attributes.extend(value.map(|value| KeyValue::new(name, value.to_owned())));
    };
    if let Some(task) = snapshot.job.task() {
        add("aws.ecs.task.arn", Some(task.as_str()));
        add("aws.ecs.task.id", Some(task.task_id()));
        add("cloud.region", task.region());
        add("cloud.account.id", task.account());
    }
    let definition = spec.task_definition.rsplit('/').next().unwrap_or_default();
    let (family, revision) = definition
        .split_once(':')
        .map_or((definition, None), |(family, revision)| (family, Some(revision)));
    add("aws.ecs.task.family", Some(family));
    add("aws.ecs.task.revision", revision);
    let named = spec.cluster.starts_with("arn:").then(|| spec.cluster.clone());
    let cluster = named.or_else(|| snapshot.job.task()?.cluster_arn());
    add("aws.ecs.cluster.arn", cluster.as_deref());
    attributes
}

/// Returns attributes of what the task is billed by and costs, and records them as metrics. `peak`
/// is the most that the job has used of it.
fn costs(bill: &Bill, peak: Option<Peak>) -> Attributes {
    let (launch_type, capacity_provider) = match &bill.host {
        Host::Fargate => (Some("fargate"), "FARGATE"),
        Host::FargateSpot => (Some("fargate"), "FARGATE_SPOT"),
        Host::Instances(name) => (Some("ec2"), name.as_str()),
        Host::Unknown => (None, ""),
    };
    let mut attributes = Attributes::new();
    attributes.extend(launch_type.map(|name| KeyValue::new("aws.ecs.launchtype", name)));
    attributes.push(KeyValue::new("fargate.capacity_provider", capacity_provider.to_owned()));
    if let (Some(vcpu_seconds), Some(gb_seconds)) = (bill.vcpu_seconds(), bill.gb_seconds()) {
        metric!(
            monotonic_counter.fargate.cpu = vcpu_seconds,
            fargate.capacity_provider = capacity_provider
        );
        metric!(
            monotonic_counter.fargate.memory = gb_seconds,
            fargate.capacity_provider = capacity_provider
        );
        attributes.push(KeyValue::new("fargate.cpu", vcpu_seconds));
        attributes.push(KeyValue::new("fargate.memory", gb_seconds));
    }
    let prices = stage::recorder().and_then(|recorder| recorder.prices.as_ref());
    if let Some(Ok(money)) = prices.map(|prices| bill.cost(prices)) {
        metric!(
            monotonic_counter.fargate.cost = money.amount,
            fargate.currency = money.currency,
            fargate.capacity_provider = capacity_provider
        );
        attributes.push(KeyValue::new("fargate.cost", money.amount));
        attributes.push(KeyValue::new("fargate.currency", money.currency.to_owned()));
    }
    let used = |name: &'static str, parts: Option<u32>| {
        parts.map(|parts| KeyValue::new(name, f64::from(parts) / 1024.0))
    };
    attributes.extend(used("fargate.cpu.peak", peak.and_then(|peak| peak.cpu)));
    attributes.extend(used("fargate.memory.peak", peak.and_then(|peak| peak.memory)));
    attributes
}

/// Returns attributes of the images that the job chose.
fn containers(additions: &Additions) -> Vec<KeyValue> {
    let list = |texts: Vec<String>| {
        Value::Array(Array::String(texts.into_iter().map(StringValue::from).collect()))
    };
    let mut attributes = Vec::new();
    if let Some(job) = &additions.job {
        let (name, tag) = image_parts(&job.image.name);
        attributes.push(KeyValue::new("container.image.name", name.to_owned()));
        let tags = tag.map(|tag| list(vec![tag.to_owned()]));
        attributes.extend(tags.map(|tags| KeyValue::new("container.image.tags", tags)));
    }
    let images: Vec<_> = additions.services.iter().map(|of| of.image.name.clone()).collect();
    if let Ok(count @ 1..) = i64::try_from(images.len()) {
        attributes.push(KeyValue::new("fargate.service.count", count));
        attributes.push(KeyValue::new("fargate.service.images", list(images)));
    }
    attributes
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
