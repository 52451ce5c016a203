//! Containers with a root file system of their own, or with volumes.
//!
//! A container whose image is `local` is a stand-in: its sessions are processes of the host, in a
//! directory of their own. All others have mount and PID namespaces of their own:
//!
//! - `keeper`: the process that keeps all containers of a task, and ends with the cluster;
//! - `process`, `root`: what a container executes, as whom, in which root file system;
//! - `start.sh`: mounts, and the command as first process;
//! - `state`, `log`: how far each container has got, and what it has written.
//!
//! They share the host's network. A stand-in with volumes is a mount namespace with the host's root
//! and the volumes, and processes of the host enter it.

mod keeper;
mod log;
mod process;
mod root;
mod spawn;
mod state;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    cluster::{Cluster, Task},
    definitions::{ContainerDefinition, Definition},
    exec::Surroundings,
    images::Image,
};
use keeper::Keeper;
pub(crate) use log::{Line, Log};
pub(crate) use state::ContainerStates;

/// The image of stand-ins.
const STAND_IN: &str = "local";
/// The container that scripts run in.
const COORDINATOR: &str = "ci-coordinator";
/// `PATH` of the programs that start containers.
const HOST_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What runs of a task.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) states: ContainerStates,
    /// By container, once all of them have started.
    pub(crate) surroundings: Arc<OnceLock<BTreeMap<String, Surroundings>>>,
    logs: BTreeMap<String, Arc<Log>>,
    images: OnceLock<BTreeMap<String, Image>>,
    keeper: Mutex<Option<Keeper>>,
}

/// Why a task does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) container: String,
    pub(crate) reason: String,
}

impl Failure {
    fn cannot_start(container: &str, why: &str) -> Self {
        Self {
            container: container.to_owned(),
            reason: format!("CannotStartContainerError: {why}"),
        }
    }
}

impl Runtime {
    pub(crate) fn new(definition: &Definition) -> Self {
        let names = definition.containers.iter().map(|container| container.name.clone());
        Self {
            states: ContainerStates::default(),
            surroundings: Arc::default(),
            logs: names.map(|name| (name, Arc::default())).collect(),
            images: OnceLock::new(),
            keeper: Mutex::default(),
        }
    }

    /// Returns the output of a container's main process.
    pub(crate) fn log(&self, container: &str) -> Option<&Arc<Log>> {
        self.logs.get(container)
    }

    /// Kills everything at once, without waiting for it.
    pub(crate) fn kill(&self) {
        drop(self.take_keeper());
    }

    fn take_keeper(&self) -> Option<Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns the task's directory and its PID namespace, if it has a keeper.
    fn kept(&self) -> Option<(PathBuf, String)> {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.as_ref().map(|keeper| (keeper.directory().to_owned(), keeper.pid_namespace()))
    }
}

/// Returns the container that SSH and the tests' transport lead to.
pub(crate) fn coordinator(definition: &Definition) -> &ContainerDefinition {
    // A definition has at least one container.
    definition.container(COORDINATOR).unwrap_or(&definition.containers[0])
}

/// Whether a container is a stand-in. Without a directory of images, the coordinator is one
/// whatever its image.
fn is_stand_in(
    cluster: &Cluster,
    definition: &Definition,
    container: &ContainerDefinition,
) -> bool {
    container.image == STAND_IN
        || cluster.settings.images.is_none() && coordinator(definition).name == container.name
}

/// Whether a stand-in has a main process: the coordinator's sessions stand for its command.
fn has_command(definition: &Definition, container: &ContainerDefinition) -> bool {
    coordinator(definition).name != container.name
        && (container.entry_point.is_some() || container.command.is_some())
}

/// Finds the images of all containers.
pub(crate) fn pull(cluster: &Cluster, task: &Task) -> Result<(), Failure> {
    let definition = &task.launch.definition;
    let mut images = BTreeMap::new();
    for container in &definition.containers {
        let image = if is_stand_in(cluster, definition, container) {
            Image::of_host()
        } else {
            Image::pull(cluster.settings.images.as_deref(), &container.image)
                .map_err(|reason| Failure { container: container.name.clone(), reason })?
        };
        images.insert(container.name.clone(), image);
    }
    // A task is started once.
    let _ = task.runtime.images.set(images);
    Ok(())
}

