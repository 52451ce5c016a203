//! Telemetry of jobs whose stages the service hosts: the traces are the same as without it.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    cluster::Cluster,
    collector::{Collector, Mood, attribute, tree},
    conventions, eventually,
    runner::{Alone, BUILD_FAILURE, Job},
    serve::Service,
    telemetry::{traced, traces, whole_job},
};

/// Returns the job, whose services the test starts.
fn own(job: Job) -> Job {
    job.alone(Alone::HasOwnService)
}

fn hosted(job: &Job) -> usize {
    job.log().matches("hosted by the service").count()
}

/// Ends a service, which exports the rest.
fn end(mut service: Service) {
    service.signal(Signal::TERM);
    assert!(service.process.wait().unwrap().success());
}

#[test]
fn a_job_of_the_service_is_one_trace_with_metrics_and_logs() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = own(traced(&cluster, &collector.endpoint, "Logs = true"));
    let service = Service::start(&job);
    whole_job(&job);
    // `config` is never hosted.
    assert_eq!(hosted(&job), 12, "{}", job.log());
    end(service);
    // A kept connection serves all stages after `prepare`.
    let spans = collector.spans();
    let connects = spans.iter().filter(|span| span.name == "connect").count();
    assert_eq!(connects, 1, "{spans:#?}");
    assert_eq!(spans.iter().filter(|span| span.name == "start").count(), 9, "{spans:#?}");
    let lines: BTreeSet<String> = tree(&spans).into_iter().collect();
    for line in ["stage prepare > connect", "stage cleanup > ECS/StopTask"] {
        assert!(lines.contains(line), "{line} is not in {lines:#?}");
    }
    let root = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    let of_root = |name: &str| attribute(&root.attributes, name).unwrap_or_default();
    assert_eq!(
        (of_root("cicd.pipeline.task.run.result"), of_root("error.type")),
        ("failure".to_owned(), "exit_status_7".to_owned())
    );
    assert_eq!(spans.iter().filter(|span| span.name == "state Executing").count(), 9);
    conventions::assert_followed(&collector);
    let names: BTreeSet<String> =
        collector.metrics().into_iter().map(|metric| metric.name).collect();
    for name in ["fargate.aws.calls", "fargate.jobs", "fargate.output", "fargate.state.duration"] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    // Both what the stages log and how they ended have their places in the trace.
    let logs = collector.logs();
    // `config` ends in its own process, and the second `cleanup` is after the trace.
    for (text, count) in [("the stage begins, hosted by the service", 11), ("stage ended", 12)] {
        let said = logs.iter().filter(|line| format!("{:?}", line.body).contains(text));
        let of_trace = said.filter(|line| line.trace_id == root.trace_id);
        assert_eq!(of_trace.count(), count, "{text}: {logs:#?}");
    }
    let hex = hex::encode(&root.trace_id);
    assert!(job.log().contains(&format!("trace_id={hex}")), "{}", job.log());
    for ending in [".trace", ".otlp", ".new"] {
        assert_eq!(job.files(ending), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn what_the_service_has_recorded_is_exported_while_it_runs() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = own(traced(&cluster, &collector.endpoint, ""));
    let _service = Service::start(&job);
    job.prepare();
    job.cleanup();
    eventually("the job's own span is exported", || {
        collector.spans().iter().any(|span| span.parent_span_id.is_empty())
    });
    tree(&collector.spans());
    cluster.assert_nothing_is_left(1);
}

#[test]
fn jobs_at_once_have_a_trace_each_and_a_parent_of_their_own() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let first = own(traced(&cluster, &collector.endpoint, "PropagateToJob = true"));
    let service = Service::start(&first);
    let parent = |number: usize| format!("{number:032x}");
    let jobs: Vec<Job> = (1..=5)
        .map(|number| {
            let mut job = first.beside(&cluster);
            job.set(
                "CUSTOM_ENV_TRACEPARENT",
                &format!("00-{}-b7ad6b7169203331-01", parent(number)),
            );
            job
        })
        .collect();
    thread::scope(|scope| {
        for (number, job) in (1..).zip(&jobs) {
            scope.spawn(move || {
                job.prepare();
                let run = job.run("build_script", "#!/bin/sh\n\necho \"$TRACEPARENT\"\n");
                let said = String::from_utf8(run.stdout).unwrap();
                assert!(said.starts_with(&format!("00-{}-", parent(number))), "{said}");
                job.cleanup();
            });
        }
    });
    end(service);
    let traces = traces(collector.spans());
    assert_eq!(traces.len(), 5);
    for spans in traces {
        let root = spans.iter().find(|span| span.name.starts_with("job ")).unwrap();
        assert_eq!(hex::encode(&root.parent_span_id), "b7ad6b7169203331");
        let names = |name: &str| spans.iter().filter(|span| span.name == name).count();
        assert_eq!(
            [names("stage prepare"), names("stage run build_script"), names("ECS/RunTask")],
            [1, 1, 1],
            "{spans:#?}"
        );
        let ids: BTreeSet<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
        assert_eq!(ids.len(), spans.len());
        for span in spans.iter().filter(|span| !span.name.starts_with("job ")) {
            assert!(ids.contains(span.parent_span_id.as_slice()), "an orphan: {span:#?}");
        }
    }
}

/// Begins a script that waits for a file, and returns its stage's process with that file.
fn waiting(job: &Job) -> (std::process::Child, std::path::PathBuf) {
    let gate = job.path("gate");
    let script = job.script(format!(
        "#!/bin/sh\necho begun; until [ -e '{}' ]; do sleep 0.05; done; exit 7\n",
        gate.display()
    ));
    let mut child = job.spawn(&["run", &script.display().to_string(), "build_script"]);
    let mut begun = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    (child, gate)
}

