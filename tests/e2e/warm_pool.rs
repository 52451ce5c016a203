//! The service keeps pools of warm tasks: it fills and refills them, and retires what is not wanted.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use fargate_driver::{
    config::Config,
    host::Host,
    warm::{self, Drained},
};
use local_cluster::{Profile, Settings};
use rustix::process::Signal;
use serde_json::{Value, json};
use states::{AnyJob, Snapshot};

use crate::{
    cluster::{Cluster, Local},
    definitions::{control, runtime},
    eventually, http,
    parametrised::on_every_cluster,
    runner::{Ended, Job},
    serve::Service,
};

on_every_cluster!(
    jobs_hit_a_pool_that_is_refilled,
    a_restart_keeps_a_pool_and_another_configuration_ends_it,
    managers_in_one_cluster_keep_their_own_pools,
    a_newer_revision_replaces_the_tasks,
    a_drain_ends_all_tasks_that_no_job_has,
    a_warm_task_that_has_died_is_replaced,
);

/// A pool of so many tasks.
fn pool(count: u32) -> String {
    format!("[[Warm]]\nName = \"p\"\nCount = {count}\n")
}

/// What `fargate status` says.
fn status(job: &Job) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_fargate"))
        .env_clear()
        .envs(job.environment.iter().map(|(name, value)| (name, value)))
        .arg("--config")
        .arg(&job.config)
        .args(["status", "--json"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn wait_for_ready(job: &Job, count: u64) {
    eventually("the pool is full", || {
        let pool = &status(job)["pools"][0];
        pool["ready"] == count && pool["starting"] == 0
    });
}

/// The snapshots of the warm tasks that wait or start.
fn warm_tasks(job: &Job) -> Vec<Snapshot> {
    let read = |path| Snapshot::parse(&fs::read_to_string(path).ok()?).ok();
    let all: Vec<Snapshot> = job.files(".ron").iter().filter_map(read).collect();
    let is_open = |of: &&Snapshot| !matches!(of.job, AnyJob::Stopping(_));
    all.iter().filter(|of| of.job.header().warm().is_some()).filter(is_open).cloned().collect()
}

/// The tasks that wait or start.
fn tasks(job: &Job) -> BTreeSet<String> {
    warm_tasks(job).iter().filter_map(|of| Some(of.job.task()?.to_string())).collect()
}

fn is_hit(prepared: &Ended) -> bool {
    prepared.stderr.contains("which has been warm for")
}

/// Rewrites the configuration.
fn reconfigure(job: &Job, change: impl Fn(String) -> String) {
    let text = fs::read_to_string(&job.config).unwrap();
    fs::write(&job.config, change(text)).unwrap();
}

fn restart(job: &Job, mut service: Service) -> Service {
    service.signal(Signal::TERM);
    assert!(service.process.wait().unwrap().success());
    Service::start(job)
}

/// Ends all pools of a manager.
fn end_pools(job: &Job, service: Service) {
    reconfigure(job, |text| text.split("[[Warm]]").next().unwrap().to_owned());
    let service = restart(job, service);
    eventually("all warm tasks are archived", || {
        job.files(".ron").is_empty() && warm_tasks(job).is_empty()
    });
    drop(service);
}

fn jobs_hit_a_pool_that_is_refilled(cluster: &Cluster) {
    let job = Job::with(cluster, &pool(2));
    let service = Service::start(&job);
    wait_for_ready(&job, 2);
    let first = tasks(&job);
    for number in 1..=3 {
        let mut next = job.beside(cluster);
        if number == 3 {
            // With another environment, its stages do their work themselves.
            next.set("AWS_EXECUTION_ENV", "elsewhere");
        }
        let prepared = next.stage(&["prepare"]);
        assert!(prepared.code == 0 && is_hit(&prepared), "{prepared:#?}\n{}", job.log());
        let run = next.run("build_script", format!("echo {number}"));
        assert_eq!(run.stdout, format!("{number}\n").as_bytes(), "{run:#?}");
        next.cleanup();
        wait_for_ready(&job, 2);
    }
    assert!(first.is_disjoint(&tasks(&job)), "the oldest is claimed first");
    let seen = status(&job);
    assert_eq!((&seen["pools"][0]["problem"], &seen["problem"]), (&Value::Null, &Value::Null));
    assert_eq!(cluster.tasks().len(), 5, "a task for each claim, and no other");
    end_pools(&job, service);
    cluster.assert_nothing_is_left(5);
}

fn a_restart_keeps_a_pool_and_another_configuration_ends_it(cluster: &Cluster) {
    let job = Job::with(cluster, &pool(2));
    let service = Service::start(&job);
    wait_for_ready(&job, 2);
    let before = tasks(&job);
    let service = restart(&job, service);
    wait_for_ready(&job, 2);
    assert_eq!(tasks(&job), before, "a restart keeps the tasks");

    // Killed while a task starts: the next service goes on with it.
    reconfigure(&job, |text| text.replace("Count = 2", "Count = 3"));
    let service = restart(&job, service);
    eventually("it launches a task", || warm_tasks(&job).len() == 3);
    if matches!(cluster, Cluster::Moto(_)) {
        // moto does not know `clientToken`: for it, a repeated launch is another one.
        wait_for_ready(&job, 3);
    }
    drop(service);
    let service = Service::start(&job);
    wait_for_ready(&job, 3);
    assert!(before.is_subset(&tasks(&job)));
    assert_eq!(cluster.tasks().len(), 3, "the launch was not repeated");

    // Tasks of today's settings replace those of yesterday's.
    reconfigure(&job, |text| text.replace("EnablePublicIP = false", "EnablePublicIP = true"));
    let service = restart(&job, service);
    eventually("others are retired", || before.is_disjoint(&tasks(&job)));
    wait_for_ready(&job, 3);
    end_pools(&job, service);
    cluster.assert_nothing_is_left(6);
}

fn managers_in_one_cluster_keep_their_own_pools(cluster: &Cluster) {
    let managers = ["one", "other"].map(|name| {
        let job = Job::with(cluster, &pool(1));
        reconfigure(&job, |text| {
            text.replace("[TaskMetadata]\n", &format!("[TaskMetadata]\nManager = {name:?}\n"))
        });
        let service = Service::start(&job);
        (job, service)
    });
    for (job, _) in &managers {
        wait_for_ready(job, 1);
    }
    let [(one, first), (other, second)] = managers;
    let (own, theirs) = (tasks(&one), tasks(&other));
    assert!(own.len() == 1 && own.is_disjoint(&theirs));
    let reaped = one.reap(&["--older-than", "0s"]);
    assert_eq!(reaped.code, 0, "{reaped:#?}");
    assert_eq!((tasks(&one), tasks(&other)), (own.clone(), theirs.clone()));
    let job = one.beside(cluster);
    let prepared = job.stage(&["prepare"]);
    assert!(prepared.code == 0 && is_hit(&prepared), "{prepared:#?}");
    assert_eq!(tasks(&other), theirs, "the other manager's task is not claimed");
    job.cleanup();
    wait_for_ready(&one, 1);
    end_pools(&one, first);
    assert_eq!(tasks(&other), theirs);
    end_pools(&other, second);
    cluster.assert_nothing_is_left(3);
}

/// Registers a revision of a family, like the definition that the configuration names.
fn register(cluster: &Cluster, family: &str, like: &str) {
    let described = cluster.ecs("DescribeTaskDefinition", &json!({ "taskDefinition": like }));
    let old = &described["taskDefinition"];
    let names = [
        "containerDefinitions",
        "networkMode",
        "cpu",
        "memory",
        "requiresCompatibilities",
        "taskRoleArn",
        "executionRoleArn",
    ];
    let given = names.iter().filter(|name| !old[**name].is_null());
    let mut new: serde_json::Map<String, Value> =
        given.map(|name| ((*name).to_owned(), old[*name].clone())).collect();
    new.insert("family".to_owned(), json!(family));
    let registered = cluster.ecs("RegisterTaskDefinition", &Value::Object(new));
    assert_eq!(registered["taskDefinition"]["family"], family, "{registered}");
}

/// A task definition without a revision means its newest one.
fn a_newer_revision_replaces_the_tasks(cluster: &Cluster) {
    let job = Job::with(cluster, &pool(1));
    let like = if matches!(cluster, Cluster::Moto(_)) { "job:1" } else { "local-job:1" };
    // All clusters of moto share their definitions.
    let family = format!("revised-{:08x}", rand::random::<u32>());
    register(cluster, &family, like);
    reconfigure(&job, |text| text.replace(&format!("{like:?}"), &format!("{family:?}")));
    let service = Service::start(&job);
    wait_for_ready(&job, 1);
    let before = tasks(&job);
    register(cluster, &family, &family);
    // It asks when it starts, and then once a minute.
    let service = restart(&job, service);
    eventually("the task of the old revision is retired", || before.is_disjoint(&tasks(&job)));
    wait_for_ready(&job, 1);
    end_pools(&job, service);
    cluster.assert_nothing_is_left(2);
}

/// A drain works without the service, and leaves claimed tasks to their jobs.
fn a_drain_ends_all_tasks_that_no_job_has(cluster: &Cluster) {
    let job = Job::with(cluster, &pool(2));
    let mut service = Service::start(&job);
    wait_for_ready(&job, 2);
    let next = job.beside(cluster);
    let prepared = next.stage(&["prepare"]);
    assert!(prepared.code == 0 && is_hit(&prepared), "{prepared:#?}");
    wait_for_ready(&job, 2);
    service.signal(Signal::TERM);
    assert!(service.process.wait().unwrap().success());

    let drained = runtime().block_on(async {
        let (config, _) = Config::load(Some(&job.config)).unwrap();
        let control = control(cluster, &job.metadata).await;
        warm::drain(&Arc::new(Host::with_control(config, control).unwrap())).await.unwrap()
    });
    assert_eq!(drained, Drained { ended: 2, left: 0 });
    assert!(tasks(&job).is_empty());
    let run = next.run("build_script", "echo ran");
    assert_eq!((run.code, run.stdout.as_slice()), (0, &b"ran\n"[..]), "{run:#?}");
    next.cleanup();
    cluster.assert_nothing_is_left(3);
}

/// By one transport: metrics count claims, however their containers are reached.
#[test]
fn the_service_s_metrics_have_the_pool() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::with(&cluster, &pool(1));
    let mut command = Service::command(&job);
    let mut process = command.args(["--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let page = lines.find_map(|line| Some(line.split_once("page: ")?.1.to_owned())).unwrap();
    let service = Service { process };
    wait_for_ready(&job, 1);
    let next = job.beside(&cluster);
    assert!(is_hit(&next.stage(&["prepare"])));
    wait_for_ready(&job, 1);
    let metrics = || {
        let answer = http::request(&page, "GET", "/metrics", &[], b"");
        String::from_utf8(answer.body).unwrap()
    };
    // The overview may be a second old.
    eventually("the claim is counted", || {
        let text = metrics();
        let has = |line: &str| text.lines().any(|seen| seen == line);
        has("fargate_warm_tasks{fargate_pool=\"p\",fargate_warm_state=\"wanted\"} 1")
            && has("fargate_warm_tasks{fargate_pool=\"p\",fargate_warm_state=\"ready\"} 1")
            && has("fargate_warm_claims_total{fargate_pool=\"p\",fargate_warm_result=\"hit\"} 1")
            && has("fargate_warm_claims_total{fargate_pool=\"p\",fargate_warm_result=\"miss\"} 0")
    });
    next.cleanup();
    end_pools(&job, service);
    cluster.assert_nothing_is_left(2);
}

/// By one transport, as above.
#[cfg(feature = "telemetry")]
#[test]
fn a_claim_is_in_the_metrics_of_its_job() {
    use opentelemetry_proto::tonic::metrics::v1::Metric;

    use crate::{collector::Collector, telemetry::traced};

    let (cluster, collector) = (Cluster::local_by_pipes(), Collector::start());
    let job = traced(&cluster, &collector.endpoint, &pool(1));
    let service = Service::start(&job);
    wait_for_ready(&job, 1);
    let next = job.beside(&cluster);
    assert!(is_hit(&next.stage(&["prepare"])));
    next.cleanup();
    // The service exports them soon after the job's end.
    let metric = |name: &str| {
        let of_it = |metric: &Metric| metric.name == name;
        eventually(name, || collector.metrics().iter().any(of_it));
        format!("{:?}", collector.metrics().into_iter().find(of_it))
    };
    assert!(metric("fargate.warm.claims").contains("\"hit\""));
    assert!(metric("fargate.warm.idle.duration").contains("\"p\""));
    wait_for_ready(&job, 1);
    end_pools(&job, service);
    cluster.assert_nothing_is_left(2);
}

fn a_warm_task_that_has_died_is_replaced(cluster: &Cluster) {
    let job = Job::with(cluster, &pool(1));
    let service = Service::start(&job);
    wait_for_ready(&job, 1);
    let before = tasks(&job);
    let [snapshot] = &warm_tasks(&job)[..] else { panic!("one") };
    let (of, task) = (&snapshot.job.header().spec.cluster, snapshot.job.task().unwrap().as_str());
    cluster.ecs("StopTask", &json!({ "cluster": of, "task": task }));
    // It asks when it starts, and then once a minute.
    let service = restart(&job, service);
    eventually("it is replaced", || before.is_disjoint(&tasks(&job)));
    wait_for_ready(&job, 1);
    end_pools(&job, service);
    cluster.assert_nothing_is_left(2);
}

/// By one transport: no container is there to be reached.
#[test]
fn refills_yield_to_throttling() {
    let cluster = Cluster::local_by_pipes();
    cluster.as_local().set_faults(&json!({ "refuse": { "RunTask": {
        "status": 400, "code": "ThrottlingException", "message": "Rate exceeded", "times": 2,
    } } }));
    let job = Job::with(&cluster, &pool(2));
    let begun = Instant::now();
    let service = Service::start(&job);
    wait_for_ready(&job, 2);
    // Both of the first launches were refused, and are not repeated at once.
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(cluster.as_local().calls("RunTask") <= 5, "{}", job.log());
    end_pools(&job, service);
    cluster.assert_nothing_is_left(2);
}

/// By one transport, as above. A restart is no reason to try again, and a reload is.
#[test]
fn a_pool_that_cannot_be_launched_is_not_hammered() {
    const REFUSED: &str = "a warm task did not start";
    let cluster = Cluster::local_by_pipes();
    let bad = "[[Warm]]\nName = \"p\"\nTaskDefinition = \"nothing:1\"\nCount = 5\n";
    let good = "[[Warm]]\nName = \"good\"\nCount = 1\n";
    let job = Job::with(&cluster, &format!("{bad}{good}"));
    let mut service = Service::start(&job);
    let is_ready = |count: u64| status(&job)["pools"][0]["ready"] == count;
    eventually("the other pool is full", || is_ready(1));
    eventually("it is refused", || job.log().contains(REFUSED));
    let launches = || cluster.as_local().calls("RunTask") - tasks(&job).len();
    assert!(launches() <= 5, "each of the first ones once, not {}", launches());
    service.signal(Signal::TERM);
    assert!(service.process.wait().unwrap().success());

    // As if it had failed for long: the next attempt would be after minutes.
    let file = job.metadata.join("fargate.pools");
    let mut states: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(states["pools"][0]["name"], "p");
    states["pools"][0]["failures"]["count"] = json!(20);
    fs::write(&file, states.to_string()).unwrap();
    let before = launches();
    reconfigure(&job, |text| text.replace("Count = 1\n", "Count = 2\n"));
    let service = Service::start(&job);
    eventually("the other pool has one more", || is_ready(2));
    assert_eq!(launches(), before, "{}", job.log());
    service.signal(Signal::HUP);
    eventually("the failed launch is tried again", || launches() > before);
    drop(service);
}

/// At a twentieth of Fargate's times, DescribeTasks shows all states of a task that starts.
#[test]
fn jobs_hit_a_pool_on_fargate_s_times() {
    let settings = Settings::of(Profile::Fargate, 0.05, 7);
    jobs_hit_a_pool_that_is_refilled(&Cluster::Local(Local::here(settings)));
}
