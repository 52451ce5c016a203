//! What an administrator decides about telemetry, and what a job's user cannot.

use crate::{
    cluster::Cluster,
    collector::{Collector, Mood, Rotel, tree},
    eventually,
    runner::{Alone, BUILD_FAILURE, Job},
    telemetry::{assert_whole, traced, whole_job},
};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn a_jobs_traceparent_raises_the_sampling_rate_only_if_it_is_trusted() {
    for (trust, exported) in [("", false), ("TrustJobTraceparent = true", true)] {
        let (cluster, collector) = (Cluster::local(), Collector::start());
        let settings = format!("Sampler = \"parentbased_always_off\"\n{trust}");
        let mut job = traced(&cluster, &collector.endpoint, &settings);
        job.set("CUSTOM_ENV_TRACEPARENT", SAMPLED);
        job.prepare();
        job.cleanup();
        job.end_service();
        assert_eq!(!collector.spans().is_empty(), exported, "{trust}");
        assert!(!collector.metrics().is_empty(), "metrics are of all jobs");
    }
}

#[test]
fn headers_to_a_remote_collector_without_encryption_are_warned_about_once_per_job() {
    let cluster = Cluster::local();
    let warnings = |endpoint: &str| {
        let job = traced(&cluster, endpoint, "").alone(Alone::CountsWarnings);
        changed(&job, "\"5s\"", "\"20ms\"");
        assert_eq!(job.stage(&["config"]).code, 0);
        job.prepare();
        job.cleanup();
        let log = job.log();
        assert!(!log.contains("hunter2"), "{log}");
        log.lines().filter(|line| line.contains("headers are sent unencrypted")).count()
    };
    // 192.0.2.0/24 is for documentation: no host has such an address.
    assert_eq!((warnings("http://192.0.2.1:4318"), warnings("http://127.0.0.1:9")), (1, 0));
}

/// Spans of libraries are in the stage's span then.
#[test]
fn a_trace_is_whole_at_log_level_trace() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = traced(&cluster, &collector.endpoint, "Logs = true");
    let config = std::fs::read_to_string(&job.config).unwrap();
    std::fs::write(&job.config, config.replace("LogLevel = \"debug\"", "LogLevel = \"trace\""))
        .unwrap();
    whole_job(&job);
    assert_whole(&collector);
    for line in job.log().lines() {
        assert!(!line.contains("state.entered") && !line.contains("monotonic_counter"), "{line}");
    }
}

fn changed(job: &Job, from: &str, to: &str) {
    let config = std::fs::read_to_string(&job.config).unwrap();
    assert!(config.contains(from), "{config}");
    std::fs::write(&job.config, config.replace(from, to)).unwrap();
}

#[test]
fn a_faulty_collector_over_grpc_changes_nothing_and_data_is_kept() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job =
        traced(&cluster, &collector.endpoint, "Protocol = \"grpc\"").alone(Alone::CountsExports);
    changed(&job, "\"5s\"", "\"250ms\"");
    collector.set(Mood::Hangs);
    job.prepare();
    for mood in [Mood::Unavailable, Mood::Hangs, Mood::Garbage, Mood::Dies] {
        collector.set(mood);
        let ended = job.run("build_script", "#!/bin/sh\necho out\nexit 3\n");
        assert_eq!((ended.code, ended.stderr.as_str()), (BUILD_FAILURE, ""), "{mood:?} {ended:#?}");
        assert_eq!(job.files(".otlp").len(), 1, "{mood:?}");
    }
    let lines = job.log().lines().filter(|line| line.contains("telemetry was not taken")).count();
    assert_eq!(lines, 5, "{}", job.log());
}

#[test]
fn refused_data_is_dropped() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = traced(&cluster, &collector.endpoint, "").alone(Alone::CountsExports);
    // The data of `config` is kept, and refused together with that of `prepare`.
    for (mood, kept) in [(Mood::Unavailable, 1), (Mood::Refuses, 0)] {
        collector.set(mood);
        match mood {
            Mood::Refuses => job.prepare(),
            _ => assert_eq!(job.stage(&["config"]).code, 0),
        }
        assert_eq!(job.files(".otlp").len(), kept, "{mood:?} {}", job.log());
    }
    assert!(job.log().contains("HTTP status 400; it is dropped"), "{}", job.log());
}

#[test]
#[ignore = "needs rotel, an OpenTelemetry collector; scripts/test installs it"]
fn unsent_data_is_sent_over_grpc_by_the_jobs_next_process() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    // It speaks no HTTP/2.
    let faulty = Collector::start();
    faulty.set(Mood::Garbage);
    let job = traced(&cluster, &faulty.endpoint, "Protocol = \"grpc\"");
    assert_eq!(job.stage(&["config"]).code, 0);
    job.prepare();
    assert_eq!(job.files(".otlp").len(), 1, "{}", job.log());
    let rotel = Rotel::start(&collector);
    changed(&job, &faulty.endpoint, &rotel.grpc);
    job.cleanup();
    assert_eq!(job.files(".otlp"), Vec::<std::path::PathBuf>::new());
    eventually("the collector hands the whole trace on", || {
        let spans = collector.spans();
        ["job build [1/2]", "stage config", "stage prepare", "stage cleanup"]
            .iter()
            .all(|name| spans.iter().any(|span| span.name == *name))
    });
    tree(&collector.spans());
}
