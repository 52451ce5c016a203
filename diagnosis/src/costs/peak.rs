//! What a job has used of its task at most.

use serde::{Deserialize, Serialize};
use states::{Observation, RunContainer, Snapshot, TaskSize, Timestamp, Usage};

use super::{Bill, fargate_size, size_in_words};

/// The shortest run whose CPU counts, in milliseconds. A size is chosen for what lasts.
const SHORTEST: u64 = 1000;
const MEBI: u64 = 1024 * 1024;

/// The most that a job has used of its task, in the units of a [`TaskSize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Peak {
    /// CPU units, on average over the run of the stage that used most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// MiB at any time, with the page cache. Of several containers, it is the sum of their peaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
    /// Whether there were services, which are not measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_services: bool,
}

/// What is known of a container that runs scripts.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    /// MiB.
    memory: Option<u32>,
    /// Microseconds so far.
    cpu: u64,
}

impl Peak {
    /// Returns what a job has used of the task with this bill. `None` if nothing was measured, or
    /// more than the task has: then the container shows what its host uses.
    #[must_use]
    pub fn of(snapshot: &Snapshot, bill: &Bill) -> Option<Self> {
        let mut containers = [Measured::default(); 2];
        let mut cpu = None;
        let mut began = None;
        for (at, saw) in snapshot.journal.unfold() {
            match saw {
                Observation::RunRequested { .. } => began = Some(at),
                Observation::Measured { container, usage } => {
                    let of = &mut containers[usize::from(container == RunContainer::Job)];
                    cpu = cpu.max(began.and_then(|began| average(of.cpu, &usage, began, at)));
                    of.memory = usage.memory.map(mebibytes).max(of.memory);
                    of.cpu = usage.cpu.unwrap_or(of.cpu);
                }
                _ => {}
            }
        }
        let memory = containers.iter().filter_map(|of| of.memory).reduce(u32::saturating_add);
        let TaskSize { cpu: has_cpu, memory: has_memory, .. } = bill.size;
        // Fargate rounds a little, and so does the clock.
        let most_cpu = has_cpu.map(|cpu| cpu.saturating_add(cpu / 10));
        if exceeds(cpu, most_cpu) || exceeds(memory, has_memory) {
            return None;
        }
        let additions = snapshot.job.header().spec.additions.as_ref();
        let peak = Self {
            cpu: cpu.map(|cpu| has_cpu.map_or(cpu, |most| cpu.min(most))),
            memory,
            has_services: additions.is_some_and(|additions| !additions.services.is_empty()),
        };
        (peak.cpu.is_some() || peak.memory.is_some()).then_some(peak)
    }

    /// Returns the larger of both, in each unit.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
            has_services: self.has_services || other.has_services,
        }
    }

    /// Says what was used of a size: `used at most 0.8 of 2 vCPU and 1.1 of 4 GB`.
    #[must_use]
    pub fn in_words(&self, size: TaskSize) -> String {
        let part = |used: Option<u32>, size: Option<u32>, unit: &str| {
            let of = size.map(|size| format!(" of {}", super::number(size))).unwrap_or_default();
            used.map(|used| format!("{:.1}{of} {unit}", f64::from(used) / 1024.0))
        };
        let parts: Vec<String> = part(self.cpu, size.cpu, "vCPU")
            .into_iter()
            .chain(part(self.memory, size.memory, "GB"))
            .collect();
        let services = if self.has_services { ", without its services" } else { "" };
        format!("used at most {}{services}", parts.join(" and "))
    }

    /// Returns the smallest size of Fargate's that would have been enough, if that is smaller than
    /// `size`. `None` also if not everything was measured.
    #[must_use]
    pub fn smaller_size(&self, size: TaskSize) -> Option<TaskSize> {
        let (cpu, memory) = (self.cpu?, self.memory?);
        let (cpu, memory) = fargate_size(cpu, memory).filter(|_| !self.has_services)?;
        let is_smaller = cpu <= size.cpu?
            && memory <= size.memory?
            && (Some(cpu), Some(memory)) != (size.cpu, size.memory);
        is_smaller.then_some(TaskSize {
            cpu: Some(cpu),
            memory: Some(memory),
            ephemeral_storage: None,
        })
    }

    /// Says which size would have been enough, if a smaller one would.
    #[must_use]
    pub fn hint(&self, size: TaskSize) -> Option<String> {
        let enough = self.smaller_size(size)?;
        Some(format!("{} would have been enough", size_in_words(enough)))
    }
}

fn exceeds(used: Option<u32>, size: Option<u32>) -> bool {
    size.is_some_and(|size| used.is_some_and(|used| used > size))
}

/// The CPU units that a run used on average: what its container has used since the run before.
fn average(before: u64, usage: &Usage, began: Timestamp, ended: Timestamp) -> Option<u32> {
    let millis = u64::try_from(ended.since(began).as_millis()).ok().filter(|ms| *ms >= SHORTEST)?;
    let micros = usage.cpu?.checked_sub(before)?;
    u32::try_from(u128::from(micros) * 1024 / u128::from(millis) / 1000).ok()
}

fn mebibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MEBI)).unwrap_or(u32::MAX)
}
