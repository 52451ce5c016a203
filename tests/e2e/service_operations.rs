//! Operating the manager's service: systemd, reload, drain, and the calls to AWS that it shows.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fargate_driver::service::protocol::{Hello, Message as _, ToService};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    cluster::Cluster,
    eventually, http,
    runner::{BUILD_FAILURE, Job, SYSTEM_FAILURE},
    serve::Service,
};

/// How many stages the service has hosted.
fn hosted(job: &Job) -> usize {
    job.log().matches("hosted by the service").count()
}

/// systemd's end of the socket for notifications.
struct Systemd(UnixDatagram);

impl Systemd {
    /// Listens, and names the socket in the job's environment, and so in the service's.
    fn listen(job: &mut Job, watchdog: Option<Duration>) -> Self {
        let path = job.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        job.set("NOTIFY_SOCKET", &path.display().to_string());
        if let Some(limit) = watchdog {
            job.set("WATCHDOG_USEC", &limit.as_micros().to_string());
        }
        Self(socket)
    }

    /// Returns the next message.
    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let size = self.0.recv(&mut bytes).expect("nothing was said for a minute");
        String::from_utf8(bytes[..size].to_vec()).unwrap()
    }

    /// Waits for a message that begins with this, and returns it.
    fn expect(&self, beginning: &str) -> String {
        loop {
            let message = self.next();
            if message.starts_with(beginning) {
                return message;
            }
            assert!(!message.starts_with("STOPPING"), "instead of {beginning}");
        }
    }
}

#[test]
fn the_service_reports_to_systemd_what_it_does() {
    let cluster = Cluster::local_by_pipes();
    let mut job = Job::on(&cluster);
    let systemd = Systemd::listen(&mut job, None);
    let mut service = Service::start(&job);
    assert_eq!(systemd.next(), "READY=1\n");
    assert_eq!(systemd.next(), "STATUS=hosting stages\n");

    let good = fs::read_to_string(&job.config).unwrap();
    fs::write(&job.config, format!("Nonsense\n{good}")).unwrap();
    service.signal(Signal::HUP);
    let reloading = systemd.next();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(time.trim().parse::<u64>().unwrap() > 0, "{reloading}");
    assert_eq!(systemd.next(), "READY=1\n");
    let status = systemd.next();
    assert!(status.starts_with("STATUS=the reload failed"), "{status}");
    assert!(status.contains("this is not TOML"), "{status}");
    fs::write(&job.config, good).unwrap();
    service.signal(Signal::HUP);
    assert!(systemd.next().starts_with("RELOADING=1"));
    assert_eq!([systemd.next(), systemd.next()], ["READY=1\n", "STATUS=hosting stages\n"]);

    service.signal(Signal::TERM);
    assert_eq!(systemd.next(), "STOPPING=1\n");
    assert!(service.process.wait().unwrap().success());
}

#[test]
fn signs_of_life_are_given_while_the_directory_answers() {
    let cluster = Cluster::local_by_pipes();
    let mut job = Job::on(&cluster);
    let systemd = Systemd::listen(&mut job, Some(Duration::from_millis(200)));
    let service = Service::start(&job);
    for _ in 0..3 {
        systemd.expect("WATCHDOG=1");
    }
    // That it cannot be used is an answer, too: a new process could do no better.
    let aside = job.path("aside");
    fs::rename(&job.metadata, &aside).unwrap();
    let status = systemd.expect("STATUS=the metadata directory");
    assert!(status.contains("cannot be written"), "{status}");
    systemd.expect("WATCHDOG=1");
    fs::rename(&aside, &job.metadata).unwrap();
    systemd.expect("STATUS=hosting stages");
    systemd.expect("WATCHDOG=1");
    drop(service);
}

/// A socket as systemd makes it.
fn socket(job: &Job, name: &str, mode: u32) -> UnixListener {
    fs::create_dir_all(&job.metadata).unwrap();
    fs::set_permissions(&job.metadata, fs::Permissions::from_mode(0o700)).unwrap();
    let path = job.metadata.join(name);
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    listener
}

#[test]
fn a_socket_of_systemd_is_used_and_outlives_the_service() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster);
    let listener = socket(&job, "fargate.sock", 0o600);
    let mut first = Service::start_with(&listener, &job).unwrap();
    job.prepare();
    assert_eq!(job.run("get_sources", "echo one").stdout, b"one\n");
    assert_eq!(hosted(&job), 2, "{}", job.log());
    first.signal(Signal::TERM);
    assert!(first.process.wait().unwrap().success());
    // Between two services, a stage waits for a moment, and does its work itself.
    assert_eq!(job.run("get_sources", "echo two").stdout, b"two\n");
    assert_eq!(hosted(&job), 2);
    // One that comes just before the second is greeted by it.
    let mut early = UnixStream::connect(job.metadata.join("fargate.sock")).unwrap();
    let hello = Hello { protocol: 0, driver: String::new(), configuration: String::new() };
    early.write_all(&ToService::Hello(hello).frame()).unwrap();
    let begun = Instant::now();
    let _second = Service::start_with(&listener, &job).unwrap();
    early.read_exact(&mut [0; 5]).unwrap();
    println!("a service that was started greets after {:?}", begun.elapsed());
    drop(early);
    assert_eq!(job.run("build_script", "echo three").stdout, b"three\n");
    assert_eq!(hosted(&job), 3, "{}", job.log());
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

