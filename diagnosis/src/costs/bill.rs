//! The facts that a job's costs follow from.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use states::{
    Architecture, Billing, Capacity, Observation, Snapshot, TaskArn, TaskReport, TaskSize,
    Timestamp,
};

/// The shortest time that Fargate bills (AWS Fargate pricing: "one minute minimum").
const SHORTEST: Duration = Duration::from_secs(60);

/// What a job's task is billed by. A part of it may be unknown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// The task's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The size that the task really has.
    #[serde(default, skip_serializing_if = "TaskSize::is_default")]
    pub size: TaskSize,
    /// Its CPU architecture.
    pub architecture: Architecture,
    /// Where it runs.
    pub host: Host,
    /// How long it is billed, in seconds: from the start of the image pull to the task's end,
    /// rounded up, and one minute at least. 0 if it ended before that.
    pub seconds: u64,
    /// Whether ECS has reported the task's end. Otherwise the time is until the job's last entry.
    pub is_final: bool,
}

/// Where a task runs, as its bill distinguishes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    /// Fargate, on demand.
    Fargate,
    /// Fargate Spot.
    FargateSpot,
    /// Instances, by the name of the capacity provider or of the launch type. They cost the same
    /// whether tasks run there or not.
    Instances(String),
    /// Nothing says it.
    Unknown,
}

impl Bill {
    /// Returns the bill of a job's task. A task that has not ended is billed until `now`. `None` if
    /// the job has no task, or if nothing that a bill depends on was recorded: older drivers did
    /// not.
    #[must_use]
    pub fn of(snapshot: &Snapshot, now: Timestamp) -> Option<Self> {
        let seen = Seen::of(snapshot)?;
        let Seen { task, billing, launched, ended } = seen;
        let spec = &snapshot.job.header().spec;
        let size = TaskSize {
            cpu: billing.size.cpu.or(spec.size.cpu),
            memory: billing.size.memory.or(spec.size.memory),
            ephemeral_storage: billing.size.ephemeral_storage.or(spec.size.ephemeral_storage),
        };
        let chosen = spec.additions.as_ref().and_then(|additions| additions.architecture);
        let until = billing.stopped.or(billing.execution_stopped).or(ended);
        let from = match (billing.pull_started.or(billing.started), until) {
            (Some(from), _) => Some(from),
            // It ended, and no image was pulled.
            (None, Some(_)) => None,
            // ECS was not asked since: some seconds too early.
            (None, None) => Some(launched),
        };
        Some(Self {
            region: task.region().map(str::to_owned),
            size,
            architecture: billing.architecture.or(chosen).unwrap_or(Architecture::X86),
            host: Host::of(&billing, &spec.capacity),
            seconds: from.map_or(0, |from| billed(until.unwrap_or(now).since(from))),
            is_final: until.is_some(),
        })
    }

    /// The CPU that is billed, in seconds of one vCPU.
    #[must_use]
    pub fn vcpu_seconds(&self) -> Option<f64> {
        Some(self.vcpus()? * seconds(self.seconds))
    }

    /// The memory that is billed, in seconds of one GB.
    #[must_use]
    pub fn gb_seconds(&self) -> Option<f64> {
        Some(self.gigabytes()? * seconds(self.seconds))
    }

    /// The task's CPU, in vCPUs.
    #[must_use]
    pub fn vcpus(&self) -> Option<f64> {
        Some(f64::from(self.size.cpu?) / 1024.0)
    }

    /// The task's memory, in GB as Fargate counts them: 1024 MiB.
    #[must_use]
    pub fn gigabytes(&self) -> Option<f64> {
        Some(f64::from(self.size.memory?) / 1024.0)
    }
}

impl Host {
    fn of(billing: &Billing, asked: &Capacity) -> Self {
        let launch_type = billing.launch_type.as_deref();
        match (billing.capacity_provider.as_deref(), launch_type) {
            (Some("FARGATE_SPOT"), _) => Self::FargateSpot,
            (Some("FARGATE"), _) | (None, Some("FARGATE")) => Self::Fargate,
            (Some(provider), _) => Self::Instances(provider.to_owned()),
            (None, Some(launch_type)) => Self::Instances(launch_type.to_owned()),
            (None, None) => match asked {
                Capacity::LaunchType(launch_type) if launch_type == "FARGATE" => Self::Fargate,
                Capacity::LaunchType(launch_type) => Self::Instances(launch_type.clone()),
                Capacity::ClusterDefault | Capacity::Strategy(_) => Self::Unknown,
            },
        }
    }
}

/// Rounds a time up as Fargate bills it.
fn billed(time: Duration) -> u64 {
    let time = time.max(SHORTEST);
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[allow(clippy::cast_precision_loss, reason = "a task does not live for 2^53 seconds")]
pub(super) fn seconds(whole: u64) -> f64 {
    whole as f64
}

/// What a journal shows of the job's task.
struct Seen<'a> {
    task: &'a TaskArn,
    billing: Billing,
    launched: Timestamp,
    /// When it was first seen to have ended.
    ended: Option<Timestamp>,
}

impl<'a> Seen<'a> {
    fn of(snapshot: &'a Snapshot) -> Option<Self> {
        let entries = &snapshot.journal.entries;
        // A launch may have described the task of an earlier attempt, which has a bill of its own.
        let launched = entries.iter().rev().find_map(|entry| match &entry.saw {
            Observation::Launched(report) => Some(&report.task),
            _ => None,
        });
        let task = launched.or_else(|| snapshot.job.task())?;
        // The pool's waiting is on the bill of the job that claimed the task.
        let claim = snapshot.claim().filter(|claim| claim.task == *task);
        let mut seen = claim.map(|claim| Self {
            task,
            billing: claim.billing.as_deref().cloned().unwrap_or_default(),
            launched: claim.began,
            ended: None,
        });
        for (at, report) in snapshot.reports(task) {
            let seen = seen.get_or_insert_with(|| Self {
                task,
                billing: Billing::default(),
                launched: at,
                ended: None,
            });
            seen.learn(report, at);
        }
        seen.filter(|seen| seen.billing != Billing::default())
    }

    fn learn(&mut self, report: &TaskReport, at: Timestamp) {
        if let Some(billing) = &report.billing {
            self.billing.learn(billing);
        }
        if report.status.has_ended() {
            self.ended.get_or_insert(at);
        }
    }
}
