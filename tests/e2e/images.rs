//! Jobs with images and services: unmodified root file systems beside the coordinator's.

use std::{fs, net::TcpListener, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    eventually,
    runner::{BUILD_FAILURE, Job, SYSTEM_FAILURE},
};

/// Runs tests by SSH and by ECS Exec.
macro_rules! by_both {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            #[ignore = "needs root and the root file systems of scripts/root-filesystems: scripts/test makes them and runs this"]
            fn by_ssh() {
                super::$name(&super::cluster("ssh"));
            }

            #[test]
            #[ignore = "needs root and the root file systems of scripts/root-filesystems: scripts/test makes them and runs this"]
            fn by_ecs_exec() {
                super::$name(&super::cluster("ecs-exec"));
            }
        }
    )*};
}

by_both!(
    an_unmodified_image_passes_through_all_stages,
    the_image_s_entry_point_user_and_environment_hold,
    exit_codes_and_signals_are_the_script_s_own,
    a_killed_driver_s_script_is_followed_to_its_end,
    a_cancelled_script_ends_with_its_children,
    output_and_script_may_be_large,
    services_are_reached_by_their_names,
    a_service_that_never_listens_is_reported,
    a_service_that_died_is_reported_with_its_last_lines,
    an_entry_point_that_ignores_its_arguments_is_explained,
    an_image_without_a_shell_is_explained,
    an_image_that_does_not_exist_is_explained,
    a_job_that_empties_its_root_file_system_keeps_its_verdict_and_artifacts,
    a_refused_image_is_the_job_s_own_failure,
);

/// The base definition, whose coordinator has git.
const BASE: &str = "image-base";
const SETTINGS: &str = "[Images]\nAllowed = [\"*\"]\n\n[Services]\nWait = \"3s\"\n\n";

fn images() -> PathBuf {
    let named = std::env::var_os("FARGATE_TEST_IMAGES").map(PathBuf::from);
    named.unwrap_or_else(fargate_driver::local::images)
}

/// A local cluster with images, and a base definition for jobs that name one.
pub fn cluster(transport: &'static str) -> Cluster {
    let cluster = Cluster::local_with_images(&images(), transport);
    let registered = cluster.ecs(
        "RegisterTaskDefinition",
        &json!({
            "family": BASE, "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"],
            "cpu": "1024", "memory": "2048",
            "containerDefinitions": [{
                "name": "ci-coordinator", "image": "coordinator", "essential": true,
                "logConfiguration": { "logDriver": "awslogs", "options": {
                    "awslogs-group": "/ci", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "job",
                } },
            }],
        }),
    );
    assert_eq!(registered["taskDefinition"]["family"], BASE, "{registered}");
    cluster
}

/// A job with an image, as GitLab describes it, and services.
fn job_with(cluster: &Cluster, image: Value, services: Value) -> Job {
    let mut job = Job::with(cluster, SETTINGS);
    job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", BASE);
    job.wishes = json!({ "image": image, "services": services });
    job
}

/// Gives a job an image.
pub fn add_image(job: &mut Job, image: &str) {
    let text = fs::read_to_string(&job.config).unwrap();
    fs::write(&job.config, format!("{text}\n{SETTINGS}")).unwrap();
    job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", BASE);
    job.wishes = json!({ "image": { "name": image } });
}

fn job(cluster: &Cluster, image: &str) -> Job {
    job_with(cluster, json!({ "name": image }), Value::Null)
}

/// Runs a stage that must succeed. Returns its output.
fn output(job: &Job, stage: &str, script: &str) -> String {
    let run = job.run(stage, script);
    assert_eq!(run.code, 0, "{stage}: {run:#?}\n{}", job.log());
    String::from_utf8(run.stdout).unwrap()
}

