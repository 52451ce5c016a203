//! An ECS in memory, on the test's clock.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use states::*;
use tokio::time::Instant;

use super::{
    containers::{Execution, Runs},
    crash_point::CrashPoint,
    fault_plan::{End, Fault, FaultPlan, Odds, TaskPlan},
};

/// How long after StopTask a task's containers have ended, and how long after StopTask ECS shows it
/// as STOPPED.
const ENDS_WITHIN: Duration = Duration::from_secs(4);
const STOPS_WITHIN: Duration = Duration::from_secs(14);
/// How long after a task's end ECS reports why.
const EXPLAINED_AFTER: Duration = Duration::from_secs(1);
/// How long a caller waits for an answer; and the longest delay of an effect, in milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const LATEST_EFFECT: u64 = LONGEST_CALL.as_millis() as u64;

pub struct Task {
    pub started_by: String,
    pub launched: Instant,
    pub stopped: Option<Instant>,
    pub runs: Runs,
    pub plan: TaskPlan,
}

impl Task {
    fn age(&self) -> Duration {
        self.launched.elapsed()
    }

    /// Since when it ends: by StopTask, or by its plan.
    pub fn over(&self) -> Option<(Instant, Option<End>)> {
        let planned = self
            .plan
            .ends
            .map(|(after, end)| (self.launched + after, Some(end)))
            .filter(|(at, _)| at.elapsed() > Duration::ZERO);
        let requested = self.stopped.map(|at| (at, None));
        [planned, requested].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Whether its containers run and no process has stopped it.
    pub fn lives(&self) -> bool {
        self.over().is_none()
    }

    fn is_seen(&self) -> bool {
        self.age() >= self.plan.invisible && !self.is_forgotten()
    }

    fn is_forgotten(&self) -> bool {
        matches!(self.over(), Some((_, Some(End::Forgotten))))
    }
}

#[derive(Default)]
pub struct Cloud {
    pub state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub tasks: BTreeMap<String, Task>,
    pub faults: FaultPlan,
    /// All started scripts, in order.
    pub executions: Vec<Execution>,
    /// Calls to ECS.
    pub calls: u32,
    /// The number of tasks in each DescribeTasks call.
    pub described: Vec<usize>,
    /// Forbidden acts of the driver, as ECS and the container saw them.
    pub violations: Vec<String>,
    /// By token: the launch, and its task once there is one.
    tokens: HashMap<String, (LaunchSpec, Option<String>)>,
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Cloud {
    pub fn new(faults: FaultPlan) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { faults, ..State::default() }) })
    }

    /// A cloud that fails a share of all calls, some before and some after they have an effect.
    pub fn failing(seed: u64, share: f64) -> Arc<Self> {
        let mut faults = FaultPlan::new(seed);
        faults.odds = Odds {
            throttled: share / 2.0,
            lost_call: share / 2.0,
            lost_answer: share,
            ..Odds::default()
        };
        Self::new(faults)
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    pub fn network_is_down(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let down = state.faults.network_down.clone();
        state.faults.inject_within(&down, Fault::NetworkDown)
    }

    /// The tasks that run and were not stopped.
    pub fn alive(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.tasks.iter().filter(|(_, task)| task.lives()).map(|(arn, _)| arn.clone()).collect()
    }

    /// Performs an effect, now or later. The process that wanted it may be dead by then.
    pub async fn effect<R: Send + 'static>(
        self: &Arc<Self>,
        crash: &CrashPoint,
        act: impl FnOnce(&mut State) -> R + Send + 'static,
    ) -> Option<R> {
        let late = {
            let mut state = self.state.lock().unwrap();
            let share = state.faults.odds.late_effect;
            state
                .faults
                .inject(share, Fault::LateEffect)
                .then(|| state.faults.millis(1..LATEST_EFFECT))
        };
        let Some(late) = late else { return Some(act(&mut self.state.lock().unwrap())) };
        let cloud = Arc::clone(self);
        let done = tokio::spawn(async move {
            tokio::time::sleep(late).await;
            act(&mut cloud.state.lock().unwrap())
        });
        crash.step().await;
        tokio::time::timeout(CALL_TIMEOUT, done).await.ok().map(|done| done.unwrap())
    }
}

fn error(operation: &str, kind: ControlErrorKind, code: Option<&str>) -> ControlError {
    ControlError {
        operation: operation.to_owned(),
        kind,
        code: code.map(str::to_owned),
        message: "a scripted failure".to_owned(),
        cause: Default::default(),
    }
}

