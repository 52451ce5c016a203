//! An engineer follows and stops a job by `fargate-replay`: it is still one trace.

use opentelemetry_proto::tonic::trace::v1::Span;

use crate::{
    cluster::Cluster,
    collector::{Collector, Rotel, attribute, tree},
    eventually,
    replay_act::{id, replay},
    runner::Job,
    telemetry::traced,
};

/// A driver is killed while its script runs; an engineer follows the script to its end, and stops
/// the job by hand.
fn followed_and_stopped_by_hand(job: &Job, collector: &Collector) {
    assert_eq!(job.stage(&["config"]).code, 0);
    job.prepare();
    let script = job
        .script("#!/bin/sh\necho begun\nuntil [ -e \"$TMPDIR/go\" ]; do sleep 0.05; done\nexit 7\n")
        .display()
        .to_string();
    let mut run = job.spawn(&["run", &script, "build_script"]);
    eventually("the script runs", || job.snapshot().contains("started: true"));
    run.kill().unwrap();
    run.wait().unwrap();
    let by_hand = |arguments: &[&str]| replay(job).args(arguments).output().unwrap();
    let id = id(job);
    assert_eq!(by_hand(&["shell", &id, "--", "touch \"$TMPDIR/go\""]).status.code(), Some(0));
    let resumed = by_hand(&["resume", &id]);
    assert_eq!(resumed.status.code(), Some(7), "{resumed:#?}");
    assert_eq!(job.files(".trace").len(), 1, "the job goes on");
    let stopped = by_hand(&["stop", &id]);
    assert_eq!(stopped.status.code(), Some(0), "{stopped:#?}");

    let root = |spans: &[Span]| spans.iter().find(|span| span.parent_span_id.is_empty()).cloned();
    let all_there = |spans: &[Span]| {
        root(spans).is_some()
            && ["prepare", "resume", "stop", "run build_script"]
                .iter()
                .all(|stage| spans.iter().any(|span| span.name == format!("stage {stage}")))
    };
    eventually("the whole trace has arrived", || all_there(&collector.spans()));
    let spans = collector.spans();
    let tree = tree(&spans);
    for line in [
        "job build [1/2] > state Executing",
        "stage resume > connect",
        "stage resume > attach",
        "stage stop > ECS/StopTask",
    ] {
        assert!(tree.contains(&line.to_owned()), "{line} is not in {tree:#?}");
    }
    let of = |stage: &str, name: &str| {
        let span = spans.iter().find(|span| span.name == format!("stage {stage}")).unwrap();
        attribute(&span.attributes, name).unwrap_or_default()
    };
    assert_eq!(
        (of("run build_script", "error.type"), of("resume", "error.type")),
        ("process_killed".to_owned(), "exit_status_7".to_owned())
    );
    assert_eq!(
        (of("resume", "fargate.stage.result"), of("stop", "fargate.stage.result")),
        ("failure".to_owned(), "success".to_owned())
    );
    assert_eq!(
        attribute(&root(&spans).unwrap().attributes, "error.type").as_deref(),
        Some("abandoned")
    );
    for ending in [".trace", ".otlp"] {
        assert_eq!(job.files(ending), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn a_job_that_is_resumed_and_stopped_by_hand_is_one_trace() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    followed_and_stopped_by_hand(&traced(&cluster, &collector.endpoint, ""), &collector);
    cluster.assert_nothing_is_left(1);
}

#[test]
#[ignore = "needs rotel, an OpenTelemetry collector; scripts/test installs it"]
fn a_job_that_is_resumed_and_stopped_by_hand_is_one_trace_in_a_real_collector() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let rotel = Rotel::start(&collector);
    followed_and_stopped_by_hand(
        &traced(&cluster, &rotel.http, "Protocol = \"http/protobuf\""),
        &collector,
    );
}
