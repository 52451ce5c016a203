//! What a container sees: its root file system, user, environment, volumes, network.

use std::{collections::BTreeMap, path::Path};

use serde_json::json;

use crate::*;

/// A loop that takes commands from a FIFO on the shared volume, and writes a status file.
const LOOP: &str = r#"
    while [ ! -p /fargate/in ]; do sleep 0.01; done
    while read -r line </fargate/in; do
      sh -c "$line" >/fargate/out 2>&1
      echo $? >/fargate/status.new && mv /fargate/status.new /fargate/status
    done"#;

/// Has the loop run a command. Returns its output and status.
async fn in_build(cluster: &LocalCluster, task: &str, command: &str) -> (String, String) {
    let script = format!(
        "umask 0; [ -p /fargate/in ] || mkfifo /fargate/in; rm -f /fargate/status
         cat >/fargate/in <<'COMMAND'\n{command}\nCOMMAND
         until [ -e /fargate/status ]; do sleep 0.01; done; cat /fargate/status; cat /fargate/out"
    );
    let output = output_of(cluster, task, &script).await;
    let (status, output) = output.split_once('\n').unwrap_or((&output, ""));
    (output.to_owned(), status.to_owned())
}

/// A running task with such a loop in this image.
async fn looping(cluster: &LocalCluster, image: &str, more: Value) -> String {
    let task = run(cluster, &[coordinator(), build(image, LOOP, more)]).await;
    until_running(cluster, &task).await;
    // As the driver does: the run directory is for the image's user, too.
    output_of(cluster, &task, "chmod 0777 /fargate /builds").await;
    task
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn an_unmodified_image_runs_commands_through_a_shared_volume() {
    let cluster = start().await;
    let task = looping(&cluster, "busybox", json!({})).await;
    let (output, status) = in_build(&cluster, &task, "ls /bin/busybox; echo $JOB; exit 7").await;
    assert_eq!((output.as_str(), status.as_str()), ("/bin/busybox", "7"), "its own environment");
    // The volumes are one place in both containers, and at their paths.
    output_of(&cluster, &task, "echo from the coordinator >/builds/file").await;
    let (output, _) = in_build(&cluster, &task, "cat /builds/file; echo x >/cache/file").await;
    assert_eq!(output, "from the coordinator");
    assert_eq!(
        output_of(&cluster, &task, "cat /cache/file; stat -c '%U %a' /cache").await,
        "x\nroot 755"
    );
    // The stand-in sees the host's files, whose root has got no new directory.
    assert_eq!(
        output_of(&cluster, &task, "echo $JOB; [ -d /usr/bin ] && [ -r /proc/$$/stat ] && pwd")
            .await,
        format!("42\n{}", sessions_of(&cluster, &task).environment["HOME"])
    );
    for (_, path) in VOLUMES {
        assert!(!Path::new(path).exists(), "{path} is on the host");
    }
    stop(&cluster, &task).await;
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn the_image_s_user_home_and_directory_hold() {
    let cluster = start().await;
    let task = looping(&cluster, "nonroot", json!({})).await;
    let (output, _) =
        in_build(&cluster, &task, "id -u; id -g; pwd; echo $HOME $LANG; touch ~/mine && echo ok; touch /etc/x 2>/dev/null || echo no").await;
    assert_eq!(output, "1000\n1000\n/home/ci\n/home/ci C.UTF-8\nok\nno");
    stop(&cluster, &task).await;
    let own = json!({ "user": "ci", "workingDirectory": "/work/new", "environment": [{ "name": "A_b", "value": "c d" }] });
    let task = looping(&cluster, "nonroot", own).await;
    let (output, _) = in_build(&cluster, &task, "id -un; pwd; env | grep A_b").await;
    assert_eq!(output, "ci\n/work/new\nA_b=c d");
    stop(&cluster, &task).await;
    // A name that no shell passes on, and a value with quotes.
    let value = "it's \"$HOME\" `id`";
    let odd = json!({ "command": ["env"], "environment": [{ "name": "a.b-c", "value": value }] });
    let task = run(&cluster, &[coordinator(), build("busybox", "", odd)]).await;
    until_stopped(&cluster, &task).await;
    assert!(summary(&cluster, &task, "build").last_lines.contains(&format!("a.b-c={value}")));
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn no_command_line_on_the_host_shows_the_environment() {
    let cluster = start().await;
    let secret = "correct-horse-battery";
    let own = json!({ "environment": [{ "name": "POSTGRES_PASSWORD", "value": secret }] });
    let job = build("busybox", "echo $POSTGRES_PASSWORD; sleep 600", own);
    let task = run(&cluster, &[coordinator(), job]).await;
    until_running(&cluster, &task).await;
    until_line(&cluster, &task, "build", secret).await;
    let shows = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(secret)
    };
    let shown: Vec<_> = std::fs::read_dir("/proc").unwrap().flatten().filter(shows).collect();
    assert!(shown.is_empty(), "{shown:?}");
    stop(&cluster, &task).await;
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn any_user_may_open_the_standard_streams() {
    let cluster = start().await;
    let script = "echo one >/dev/stdout; echo two >/dev/stderr; echo three >/proc/self/fd/1";
    let job = build("nonroot", script, json!({}));
    let task = run(&cluster, &[coordinator(), job]).await;
    let stopped = until_stopped(&cluster, &task).await;
    assert_eq!(described(&stopped, "build")["exitCode"], 0);
    assert_eq!(summary(&cluster, &task, "build").last_lines, ["one", "two", "three"]);
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_job_may_empty_its_own_root() {
    let cluster = start().await;
    let task = looping(&cluster, "debian", json!({})).await;
    let (_, status) = in_build(
        &cluster,
        &task,
        "rm -rf /usr/share /var /bin/ls /etc/debian_version; ! ls && echo x >/new && cat /new",
    )
    .await;
    assert_eq!(status, "0");
    let image = test_images().join("debian");
    assert!(image.join("etc/debian_version").exists() && image.join("usr/share").exists());
    assert!(!image.join("new").exists() && Path::new("/usr/share").exists());
    stop(&cluster, &task).await;
    let again = looping(&cluster, "debian", json!({})).await;
    let (output, _) = in_build(&cluster, &again, "ls -d /usr/share; ls /new || :").await;
    assert!(output.starts_with("/usr/share\n") && output.contains("No such file"), "{output}");
    stop(&cluster, &again).await;
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn system_files_are_a_container_s_own() {
    let cluster = start().await;
    let task = looping(&cluster, "debian", json!({})).await;
    let before = std::fs::read_to_string("/etc/hosts").unwrap();
    let script = "echo 127.0.0.1 postgres >>/etc/hosts && getent hosts postgres | grep -c 127.0.0.1; \
                  cat /etc/resolv.conf | wc -c; echo x | tee /dev/null >/dev/full || echo full; \
                  [ -c /dev/urandom ] && [ -d /dev/shm ] && ls /dev/pts/ptmx; \
                  ls /proc | grep -c '^[0-9]*$'; cat /proc/1/comm; grep -c ' / ' /proc/mounts";
    let (output, _) = in_build(&cluster, &task, script).await;
    let lines: Vec<&str> = output.lines().collect();
    let resolv = std::fs::read("/etc/resolv.conf").unwrap_or_default().len().to_string();
    assert_eq!(lines[..2], ["1", &resolv]);
    assert!(lines.contains(&"full") && lines.contains(&"/dev/pts/ptmx"), "{output}");
    // Its own PID namespace: an init process, the loop, and this.
    let processes: usize = lines[lines.len() - 3].parse().unwrap();
    assert!((3..12).contains(&processes), "{output}");
    assert_eq!(lines[lines.len() - 2..], ["sh", "1"]);
    assert_eq!(std::fs::read_to_string("/etc/hosts").unwrap(), before);
    stop(&cluster, &task).await;
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn what_is_read_only_cannot_be_written() {
    let cluster = start().await;
    let mounts = json!({ "readonlyRootFilesystem": true, "mountPoints": [
        { "sourceVolume": "fargate-run", "containerPath": "/fargate" },
        { "sourceVolume": "fargate-builds", "containerPath": "/deep/er/builds", "readOnly": true }] });
    let task = looping(&cluster, "busybox", mounts).await;
    let (output, _) = in_build(&cluster, &task, "echo x >/deep/er/builds/x; echo x >/x").await;
    assert_eq!(output.matches("Read-only file system").count(), 2, "{output}");
    stop(&cluster, &task).await;
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_stand_in_s_volume_may_be_anywhere() {
    let cluster = start().await;
    let stand_in = json!({ "name": "ci-coordinator", "image": "local", "mountPoints": [
        { "sourceVolume": "fargate-run", "containerPath": "/var/lib/fargate-new/run" },
        { "sourceVolume": "fargate-cache", "containerPath": "/var/lib/fargate-new/cache" },
        { "sourceVolume": "fargate-builds", "containerPath": "/opt" }] });
    let task = run(&cluster, &[stand_in]).await;
    until_running(&cluster, &task).await;
    let script = "echo x >/var/lib/fargate-new/run/x; touch /opt/y; ls /opt; ls -d /var/lib/dpkg/info; ls /var/lib/fargate-new";
    assert_eq!(output_of(&cluster, &task, script).await, "y\n/var/lib/dpkg/info\ncache\nrun");
    assert!(!Path::new("/var/lib/fargate-new").exists() && !Path::new("/opt/y").exists());
    // What it writes elsewhere is the host's, as ever.
    let home = sessions_of(&cluster, &task).environment["HOME"].clone();
    output_of(&cluster, &task, "echo z >~/z").await;
    assert_eq!(std::fs::read_to_string(Path::new(&home).join("z")).unwrap(), "z\n");
    stop(&cluster, &task).await;
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn a_container_of_the_host_runs_its_command() {
    let cluster = start().await;
    let script = "echo $HOME; exec cat /fargate/in";
    let other = build("local", &format!("mkfifo /fargate/in; {script}"), json!({}));
    let task = run(&cluster, &[coordinator(), other]).await;
    until_running(&cluster, &task).await;
    output_of(
        &cluster,
        &task,
        "until [ -p /fargate/in ]; do sleep 0.01; done; echo over >/fargate/in",
    )
    .await;
    let stopped = until_stopped(&cluster, &task).await;
    assert_eq!(described(&stopped, "build")["exitCode"], 0);
    assert_eq!(summary(&cluster, &task, "build").last_lines.last().unwrap(), "over");
}

#[tokio::test]
#[ignore = "needs scripts/root-filesystems"]
async fn services_are_at_localhost() {
    let cluster = start().await;
    let service =
        |name: &str, image: &str| json!({ "name": name, "image": image, "essential": false });
    let script = "until wget -qO- http://localhost:8080/; do sleep 0.05; done; \
                  until echo PING | nc localhost 6379; do sleep 0.05; done; sleep 600";
    let containers = [
        coordinator(),
        build("busybox", script, json!({})),
        service("service-0", "http"),
        service("service-1", "redis"),
        service("service-2", "silent"),
    ];
    let task = run(&cluster, &containers).await;
    let running = until_running(&cluster, &task).await;
    until_line(&cluster, &task, "build", "it works").await;
    until_line(&cluster, &task, "build", "+PONG").await;
    let states: BTreeMap<&str, (&str, &str)> = running["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().unwrap();
            assert!(text("runtimeId").contains(text("name")));
            (text("name"), (text("image"), text("lastStatus")))
        })
        .collect();
    assert_eq!(states.len(), 5);
    assert_eq!(states["service-1"], ("redis", "RUNNING"));
    stop(&cluster, &task).await;
}