/// Clones a repository as gitlab-runner's script does. It is in the coordinator, as there is no
/// network here.
const GET_SOURCES: &str = "set -e
git init -q /tmp/origin && cd /tmp/origin
git config user.email ci@example.com && git config user.name ci
echo 'the source' >source.txt && git add . && git commit -qm first
mkdir -p /builds/group && git clone -q /tmp/origin /builds/group/project
echo cloned
";

fn an_unmodified_image_passes_through_all_stages(cluster: &Cluster) {
    for image in ["busybox", "debian", "nonroot", "entrypoint"] {
        let job = job(cluster, image);
        let config = job.stage(&["config"]);
        let description: Value = serde_json::from_slice(&config.stdout).unwrap();
        assert_eq!(description["builds_dir"], "/builds");
        assert_eq!(description["cache_dir"], "/cache");
        job.prepare();
        assert_eq!(output(&job, "get_sources", GET_SOURCES), "cloned\n", "{image}");
        let script = "set -e; cd /builds/group/project; read -r line <source.txt; echo \"$line\"; \
                      echo built >result.txt; command -v git || echo no git";
        assert_eq!(output(&job, "build_script", script), "the source\nno git\n", "{image}");
        let after = "read -r line </builds/group/project/result.txt; echo \"after $line\"";
        assert_eq!(output(&job, "after_script", after), "after built\n", "{image}");
        let cache = "mkdir -p /cache/project && echo kept >/cache/project/file && \
                     cat /cache/project/file";
        assert_eq!(output(&job, "archive_cache", cache), "kept\n", "{image}");
        let artifact = "cd /builds/group/project && git status --porcelain && \
                        tar -cf /tmp/artifacts.tar result.txt && tar -xOf /tmp/artifacts.tar";
        let archived = output(&job, "upload_artifacts_on_success", artifact);
        assert_eq!(archived, "?? result.txt\nbuilt\n", "{image}");
        job.cleanup();
    }
    cluster.assert_nothing_is_left(4);
}

fn the_image_s_entry_point_user_and_environment_hold(cluster: &Cluster) {
    let entry = job(cluster, "entrypoint");
    entry.prepare();
    assert_eq!(output(&entry, "build_script", "echo $FROM_ENTRYPOINT"), "yes\n");
    assert_eq!(output(&entry, "get_sources", "echo ${FROM_ENTRYPOINT-none}"), "none\n");
    entry.cleanup();
    let off = json!({ "name": "badentrypoint", "entrypoint": [""] });
    let off = job_with(cluster, off, Value::Null);
    off.prepare();
    assert_eq!(output(&off, "build_script", "echo without"), "without\n");
    off.cleanup();
    let user = job(cluster, "nonroot");
    user.prepare();
    let who = output(&user, "build_script", "id -u; pwd; echo $LANG; echo x >/builds/mine");
    assert_eq!(who, "1000\n/home/ci\nC.UTF-8\n");
    assert_eq!(output(&user, "archive_cache", "id -u; rm /builds/mine && echo gone"), "0\ngone\n");
    user.cleanup();
    let other = json!({ "name": "debian", "executor_opts": { "docker": { "user": "1234" } } });
    let other = job_with(cluster, other, Value::Null);
    other.prepare();
    assert_eq!(output(&other, "build_script", "id -u"), "1234\n");
    other.cleanup();
}

fn exit_codes_and_signals_are_the_script_s_own(cluster: &Cluster) {
    for image in ["busybox", "nonroot"] {
        let job = job(cluster, image);
        job.prepare();
        for (script, code) in
            [("exit 42", "42"), ("kill -9 $$", "137"), ("set -e; false; echo never", "1")]
        {
            let run = job.run("build_script", script);
            let verdict = (run.code, run.script_code.as_deref());
            assert_eq!(verdict, (BUILD_FAILURE, Some(code)), "{image} {script}: {run:#?}");
        }
        let both = job.run("step_1", "echo out; echo error >&2; printf '\\000\\377'");
        assert_eq!(both.stdout, b"out\nerror\n\x00\xff", "in order, and unchanged");
        job.cleanup();
    }
}

