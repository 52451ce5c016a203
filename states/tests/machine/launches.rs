//! A launch of unknown outcome is never forgotten, and never launched beside.

use states::{Action, AnyJob, ControlError, ControlErrorKind, Observation, Snapshot, StopReason, Timestamp};

use crate::any;

fn failed(kind: ControlErrorKind, code: Option<&str>) -> Observation {
    let error = ControlError { operation: "RunTask".into(), kind, code: code.map(str::to_owned), message: "m".into(), advice: "a".into() };
    Observation::LaunchFailed(error)
}

/// The token of the next launch.
fn token(snapshot: &mut Snapshot, now: Timestamp) -> String {
    let later = Timestamp::from_millis(now.as_millis() + 40_000);
    match snapshot.clone().plan(later) {
        Action::Launch { token, .. } => token.to_string(),
        other => panic!("{other:?}"),
    }
}

fn begun() -> (Snapshot, Timestamp) {
    let mut snapshot = Snapshot::new(any::header());
    let now = snapshot.job.header().created;
    snapshot.plan(now);
    (snapshot, now)
}

#[test]
fn an_answer_that_refuses_takes_a_new_token() {
    let (mut snapshot, now) = begun();
    let first = token(&mut snapshot, now);
    snapshot.step(failed(ControlErrorKind::Capacity, Some("RESOURCE:FARGATE")), now);
    assert_ne!(token(&mut snapshot, now), first);
}

#[test]
fn silence_keeps_the_token_whatever_is_answered_afterwards() {
    let (mut snapshot, now) = begun();
    let first = token(&mut snapshot, now);
    snapshot.step(failed(ControlErrorKind::Unavailable, None), now);
    assert_eq!(token(&mut snapshot, now), first);
    // The door was closed: this says nothing of the request before.
    snapshot.step(failed(ControlErrorKind::Throttled, Some("ThrottlingException")), now);
    assert_eq!(token(&mut snapshot, now), first);
    snapshot.step(failed(ControlErrorKind::Credentials, Some("ExpiredTokenException")), now);
    assert_eq!(token(&mut snapshot, now), first);
    // ECS looked at this very token and launched nothing.
    snapshot.step(failed(ControlErrorKind::Capacity, Some("RESOURCE:FARGATE")), now);
    assert_ne!(token(&mut snapshot, now), first);
}

#[test]
fn a_process_that_died_in_a_launch_leaves_its_outcome_unknown() {
    let (mut snapshot, now) = begun();
    let first = token(&mut snapshot, now);
    snapshot.plan(now);
    snapshot.step(Observation::Opened { process: 2, purpose: "prepare".into() }, now);
    snapshot.step(failed(ControlErrorKind::Throttled, Some("ThrottlingException")), now);
    assert_eq!(token(&mut snapshot, now), first);
}

#[test]
fn a_final_refusal_after_silence_still_looks_for_the_task() {
    let (mut snapshot, now) = begun();
    snapshot.step(failed(ControlErrorKind::Unavailable, None), now);
    let action = snapshot.step(failed(ControlErrorKind::Denied, Some("AccessDeniedException")), now);
    assert!(matches!(action, Action::Find { .. }), "{action:?}");
}

#[test]
fn a_final_refusal_at_first_ends_at_once() {
    let (mut snapshot, now) = begun();
    let action = snapshot.step(failed(ControlErrorKind::Denied, Some("AccessDeniedException")), now);
    assert_eq!(action, Action::Archive);
    assert!(matches!(&snapshot.job, AnyJob::Stopping(job) if matches!(job.state.reason, StopReason::LaunchRefused(_))));
}

#[test]
fn without_capacity_other_subnets_and_on_demand_are_tried() {
    let provider = |name: &str, weight| states::CapacityProvider { name: name.into(), weight, base: 0 };
    let spec = states::LaunchSpec {
        subnets: vec!["a".into(), "b".into()],
        capacity: states::Capacity::Strategy(vec![provider("FARGATE_SPOT", 1), provider("FARGATE", 0)]),
        ..any::header().spec
    };
    let tried = |refusals| {
        let states::LaunchSpec { subnets, capacity, .. } = spec.after_refusals(refusals);
        let states::Capacity::Strategy(providers) = capacity else { unreachable!("a strategy stays one") };
        (subnets.join(" "), providers.iter().map(|p| format!("{}:{}", p.name, p.weight)).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(tried(0), ("a b".into(), "FARGATE_SPOT:1 FARGATE:0".into()));
    assert_eq!(tried(1), ("a".into(), "FARGATE:1".into()));
    assert_eq!(tried(2), ("b".into(), "FARGATE_SPOT:1 FARGATE:0".into()));
    assert_eq!(tried(3), ("a".into(), "FARGATE:1".into()));
    let spot_only = states::LaunchSpec { capacity: states::Capacity::Strategy(vec![provider("FARGATE_SPOT", 1)]), ..spec };
    assert_eq!(spot_only.after_refusals(1).capacity, spot_only.capacity, "what the administrator did not allow is not used");
}

#[test]
fn a_launch_of_unknown_outcome_is_repeated_word_for_word() {
    let (mut snapshot, now) = begun();
    let later = Timestamp::from_millis(now.as_millis() + 40_000);
    snapshot.step(failed(ControlErrorKind::Capacity, Some("RESOURCE:ENI")), now);
    let first = snapshot.step(Observation::TimePassed, later);
    snapshot.step(failed(ControlErrorKind::Unavailable, None), later);
    snapshot.step(failed(ControlErrorKind::Throttled, Some("ThrottlingException")), later);
    let again = snapshot.step(Observation::TimePassed, Timestamp::from_millis(later.as_millis() + 60_000));
    // The same token with other parameters would be a conflict.
    assert!(matches!(first, Action::Launch { .. }));
    assert_eq!(first, again);
}
