//! An export has no real name, and reports the same as the real snapshot.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use diagnosis::{diagnose, timeline::Timeline};
use states::{Observation, Snapshot, Timestamp, Verdict};

use super::anonymise;
use crate::{holder, show::last_seen};

fn fixtures() -> Vec<(String, Snapshot)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let mut found = Vec::new();
    for directory in ["snapshots/v1", "snapshots/v1.2", "stuck"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "ron") {
                found.push((
                    path.display().to_string(),
                    Snapshot::parse(&fs::read_to_string(path).unwrap()).unwrap(),
                ));
            }
        }
    }
    assert!(found.len() >= 18, "{}", found.len());
    found
}

/// Parts of real names. The snapshots below have them in every field that takes a text.
const REAL_NAMES: [&str; 17] = [
    "acme",
    "payroll",
    "s3cret",
    "10.20.30.40",
    "54.87.65.43",
    "2600:1f18",
    "987654321098",
    "tOk3n",
    "glpat-",
    "AKIA",
    "0a1b2c3d",
    "alice",
    "fleet-7",
    "AAAAC3Nz",
    "4bf92f35",
    "cafebabe",
    "ledger",
];

/// A text with everything that an export must not contain.
const LEAK: &str = "https://alice:s3cret@git.acme.example:8443/payroll/ledger?private_token=glpat-AbCdEfGhIj0123456789 at 10.20.30.40:22, \
     54.87.65.43 and [2600:1f18::7]: arn:aws:secretsmanager:eu-west-1:987654321098:secret:payroll-db by AKIAIOSFODNN7EXAMPLE, \
     image registry.acme.example/payroll/ledger:1, host ip-10-20-30-40.fleet-7.internal, eni-0a1b2c3d4e5f60718, \
     ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG, /home/alice/payroll, mail alice@acme.example, cafebabe0123cafebabe, Payroll-Builder";

