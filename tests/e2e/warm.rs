//! Jobs claim warm tasks: those that fit, each at most once, whatever is killed.

use std::{fs, io::Read as _, path::PathBuf, sync::Arc, thread, time::Duration};

use fargate_driver::{
    config::{Config, Warm},
    host::Host,
    launch::pool,
    warm::{self, LaunchError, Launched},
};
use serde_json::{Value, json};
use states::{
    AnyJob, DirectoryStore, Header, JobId, PoolRole, Retirement, Snapshot, StateName, StopReason,
    WarmOrigin,
};

use crate::{
    cluster::Cluster,
    definitions::{control, runtime},
    eventually,
    parametrised::{by_every_transport, on_every_cluster},
    runner::{Alone, Ended, Job, SYSTEM_FAILURE},
};

on_every_cluster!(
    a_job_claims_a_warm_task_and_runs_in_it,
    jobs_that_begin_at_once_never_share_a_warm_task,
    a_dead_warm_task_falls_back_to_a_launch,
);

by_every_transport!(
    a_warm_task_that_does_not_fit_is_left_alone,
    a_task_is_claimed_although_tags_are_refused,
    reap_spares_warm_and_claimed_tasks_and_ends_abandoned_ones,
    cleanup_stops_a_claimed_task_whose_snapshot_is_torn,
    tools_show_and_stop_a_warm_task,
    a_retired_warm_task_ends_and_says_why,
    a_launch_of_a_killed_service_goes_on,
);

const POOL: &str = "p";

