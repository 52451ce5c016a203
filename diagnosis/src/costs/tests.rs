//! Bills of whole jobs, compared with what was computed by hand.

use std::{sync::Arc, time::Duration};

use states::{
    AnyJob, Architecture, Billing, Claim, Greeting, JobId, Observation, RunContainer, Snapshot,
    TaskArn, TaskReport, TaskSize, TaskStatus, Timestamp, Usage,
};

use super::*;

const LAUNCHED: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn at(seconds: f64) -> Timestamp {
    LAUNCHED + Duration::from_secs_f64(seconds)
}

/// A task as ECS describes it.
struct Task {
    region: &'static str,
    cpu: u32,
    memory: u32,
    storage: u32,
    arm: bool,
    provider: Option<&'static str>,
    launch_type: &'static str,
    /// `pullStartedAt` and `stoppedAt`, in seconds after the launch.
    billed: [Option<f64>; 2],
}

const TASK: Task = Task {
    region: "us-east-1",
    cpu: 1024,
    memory: 2048,
    storage: 20,
    arm: false,
    provider: None,
    launch_type: "FARGATE",
    billed: [Some(10.0), Some(3610.0)],
};

impl Task {
    fn report(&self, status: TaskStatus, has_ended: bool) -> TaskReport {
        let [pulled, stopped] = self.billed;
        let arn = format!("arn:aws:ecs:{}:123456789012:task/ci/0123456789abcdef", self.region);
        let billing = Billing {
            size: TaskSize {
                cpu: Some(self.cpu),
                memory: Some(self.memory),
                ephemeral_storage: Some(self.storage),
            },
            architecture: Some(if self.arm { Architecture::Arm } else { Architecture::X86 }),
            launch_type: Some(self.launch_type.into()),
            capacity_provider: self.provider.map(Into::into),
            pull_started: pulled.map(at),
            started: None,
            execution_stopped: None,
            stopped: stopped.filter(|_| has_ended).map(at),
        };
        TaskReport {
            task: TaskArn::new(arn).unwrap(),
            stop_desired: has_ended,
            status,
            interface: None,
            containers: Vec::new(),
            stopped: None,
            billing: Some(Box::new(billing)),
        }
    }

