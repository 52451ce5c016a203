//! A job's processes export one trace, which is compared with the tree in `docs/telemetry.md`.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::trace::v1::Span;

use crate::{
    cluster::Cluster,
    collector::{Collector, Mood, Rotel, attribute, tree},
    conventions, eventually,
    replay_act::{id, replay},
    runner::{Alone, BUILD_FAILURE, Job, is_through_service},
};

/// Secrets that only the job may see.
const SECRET: &str = "hunter2-5up3r-53cr3t";

pub fn traced(cluster: &Cluster, endpoint: &str, more: &str) -> Job {
    let mut job = Job::with(
        cluster,
        &format!(
            "[Telemetry]\nEndpoint = \"{endpoint}\"\nFlushTimeout = \"5s\"\nHeaders = {{ api-key = \"{SECRET}-100%25\" }}\n{more}\n"
        ),
    );
    job.set("CUSTOM_ENV_DATABASE_PASSWORD", SECRET);
    job
}

/// As gitlab-runner calls the driver for a job whose script fails. All is exported.
pub fn whole_job(job: &Job) {
    assert_eq!(job.stage(&["config"]).code, 0);
    job.prepare();
    for stage in
        ["prepare_script", "get_sources", "restore_cache", "download_artifacts", "step_script"]
    {
        assert_eq!(job.run(stage, format!("#!/bin/sh\n: {SECRET}\necho out\n")).code, 0);
    }
    let failed = job.run("build_script", "#!/bin/sh\nexit 7\n");
    assert_eq!((failed.code, failed.script_code.as_deref()), (BUILD_FAILURE, Some("7")));
    for stage in ["after_script", "archive_cache_on_failure", "upload_artifacts_on_failure"] {
        assert_eq!(job.run(stage, "#!/bin/sh\nexit 0\n").code, 0);
    }
    job.cleanup();
    job.end_service();
}

/// Returns the tree of `docs/telemetry.md` for a job with these run stages. The number of calls to
/// ECS depends on time, so each line is there once.
fn promised(runs: &[&str]) -> BTreeSet<String> {
    let root = "job build [1/2]";
    let mut tree: BTreeSet<String> = [root.to_owned()].into();
    for stage in ["config", "prepare", "cleanup"] {
        tree.insert(format!("{root} > stage {stage}"));
    }
    for state in ["Provisioning", "Pending", "Reachable", "Executing", "Stopping"] {
        tree.insert(format!("{root} > state {state}"));
    }
    tree.insert("stage prepare > ECS/RunTask".to_owned());
    tree.insert("stage prepare > ECS/DescribeTasks".to_owned());
    tree.insert("stage prepare > connect".to_owned());
    tree.insert("stage cleanup > ECS/StopTask".to_owned());
    for run in runs {
        tree.insert(format!("{root} > stage run {run}"));
        tree.insert(format!("stage run {run} > start"));
        // A service keeps the connection of `prepare`.
        if !is_through_service() {
            tree.insert(format!("stage run {run} > connect"));
        }
    }
    tree
}

/// It is a matter of timing whether ECS reports RUNNING before the container answers.
fn without_chance(tree: Vec<String>) -> BTreeSet<String> {
    tree.into_iter().filter(|line| !line.ends_with("state Running")).collect()
}

const RUNS: [&str; 9] = [
    "prepare_script",
    "get_sources",
    "restore_cache",
    "download_artifacts",
    "step_script",
    "build_script",
    "after_script",
    "archive_cache_on_failure",
    "upload_artifacts_on_failure",
];

