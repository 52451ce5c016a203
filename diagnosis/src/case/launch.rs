//! No task was launched, or ECS refuses calls: failure modes 1 to 5.

use states::{AnyJob, ControlError, ControlErrorKind as Kind, Observation, StateName, StopReason};

use super::{Case, Diagnosis};
use crate::{Cause, control_remedy, words};

pub(super) fn diagnose(case: &Case<'_>) -> Option<Diagnosis> {
    let error = error(case)?;
    let repeated = case.entries(|saw| failed(saw).is_some_and(|e| e.kind == error.kind));
    let times: u32 = repeated.iter().map(|evidence| evidence.times).sum();
    let spec = &case.snapshot.job.header().spec;
    let cause = cause(error.kind);
    let summary = match cause {
        Cause::Capacity | Cause::AccountLimit => format!(
            "{}: {times} {} in {}.",
            if cause == Cause::Capacity { "Fargate had no capacity for the task" } else { "A quota of the AWS account is used up" },
            if times == 1 { "refusal" } else { "refusals" },
            words::span(case.timeline.spans[0].length())
        ),
        Cause::Throttled => {
            format!("{} was throttled {times} times: the account's rate limit in this region is used up.", error.operation)
        }
        Cause::Credentials => "AWS does not accept the runner manager's credentials: they expired, are missing or are wrong.".to_owned(),
        Cause::Denied => format!("The runner manager's role may not do what {} needs.", error.operation),
        Cause::NoCapacityProvider => format!(
            "Nothing says where the task is to run: cluster {} has no default capacity provider strategy, and fargate.toml names neither {} nor {}.",
            spec.cluster,
            setting!(launch_type),
            setting!(capacity_providers)
        ),
        Cause::WrongSetting if error.kind == Kind::TaskDefinition => {
            format!("ECS cannot use the task definition {}.", spec.task_definition)
        }
        Cause::WrongSetting => "ECS does not accept a setting: cluster, subnet, security group or platform version.".to_owned(),
        Cause::ApiUnavailable => format!("{} could not be reached, or failed, {times} times.", error.operation),
        _ => format!("ECS refused: {error}"),
    };
    let more = match cause {
        Cause::Capacity => {
            "Start the job again later; `retry: { when: runner_system_failure }` in .gitlab-ci.yml does it by itself."
        }
        Cause::Throttled => {
            "Find out who else calls the ECS API in this account (CloudTrail, Service Quotas): many runner managers, dashboards, deployments. Ask AWS for a higher rate."
        }
        Cause::Credentials => {
            "On the manager, as gitlab-runner's user: `aws sts get-caller-identity` shows whether the credentials work; check the clock too."
        }
        Cause::Denied => "docs/iam.md has the whole policy.",
        Cause::WrongSetting if case.snapshot.job.header().definition_from_project => {
            "The project chose the task definition (FARGATE_TASK_DEFINITION): its owners correct it."
        }
        Cause::ApiUnavailable => {
            "On the manager: `curl -sS https://ecs.<region>.amazonaws.com` must answer."
        }
        _ => "",
    };
    Some(case.diagnosis(cause, summary, repeated, &[control_remedy(error), more]))
}

/// The refusal that failed the job, or that it is stuck at.
fn error<'a>(case: &'a Case<'_>) -> Option<&'a ControlError> {
    match (&case.snapshot.job, case.reason()) {
        (_, Some(StopReason::LaunchRefused(error) | StopReason::ControlFailed(error))) => {
            Some(error)
        }
        (AnyJob::Provisioning(job), _) => job.state.problem.as_ref(),
        // The job cannot reach RUNNING without these.
        (AnyJob::Pending(_) | AnyJob::Running(_), _) => repeated_at_the_end(case),
        (
            _,
            Some(StopReason::Deadline {
                state: StateName::Provisioning | StateName::Pending, ..
            }),
        ) => repeated_at_the_end(case),
        _ => None,
    }
}

/// The failure, if AWS's newest answers are several failures.
fn repeated_at_the_end<'a>(case: &'a Case<'_>) -> Option<&'a ControlError> {
    let answers = |saw: &Observation| {
        matches!(
            saw,
            Observation::Described(_) | Observation::Missing | Observation::Addressed(Some(_))
        )
    };
    let newest = case.snapshot.journal.entries.iter().rev();
    let failures: Vec<_> = newest
        .take_while(|entry| !answers(&entry.saw))
        .filter_map(|e| Some((failed(&e.saw)?, e.times)))
        .collect();
    (failures.iter().map(|(_, times)| times).sum::<u32>() >= 3).then(|| failures[0].0)
}

fn failed(saw: &Observation) -> Option<&ControlError> {
    match saw {
        Observation::LaunchFailed(error)
        | Observation::DescribeFailed(error)
        | Observation::AddressFailed(error)
        | Observation::FindFailed(error)
        | Observation::StopFailed(error) => Some(error),
        _ => None,
    }
}

/// The cause for a kind of refusal.
pub(super) fn cause(kind: Kind) -> Cause {
    match kind {
        Kind::Capacity => Cause::Capacity,
        Kind::AccountLimit => Cause::AccountLimit,
        Kind::Throttled => Cause::Throttled,
        Kind::Credentials | Kind::NoCredentials => Cause::Credentials,
        Kind::Denied => Cause::Denied,
        Kind::WrongSetting | Kind::TaskDefinition => Cause::WrongSetting,
        Kind::NoCapacityProvider => Cause::NoCapacityProvider,
        Kind::Unavailable | Kind::BadAnswer => Cause::ApiUnavailable,
        Kind::Conflict | Kind::Other => Cause::Unknown,
    }
}