/// Whether a container is a stand-in without namespaces of its own.
fn is_plain(cluster: &Cluster, definition: &Definition, container: &ContainerDefinition) -> bool {
    is_stand_in(cluster, definition, container)
        && container.mounts.is_empty()
        && !has_command(definition, container)
}

/// Prepares a task whose containers need namespaces. Returns the directory of its stand-ins, which
/// is removed with the task; `None` if the task needs nothing.
pub(crate) async fn prepare(cluster: &Cluster, task: &Task) -> Result<Option<PathBuf>, Failure> {
    let definition = &task.launch.definition;
    let mut containers = definition.containers.iter();
    let Some(first) = containers.find(|container| !is_plain(cluster, definition, container)) else {
        return Ok(None);
    };
    let failed = |why: String| Failure::cannot_start(&first.name, &why);
    let keeper = Keeper::start().await.map_err(failed)?;
    let home = keeper.directory().join("home");
    let made = fs::create_dir(&home).and_then(|()| make_volumes(definition, keeper.directory()));
    *task.runtime.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
    made.map_err(|e| failed(format!("the task's directories: {e}")))?;
    Ok(Some(home))
}

/// Starts all containers, each when its dependencies allow it. `stand_ins` are the surroundings of
/// stand-ins without volumes, by name.
pub(crate) async fn start(
    cluster: &Arc<Cluster>,
    task: &Arc<Task>,
    mut stand_ins: BTreeMap<String, Surroundings>,
) -> Result<(), Failure> {
    let definition = &task.launch.definition;
    let mut starting = JoinSet::new();
    for container in &definition.containers {
        let plain = is_plain(cluster, definition, container);
        let Some(surroundings) = stand_ins.remove(&container.name) else { continue };
        let (cluster, task, container) = (Arc::clone(cluster), Arc::clone(task), container.clone());
        starting.spawn(async move {
            let name = container.name.clone();
            meet_dependencies(&task, &container).await?;
            if plain {
                task.runtime.states.start(&name, None);
                return Ok((name, surroundings));
            }
            let started = start_one(&cluster, &task, &container, surroundings).await;
            match started {
                Ok(surroundings) => Ok((name, surroundings)),
                Err(failure) if container.is_essential => Err(failure),
                // The task does without it.
                Err(failure) => {
                    tracing::debug!(
                        task = task.id,
                        container = name,
                        failure.reason,
                        "not started"
                    );
                    task.runtime.states.stop(&name, None, Some(failure.reason));
                    Ok((name, Surroundings::default()))
                }
            }
        });
    }
    let mut surroundings = BTreeMap::new();
    while let Some(started) = starting.join_next().await {
        let (name, one) = started
            .map_err(|e| Failure::cannot_start("", &format!("the cluster failed: {e}")))
            .flatten()?;
        surroundings.insert(name, one);
    }
    let _ = task.runtime.surroundings.set(surroundings);
    Ok(())
}

async fn meet_dependencies(task: &Task, container: &ContainerDefinition) -> Result<(), Failure> {
    for dependency in &container.depends_on {
        let met = task.runtime.states.until_met(&dependency.container, dependency.condition).await;
        met.map_err(|why| Failure {
            container: container.name.clone(),
            reason: format!(
                "dependency graph: failed to resolve container ordering dependency [{}] for target [{}] as {why}",
                dependency.container, container.name
            ),
        })?;
    }
    Ok(())
}