fn read(path: &PathBuf) -> Snapshot {
    Snapshot::parse(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The jobs and warm tasks of the directory, with the states of their snapshots.
pub fn owners(job: &Job) -> Vec<(String, Snapshot)> {
    let name = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    // Another process may archive a job at this moment.
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        Some((name(path), Snapshot::parse(&text).unwrap()))
    };
    let mut all: Vec<_> = job.files(".ron").iter().filter_map(read).collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

/// A job whose manager has a pool. Nothing fills it but [`warm`]: a service would retire what it
/// does not want.
pub fn job(cluster: &Cluster) -> Job {
    let pool = format!("[[Warm]]\nName = {POOL:?}\nCount = 0\nMaxAge = \"1h\"\n");
    Job::with(cluster, &pool).alone(Alone::HasOwnService)
}

/// Does something with the manager's pool and task control, as its service does.
fn as_service<R>(
    cluster: &Cluster,
    manager: &Job,
    act: impl AsyncFnOnce(&Host, &Warm) -> Result<R, LaunchError>,
) -> R {
    runtime().block_on(async {
        let (config, _) = Config::load(Some(&manager.config)).unwrap();
        let pool = config.warm[0].clone();
        let control = control(cluster, &manager.metadata).await;
        act(&Host::with_control(config, control).unwrap(), &pool).await.unwrap()
    })
}

async fn launch(host: &Host, pool: &Warm) -> Result<Launched, LaunchError> {
    warm::launch(host, pool, JobId::warm(rand::random())).await
}

/// Launches a warm task, and waits until it is ready. Returns its id.
pub fn warm(cluster: &Cluster, manager: &Job) -> JobId {
    match as_service(cluster, manager, async |host, pool| launch(host, pool).await) {
        Launched::Ready(id) => id,
        other => panic!("{other:?}"),
    }
}

fn snapshot_path(manager: &Job, id: &JobId) -> PathBuf {
    manager.metadata.join(format!("{id}.ron"))
}

/// Changes the header of a warm task on disk.
fn change(manager: &Job, id: &JobId, change: impl FnOnce(&mut Header)) -> Snapshot {
    let path = snapshot_path(manager, id);
    let mut snapshot = read(&path);
    let AnyJob::Reachable(ready) = &mut snapshot.job else { panic!("{:?}", snapshot.job) };
    change(Arc::make_mut(&mut ready.header));
    fs::write(&path, snapshot.to_ron().unwrap()).unwrap();
    snapshot
}

pub fn assert_claimed(job: &Job, prepared: &Ended) {
    assert_eq!(prepared.code, 0, "{prepared:#?}\n{}", job.log());
    assert!(prepared.stderr.contains("which has been warm for"), "{}", prepared.stderr);
    assert!(!prepared.stderr.contains("launched in cluster"), "{}", prepared.stderr);
}

pub fn assert_launched(job: &Job, prepared: &Ended) {
    assert_eq!(prepared.code, 0, "{prepared:#?}\n{}", job.log());
    assert!(prepared.stderr.contains("launched in cluster"), "{}", prepared.stderr);
    assert!(!prepared.stderr.contains("has been warm"), "{}", prepared.stderr);
}

/// The tags of the cluster's only task.
fn tags(cluster: &Cluster, job: &Job) -> Vec<(String, String)> {
    let [(_, snapshot)] = &owners(job)[..] else { panic!("{:?}", owners(job)) };
    let described = cluster.ecs(
        "DescribeTasks",
        &json!({
            "cluster": snapshot.job.header().spec.cluster,
            "tasks": [snapshot.job.task().unwrap().as_str()],
            "include": ["TAGS"],
        }),
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tags = described["tasks"][0]["tags"].as_array().unwrap();
    tags.iter().map(|tag| (text(&tag["key"]), text(&tag["value"]))).collect()
}

fn a_job_claims_a_warm_task_and_runs_in_it(cluster: &Cluster) {
    let job = job(cluster);
    let id = warm(cluster, &job);
    let prepared = job.stage(&["prepare"]);
    assert_claimed(&job, &prepared);
    let [(name, snapshot)] = &owners(&job)[..] else { panic!("{:?}", owners(&job)) };
    assert!(name.starts_with("tOk3n_-x-"), "{name}");
    let claim = snapshot.claim().unwrap();
    assert_eq!((&claim.warm, claim.pool.as_str()), (&id, POOL));
    assert_eq!(snapshot.job.name(), StateName::Reachable);
    assert!(
        !job.metadata.join(format!("{id}.key")).exists() && job.files(".ron").len() == 1,
        "nothing of the warm task is left"
    );
    let number = job.get("CUSTOM_ENV_CI_JOB_ID").unwrap().to_owned();
    let has = |key: &str, value: &str| {
        tags(cluster, &job).iter().any(|(k, v)| (k.as_str(), v.as_str()) == (key, value))
    };
    eventually("the task has the job's tags", || {
        has("gitlab:job", &number) && has("fargate-driver:job", name)
    });
    for stage in ["get_sources", "build_script"] {
        let run = job.run(stage, "echo once >>\"$TMPDIR/runs\"; wc -l <\"$TMPDIR/runs\"");
        assert_eq!(run.code, 0, "{run:#?}\n{}", job.log());
    }
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn jobs_that_begin_at_once_never_share_a_warm_task(cluster: &Cluster) {
    let first = job(cluster);
    for _ in 0..2 {
        warm(cluster, &first);
    }
    let jobs: Vec<Job> = (0..4).map(|_| first.beside(cluster)).collect();
    let prepared: Vec<Ended> = thread::scope(|scope| {
        let each = jobs.iter().map(|job| scope.spawn(|| job.stage(&["prepare"])));
        let spawned: Vec<_> = each.collect();
        spawned.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let claimed = prepared.iter().filter(|ended| ended.stderr.contains("has been warm")).count();
    assert_eq!((claimed, prepared.iter().filter(|ended| ended.code == 0).count()), (2, 4));
    let mut tasks: Vec<_> =
        owners(&first).iter().map(|(_, job)| job.job.task().unwrap().to_string()).collect();
    tasks.sort();
    tasks.dedup();
    assert_eq!(tasks.len(), 4, "each job has a task of its own");
    for (number, job) in jobs.iter().enumerate() {
        let run = job.run("build_script", format!("echo {number}"));
        assert_eq!(run.stdout, format!("{number}\n").as_bytes(), "{run:#?}");
        job.cleanup();
    }
    cluster.assert_nothing_is_left(4);
}

fn a_dead_warm_task_falls_back_to_a_launch(cluster: &Cluster) {
    let job = job(cluster);
    warm(cluster, &job);
    let [(_, snapshot)] = &owners(&job)[..] else { panic!("{:?}", owners(&job)) };
    cluster.ecs(
        "StopTask",
        &json!({
            "cluster": snapshot.job.header().spec.cluster,
            "task": snapshot.job.task().unwrap().as_str(),
        }),
    );
    eventually("it has ended", || cluster.tasks().iter().all(|task| task.processes == 0));
    let prepared = job.stage(&["prepare"]);
    assert_launched(&job, &prepared);
    assert!(prepared.stderr.contains("does not answer: stopping it"), "{}", prepared.stderr);
    let run = job.run("build_script", "echo ran");
    assert_eq!((run.code, run.stdout.as_slice()), (0, &b"ran\n"[..]), "{run:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(2);
}

/// A change of a header, and its name.
type Change = (&'static str, fn(&mut Header));

fn a_warm_task_that_does_not_fit_is_left_alone(cluster: &Cluster) {
    let first = job(cluster);
    let id = warm(cluster, &first);
    let original = read(&snapshot_path(&first, &id));
    let changes: [Change; 4] = [
        ("role", |header| header.spec.task_role = Some("deploy".to_owned())),
        ("image", |header| header.spec.additions = Some(Box::default())),
        ("subnets", |header| header.spec.subnets.push("subnet-other".to_owned())),
        ("transport", |header| header.transport = None),
    ];
    for (number, (what, differ)) in changes.iter().enumerate() {
        let other = change(&first, &id, differ);
        let job = first.beside(cluster);
        assert_launched(&job, &job.stage(&["prepare"]));
        job.cleanup();
        assert_eq!(read(&snapshot_path(&first, &id)), other, "{what}");
        change(&first, &id, |header| header.clone_from(original.job.header()));
        assert_eq!(cluster.tasks().len(), number + 2);
    }
    // The same task, as it was: it fits.
    assert_claimed(&first, &first.stage(&["prepare"]));
    first.cleanup();
    cluster.assert_nothing_is_left(changes.len() + 1);
}

fn a_task_is_claimed_although_tags_are_refused(cluster: &Cluster) {
    let job = job(cluster);
    let id = warm(cluster, &job);
    cluster.as_local().set_faults(&json!({ "refuse": { "TagResource": {
        "status": 400, "code": "AccessDeniedException", "times": 5,
        "message": "User: arn:aws:iam::1:role/ci is not authorized to perform: ecs:TagResource",
    } } }));
    let prepared = job.stage(&["prepare"]);
    assert_claimed(&job, &prepared);
    assert!(!prepared.stderr.to_lowercase().contains("tag"), "{}", prepared.stderr);
    eventually("it was asked for", || cluster.as_local().calls("TagResource") == 1);
    let named = tags(cluster, &job).into_iter().find(|(key, _)| key == "fargate-driver:job");
    assert_eq!(named.unwrap().1, id.as_str());
    // While a script runs, only the snapshot says that the task is this job's.
    let end = job.path("end");
    let script = format!("echo begun; until [ -e '{}' ]; do sleep 0.05; done", end.display());
    let mut child = job.spawn(&["run", &job.script(script).display().to_string(), "build_script"]);
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let reaped = job.reap(&["--older-than", "0s"]);
    let said = String::from_utf8_lossy(&reaped.stdout).into_owned();
    assert_eq!(reaped.code, 0, "{said}{}", reaped.stderr);
    assert!(!said.contains("no job owns it"), "{said}");
    fs::write(end, "").unwrap();
    assert_eq!(job.end(child).code, 0, "{}", job.log());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn reap_spares_warm_and_claimed_tasks_and_ends_abandoned_ones(cluster: &Cluster) {
    let job = job(cluster);
    let id = warm(cluster, &job);
    let path = snapshot_path(&job, &id);
    let reaped = job.reap(&["--older-than", "0s"]);
    assert_eq!(reaped.code, 0, "{reaped:#?}");
    assert!(path.exists(), "its pool keeps it: {}", String::from_utf8_lossy(&reaped.stdout));

    // A process that was killed in the middle of a claim: the job's snapshot has the wrong name.
    let claiming = job.beside(cluster);
    assert_claimed(&claiming, &claiming.stage(&["prepare"]));
    let [(name, claimed)] = &owners(&job)[..] else { panic!("{:?}", owners(&job)) };
    fs::rename(job.metadata.join(format!("{name}.ron")), &path).unwrap();
    let reaped = job.reap(&["--older-than", "1h"]);
    assert_eq!(reaped.code, 0, "{reaped:#?}");
    assert_eq!(&owners(&job)[..], [(name.clone(), claimed.clone())], "the claim is finished");
    let run = claiming.run("build_script", "echo ran");
    assert_eq!((run.code, run.stdout.as_slice()), (0, &b"ran\n"[..]), "{run:#?}");
    claiming.cleanup();

    // A warm task whose service is gone for longer than its pool keeps it.
    let id = warm(cluster, &job);
    change(&job, &id, |header| {
        let origin = WarmOrigin { pool: POOL.to_owned(), max_age: Duration::ZERO };
        header.pool = Some(PoolRole::Warm(origin));
    });
    let reaped = job.reap(&["--older-than", "0s"]);
    assert_eq!(reaped.code, 0, "{reaped:#?}");
    assert!(!snapshot_path(&job, &id).exists(), "{reaped:#?}");
    cluster.assert_nothing_is_left(2);
}

fn a_retired_warm_task_ends_and_says_why(cluster: &Cluster) {
    let job = job(cluster);
    let id = warm(cluster, &job);
    let store = DirectoryStore::look(&job.metadata);
    let looked = warm::look(&store).unwrap();
    assert_eq!((&looked[0].id, looked[0].pool.as_str()), (&id, POOL));
    assert_eq!(looked[0].state, StateName::Reachable);
    let (config, _) = Config::load(Some(&job.config)).unwrap();
    assert_eq!(looked[0].fit, pool::fit(&config, &config.warm[0]).unwrap());
    let retired = as_service(cluster, &job, async |host, _| {
        warm::retire(host, &id, Retirement::Surplus).await
    });
    let reason = StopReason::Retired(Retirement::Surplus);
    assert_eq!(retired, Launched::Failed(id.clone(), reason.clone()));
    let gone = as_service(cluster, &job, async |host, _| {
        warm::retire(host, &JobId::warm(1), Retirement::Surplus).await
    });
    assert_eq!(gone, Launched::Gone(JobId::warm(1)));
    // Not claimed any more, and archived by the next process that sees its end.
    let prepared = job.stage(&["prepare"]);
    assert_launched(&job, &prepared);
    let missed = owners(&job).into_iter().find(|(name, _)| *name != id.as_str()).unwrap().1;
    assert_eq!(missed.job.header().pool, Some(PoolRole::Missed { pool: POOL.to_owned() }));
    job.cleanup();
    eventually("it is archived", || {
        job.reap(&["--older-than", "1h"]);
        owners(&job).is_empty()
    });
    let archived = job.archived().iter().map(read).find(|of| of.job.header().id == id).unwrap();
    let AnyJob::Stopping(stopped) = &archived.job else { panic!("{archived:?}") };
    assert_eq!(stopped.state.reason, reason);
    cluster.assert_nothing_is_left(2);
}

fn a_launch_of_a_killed_service_goes_on(cluster: &Cluster) {
    let job = job(cluster);
    // The process dies while the task starts.
    let id = as_service(cluster, &job, async |host, pool| {
        let store = DirectoryStore::look(&job.metadata);
        let launching = launch(host, pool);
        let begun = async {
            loop {
                let looked = warm::look(&store).unwrap_or_default();
                if let Some(task) = looked.into_iter().find(|task| task.task.is_some()) {
                    return task.id;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            biased;
            launched = launching => match launched? {
                Launched::Ready(id) => Ok(id),
                other => panic!("{other:?}"),
            },
            id = begun => Ok(id),
        }
    });
    // What it was writing is written by a thread, which has the lock until then.
    let store = DirectoryStore::look(&job.metadata);
    eventually("its lock is free", || store.try_lease(&id, "test").is_ok());
    let resumed = as_service(cluster, &job, async |host, _| warm::resume(host, &id).await);
    assert_eq!(resumed, Launched::Ready(id));
    assert_claimed(&job, &job.stage(&["prepare"]));
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn cleanup_stops_a_claimed_task_whose_snapshot_is_torn(cluster: &Cluster) {
    let job = job(cluster);
    warm(cluster, &job);
    assert_claimed(&job, &job.stage(&["prepare"]));
    let [(name, _)] = &owners(&job)[..] else { panic!("{:?}", owners(&job)) };
    let has_tag = || tags(cluster, &job).iter().any(|(_, value)| value == name);
    eventually("the task has the job's tag", has_tag);
    let path = job.metadata.join(format!("{name}.ron"));
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let cleaned = job.stage(&["cleanup"]);
    assert_eq!(cleaned.code, SYSTEM_FAILURE, "{cleaned:#?}");
    assert!(cleaned.stderr.contains("was stopped"), "{}", cleaned.stderr);
    eventually("it has ended", || cluster.tasks().iter().all(|task| task.status == "STOPPED"));
    cluster.assert_nothing_is_left(1);
}

fn tools_show_and_stop_a_warm_task(cluster: &Cluster) {
    let job = job(cluster);
    let id = warm(cluster, &job);
    let replay = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_fargate-replay"))
            .env_clear()
            .envs(job.environment.iter().map(|(name, value)| (name, value)))
            .arg("--config")
            .arg(&job.config)
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (_, listed) = replay(&["list", "--json"]);
    let rows: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&rows[0]["job"], &rows[0]["warm"]), (&json!(id.as_str()), &json!(POOL)));
    assert_eq!((&rows[0]["name"], &rows[0]["stuck"]), (&json!("pool p"), &Value::Null));
    let (shown, text) = replay(&["show", id.as_str()]);
    assert!(shown && text.contains(&format!("Warm task {id} of the pool p")), "{text}");
    let (opened, text) = replay(&["shell", id.as_str(), "--", "true"]);
    assert!(!opened && text.contains("this is a warm task"), "{text}");
    let (resumed, text) = replay(&["resume", id.as_str()]);
    assert!(resumed, "{text}");
    let (stopped, text) = replay(&["stop", id.as_str()]);
    assert!(stopped, "{text}");
    let (_, statistics) = replay(&["stats", "--json"]);
    let statistics: Value = serde_json::from_str(&statistics).unwrap();
    assert_eq!(statistics["jobs"], 0, "a warm task is no job");
    cluster.assert_nothing_is_left(1);
}
