//! An ECS in memory, on the test's clock.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use states::*;
use tokio::time::Instant;

use crate::{containers::Runs, fuse::Fuse};

/// How long a task is not to be seen after RunTask.
const INVISIBLE: Duration = Duration::from_millis(1500);
/// How old a task is when it RUNs, and when its container listens.
pub const RUNNING_AFTER: Duration = Duration::from_secs(12);
pub const LISTENING_AFTER: Duration = Duration::from_secs(11);
const STOPS_WITHIN: Duration = Duration::from_secs(4);

pub struct Task {
    pub started_by: String,
    pub launched: Instant,
    pub stopped: Option<Instant>,
    pub runs: Runs,
}

#[derive(Default)]
pub struct Cloud {
    pub fuse: Fuse,
    pub state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub tasks: BTreeMap<String, Task>,
    tokens: HashMap<String, String>,
    /// Tasks of every DescribeTasks.
    pub described: Vec<usize>,
    /// Answers of RunTask, StopTask, DescribeTasks and ListTasks get lost so often, and calls do not arrive.
    faults: Option<(StdRng, f64)>,
}

impl Cloud {
    /// A cloud that fails a share of all calls: some before they have an effect, some after.
    pub fn failing(seed: u64, share: f64) -> Arc<Self> {
        let cloud = Self::default();
        cloud.state.lock().unwrap().faults = Some((StdRng::seed_from_u64(seed), share));
        Arc::new(cloud)
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().faults = None;
    }

    /// Tasks that nobody has stopped.
    pub fn alive(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.tasks.iter().filter(|(_, task)| task.stopped.is_none()).map(|(arn, _)| arn.clone()).collect()
    }

    /// A call's way there or back: it may fail, and the process may die.
    async fn leg(&self, operation: &str) -> Result<(), ControlError> {
        self.fuse.step().await;
        tokio::time::sleep(Duration::from_millis(15)).await;
        let mut state = self.state.lock().unwrap();
        let Some((random, share)) = &mut state.faults else { return Ok(()) };
        if !random.random_bool(*share) {
            return Ok(());
        }
        let (kind, code) = match random.random_range(0..4) {
            0 => (ControlErrorKind::Throttled, Some("ThrottlingException")),
            1 => (ControlErrorKind::Credentials, Some("ExpiredTokenException")),
            _ => (ControlErrorKind::Unavailable, None),
        };
        Err(error(operation, kind, code))
    }

    /// The way back: what was done is done, so a lost answer is silence, never a refusal.
    async fn back(&self, operation: &str) -> Result<(), ControlError> {
        let answer = self.leg(operation).await;
        answer.map_err(|_| error(operation, ControlErrorKind::Unavailable, None))
    }
}

fn error(operation: &str, kind: ControlErrorKind, code: Option<&str>) -> ControlError {
    ControlError {
        operation: operation.to_owned(),
        kind,
        code: code.map(str::to_owned),
        message: "a scripted failure".to_owned(),
        advice: String::new(),
    }
}

/// The address of the n-th task.
fn report(arn: &str, task: &Task) -> TaskReport {
    let age = task.launched.elapsed();
    let status = match task.stopped {
        Some(at) if at.elapsed() >= STOPS_WITHIN => TaskStatus::Stopped,
        Some(_) => TaskStatus::Deprovisioning,
        None if age >= RUNNING_AFTER => TaskStatus::Running,
        None if age >= Duration::from_secs(3) => TaskStatus::Pending,
        None => TaskStatus::Provisioning,
    };
    TaskReport {
        task: TaskArn::new(arn).unwrap(),
        stop_desired: task.stopped.is_some(),
        interface: Some(NetworkInterface {
            id: None,
            private_address: (status != TaskStatus::Provisioning).then(|| arn.to_owned()),
            subnet: None,
        }),
        status,
        containers: Vec::new(),
        stopped: None,
    }
}

/// Task control of one process.
#[derive(Clone)]
pub struct Control(pub Arc<Cloud>);

impl TaskControl for Control {
    async fn launch(&self, token: &ClientToken, spec: &LaunchSpec) -> Result<TaskReport, ControlError> {
        self.0.leg("RunTask").await?;
        let launched = {
            let mut state = self.0.state.lock().unwrap();
            let fresh = format!("task/{}", state.tasks.len());
            let arn = state.tokens.entry(token.to_string()).or_insert(fresh).clone();
            let started_by = spec.started_by.to_string();
            let task = state.tasks.entry(arn.clone()).or_insert_with(|| Task {
                started_by,
                launched: Instant::now(),
                stopped: None,
                runs: Runs::default(),
            });
            report(&arn, task)
        };
        self.0.back("RunTask").await?;
        Ok(launched)
    }

    async fn describe(&self, _: &str, tasks: &[TaskArn]) -> Result<Vec<Described>, ControlError> {
        self.0.leg("DescribeTasks").await?;
        let answer = {
            let mut state = self.0.state.lock().unwrap();
            state.described.push(tasks.len());
            let seen = |arn: &TaskArn| match state.tasks.get(arn.as_str()) {
                Some(task) if task.launched.elapsed() >= INVISIBLE => Seen::Task(report(arn.as_str(), task)),
                _ => Seen::Missing,
            };
            tasks.iter().map(|arn| Described { task: arn.clone(), seen: seen(arn) }).collect()
        };
        self.0.back("DescribeTasks").await?;
        Ok(answer)
    }

    async fn find(&self, _: &str, started_by: &StartedBy) -> Result<Vec<TaskArn>, ControlError> {
        self.0.leg("ListTasks").await?;
        let found = {
            let state = self.0.state.lock().unwrap();
            let ours = |task: &Task| task.started_by == started_by.as_str() && task.launched.elapsed() >= INVISIBLE;
            state.tasks.iter().filter(|(_, task)| ours(task)).map(|(arn, _)| TaskArn::new(arn.as_str()).unwrap()).collect()
        };
        self.0.back("ListTasks").await?;
        Ok(found)
    }

    async fn stop(&self, _: &str, task: &TaskArn, _: &str) -> Result<(), ControlError> {
        self.0.leg("StopTask").await?;
        if let Some(task) = self.0.state.lock().unwrap().tasks.get_mut(task.as_str()) {
            task.stopped.get_or_insert_with(Instant::now);
        }
        self.0.back("StopTask").await
    }

    async fn public_address(&self, _: &InterfaceId) -> Result<Option<String>, ControlError> {
        Ok(None)
    }
}
