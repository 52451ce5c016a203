//! Nothing of anybody's survives, and the story stays the same.

use std::{fs, path::PathBuf, time::Duration};

use states::{Observation, Snapshot, Timestamp, Verdict};

use super::anonymous;
use crate::replay::{diagnosis::diagnose, holder, show::last_seen, timeline::Timeline};

fn fixtures() -> Vec<(String, Snapshot)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
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

/// What is in every snapshot below, in every field that takes a text.
const MARKS: [&str; 17] = [
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

/// A line that says everything that must not get out.
const GOSSIP: &str = "https://alice:s3cret@git.acme.example:8443/payroll/ledger?private_token=glpat-AbCdEfGhIj0123456789 at 10.20.30.40:22, \
     54.87.65.43 and [2600:1f18::7]: arn:aws:secretsmanager:eu-west-1:987654321098:secret:payroll-db by AKIAIOSFODNN7EXAMPLE, \
     image registry.acme.example/payroll/ledger:1, host ip-10-20-30-40.fleet-7.internal, eni-0a1b2c3d4e5f60718, \
     ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG, /home/alice/payroll, mail alice@acme.example, cafebabe0123cafebabe, Payroll-Builder";

/// The fixture with marks in place of every name, and the gossip in place of every other text.
fn marked(snapshot: &Snapshot) -> Snapshot {
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
    header.spec.environment.push(("PAYROLL_DB".to_owned(), GOSSIP.to_owned()));
    header.spec.security_groups.push("sg-0a1b2c3d4e5f60718".to_owned());
    header.spec.tags = vec![
        ("fargate-driver:manager".to_owned(), "fleet-7.acme.example".to_owned()),
        ("fargate-driver:directory".to_owned(), "/home/alice/payroll".to_owned()),
        ("gitlab:project".to_owned(), "https://git.acme.example/payroll/ledger".to_owned()),
        ("acme:owner".to_owned(), "alice".to_owned()),
    ];
    snapshot
}

/// The header, whatever the state.
fn header(snapshot: &mut Snapshot) -> &mut states::Header {
    use states::AnyJob::{Executing, Pending, Provisioning, Reachable, Running, Stopping};
    match &mut snapshot.job {
        Provisioning(job) => &mut job.header,
        Pending(job) => &mut job.header,
        Running(job) => &mut job.header,
        Reachable(job) => &mut job.header,
        Executing(job) => &mut job.header,
        Stopping(job) => &mut job.header,
    }
}

/// Every observation that carries a text, with the gossip as its text.
fn gossips() -> Vec<Observation> {
    let said = |kind: &str| kind.replace("GOSSIP", &GOSSIP.replace('"', ""));
    let error = "(operation: \"RunTask\", kind: Throttled, code: Some(\"ThrottlingException\"), message: \"GOSSIP\", advice: \"GOSSIP\")";
    let connect = "(kind: Refused, message: \"GOSSIP\", advice: \"GOSSIP\")";
    let report = "(task: \"arn:aws:ecs:eu-west-1:987654321098:task/payroll/cafebabe\", status: Other(\"GOSSIP\"), stop_desired: false, \
         interface: Some((id: Some(\"eni-0a1b2c3d4e5f60718\"), private_address: Some(\"10.20.30.40\"), subnet: Some(\"subnet-0a1b2c3d\"))), \
         containers: [(name: \"payroll\", status: Some(\"GOSSIP\"), exit_code: None, reason: Some(\"GOSSIP\"), exec_agent: Some(\"GOSSIP\"), \
         runtime_id: Some(\"cafebabe-1\"))], stopped: Some((code: Some(\"GOSSIP\"), reason: Some(\"GOSSIP\"))))";
    let mut all = vec![
        "Opened(process: 1, purpose: \"step_payroll\")".to_owned(),
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
            .map(|kind| format!("RunFailed({kind}(\"GOSSIP\"))")),
    );
    let reasons = [
        "Asked(\"GOSSIP\")".to_owned(),
        format!("LaunchRefused({error})"),
        format!("ControlFailed({error})"),
        "TaskStopped(what: \"GOSSIP\", advice: \"GOSSIP\")".to_owned(),
        "Deadline(state: Running, limit: \"3m\", problem: \"GOSSIP\")".to_owned(),
        format!("Unusable({connect})"),
        "RunLost(\"GOSSIP\")".to_owned(),
        "TaskStopped(end: (status: Other(\"GOSSIP\"), code: Some(\"GOSSIP\"), reason: Some(\"GOSSIP\"), \
         containers: [(name: \"payroll\", exit_code: Some(1), reason: Some(\"GOSSIP\"))]))"
            .to_owned(),
        format!("Deadline(state: Running, limit: \"3m\", last: Connection(Some({connect})))"),
        "RunAbandoned(NoProgress(connections: 50, within: \"2m\", error: ConnectionLost(\"GOSSIP\")))"
            .to_owned(),
        "RunAbandoned(ShortLived(connections: 500, within: \"10s\", error: Protocol(\"GOSSIP\")))"
            .to_owned(),
        "RunAbandoned(Unknown(run_dir: \"/home/alice/payroll\", error: Unknown(\"GOSSIP\")))".to_owned(),
    ];
    all.extend(reasons.map(|reason| format!("StopRequested({reason})")));
    all.iter()
        .map(|text| ron::from_str(&said(text)).unwrap_or_else(|e| panic!("{e}: {text}")))
        .collect()
}

fn assert_clean(name: &str, snapshot: &Snapshot) {
    let (other, about) = anonymous(snapshot);
    let text = format!("{}\n{}", about.join("\n"), other.to_ron().unwrap());
    let lower = text.to_lowercase();
    for mark in MARKS {
        assert!(!lower.contains(&mark.to_lowercase()), "{name}: {mark} is in\n{text}");
    }
}

#[test]
fn no_name_address_or_secret_survives() {
    for (name, snapshot) in fixtures().into_iter().filter(|(name, _)| name.contains("v1")) {
        let marked = marked(&snapshot);
        assert!(
            MARKS.iter().filter(|mark| marked.to_ron().unwrap().contains(*mark)).count() >= 9,
            "{name}: hardly a mark is in it"
        );
        assert_clean(&name, &marked);
        // Whatever is observed next, and whatever state that leads to.
        for saw in gossips() {
            let mut gossiped = marked.clone();
            let newest = last_seen(&gossiped);
            gossiped.step(saw, newest + Duration::from_secs(1));
            gossiped.step(Observation::TimePassed, newest + Duration::from_secs(2));
            gossiped.step(Observation::TimePassed, newest + Duration::from_secs(100_000));
            assert_clean(&name, &gossiped);
            // Also where the journal does not lead to the recorded state.
            gossiped.journal.omitted = 1;
            assert_clean(&name, &gossiped);
        }
    }
}

#[test]
fn the_same_name_is_the_same_wherever_it_stands() {
    let snapshot = marked(
        &fixtures().into_iter().find(|(name, _)| name.ends_with("executing.ron")).unwrap().1,
    );
    let (other, _) = anonymous(&snapshot);
    let ron = other.to_ron().unwrap();
    for (name, times) in [("10.0.0.2", 4), ("ssh-ed25519 key-1", 3), ("/path-1", 3)] {
        assert!(ron.matches(name).count() >= times, "{name} in\n{ron}");
    }
    assert_eq!(
        anonymous(&snapshot).0,
        other,
        "an export does not change from one time to the next"
    );
    assert_eq!(other.job.header().about.project_url, other.job.header().spec.tags[2].1);
}

#[test]
fn an_export_tells_the_same_story() {
    for (name, snapshot) in fixtures() {
        let (other, _) = anonymous(&snapshot);
        let again =
            Snapshot::parse(&format!("// comments are allowed\n{}", other.to_ron().unwrap()))
                .unwrap();
        assert_eq!(again, other, "{name}");
        assert_eq!(other.replay(), snapshot.replay(), "{name}");
        let told = |snapshot: &Snapshot| {
            let now = last_seen(snapshot);
            let story = Timeline::of(snapshot, now);
            let found = diagnose(snapshot, &story, &holder::unknown(snapshot), now);
            (
                story
                    .spans
                    .iter()
                    .map(|visit| (visit.state, visit.from, visit.to))
                    .collect::<Vec<_>>(),
                found[0].cause,
            )
        };
        assert_eq!(told(&other), told(&snapshot), "{name}");
    }
}

#[test]
fn a_difference_stays_where_it_was() {
    let (name, mut snapshot) =
        fixtures().into_iter().find(|(name, _)| name.ends_with("stopping.ron")).unwrap();
    let entry = snapshot.journal.entries.len() / 2;
    snapshot.journal.entries[entry].left =
        Some(serde_json::from_str("\"Pending 1-00000000\"").unwrap());
    let number = |snapshot: &Snapshot| match snapshot.replay() {
        Verdict::Differ(difference) => difference.entry,
        agree @ Verdict::Agree { .. } => panic!("{name}: {agree:?}"),
    };
    let (other, _) = anonymous(&snapshot);
    assert_eq!((number(&snapshot), number(&other)), (entry + 1, entry + 1));
}

#[test]
fn a_journal_without_its_middle_is_exported_too() {
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
    let (other, _) = anonymous(&snapshot);
    assert_eq!(other.journal.omitted, snapshot.journal.omitted);
    assert_eq!(other.job.name(), snapshot.job.name());
    assert_eq!(other.replay(), snapshot.replay());
}