fn a_killed_driver_s_script_is_followed_to_its_end(cluster: &Cluster) {
    let job = job(cluster, "busybox");
    job.prepare();
    let script = job.script("echo started; sleep 2; echo ended; exit 7");
    let arguments = ["run", script.to_str().unwrap(), "build_script"];
    let mut killed = job.spawn(&arguments);
    eventually("the script runs", || job.snapshot().contains("started: true"));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let again = job.spawn(&arguments);
    let ended = job.end(again);
    assert_eq!(ended.script_code.as_deref(), Some("7"), "{ended:#?}\n{}", job.log());
    assert!(String::from_utf8_lossy(&ended.stdout).ends_with("ended\n"), "{ended:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_cancelled_script_ends_with_its_children(cluster: &Cluster) {
    let job = job(cluster, "busybox");
    job.prepare();
    let script = job.script(
        "trap 'echo term; exit 3' TERM; (sleep 1000; echo never) & echo started; while :; do sleep 0.05; done",
    );
    let running = job.spawn(&["run", script.to_str().unwrap(), "build_script"]);
    eventually("the script runs", || job.snapshot().contains("started: true"));
    eventually("it has written", || job.snapshot().contains("offset: 8"));
    Job::cancel(&running);
    let ended = job.end(running);
    assert_eq!(ended.code, SYSTEM_FAILURE, "{ended:#?}");
    let left = output(&job, "after_script", "ps | grep -c '[s]leep 1000' || true");
    assert_eq!(left.trim(), "0");
    job.cleanup();
}

fn output_and_script_may_be_large(cluster: &Cluster) {
    let job = job(cluster, "busybox");
    job.prepare();
    let mut script = String::from("n=0\n");
    while script.len() < 5_000_000 {
        script.push_str("n=$((n+1)) # a line of a script that carries many variables\n");
    }
    let lines = script.lines().count() - 1;
    script.push_str("echo $n\n");
    assert_eq!(output(&job, "build_script", &script), format!("{lines}\n"));
    let many = job.run("build_script", "yes 0123456789 | head -c 50000000");
    assert_eq!((many.code, many.stdout.len()), (0, 50_000_000));
    assert!(many.stdout.starts_with(b"0123456789\n0123456789\n"));
    job.cleanup();
}

fn services_are_reached_by_their_names(cluster: &Cluster) {
    // Tasks share this machine's loopback, and with it the ports of other tests.
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [redis, http] = held.map(|held| held.local_addr().unwrap().port());
    let services = json!([
        { "name": "redis", "alias": "cache,store",
          "command": ["--port", redis.to_string(), "--save", ""],
          "variables": [{ "key": "HEALTHCHECK_TCP_PORT", "value": redis.to_string() }] },
        { "name": "http", "ports": [{ "number": http }],
          "entrypoint": ["httpd", "-f", "-p", http.to_string(), "-h", "/www"] },
    ]);
    let job = job_with(cluster, json!({ "name": "busybox" }), services);
    job.prepare();
    let fetch = format!("wget -q -O - http://http:{http}/");
    let script =
        format!("{fetch}; printf 'PING\\r\\nQUIT\\r\\n' | nc store {redis}; tail -n 1 /etc/hosts");
    let said = output(&job, "build_script", &script);
    assert_eq!(said, "it works\n+PONG\r\n+OK\r\n127.0.0.1 cache store redis http\n");
    assert_eq!(output(&job, "after_script", &fetch), "it works\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_service_that_never_listens_is_reported(cluster: &Cluster) {
    let services = json!([{ "name": "silent", "variables": [
        { "key": "HEALTHCHECK_TCP_PORT", "value": "7" }
    ] }]);
    let job = job_with(cluster, json!({ "name": "busybox" }), services);
    job.prepare();
    let said = output(&job, "build_script", "echo goes on");
    assert!(said.contains("WARNING: the service silent probably did not start properly"), "{said}");
    assert!(said.ends_with("goes on\n"), "{said}");
    job.cleanup();
}

fn a_service_that_died_is_reported_with_its_last_lines(cluster: &Cluster) {
    let job = job_with(cluster, json!({ "name": "busybox" }), json!([{ "name": "dies" }]));
    job.prepare();
    let mut said = String::new();
    eventually("ECS shows that the service has ended", || {
        let run = job.run("build_script", "true");
        assert_eq!(run.code, 0, "a service's end is not the job's: {run:#?}");
        said = run.stderr;
        said.contains("the service dies has ended with exit code 3")
    });
    assert!(said.contains("dies | this image exits with 3"), "{said}");
    job.cleanup();
}

fn an_entry_point_that_ignores_its_arguments_is_explained(cluster: &Cluster) {
    let mut job = Job::with(cluster, &format!("{SETTINGS}[Deadlines]\nRunning = \"9s\"\n"));
    job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", BASE);
    job.wishes = json!({ "image": { "name": "badentrypoint" } });
    let prepared = job.stage(&["prepare"]);
    assert_ne!(prepared.code, 0, "{prepared:#?}");
    assert!(prepared.stderr.contains("entrypoint: [\"\"]"), "{prepared:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn an_image_without_a_shell_is_explained(cluster: &Cluster) {
    let image = json!({ "name": "noshell", "entrypoint": [""] });
    let job = job_with(cluster, image, Value::Null);
    let prepared = job.stage(&["prepare"]);
    assert_ne!(prepared.code, 0, "{prepared:#?}");
    assert!(prepared.stderr.contains("sh"), "{prepared:#?}");
    assert!(prepared.stderr.contains("build"), "the container is named: {prepared:#?}");
    job.cleanup();
}

fn an_image_that_does_not_exist_is_explained(cluster: &Cluster) {
    let job = job(cluster, "no-such-image:1");
    let prepared = job.stage(&["prepare"]);
    assert_ne!(prepared.code, 0, "{prepared:#?}");
    assert!(prepared.stderr.contains("CannotPullContainer"), "{prepared:#?}");
    assert!(prepared.stderr.contains("no-such-image"), "{prepared:#?}");
    job.cleanup();
}

/// Kaniko does so between stages: everything goes that is not mounted.
fn a_job_that_empties_its_root_file_system_keeps_its_verdict_and_artifacts(cluster: &Cluster) {
    let job = job(cluster, "busybox");
    job.prepare();
    let script = "mkdir -p /builds/project; echo image >/builds/project/image.tar; \
                  echo before; busybox rm -rf /bin /etc /root /home /var /tmp 2>/dev/null; echo after; \
                  exit 0";
    assert_eq!(output(&job, "build_script", script), "before\nafter\n");
    let after = job.run("after_script", "echo never");
    assert_eq!(after.code, BUILD_FAILURE, "{after:#?}");
    let said = String::from_utf8_lossy(&after.stdout);
    assert!(said.contains("no shell is left in the container with the job image"), "{said}");
    let artifact = output(&job, "upload_artifacts_on_success", "cat /builds/project/image.tar");
    assert_eq!(artifact, "image\n");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

fn a_refused_image_is_the_job_s_own_failure(cluster: &Cluster) {
    let mut job = Job::with(cluster, "[Images]\nAllowed = [\"debian:*\"]\n");
    job.set("CUSTOM_ENV_FARGATE_TASK_DEFINITION", BASE);
    job.wishes = json!({ "image": { "name": "busybox" } });
    let prepared = job.stage(&["prepare"]);
    assert_eq!(prepared.code, BUILD_FAILURE, "{prepared:#?}");
    assert!(prepared.stderr.contains("Allowed: debian:*"), "{prepared:#?}");
    job.cleanup();
    cluster.assert_nothing_is_left(0);
}
