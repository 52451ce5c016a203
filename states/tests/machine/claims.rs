//! Claims: a job takes over a warm task, or launches one, and never both.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use states::{
    Action, AnyJob, Claim, Fit, HostProof, Observation, PoolRole, Snapshot, StateName, Timestamp,
    Verdict, WarmOrigin,
};

use crate::{any, through};

fn claimed() -> Observation {
    Observation::Claimed(Box::new(any::claim()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_job_never_claims_a_task_and_launches_another(history in any::history()) {
        let (mut has_claimed, mut may_have_launched) = (false, false);
        through(&history, |before, saw, after, action, _| {
            let takes = matches!(saw, Observation::Claimed(_))
                && (before.name(), after.job.name()) == (StateName::Provisioning, StateName::Reachable);
            assert!(!(takes && may_have_launched), "a task may be leaked");
            has_claimed |= takes;
            // ECS has refused the launch before, so there is no task of it.
            let is_refused = matches!(saw, Observation::LaunchFailed(_))
                && matches!(&after.job, AnyJob::Provisioning(job) if job.state.asked.is_none());
            may_have_launched &= !is_refused;
            may_have_launched |= matches!(action, Action::Launch { .. });
            assert!(!(has_claimed && may_have_launched), "a claimed job launches a task");
        });
    }
}

#[test]
fn a_claimed_job_has_the_task_and_its_identity_and_replays() {
    let snapshot = through(&any::well_claimed(), |_, _, after, _, _| {
        assert_eq!(after.job.task(), Some(&any::claim().task));
    });
    let AnyJob::Reachable(job) = &snapshot.job else { panic!("{:?}", snapshot.job) };
    assert_eq!((job.state.runs, &job.state.identity), (2, &any::greeting().identity));
    assert_eq!(snapshot.claim(), Some(&any::claim()));
    assert!(matches!(snapshot.replay(), Verdict::Agree { omitted: 0, .. }));
}

/// A warm task that is ready for a job.
fn warm() -> Snapshot {
    let mut header = any::header();
    header.id = any::claim().warm;
    let origin = WarmOrigin { pool: any::claim().pool, max_age: Duration::from_secs(60) };
    header.pool = Some(PoolRole::Warm(origin));
    let mut snapshot = Snapshot::new(header);
    for (_, saw) in &any::well()[..5] {
        snapshot.step(saw.clone(), any::claim().ready);
    }
    snapshot
}

#[test]
fn only_a_ready_task_in_which_nothing_ran_is_claimed() {
    let ready = warm();
    let claim = Claim::of(&ready).unwrap();
    assert_eq!(claim, Claim { began: ready.job.header().created, ..any::claim() });

    let mut used = ready.clone();
    for (_, saw) in &any::well()[5..11] {
        used.step(saw.clone(), claim.ready);
    }
    assert_eq!(used.job.name(), StateName::Reachable);
    assert_eq!(Claim::of(&used), None, "a script ran in it");

    let mut starting = Snapshot::new(ready.job.header().clone());
    starting.step(any::well()[1].1.clone(), claim.began);
    assert_eq!(Claim::of(&starting), None, "it has not answered yet");

    let mut ordinary = ready;
    let AnyJob::Reachable(job) = &mut ordinary.job else { unreachable!() };
    Arc::make_mut(&mut job.header).pool = None;
    assert_eq!(Claim::of(&ordinary), None, "a GitLab job's task is never claimed");
}

#[test]
fn what_names_one_job_does_not_matter_for_a_fit_and_everything_else_does() {
    let header = any::header();
    let mut other = states::Header::clone(warm().job.header());
    other.created = Timestamp::from_millis(1);
    other.spec.tags.clear();
    other.spec.environment[0].1 = "another key".into();
    assert_eq!(Fit::of(&header), Fit::of(&other));

    let changes: [fn(&mut states::Header); 12] = [
        |header| header.spec.cluster.push('x'),
        |header| header.spec.task_definition = "job:2".into(),
        |header| header.spec.platform_version = Some("1.4.0".into()),
        |header| header.spec.subnets.push("subnet-2".into()),
        |header| header.spec.assign_public_ip = true,
        |header| header.spec.environment.push(("MORE".into(), "x".into())),
        |header| header.spec.additions = Some(Box::default()),
        |header| header.spec.size.cpu = Some(1024),
        |header| header.spec.task_role = Some("admin".into()),
        |header| header.spec.service_environment = vec![("db".into(), Vec::new())],
        |header| header.login.as_mut().unwrap().port = 22,
        |header| header.host_proof = Some(HostProof::Required),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut other = other.clone();
        change(&mut other);
        assert_ne!(Fit::of(&header), Fit::of(&other), "change {number}");
    }
}

#[test]
fn a_claim_comes_too_late_once_a_launch_was_asked_for() {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    assert!(matches!(snapshot.plan(now), Action::Launch { .. }));
    snapshot.step(claimed(), now);
    assert_eq!(snapshot.job.name(), StateName::Provisioning);
}