#[test]
fn a_socket_of_systemd_that_others_could_use_is_refused() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster);
    for (name, mode, why) in
        [("fargate.sock", 0o666, "its file has mode 0666"), ("other.sock", 0o600, "other.sock")]
    {
        let listener = socket(&job, name, mode);
        let refused =
            Service::command_with(&listener, &job).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(SYSTEM_FAILURE), "{said}");
        assert!(
            said.contains(why) && said.contains("ListenStream=") && said.contains("SocketMode"),
            "{said}"
        );
    }
}

/// Changes the configuration, and waits until the service has read it and logged `line`.
fn reload(service: &Service, job: &Job, text: &str, line: &str) {
    let lines = |job: &Job| job.log().matches(line).count();
    let before = lines(job);
    fs::write(&job.config, text).unwrap();
    service.signal(Signal::HUP);
    eventually(line, || lines(job) > before);
}

const TAKEN: &str = "the configuration was read again: new stages get it";
const REFUSED: &str = "the configuration was read again and is not used";

#[test]
fn new_stages_get_a_configuration_that_was_read_again() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster);
    let service = Service::start(&job);
    job.prepare();
    let old = fs::read_to_string(&job.config).unwrap();
    let new = format!("{old}\n[Deadlines]\nPending = \"14m\"\n");
    // A stage that runs keeps what it has.
    let gate = job.path("gate");
    let script = job.script(format!(
        "echo begun; until [ -e '{}' ]; do sleep 0.05; done; echo ended",
        gate.display()
    ));
    let mut running = job.spawn(&["run", &script.display().to_string(), "build_script"]);
    let mut begun = [0; 6];
    running.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    fs::write(&job.config, &new).unwrap();
    let other = job.beside(&cluster);
    other.prepare();
    assert_eq!(hosted(&job), 2, "a service with the earlier file is not used");
    reload(&service, &job, &new, TAKEN);
    fs::write(&gate, "").unwrap();
    assert_eq!(job.end(running).stdout, b"ended\n");
    assert!(!job.log().contains("this process goes on"), "{}", job.log());
    assert_eq!(other.run("build_script", "exit 7").code, BUILD_FAILURE);
    assert_eq!(hosted(&job), 3, "{}", job.log());
    let third = job.beside(&cluster);
    third.prepare();
    let limits = |job: &Job| {
        let snapshots = job.files(".ron").into_iter().map(|path| fs::read_to_string(path).unwrap());
        snapshots.filter(|text| text.contains("pending: \"14m\"")).count()
    };
    assert_eq!(limits(&third), 2, "{}", third.snapshot());
    for job in [&job, &other, &third] {
        job.cleanup();
    }
    cluster.assert_nothing_is_left(3);
}

#[test]
fn a_configuration_with_mistakes_changes_nothing_and_all_are_logged() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster);
    let service = Service::start(&job);
    job.prepare();
    let good = fs::read_to_string(&job.config).unwrap();
    let bad = good.replace("Cluster", "Clutser").replace("TaskDefinition", "Definition");
    reload(&service, &job, &bad, REFUSED);
    let log = job.log();
    let line = log.lines().find(|line| line.contains(REFUSED)).unwrap();
    assert!(line.contains("missing [Fargate] Cluster, [Fargate] TaskDefinition"), "{line}");
    assert!(line.contains("Did you mean Cluster?"), "{line}");
    let directory = job.metadata.display().to_string();
    for (from, to, what) in [
        (directory.as_str(), "/nowhere", "Directory cannot change"),
        ("LogLevel = \"debug\"", "LogLevel = \"info\"", "LogLevel cannot change"),
    ] {
        reload(&service, &job, &good.replace(from, to), REFUSED);
        assert!(job.log().contains(what), "{}", job.log());
    }
    fs::write(&job.config, &good).unwrap();
    assert_eq!(job.run("build_script", "echo here").stdout, b"here\n");
    assert_eq!(hosted(&job), 2, "the service works as before");
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}

/// Starts `fargate serve --drain`.
fn drain(job: &Job) -> Child {
    Service::command(job).arg("--drain").stderr(Stdio::piped()).spawn().unwrap()
}