pub fn assert_whole(collector: &Collector) {
    let spans = collector.spans();
    assert_eq!(without_chance(tree(&spans)), promised(&RUNS), "{spans:#?}");
    let root = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    assert_eq!(
        attribute(&root.attributes, "cicd.pipeline.task.run.result").as_deref(),
        Some("failure")
    );
    assert_eq!(attribute(&root.attributes, "error.type").as_deref(), Some("exit_status_7"));
    assert!(attribute(&root.attributes, "aws.ecs.task.arn").is_some());
    for call in spans.iter().filter(|span| span.name.starts_with("ECS/")) {
        assert!(attribute(&call.attributes, "aws.request_id").is_some(), "{call:#?}");
        assert_eq!(attribute(&call.attributes, "rpc.system.name").as_deref(), Some("aws-api"));
    }
    assert_eq!(spans.iter().filter(|span| span.name == "state Executing").count(), RUNS.len());
    for connect in spans.iter().filter(|span| span.name == "connect") {
        let phases: Vec<&str> = connect.events.iter().map(|event| event.name.as_str()).collect();
        let expected = ["tcp.connected", "ssh.keys_exchanged", "ssh.authenticated"];
        assert_eq!(phases, expected, "{connect:#?}");
    }
    for start in spans.iter().filter(|span| span.name == "start") {
        assert!(attribute(&start.attributes, "fargate.script.size").is_some(), "{start:#?}");
    }
}

#[test]
fn one_job_is_one_trace_with_metrics_and_logs_and_nothing_secret() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = traced(&cluster, &collector.endpoint, "Logs = true");
    whole_job(&job);
    assert_whole(&collector);
    conventions::assert_followed(&collector);
    // As it stands in fargate.toml.
    let key = format!("{SECRET}-100%25");
    let requests = collector.received();
    assert!(requests.iter().all(|request| request.header("api-key") == Some(key.as_str())));

    let resource = collector.resource();
    assert_eq!(attribute(&resource, "service.name").as_deref(), Some("fargate-driver"));
    assert!(attribute(&resource, "cicd.worker.name").is_some());
    let names: BTreeSet<String> =
        collector.metrics().into_iter().map(|metric| metric.name).collect();
    for name in [
        "fargate.aws.calls",
        "fargate.connections",
        "fargate.cost",
        "fargate.cpu",
        "fargate.job.duration",
        "fargate.jobs",
        "fargate.memory",
        "fargate.output",
        "fargate.state.duration",
    ] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    let trace = collector.spans()[0].trace_id.clone();
    let logs = collector.logs();
    assert!(logs.iter().any(|line| line.trace_id == trace && line.span_id.len() == 8), "{logs:#?}");
    let hex = hex::encode(trace);
    assert!(job.log().contains(&format!("trace_id={hex}")), "{}", job.log());

    let key = std::fs::read_to_string(&job.config).unwrap();
    assert!(key.contains(SECRET), "the test's secret is where it should be");
    let aws =
        job.environment.iter().find(|(name, _)| name == "AWS_SECRET_ACCESS_KEY").unwrap().1.clone();
    for request in collector.received() {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        for secret in [aws.as_str(), SECRET, "PRIVATE KEY", "ssh-ed25519", "exit 7", "echo out"] {
            assert!(!body.contains(secret), "{secret} was exported: {body}");
        }
    }
    for ending in [".trace", ".otlp", ".new"] {
        assert_eq!(job.files(ending), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn a_killed_driver_leaves_no_orphan_and_no_second_trace() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = traced(&cluster, &collector.endpoint, "");
    assert_eq!(job.stage(&["config"]).code, 0);
    // `prepare` is killed once there is a task, and is called again.
    let mut first = job.spawn(&["prepare"]);
    eventually("a task is asked for", || {
        job.snapshot().contains("RunTask") || job.snapshot().contains("Pending")
    });
    first.kill().unwrap();
    first.wait().unwrap();
    job.prepare();
    // A script's driver is killed while it runs.
    let script = job.script("#!/bin/sh\necho begun\nsleep 600\n").display().to_string();
    let mut run = job.spawn(&["run", &script, "build_script"]);
    eventually("the script is to run", || job.snapshot().contains("Executing("));
    run.kill().unwrap();
    run.wait().unwrap();
    job.cleanup();
    job.end_service();
    let spans = collector.spans();
    let tree = tree(&spans);
    let killed: Vec<&str> = spans
        .iter()
        .filter(|span| {
            attribute(&span.attributes, "error.type").as_deref() == Some("process_killed")
        })
        .map(|span| span.name.as_str())
        .collect();
    assert!(
        killed.contains(&"stage run build_script") && killed.contains(&"stage prepare"),
        "{killed:?} {tree:#?}"
    );
    assert!(tree.contains(&"job build [1/2] > state Executing".to_owned()), "{tree:#?}");
    let root = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    assert_eq!(
        attribute(&root.attributes, "cicd.pipeline.task.run.result").as_deref(),
        Some("error")
    );
    cluster.assert_nothing_is_left(1);
}

/// Returns the spans of each trace.
pub fn traces(spans: Vec<Span>) -> Vec<Vec<Span>> {
    let mut traces: BTreeMap<Vec<u8>, Vec<Span>> = BTreeMap::new();
    for span in spans {
        traces.entry(span.trace_id.clone()).or_default().push(span);
    }
    traces.into_values().collect()
}

#[test]
fn jobs_that_are_reaped_together_have_separate_traces() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let first = traced(&cluster, &collector.endpoint, "");
    let others = [first.beside(&cluster), first.beside(&cluster)];
    for job in others.iter().chain([&first]) {
        assert_eq!(job.stage(&["config"]).code, 0);
        job.prepare();
    }
    let reaped = first.reap(&["--older-than", "0s"]);
    assert!(String::from_utf8_lossy(&reaped.stdout).contains("jobs ended: 3;"), "{reaped:#?}");
    first.end_service();
    let traces = traces(collector.spans());
    assert_eq!(traces.len(), 3);
    for spans in &traces {
        let tree = without_chance(tree(spans));
        for line in [
            "job build [1/2] > stage prepare",
            "job build [1/2] > state Stopping",
            "stage reap > ECS/StopTask",
        ] {
            assert!(tree.contains(line), "{line} is not in {tree:#?}");
        }
        let root = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
        assert_eq!(attribute(&root.attributes, "error.type").as_deref(), Some("abandoned"));
    }
    assert!(collector.metrics().iter().any(|metric| metric.name == "fargate.reaped"));
    assert_eq!(first.files(".trace"), Vec::<std::path::PathBuf>::new());
}