fn report(arn: &str, task: &Task) -> TaskReport {
    let age = task.age();
    let over = task.over();
    let status = match over {
        Some((at, _)) if at.elapsed() >= STOPS_WITHIN => TaskStatus::Stopped,
        Some((at, _)) if at.elapsed() >= ENDS_WITHIN => TaskStatus::Deprovisioning,
        Some(_) => TaskStatus::Stopping,
        None if task.plan.runs_after.is_some_and(|after| age >= after) => TaskStatus::Running,
        None if age >= task.plan.runs_after.map_or(Duration::from_secs(3), |after| after / 4) => {
            TaskStatus::Pending
        }
        None => TaskStatus::Provisioning,
    };
    let why = over.filter(|(at, _)| at.elapsed() >= EXPLAINED_AFTER).map(|(_, end)| explained(end));
    TaskReport {
        task: TaskArn::new(arn).unwrap(),
        stop_desired: over.is_some(),
        interface: Some(NetworkInterface {
            id: None,
            private_address: (status != TaskStatus::Provisioning).then(|| arn.to_owned()),
            subnet: None,
        }),
        status: status.clone(),
        containers: match why.as_ref().and_then(|(_, container)| container.clone()) {
            Some(ended) => vec![ended],
            None => task
                .plan
                .agent_after
                .filter(|_| status == TaskStatus::Running)
                .map(|after| running(age >= after))
                .into_iter()
                .collect(),
        },
        stopped: why.map(|(stopped, _)| stopped),
        billing: None,
    }
}

/// A container that runs, with its exec agent.
fn running(agent_runs: bool) -> ContainerReport {
    ContainerReport {
        name: "ci-coordinator".into(),
        status: Some("RUNNING".into()),
        exit_code: None,
        reason: None,
        exec_agent: Some(if agent_runs { "RUNNING" } else { "PENDING" }.into()),
        runtime_id: Some("r".into()),
    }
}

/// ECS's codes and texts for an end.
fn explained(end: Option<End>) -> (Stopped, Option<ContainerReport>) {
    let (code, reason, exit_code, of_container) = match end {
        Some(End::OutOfMemory) => {
            let killed = "OutOfMemoryError: Container killed due to memory usage";
            (
                "EssentialContainerExited",
                "Essential container in task exited",
                Some(137),
                Some(killed),
            )
        }
        Some(End::SpotInterruption) => {
            ("SpotInterruption", "Your Spot Task was interrupted.", Some(143), None)
        }
        Some(End::HostRetired) => {
            ("TerminationNotice", "Host EC2 (instance i-1) terminated.", None, None)
        }
        Some(End::ImageMissing) => {
            ("TaskFailedToStart", "CannotPullContainerError: not found", None, None)
        }
        Some(End::StoppedBySomebody | End::Forgotten) | None => {
            ("UserInitiated", "Task stopped by user", Some(143), None)
        }
    };
    let container = ContainerReport {
        name: "ci-coordinator".into(),
        status: Some("STOPPED".into()),
        exit_code,
        reason: of_container.map(str::to_owned),
        exec_agent: None,
        runtime_id: None,
    };
    (
        Stopped { code: Some(code.to_owned()), reason: Some(reason.to_owned()) },
        exit_code.is_some().then_some(container),
    )
}

/// Task control of one process.
#[derive(Clone)]
pub struct Control {
    pub cloud: Arc<Cloud>,
    pub crash: Arc<CrashPoint>,
}

impl Control {
    /// A call's trip to ECS: it may be refused or lost, and the process may die.
    async fn there(&self, operation: &str) -> Result<(), ControlError> {
        self.crash.step().await;
        tokio::time::sleep(Duration::from_millis(15)).await;
        let mut state = self.cloud.state.lock().unwrap();
        state.calls += 1;
        let faults = &mut state.faults;
        let (down, expired) = (faults.api_down.clone(), faults.credentials_expired.clone());
        if faults.inject_within(&down, Fault::ApiDown)
            || faults.inject(faults.odds.lost_call, Fault::LostCall)
        {
            return Err(error(operation, ControlErrorKind::Unavailable, None));
        }
        if faults.inject_within(&expired, Fault::CredentialsExpired) {
            return Err(error(
                operation,
                ControlErrorKind::Credentials,
                Some("ExpiredTokenException"),
            ));
        }
        if faults.inject(faults.odds.throttled, Fault::Throttled) {
            return Err(error(operation, ControlErrorKind::Throttled, Some("ThrottlingException")));
        }
        Ok(())
    }

    /// An answer's trip back. The effect has happened, so a lost answer is a time-out, never a
    /// refusal.
    async fn back<R>(&self, operation: &str, answer: Option<R>) -> Result<R, ControlError> {
        self.crash.step().await;
        tokio::time::sleep(Duration::from_millis(15)).await;
        let mut state = self.cloud.state.lock().unwrap();
        let faults = &mut state.faults;
        let lost = faults.inject(faults.odds.lost_answer, Fault::LostAnswer);
        let garbled = faults.inject(faults.odds.garbled_answer, Fault::GarbledAnswer);
        match answer {
            Some(_) if garbled => Err(error(operation, ControlErrorKind::BadAnswer, None)),
            Some(answer) if !lost => Ok(answer),
            _ => Err(error(operation, ControlErrorKind::Unavailable, None)),
        }
    }
}