    /// Its job, as far as RunTask's answer.
    fn launched(&self) -> Snapshot {
        let path =
            format!("{}/../fixtures/snapshots/v2.5/provisioning.ron", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let header = Snapshot::parse(&text).unwrap().job.header().clone();
        let mut snapshot = Snapshot::new(header);
        let report = self.report(TaskStatus::Provisioning, false);
        snapshot.step(Observation::Launched(report.into()), LAUNCHED);
        snapshot
    }

    /// Its job, to the end.
    fn ended(&self) -> Snapshot {
        let mut snapshot = self.launched();
        let report = self.report(TaskStatus::Stopped, true);
        snapshot.step(Observation::Described(report.into()), at(9000.0));
        snapshot
    }

    fn cost(&self) -> Result<f64, NoCost> {
        let bill = Bill::of(&self.ended(), at(9999.0)).unwrap();
        bill.cost(&Prices::built_in()).map(|money| money.amount)
    }
}

#[test]
fn ten_jobs_cost_what_was_computed_by_hand() {
    let spot = Some("FARGATE_SPOT");
    let jobs = [
        // An hour. 1 × 0.04048 + 2 × 0.004445 = 0.04048 + 0.00889.
        (TASK, 0.049_37),
        // The same by a capacity provider, in Frankfurt: 1 × 0.04656 + 2 × 0.00511 = 0.04656 + 0.01022.
        (Task { region: "eu-central-1", provider: Some("FARGATE"), ..TASK }, 0.056_78),
        // Half a minute is billed as one: (0.25 × 0.04048 + 0.5 × 0.004445) / 60
        // = (0.01012 + 0.0022225) / 60 = 0.0123425 / 60.
        (
            Task { cpu: 256, memory: 512, billed: [Some(5.0), Some(35.0)], ..TASK },
            0.000_205_708_333,
        ),
        // 90.2 s are billed as 91 s: 0.04937 × 91 / 3600 = 4.49267 / 3600.
        (Task { billed: [Some(8.0), Some(98.2)], ..TASK }, 0.001_247_963_889),
        // ARM, 4 vCPU and 8 GB, ten minutes: (4 × 0.03238 + 8 × 0.00356) / 6
        // = (0.12952 + 0.02848) / 6 = 0.158 / 6.
        (
            Task { arm: true, cpu: 4096, memory: 8192, billed: [Some(0.0), Some(600.0)], ..TASK },
            0.026_333_333,
        ),
        // Spot, 2 vCPU and 4 GB, an hour: 2 × 0.01288871 + 4 × 0.00141527
        // = 0.02577742 + 0.00566108.
        (Task { provider: spot, cpu: 2048, memory: 4096, ..TASK }, 0.031_438_5),
        // ARM on Spot in Ireland, 20 minutes: (1 × 0.00979124 + 2 × 0.00107649) / 3
        // = 0.01194422 / 3.
        (
            Task {
                region: "eu-west-1",
                arm: true,
                provider: spot,
                billed: [Some(0.0), Some(1200.0)],
                ..TASK
            },
            0.003_981_406_667,
        ),
        // 100 GB of storage, of which 80 are billed: 0.04937 + 80 × 0.000111 = 0.04937 + 0.00888.
        (Task { storage: 100, ..TASK }, 0.058_25),
        // 16 vCPU and 120 GB in São Paulo for two hours: 2 × (16 × 0.0696 + 120 × 0.0076)
        // = 2 × (1.1136 + 0.912).
        (
            Task {
                region: "sa-east-1",
                cpu: 16_384,
                memory: 122_880,
                billed: [Some(0.0), Some(7200.0)],
                ..TASK
            },
            4.0512,
        ),
        // It stopped before it pulled an image.
        (Task { billed: [None, Some(30.0)], ..TASK }, 0.0),
    ];
    for (number, (task, by_hand)) in jobs.iter().enumerate() {
        let cost = task.cost().unwrap();
        assert!((cost - by_hand).abs() < 1e-9, "job {}: {cost}, by hand {by_hand}", number + 1);
    }
}

#[test]
fn without_a_price_there_is_no_figure_but_a_reason() {
    for (task, said) in [
        (Task { region: "xx-north-1", ..TASK }, "prices of the region xx-north-1"),
        (
            Task { region: "eu-central-1", provider: Some("FARGATE_SPOT"), ..TASK },
            "Fargate Spot on X86_64 in eu-central-1",
        ),
        (Task { region: "us-west-2", storage: 50, ..TASK }, "storage above 20 GB in us-west-2"),
        (Task { provider: Some("gpu-fleet"), launch_type: "EC2", ..TASK }, "instances (gpu-fleet)"),
        (Task { launch_type: "EC2", ..TASK }, "instances (EC2)"),
    ] {
        let error = task.cost().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        let bill = Bill::of(&task.ended(), at(9999.0)).unwrap();
        let words = bill.in_words(&Prices::built_in());
        assert!(words.starts_with("not known, as ") && words.contains("1 vCPU"), "{words}");
    }
}

#[test]
fn a_job_that_is_not_over_is_billed_until_now() {
    let task = Task { provider: Some("FARGATE_SPOT"), ..TASK };
    let bill = Bill::of(&task.launched(), at(210.0)).unwrap();
    assert_eq!((bill.seconds, bill.is_final), (200, false));
    assert_eq!(
        bill.in_words(&Prices::built_in()),
        "about $0.0009 so far: 1 vCPU and 2 GB for 3m 20s on Fargate Spot, at the prices of 2026-09-11"
    );
    // ECS was not asked since the launch: from there.
    let unseen = Task { billed: [None, None], ..TASK };
    assert_eq!(Bill::of(&unseen.launched(), at(210.0)).unwrap().seconds, 210);
}

#[test]
fn a_claimed_task_is_billed_with_its_wait_for_the_job() {
    let path = format!("{}/../fixtures/snapshots/v2.5/reachable.ron", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let AnyJob::Reachable(reachable) = Snapshot::parse(&text).unwrap().job else {
        panic!("it is reachable")
    };
    let report = TASK.report(TaskStatus::Running, false);
    let claim = Claim {
        warm: JobId::warm(1),
        pool: "p".into(),
        task: report.task,
        address: None,
        greeting: Greeting { identity: reachable.state.identity, facts: reachable.state.facts },
        began: LAUNCHED,
        ready: at(60.0),
        billing: report.billing,
    };
    let mut job = Snapshot::new(reachable.header);
    job.step(Observation::Claimed(Box::new(claim)), at(600.0));
    let bill = Bill::of(&job, at(700.0)).unwrap();
    assert_eq!((bill.seconds, bill.is_final, bill.size.cpu), (690, false, Some(1024)));
}

#[test]
fn a_job_without_facts_has_no_bill() {
    let mut old = TASK.launched();
    for entry in &mut old.journal.entries {
        if let Observation::Launched(report) = &mut entry.saw {
            Arc::make_mut(report).billing = None;
        }
    }
    assert_eq!(Bill::of(&old, at(1.0)), None);
}

/// The use of a job whose runs took these times: seconds, then CPU seconds and bytes in all.
fn used(task: &Task, runs: &[(f64, f64, u64)]) -> Option<Peak> {
    let mut snapshot = task.launched();
    let mut now = 100.0;
    for (length, cpu, memory) in runs {
        let requested = Observation::RunRequested {
            stage: "build_script".into(),
            digest: "d".into(),
            container: RunContainer::Coordinator,
        };
        snapshot.step(requested, at(now));
        now += length;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let usage = Usage { memory: Some(*memory), cpu: Some((cpu * 1e6) as u64) };
        let measured = Observation::Measured { container: RunContainer::Coordinator, usage };
        snapshot.step(measured, at(now));
        now += 1.0;
    }
    Peak::of(&snapshot, &Bill::of(&snapshot, at(now)).unwrap())
}

#[test]
fn the_stage_that_used_most_counts() {
    let task = Task { cpu: 2048, memory: 4096, ..TASK };
    let size = Bill::of(&task.launched(), at(1.0)).unwrap().size;
    // The first takes no second. The second uses 8 s in 10 s, the third 2 s more in 100 s.
    let runs = [(0.1, 0.2, 1 << 20), (10.0, 8.2, 1_181_116_006), (100.0, 10.2, 1_181_116_006)];
    let peak = used(&task, &runs).unwrap();
    assert_eq!(peak.in_words(size), "used at most 0.8 of 2 vCPU and 1.1 of 4 GB");
    assert_eq!(peak.hint(size).as_deref(), Some("1 vCPU and 2 GB would have been enough"));
    assert_eq!(Peak { cpu: Some(2000), ..peak }.hint(size), None, "nothing smaller is enough");
    assert_eq!(Peak { has_services: true, ..peak }.hint(size), None, "services are not measured");
}

#[test]
fn more_than_the_task_has_is_not_believed() {
    let runs = [(10.0, 60.0, 64 << 30)];
    assert_eq!(used(&TASK, &runs), None);
    let runs = [(10.0, 60.0, 1 << 30)];
    assert_eq!(used(&TASK, &runs), None);
    let runs = [(10.0, 10.5, 1 << 30)];
    assert_eq!(
        used(&TASK, &runs).map(|peak| (peak.cpu, peak.memory)),
        Some((Some(1024), Some(1024)))
    );
    let runs = [(10.0, 1e13, u64::MAX)];
    assert_eq!(used(&TASK, &runs), None);
}