fn said(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(both).unwrap())
}

#[test]
fn a_drained_service_ends_after_its_stages_and_takes_no_more() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster);
    let other = job.beside(&cluster);
    let mut service = Service::start(&job);
    job.prepare();
    other.prepare();
    let gate = job.path("gate");
    let script = job.script(format!(
        "echo begun; until [ -e '{}' ]; do sleep 0.05; done; exit 7",
        gate.display()
    ));
    let mut running = job.spawn(&["run", &script.display().to_string(), "build_script"]);
    let mut begun = [0; 6];
    running.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    // Another configuration than the service's is no reason not to drain it.
    let text = fs::read_to_string(&job.config).unwrap();
    fs::write(&job.config, format!("{text}\n[Deadlines]\nPending = \"14m\"\n")).unwrap();
    let mut draining = drain(&job);
    let mut lines = BufReader::new(draining.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "fargate serve: the service takes no more stages");
    assert_eq!(lines.next().unwrap(), "fargate serve: 1 stage is left");
    fs::write(&job.config, text).unwrap();
    assert_eq!(other.run("build_script", "echo alone").stdout, b"alone\n");
    assert_eq!(hosted(&job), 3, "{}", job.log());
    assert!(job.log().contains("it refuses: it ends"), "{}", job.log());
    assert!(!service.has_ended());
    fs::write(&gate, "").unwrap();
    let ended = job.end(running);
    assert_eq!((ended.code, ended.script_code.as_deref()), (BUILD_FAILURE, Some("7")));
    assert!(!job.log().contains("this process goes on"), "{}", job.log());
    assert_eq!(lines.last().unwrap(), "fargate serve: the service has ended");
    assert_eq!(draining.wait().unwrap().code(), Some(0));
    eventually("it has ended", || service.has_ended());
    assert!(service.process.wait().unwrap().success());
    assert!(!job.metadata.join("fargate.sock").exists());
    job.cleanup();
    other.cleanup();
    cluster.assert_nothing_is_left(2);
}

#[test]
fn without_a_service_there_is_nothing_to_drain() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster);
    let (code, text) = said(drain(&job));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("no service runs here"), "{text}");
    // One that cannot be reached is not passed over.
    let _service = Service::start(&job);
    fs::remove_file(job.metadata.join("fargate.sock")).unwrap();
    let (code, text) = said(drain(&job));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is served already"), "{text}");
}

#[test]
fn the_service_counts_its_calls_to_aws() {
    let cluster = Cluster::local_by_pipes();
    let job = Job::on(&cluster);
    let mut command = Service::command(&job);
    let mut process = command.args(["--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let page = lines.next().unwrap();
    let endpoint = page.strip_prefix("fargate serve: page: ").unwrap().to_owned();
    assert!(lines.next().unwrap().starts_with("fargate serve: ready"));
    job.prepare();
    cluster.as_local().set_faults(&serde_json::json!({ "throttle": { "StopTask": 1 } }));
    job.cleanup();
    let get = |path: &str| {
        let answer = http::request(&endpoint, "GET", path, &[], b"");
        String::from_utf8(answer.body).unwrap()
    };
    let metrics = get("/metrics");
    let line = "fargate_aws_calls_total{rpc_method=\"ECS/RunTask\",error_type=\"\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    let page = get("/");
    assert!(page.contains("Calls to AWS") && page.contains("ECS/DescribeTasks"), "{page}");
    let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(process.wait().unwrap().success());
    cluster.assert_nothing_is_left(1);
}

/// Copies the units of deploy/systemd, with a program that is there.
fn units(to: &Path) -> Vec<String> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let mut names = Vec::new();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("/opt/gitlab-runner/fargate ", "/bin/true ");
        let name = path.file_name().unwrap().to_str().unwrap();
        fs::write(to.join(name), text).unwrap();
        names.push(name.to_owned());
    }
    names
}

#[test]
#[ignore = "needs systemd-analyze: scripts/test installs systemd and runs this"]
fn systemd_accepts_the_units_and_finds_the_service_confined() {
    let place = tempfile::tempdir().unwrap();
    let units = units(place.path());
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(arguments).current_dir(place.path()).output().unwrap();
        let both = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(both).unwrap())
    };
    let names: Vec<String> = units.iter().map(|name| format!("./{name}")).collect();
    let verify: Vec<&str> =
        ["verify", "--man=no"].into_iter().chain(names.iter().map(String::as_str)).collect();
    assert_eq!(analyze(&verify), (true, String::new()));
    // Tenths: 25 is "OK".
    let (is_below, text) = analyze(&[
        "security",
        "--offline=yes",
        "--no-pager",
        "--threshold=25",
        "./fargate.service",
    ]);
    assert!(is_below, "{text}");
}