#[test]
fn reap_exports_abandoned_jobs() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = traced(&cluster, &collector.endpoint, "").alone(Alone::CountsExports);
    // One job never gets further than `config`; when the other ends, there is no collector.
    let other = job.beside(&cluster);
    assert_eq!(other.stage(&["config"]).code, 0);
    job.prepare();
    let patient = std::fs::read_to_string(&job.config).unwrap();
    std::fs::write(&job.config, patient.replace("\"5s\"", "\"2s\"")).unwrap();
    collector.set(Mood::Unavailable);
    job.cleanup();
    assert_eq!((job.files(".otlp").len(), job.files(".trace").len()), (1, 1));
    let log = job.log();
    let line = log.lines().find(|line| line.contains("telemetry was not taken")).unwrap();
    assert!(
        line.contains(&format!("traces, metrics to {}: ", collector.endpoint))
            && line.contains("kept for `fargate reap`"),
        "{line}"
    );
    collector.set(Mood::Fine);
    std::fs::write(&job.config, patient).unwrap();
    let early = job.reap(&[]);
    assert_eq!(early.code, 0, "{early:#?}");
    assert_eq!((job.files(".otlp").len(), job.files(".trace").len()), (1, 1), "not old enough");
    let reaped = job.reap(&["--older-than", "0s"]);
    assert_eq!(reaped.code, 0, "{reaped:#?}");
    let traces = traces(collector.spans());
    assert_eq!(traces.len(), 2);
    traces.iter().for_each(|spans| drop(tree(spans)));
    assert_eq!((job.files(".otlp").len(), job.files(".trace").len()), (0, 0));
}