#[test]
fn a_stage_that_is_handed_over_is_two_spans_of_one_trace() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = own(traced(&cluster, &collector.endpoint, ""));
    let service = Service::start(&job);
    assert_eq!(job.stage(&["config"]).code, 0);
    job.prepare();
    let (running, gate) = waiting(&job);
    end(service);
    fs::write(gate, "").unwrap();
    let ended = job.end(running);
    assert_eq!((ended.code, ended.script_code.as_deref()), (BUILD_FAILURE, Some("7")));
    job.cleanup();
    let spans = collector.spans();
    tree(&spans);
    let results: BTreeSet<String> = spans
        .iter()
        .filter(|span| span.name == "stage run build_script")
        .map(|span| attribute(&span.attributes, "fargate.stage.result").unwrap_or_default())
        .collect();
    assert_eq!(results, ["failure", "handed_over"].map(str::to_owned).into(), "{spans:#?}");
    let root = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    assert_eq!(attribute(&root.attributes, "error.type").as_deref(), Some("exit_status_7"));
    assert_eq!(spans.iter().filter(|span| span.name == "state Executing").count(), 1);
}

#[test]
fn a_killed_stage_and_a_killed_service_are_seen_in_the_trace() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = own(traced(&cluster, &collector.endpoint, ""));
    let service = Service::start(&job);
    assert_eq!(job.stage(&["config"]).code, 0);
    job.prepare();
    let (mut stage, gate) = waiting(&job);
    stage.kill().unwrap();
    stage.wait().unwrap();
    eventually("the service lets go", || job.log().contains("its job is let go"));
    eventually("what was recorded is exported", || {
        collector.spans().iter().any(|span| span.name == "stage prepare")
    });
    drop(service);
    fs::write(gate, "").unwrap();
    job.cleanup();
    let spans = collector.spans();
    let lines = tree(&spans);
    let killed: BTreeSet<&str> = spans
        .iter()
        .filter(|span| {
            attribute(&span.attributes, "error.type").as_deref() == Some("process_killed")
        })
        .map(|span| span.name.as_str())
        .collect();
    assert_eq!(killed, ["job build [1/2]", "stage run build_script"].into(), "{lines:#?}");
    cluster.assert_nothing_is_left(1);
}

#[test]
fn a_faulty_collector_delays_no_stage_and_gets_everything_later() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = own(traced(&cluster, &collector.endpoint, ""));
    collector.set(Mood::Unavailable);
    assert_eq!(job.stage(&["config"]).code, 0);
    assert_eq!(job.files(".otlp").len(), 1, "it is the job's");
    collector.set(Mood::Hangs);
    let service = Service::start(&job);
    let begun = Instant::now();
    job.prepare();
    assert_eq!(job.files(".otlp"), [job.metadata.join("fargate.otlp")], "the service has it");
    for _ in 0..5 {
        assert_eq!(job.run("build_script", "exit 0").code, 0);
    }
    // FlushTimeout is five seconds: six stages that waited for it would take half a minute.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    assert_eq!(hosted(&job), 6);
    collector.set(Mood::Unavailable);
    end(service);
    let spool = job.metadata.join("fargate.otlp");
    assert!(spool.exists() && job.files(".otlp").len() == 1, "{}", job.log());
    assert!(job.log().contains("telemetry was not taken"), "{}", job.log());
    collector.set(Mood::Fine);
    let service = Service::start(&job);
    job.cleanup();
    end(service);
    let spans = collector.spans();
    tree(&spans);
    let runs = spans.iter().filter(|span| span.name == "stage run build_script").count();
    assert_eq!(runs, 5, "{spans:#?}");
    assert!(spans.iter().any(|span| span.name == "stage config"), "{spans:#?}");
    assert!(!spool.exists());
    let jobs = collector.metrics().into_iter().filter(|metric| metric.name == "fargate.jobs");
    assert_eq!(jobs.count(), 1);
}

#[test]
fn what_a_service_could_not_send_is_sent_by_reap() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = own(traced(&cluster, &collector.endpoint, ""));
    collector.set(Mood::Unavailable);
    let service = Service::start(&job);
    job.prepare();
    job.cleanup();
    end(service);
    assert_eq!(job.files(".otlp").len(), 1);
    collector.set(Mood::Fine);
    assert_eq!(job.reap(&["--older-than", "0s"]).code, 0);
    assert_eq!(job.files(".otlp"), Vec::<std::path::PathBuf>::new());
    tree(&collector.spans());
}

#[test]
fn a_stage_with_other_variables_of_telemetry_is_not_the_services() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let mut job = own(traced(&cluster, &collector.endpoint, ""));
    let _service = Service::start(&job);
    job.set("OTEL_SERVICE_NAME", "another");
    job.prepare();
    assert_eq!(hosted(&job), 0);
    job.unset("OTEL_SERVICE_NAME");
    job.cleanup();
    assert_eq!(hosted(&job), 2);
    cluster.assert_nothing_is_left(1);
}

#[test]
fn a_trace_of_the_service_is_whole_at_log_level_trace() {
    let (cluster, collector) = (Cluster::local(), Collector::start());
    let job = own(traced(&cluster, &collector.endpoint, "Logs = true"));
    let config = fs::read_to_string(&job.config).unwrap();
    fs::write(&job.config, config.replace("LogLevel = \"debug\"", "LogLevel = \"trace\"")).unwrap();
    let service = Service::start(&job);
    job.prepare();
    assert_eq!(job.run("build_script", "exit 0").code, 0);
    job.cleanup();
    end(service);
    tree(&collector.spans());
}