async fn start_one(
    cluster: &Arc<Cluster>,
    task: &Arc<Task>,
    container: &ContainerDefinition,
    stand_in: Surroundings,
) -> Result<Surroundings, Failure> {
    let definition = &task.launch.definition;
    let runc = |why: String| {
        Failure::cannot_start(
            &container.name,
            &format!(
                "ResourceInitializationError: failed to create new container runtime task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: {why}: unknown"
            ),
        )
    };
    let failed = |why: String| Failure::cannot_start(&container.name, &why);
    let images = task.runtime.images.get();
    let image = images.and_then(|images| images.get(&container.name));
    let image = image.ok_or_else(|| failed("its image was not pulled".to_owned()))?;
    let mut process = process::Process::resolve(cluster, task, container, image).map_err(runc)?;
    let is_coordinator = coordinator(definition).name == container.name;
    let on_host = is_stand_in(cluster, definition, container);
    if on_host {
        process.environment.extend((*stand_in.environment).clone());
        process.directory = stand_in.directory.display().to_string();
        if is_coordinator {
            process.words.clear();
        }
    }
    // The cluster's SSH server and agent stand for the command of a coordinator without one. A
    // stand-in without a command is there for its sessions alone.
    let idles = process.words.is_empty() && (is_coordinator || on_host);
    if !idles {
        process.check(container, image).map_err(runc)?;
    }
    let (directory, namespace) =
        task.runtime.kept().ok_or_else(|| failed("the task has ended".to_owned()))?;
    let log = task.runtime.log(&container.name).cloned().unwrap_or_default();
    let plan = spawn::Plan { container, image, process: &process, directory, namespace };
    let started = plan.start(task.address, log).await.map_err(failed)?;
    let init = started.init;
    let has_process = !process.words.is_empty();
    task.runtime.states.start(&container.name, has_process.then_some(init));
    tokio::spawn(watch(Arc::clone(task), container.clone(), started));
    let mut enter = vec![
        crate::images::tool_path("nsenter").map_err(failed)?,
        format!("--target={init}"),
        "--mount".to_owned(),
    ];
    if !on_host {
        enter.push("--pid".to_owned());
    }
    enter.extend([format!("--wdns={}", process.directory), "--".to_owned()]);
    let environment = if on_host { stand_in.environment } else { Arc::new(process.environment) };
    Ok(Surroundings { environment, directory: "/".into(), enter })
}

/// Waits for a container's end, and ends its task with it if it is essential.
async fn watch(task: Arc<Task>, container: ContainerDefinition, started: spawn::Started) {
    let code = started.ended().await;
    tracing::debug!(task = task.id, container = container.name, code, "a container has exited");
    task.runtime.states.stop(&container.name, Some(code), None);
    if container.is_essential {
        task.request_stop(crate::cluster::Stop {
            code: "EssentialContainerExited".to_owned(),
            reason: "Essential container in task exited".to_owned(),
            container_reason: None,
            exit_code: None,
        });
    }
}

/// Makes the volumes, as Fargate does: of root, readable by all.
fn make_volumes(definition: &Definition, directory: &Path) -> io::Result<()> {
    let mounts = definition.containers.iter().flat_map(|container| &container.mounts);
    for mount in mounts {
        let path = directory.join("volumes").join(&mount.volume);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Ends the main processes: SIGTERM, and SIGKILL after the container's `stopTimeout`, or after
/// `default`. `scale` is that of the cluster's times.
pub(crate) async fn stop(task: &Arc<Task>, default: Duration, scale: f64) {
    let mut stopping = JoinSet::new();
    for name in task.runtime.states.with_process() {
        let own = task.launch.definition.container(&name).and_then(|one| one.stop_timeout);
        let patience = own.map_or(default, |own| own.mul_f64(scale));
        let task = Arc::clone(task);
        stopping.spawn(async move {
            let states = &task.runtime.states;
            states.signal(&name, Signal::TERM);
            if timeout(patience, states.until_stopped(&name)).await.is_err() {
                states.signal(&name, Signal::KILL);
                states.until_stopped(&name).await;
            }
        });
    }
    while stopping.join_next().await.is_some() {}
}

/// Kills the main processes, like a crash.
pub(crate) fn crash(task: &Task) {
    task.runtime.states.signal_all(Signal::KILL);
}

/// Removes what is left of the containers: processes, mounts, directories.
pub(crate) async fn finish(task: &Task) {
    if let Some(keeper) = task.runtime.take_keeper() {
        keeper.end().await;
    }
}