#[test]
fn a_faulty_collector_changes_nothing_and_gets_everything_later() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = traced(&cluster, &collector.endpoint, "").alone(Alone::CountsExports);
    assert_eq!(job.stage(&["config"]).code, 0);
    job.prepare();
    let patient = std::fs::read_to_string(&job.config).unwrap();
    std::fs::write(&job.config, patient.replace("\"5s\"", "\"250ms\"")).unwrap();
    for mood in [Mood::Unavailable, Mood::Hangs, Mood::Garbage, Mood::Dies] {
        collector.set(mood);
        let ended = job.run("build_script", "#!/bin/sh\nprintf 'out\\0\\377'\nexit 3\n");
        assert_eq!(
            (ended.code, ended.script_code.as_deref()),
            (BUILD_FAILURE, Some("3")),
            "{mood:?} {ended:#?}"
        );
        assert_eq!(
            (ended.stdout.as_slice(), ended.stderr.as_str()),
            (&b"out\0\xff"[..], ""),
            "{mood:?}"
        );
        assert_eq!(job.files(".otlp").len(), 1, "{mood:?}");
    }
    let lines = job.log().lines().filter(|line| line.contains("telemetry was not taken")).count();
    assert_eq!(lines, 4, "{}", job.log());
    std::fs::write(&job.config, patient).unwrap();
    collector.set(Mood::Fine);
    job.cleanup();
    let spans = collector.spans();
    let tree = tree(&spans);
    assert_eq!(
        spans.iter().filter(|span| span.name == "stage run build_script").count(),
        4,
        "{tree:#?}"
    );
    assert_eq!(job.files(".otlp"), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_traced_pipeline_is_the_parent_of_jobs_and_scripts() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let mut job = traced(
        &cluster,
        &collector.endpoint,
        "PropagateToJob = true\nJobEndpoint = \"http://collector.example:4318\"",
    );
    job.set("CUSTOM_ENV_TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    job.set("CUSTOM_ENV_TRACESTATE", "vendor=it's $(me)");
    job.prepare();
    let ran = job.run(
        "build_script",
        "#!/bin/sh\n\necho \"$TRACEPARENT|$TRACESTATE|$OTEL_EXPORTER_OTLP_ENDPOINT\"\n",
    );
    job.cleanup();
    job.end_service();
    let spans = collector.spans();
    let root = spans.iter().find(|span| span.name.starts_with("job ")).unwrap();
    let stage = spans.iter().find(|span| span.name == "stage run build_script").unwrap();
    let hex = hex::encode(&stage.span_id);
    let expected = format!(
        "00-0af7651916cd43dd8448eb211c80319c-{hex}-01|vendor=it's $(me)|http://collector.example:4318\n"
    );
    assert_eq!(String::from_utf8_lossy(&ran.stdout), expected);
    assert_eq!(root.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
}

/// Another process gives the script another span: it is the same script, and its run continues.
#[test]
fn a_repeated_stage_is_the_same_run_although_its_script_names_another_span() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let mut job = traced(&cluster, &collector.endpoint, "PropagateToJob = true");
    job.set("CUSTOM_ENV_TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    job.prepare();
    let script = job.script(
        "echo \"$TRACEPARENT\" >>\"$TMPDIR/spans\"; echo begun; until [ -e \"$TMPDIR/go\" ]; do sleep 0.05; done; wc -l <\"$TMPDIR/spans\"\n",
    );
    let text = std::fs::read(&script).unwrap();
    let script = script.display().to_string();
    let mut first = job.spawn(&["run", &script, "get_sources"]);
    eventually("the script runs", || job.snapshot().contains("started: true"));
    first.kill().unwrap();
    first.wait().unwrap();
    job.set("CUSTOM_ENV_TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01");
    let again = job.spawn(&["run", &script, "get_sources"]);
    assert_eq!(
        replay(&job)
            .args(["shell", &id(&job), "--", "touch \"$TMPDIR/go\""])
            .status()
            .unwrap()
            .code(),
        Some(0)
    );
    let ended = job.end(again);
    assert_eq!(
        (ended.code, String::from_utf8_lossy(&ended.stdout).lines().last()),
        (0, Some("1")),
        "it ran once: {ended:#?}"
    );
    // The record has gitlab-runner's own script.
    use sha2::{Digest as _, Sha256};
    let digest = hex::encode(Sha256::digest(&text));
    assert!(job.snapshot().contains(&digest), "{}", job.snapshot());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// `cleanup` exports the job. Later processes that read, archive or prepare it do not export it
/// again.
#[test]
fn each_attempt_is_exported_exactly_once() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = traced(&cluster, &collector.endpoint, "").alone(Alone::ArchivesLater);
    for with_config in [true, false, true] {
        if with_config {
            assert_eq!(job.stage(&["config"]).code, 0);
        }
        job.prepare();
        job.cleanup_as_gitlab_runner();
        assert_eq!(job.files(".trace"), Vec::<std::path::PathBuf>::new());
    }
    job.cleanup_as_gitlab_runner();
    eventually("its tasks have ended", || {
        cluster.tasks().iter().all(|task| task.status == "STOPPED")
    });
    assert!(String::from_utf8_lossy(&job.reap(&[]).stdout).contains("jobs ended: 1"));
    let spans = collector.spans();
    let ids: BTreeSet<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
    assert_eq!(ids.len(), spans.len(), "a span came twice");
    assert_eq!(traces(spans.clone()).len(), 1);
    let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
    assert_eq!(
        (
            count("job build [1/2]"),
            count("state Stopping"),
            count("stage cleanup"),
            count("state Pending")
        ),
        (3, 3, 3, 3)
    );
    let jobs: Vec<_> =
        collector.metrics().into_iter().filter(|metric| metric.name == "fargate.jobs").collect();
    assert_eq!(jobs.len(), 3, "{jobs:#?}");
    assert_eq!((job.files("").len(), job.archived().len()), (0, 3));
}

#[test]
fn disabled_telemetry_leaves_nothing_behind() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let mut job = traced(&cluster, &collector.endpoint, "");
    job.set("OTEL_SDK_DISABLED", "true");
    job.prepare();
    assert_eq!(job.run("build_script", "exit 0\n").code, 0);
    assert_eq!(job.files(".trace"), Vec::<std::path::PathBuf>::new());
    assert!(!job.snapshot().contains("trace:"), "{}", job.snapshot());
    job.cleanup();
    assert!(collector.received().is_empty());
}

#[test]
#[ignore = "needs rotel, an OpenTelemetry collector; scripts/test installs it"]
fn a_real_collector_accepts_grpc_and_http() {
    for protocol in ["grpc", "http/protobuf"] {
        let (cluster, collector) = (Cluster::local(), Collector::start());
        let rotel = Rotel::start(&collector);
        let endpoint = if protocol == "grpc" { &rotel.grpc } else { &rotel.http };
        let job = traced(&cluster, endpoint, &format!("Protocol = \"{protocol}\"\nLogs = true"));
        whole_job(&job);
        eventually("the collector hands the job's span on", || {
            collector.spans().iter().any(|span| span.parent_span_id.is_empty())
        });
        eventually("the collector hands all spans on", || {
            without_chance(collector.spans().iter().map(|span| span.name.clone()).collect()).len()
                >= 9
                && collector.spans().len() > 30
        });
        assert_whole(&collector);
        eventually("the collector hands metrics and logs on", || {
            !collector.metrics().is_empty() && !collector.logs().is_empty()
        });
    }
}