impl State {
    /// Accepts or refuses RunTask as it arrives.
    fn admit(&mut self, token: &ClientToken, spec: &LaunchSpec) -> Result<(), ControlError> {
        let odds = &self.faults.odds;
        let (denied, capacity, limit, conflict) =
            (odds.launch_denied, odds.no_capacity, odds.account_limit, odds.launch_conflict);
        if let Some((asked, task)) = self.tokens.get(token.as_str()) {
            let is_another = asked != spec;
            if is_another {
                self.violations.push(format!("token {token} was used for another launch"));
            }
            if is_another || task.is_none() && self.faults.inject(conflict, Fault::LaunchConflict) {
                return Err(error(
                    "RunTask",
                    ControlErrorKind::Conflict,
                    Some("ConflictException"),
                ));
            }
            return Ok(());
        }
        if self.faults.inject(denied, Fault::LaunchDenied) {
            return Err(error("RunTask", ControlErrorKind::Denied, Some("AccessDeniedException")));
        }
        if self.faults.inject(capacity, Fault::NoCapacity) {
            return Err(error("RunTask", ControlErrorKind::Capacity, Some("RESOURCE:FARGATE")));
        }
        if self.faults.inject(limit, Fault::AccountLimit) {
            return Err(error("RunTask", ControlErrorKind::AccountLimit, Some("limit")));
        }
        self.tokens.insert(token.to_string(), (spec.clone(), None));
        Ok(())
    }

    fn launch(&mut self, token: &ClientToken, spec: &LaunchSpec) -> TaskReport {
        let number = self.tasks.len();
        let entry = self.tokens.get_mut(token.as_str()).unwrap();
        let arn = entry.1.get_or_insert_with(|| format!("task/{number:04}")).clone();
        let plan = if number < self.faults.task_plans.len() {
            self.faults.task_plans[number].clone()
        } else {
            TaskPlan::default()
        };
        let task = self.tasks.entry(arn.clone()).or_insert_with(|| Task {
            started_by: spec.started_by.to_string(),
            launched: Instant::now(),
            stopped: None,
            runs: Runs::default(),
            plan,
        });
        report(&arn, task)
    }

    fn see(&mut self, arn: &TaskArn) -> Seen {
        let Some(task) = self.tasks.get(arn.as_str()).filter(|task| task.is_seen()) else {
            return Seen::Missing;
        };
        if task.plan.hidden.contains(&task.age()) {
            self.faults.record(Fault::HiddenTask);
            return Seen::Missing;
        }
        if let Some((_, Some(end))) = task.over() {
            self.faults.record(end.fault());
        } else if task.plan.runs_after.is_none() {
            self.faults.record(Fault::NeverRuns);
        }
        Seen::Task(report(arn.as_str(), task))
    }
}

impl TaskControl for Control {
    async fn launch(
        &self,
        token: &ClientToken,
        spec: &LaunchSpec,
    ) -> Result<TaskReport, ControlError> {
        self.there("RunTask").await?;
        self.cloud.state.lock().unwrap().admit(token, spec)?;
        let (token, spec) = (token.clone(), spec.clone());
        let launched =
            self.cloud.effect(&self.crash, move |state| state.launch(&token, &spec)).await;
        self.back("RunTask", launched).await
    }

    async fn describe(&self, _: &str, tasks: &[TaskArn]) -> Result<Vec<Described>, ControlError> {
        self.there("DescribeTasks").await?;
        let answer = {
            let mut state = self.cloud.state.lock().unwrap();
            state.described.push(tasks.len());
            for arn in tasks {
                let forgotten = state
                    .tasks
                    .get(arn.as_str())
                    .is_some_and(|task| matches!(task.over(), Some((_, Some(End::Forgotten)))));
                if forgotten {
                    state.faults.record(Fault::TaskForgotten);
                }
            }
            tasks.iter().map(|arn| Described { task: arn.clone(), seen: state.see(arn) }).collect()
        };
        self.back("DescribeTasks", Some(answer)).await
    }

    async fn find(&self, _: &str, started_by: &StartedBy) -> Result<Vec<TaskArn>, ControlError> {
        self.there("ListTasks").await?;
        let found = {
            let state = self.cloud.state.lock().unwrap();
            let ours = |task: &Task| task.started_by == started_by.as_str() && task.is_seen();
            state
                .tasks
                .iter()
                .filter(|(_, task)| ours(task))
                .map(|(arn, _)| TaskArn::new(arn.as_str()).unwrap())
                .collect()
        };
        self.back("ListTasks", Some(found)).await
    }

    async fn stop(
        &self,
        _: &str,
        task: &TaskArn,
        _: &StopReason,
    ) -> Result<StopAnswer, ControlError> {
        self.there("StopTask").await?;
        let task = task.clone();
        let stopped = self
            .cloud
            .effect(&self.crash, move |state| {
                match state.tasks.get_mut(task.as_str()).filter(|task| !task.is_forgotten()) {
                    Some(task) => {
                        task.stopped.get_or_insert_with(Instant::now);
                        StopAnswer::Accepted
                    }
                    None => StopAnswer::Missing,
                }
            })
            .await;
        self.back("StopTask", stopped).await
    }

    async fn tag(&self, _: &TaskArn, _: &[(String, String)]) -> Result<(), ControlError> {
        Ok(())
    }

    async fn public_address(&self, _: &InterfaceId) -> Result<Option<String>, ControlError> {
        Ok(None)
    }
}