/// Puts real names in place of the fixture's names.
fn with_real_names(snapshot: &Snapshot) -> Snapshot {
    let mut ron = snapshot.to_ron().unwrap();
    let mut replace = |from: &str, to: &str| ron = ron.replace(from, to);
    replace(
        "arn:aws:ecs:eu-west-1:1:task/ci/0000000000000000000000000000000",
        "arn:aws:ecs:eu-west-1:987654321098:task/payroll/cafebabe000000000000000000000",
    );
    replace("10.0.0.7", "10.20.30.40");
    replace("\"eni-1\"", "\"eni-0a1b2c3d4e5f60718\"");
    replace("\"subnet-1\"", "\"subnet-0a1b2c3d\"");
    replace("ssh-ed25519 AAAA", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA");
    replace("/tmp/fargate-driver", "/home/alice/payroll");
    replace("\"ci\"", "\"payroll\"");
    replace("\"job:1\"", "\"acme-payroll:7\"");
    replace("\"tok-0123456789abcdef\"", "\"tOk3n-cafebabe0123456789abcdef\"");
    replace("\"gitlab-9-abcdef\"", "\"gitlab-9-cafebabe01\"");
    replace("\"d\"", "\"cafebabe4bf92f35\"");
    let mut snapshot = Snapshot::parse(&ron).unwrap();
    let header = header(&mut snapshot);
    header.about.project_url = "https://git.acme.example/payroll/ledger".to_owned();
    header.about.job_name = "deploy payroll for alice".to_owned();
    header.about.runner = "tOk3n".to_owned();
    header.trace = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    header.pool = Some(states::PoolRole::Missed { pool: "payroll ledger".to_owned() });
    header.spec.environment.push(("PAYROLL_DB".to_owned(), LEAK.to_owned()));
    header.spec.security_groups.push("sg-0a1b2c3d4e5f60718".to_owned());
    header.spec.tags = vec![
        ("fargate-driver:manager".to_owned(), "fleet-7.acme.example".to_owned()),
        ("fargate-driver:directory".to_owned(), "/home/alice/payroll".to_owned()),
        ("gitlab:project".to_owned(), "https://git.acme.example/payroll/ledger".to_owned()),
        ("acme:owner".to_owned(), "alice".to_owned()),
    ];
    snapshot
}

/// Returns the header of a job in any state.
fn header(snapshot: &mut Snapshot) -> &mut states::Header {
    use states::AnyJob::{Executing, Pending, Provisioning, Reachable, Running, Stopping};
    Arc::make_mut(match &mut snapshot.job {
        Provisioning(job) => &mut job.header,
        Pending(job) => &mut job.header,
        Running(job) => &mut job.header,
        Reachable(job) => &mut job.header,
        Executing(job) => &mut job.header,
        Stopping(job) => &mut job.header,
    })
}

/// Returns every observation that has a text, with [`LEAK`] as its text.
fn leaking_observations() -> Vec<Observation> {
    let leaking = |kind: &str| kind.replace("LEAK", &LEAK.replace('"', ""));
    let error = "(operation: \"RunTask\", kind: Throttled, code: Some(\"ThrottlingException\"), message: \"LEAK\", advice: \"LEAK\")";
    let connect = "(kind: Refused, message: \"LEAK\", advice: \"LEAK\")";
    let report = "(task: \"arn:aws:ecs:eu-west-1:987654321098:task/payroll/cafebabe\", status: Other(\"LEAK\"), stop_desired: false, \
         interface: Some((id: Some(\"eni-0a1b2c3d4e5f60718\"), private_address: Some(\"10.20.30.40\"), subnet: Some(\"subnet-0a1b2c3d\"))), \
         containers: [(name: \"payroll\", status: Some(\"LEAK\"), exit_code: None, reason: Some(\"LEAK\"), exec_agent: Some(\"LEAK\"), \
         runtime_id: Some(\"cafebabe-1\"))], stopped: Some((code: Some(\"LEAK\"), reason: Some(\"LEAK\"))))";
    let mut all = vec![
        "Opened(process: 1, purpose: \"step_payroll\")".to_owned(),
        "Claimed((warm: \"warm-00000000cafebabe\", pool: \"payroll LEAK\", \
         task: \"arn:aws:ecs:eu-west-1:987654321098:task/payroll/cafebabe\", address: Some(\"10.20.30.40\"), \
         greeting: (identity: (\"ssh-ed25519 AAAAC3NzaC1lZDI1\"), facts: (run_dir: \"/home/alice/payroll\", \
         follows_with_tail: true, has_setsid: true)), began: \"2026-01-01T00:00:00.000Z\", ready: \"2026-01-01T00:01:00.000Z\"))"
            .to_owned(),
        format!("LaunchFailed({error})"),
        format!("Launched({report})"),
        format!("Described({report})"),
        format!("DescribeFailed({error})"),
        format!("AddressFailed({error})"),
        "Addressed(Some(\"54.87.65.43\"))".to_owned(),
        format!("Unreachable({connect})"),
        "Answered((identity: (\"ssh-ed25519 AAAAC3NzaC1lZDI1\"), facts: (run_dir: \"/home/alice/payroll\", follows_with_tail: true, has_setsid: true)))".to_owned(),
        "RunRequested(stage: \"step_payroll\", digest: \"cafebabe\")".to_owned(),
        format!("FindFailed({error})"),
        format!("StopFailed({error})"),
        "Found([\"arn:aws:ecs:eu-west-1:987654321098:task/payroll/cafebabe\"])".to_owned(),
    ];
    all.extend(
        ["ConnectionLost", "Unknown", "NoStatus", "NotStarted", "Protocol"]
            .map(|kind| format!("RunFailed({kind}(\"LEAK\"))")),
    );
    let reasons = [
        "Asked(\"LEAK\")".to_owned(),
        format!("LaunchRefused({error})"),
        format!("ControlFailed({error})"),
        "TaskStopped(what: \"LEAK\", advice: \"LEAK\")".to_owned(),
        "Deadline(state: Running, limit: \"3m\", problem: \"LEAK\")".to_owned(),
        format!("Unusable({connect})"),
        "RunLost(\"LEAK\")".to_owned(),
        "TaskStopped(end: (status: Other(\"LEAK\"), code: Some(\"LEAK\"), reason: Some(\"LEAK\"), \
         containers: [(name: \"payroll\", exit_code: Some(1), reason: Some(\"LEAK\"))]))"
            .to_owned(),
        format!("Deadline(state: Running, limit: \"3m\", last: Connection(Some({connect})))"),
        "RunAbandoned(NoProgress(connections: 50, within: \"2m\", error: ConnectionLost(\"LEAK\")))"
            .to_owned(),
        "RunAbandoned(ShortLived(connections: 500, within: \"10s\", error: Protocol(\"LEAK\")))"
            .to_owned(),
        "RunAbandoned(Unknown(run_dir: \"/home/alice/payroll\", error: Unknown(\"LEAK\")))".to_owned(),
    ];
    all.extend(reasons.map(|reason| format!("StopRequested({reason})")));
    all.iter()
        .map(|text| ron::from_str(&leaking(text)).unwrap_or_else(|e| panic!("{e}: {text}")))
        .collect()
}

fn assert_clean(name: &str, snapshot: &Snapshot) {
    let (other, about) = anonymise(snapshot);
    let text = format!("{}\n{}", about.join("\n"), other.to_ron().unwrap());
    let lower = text.to_lowercase();
    for real in REAL_NAMES {
        assert!(!lower.contains(&real.to_lowercase()), "{name}: {real} is in\n{text}");
    }
}

#[test]
fn no_name_address_or_secret_survives() {
    for (name, snapshot) in fixtures().into_iter().filter(|(name, _)| name.contains("v1")) {
        let real = with_real_names(&snapshot);
        assert!(
            REAL_NAMES.iter().filter(|name| real.to_ron().unwrap().contains(*name)).count() >= 9,
            "{name}: too few real names are in it"
        );
        assert_clean(&name, &real);
        // Also with each observation, and in the states that follow from it.
        for saw in leaking_observations() {
            let mut leaking = real.clone();
            let newest = last_seen(&leaking);
            leaking.step(saw, newest + Duration::from_secs(1));
            leaking.step(Observation::TimePassed, newest + Duration::from_secs(2));
            leaking.step(Observation::TimePassed, newest + Duration::from_secs(100_000));
            assert_clean(&name, &leaking);
            // Also where the journal does not lead to the recorded state.
            leaking.journal.omitted = 1;
            assert_clean(&name, &leaking);
        }
    }
}

#[test]
fn a_name_has_one_pseudonym_wherever_it_stands() {
    let snapshot = with_real_names(
        &fixtures().into_iter().find(|(name, _)| name.ends_with("executing.ron")).unwrap().1,
    );
    let (other, _) = anonymise(&snapshot);
    let ron = other.to_ron().unwrap();
    for (name, times) in [("10.0.0.2", 4), ("ssh-ed25519 key-1", 3), ("/path-1", 3)] {
        assert!(ron.matches(name).count() >= times, "{name} in\n{ron}");
    }
    assert_eq!(anonymise(&snapshot).0, other, "exports of one job are equal");
    assert_eq!(other.job.header().about.project_url, other.job.header().spec.tags[2].1);
}

#[test]
fn show_and_step_report_the_same_of_an_export() {
    for (name, snapshot) in fixtures() {
        let (other, _) = anonymise(&snapshot);
        let again =
            Snapshot::parse(&format!("// comments are allowed\n{}", other.to_ron().unwrap()))
                .unwrap();
        assert_eq!(again, other, "{name}");
        assert_eq!(other.replay(), snapshot.replay(), "{name}");
        let report = |snapshot: &Snapshot| {
            let now = last_seen(snapshot);
            let timeline = Timeline::of(snapshot, now);
            let diagnoses = diagnose(snapshot, &timeline, &holder::elsewhere(snapshot), now);
            (
                timeline
                    .spans
                    .iter()
                    .map(|span| (span.state, span.from, span.to))
                    .collect::<Vec<_>>(),
                diagnoses[0].cause,
            )
        };
        assert_eq!(report(&other), report(&snapshot), "{name}");
    }
}

#[test]
fn an_export_differs_where_the_real_journal_does() {
    let (name, mut snapshot) =
        fixtures().into_iter().find(|(name, _)| name.ends_with("stopping.ron")).unwrap();
    let entry = snapshot.journal.entries.len() / 2;
    snapshot.journal.entries[entry].left =
        Some(serde_json::from_str("\"Pending 1-00000000\"").unwrap());
    let number = |snapshot: &Snapshot| match snapshot.replay() {
        Verdict::Differ(difference) => difference.entry,
        agree @ Verdict::Agree { .. } => panic!("{name}: {agree:?}"),
    };
    let (other, _) = anonymise(&snapshot);
    assert_eq!((number(&snapshot), number(&other)), (entry + 1, entry + 1));
}

#[test]
fn a_shortened_journal_can_be_exported() {
    let (_, mut snapshot) =
        fixtures().into_iter().find(|(name, _)| name.ends_with("executing.ron")).unwrap();
    let mut at = last_seen(&snapshot).as_millis();
    for process in 0..1000 {
        at += 10;
        snapshot.step(
            Observation::Opened { process, purpose: "build_script".to_owned() },
            Timestamp::from_millis(at),
        );
    }
    let (other, _) = anonymise(&snapshot);
    assert_eq!(other.journal.omitted, snapshot.journal.omitted);
    assert_eq!(other.job.name(), snapshot.job.name());
    assert_eq!(other.replay(), snapshot.replay());
}
