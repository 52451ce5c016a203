//! What becomes of each field of a snapshot. Every structure is taken apart whole: a field that is
//! added to the machine does not compile here until somebody says what becomes of it.

use std::net::IpAddr;

use states::{
    About, AnyJob, Capacity, CapacityProvider, ClientToken, ContainerReport, ControlError,
    Executing, Finished, Greeting, Header, HostIdentity, InterfaceId, Job, JobId, LaunchSpec, Link,
    Login, NetworkInterface, Observation, Pending, Probing, Provisioning, Reachable, RunId,
    RunOrder, RunOutcome, Running, Search, ShellFacts, StartedBy, Stopped, Stopping, TaskArn,
    TaskReport,
};

use super::names::{Kind, Names};

/// The container that is called so everywhere.
const CONTAINER: &str = "ci-coordinator";
/// Tags whose names are the driver's own.
const TAGS: [&str; 2] = ["fargate-driver:", "gitlab:"];
/// What a driver is called for: gitlab-runner's stages, and tools' commands.
const PURPOSES: [&str; 20] = [
    "config",
    "prepare",
    "run",
    "cleanup",
    "reap",
    "resume",
    "stop",
    "archive",
    "prepare_script",
    "get_sources",
    "restore_cache",
    "download_artifacts",
    "step_script",
    "build_script",
    "after_script",
    "archive_cache",
    "archive_cache_on_failure",
    "upload_artifacts_on_success",
    "upload_artifacts_on_failure",
    "cleanup_file_variables",
];

/// The container's variable that the SSH transport needs; what it says is left out.
const PUBLIC_KEY: &str = "SSH_PUBLIC_KEY";
/// Stands where something was left out.
const LEFT_OUT: &str = "left out";

impl Names {
    /// First of all: it makes known what is looked for in free text.
    pub(super) fn header(&mut self, header: &Header) -> Header {
        let Header {
            id,
            about,
            created,
            token,
            spec,
            definition_from_project,
            connect_to,
            transport,
            login,
            host_proof,
            limits,
            trace: _,
        } = header;
        let about = self.about(about);
        self.seek(id.as_str(), "job-1");
        self.seek(token.as_str(), "token-1");
        self.seek(spec.started_by.as_str(), "started-1");
        Header {
            id: valid(JobId::new("job-1")),
            about,
            created: *created,
            token: valid(ClientToken::new("token-1")),
            spec: self.spec(spec),
            definition_from_project: *definition_from_project,
            connect_to: *connect_to,
            transport: transport.clone(),
            login: login
                .as_ref()
                .map(|Login { user, port }| Login { user: self.text(user), port: *port }),
            host_proof: *host_proof,
            limits: *limits,
            trace: None,
        }
    }

    fn about(&mut self, about: &About) -> About {
        let About { project_url, pipeline_id, job_id, job_name, runner } = about;
        let project_url = self.project(project_url);
        self.seek(pipeline_id, "1");
        self.seek(job_id, "1");
        About {
            project_url,
            pipeline_id: "1".to_owned(),
            job_id: "1".to_owned(),
            job_name: if job_name.is_empty() {
                String::new()
            } else {
                self.sought(Kind::JobName, job_name)
            },
            runner: if runner.is_empty() {
                String::new()
            } else {
                self.sought(Kind::Runner, runner)
            },
        }
    }

    /// The project's URL; its host, its path and the path's parts are looked for from now on.
    fn project(&mut self, url: &str) -> String {
        let other = self.of(Kind::Project, url);
        let (_, rest) = url.split_once("://").unwrap_or(("", url));
        let (place, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let host = place.rsplit('@').next().unwrap_or_default();
        if !host.is_empty() && host.parse::<IpAddr>().is_err() {
            self.sought(Kind::Host, host);
        }
        let path = path.trim_end_matches('/');
        if !path.is_empty() {
            self.set(Kind::Path, path, &format!("/{other}"));
        }
        let (short, number) = (path.trim_start_matches('/'), other.clone());
        self.seek(short, &number);
        for part in short.split('/') {
            self.sought(Kind::Name, part);
        }
        self.url(url)
    }

    fn spec(&mut self, spec: &LaunchSpec) -> LaunchSpec {
        let LaunchSpec {
            cluster,
            task_definition,
            platform_version,
            subnets,
            security_groups,
            assign_public_ip,
            capacity,
            container,
            environment,
            started_by: _,
            tags,
            enable_execute_command,
            propagate_tags,
            enable_ecs_managed_tags,
        } = spec;
        LaunchSpec {
            cluster: self.cluster(cluster),
            task_definition: self.definition(task_definition),
            platform_version: platform_version.clone(),
            subnets: subnets.iter().map(|subnet| self.sought(Kind::Resource, subnet)).collect(),
            security_groups: security_groups
                .iter()
                .map(|group| self.sought(Kind::Resource, group))
                .collect(),
            assign_public_ip: *assign_public_ip,
            capacity: self.capacity(capacity),
            container: self.container(container),
            environment: environment
                .iter()
                .map(|(name, _)| (self.variable(name), LEFT_OUT.to_owned()))
                .collect(),
            started_by: valid(StartedBy::new("started-1")),
            tags: tags.iter().map(|(key, value)| self.tag(key, value)).collect(),
            enable_execute_command: *enable_execute_command,
            propagate_tags: *propagate_tags,
            enable_ecs_managed_tags: *enable_ecs_managed_tags,
        }
    }

    fn capacity(&mut self, capacity: &Capacity) -> Capacity {
        match capacity {
            Capacity::ClusterDefault => Capacity::ClusterDefault,
            Capacity::LaunchType(name) => Capacity::LaunchType(self.text(name)),
            Capacity::Strategy(providers) => Capacity::Strategy(
                providers
                    .iter()
                    .map(|CapacityProvider { name, weight, base }| CapacityProvider {
                        name: if name.starts_with("FARGATE") {
                            name.clone()
                        } else {
                            self.sought(Kind::Provider, name)
                        },
                        weight: *weight,
                        base: *base,
                    })
                    .collect(),
            ),
        }
    }

    pub(super) fn container(&mut self, name: &str) -> String {
        if name == CONTAINER { name.to_owned() } else { self.sought(Kind::Container, name) }
    }

    fn variable(&mut self, name: &str) -> String {
        if name == PUBLIC_KEY { name.to_owned() } else { self.sought(Kind::Variable, name) }
    }

    fn tag(&mut self, key: &str, value: &str) -> (String, String) {
        let own = TAGS.iter().any(|prefix| key.starts_with(prefix));
        let told = match self.whole(value) {
            Some(other) => other.to_owned(),
            None if value.contains("://") => self.url(value),
            None if key == crate::control::MANAGER_TAG => self.sought(Kind::Manager, value),
            None if key == "gitlab:pipeline" || key == "gitlab:job" => "1".to_owned(),
            None => self.sought(Kind::TagValue, value),
        };
        (if own { key.to_owned() } else { self.sought(Kind::TagKey, key) }, told)
    }

    fn stage(&mut self, stage: &str) -> String {
        if PURPOSES.contains(&stage) { stage.to_owned() } else { self.sought(Kind::Stage, stage) }
    }

    fn purpose(&mut self, purpose: &str) -> String {
        let words: Vec<String> = purpose.split(' ').map(|word| self.stage(word)).collect();
        words.join(" ")
    }

    /// `<number>-<stage>`, the stage in letters that a file's name may have.
    fn run(&mut self, run: &RunId) -> RunId {
        match run.as_str().split_once('-') {
            Some((number, stage)) => valid(RunId::new(format!("{number}-{}", self.stage(stage)))),
            None => run.clone(),
        }
    }

    fn digest(&mut self, digest: &str) -> String {
        if digest.is_empty() { String::new() } else { self.of(Kind::Digest, digest) }
    }

    pub(super) fn task(&mut self, task: &TaskArn) -> TaskArn {
        let other = if task.as_str().starts_with("arn:") {
            self.arn(task.as_str())
        } else {
            self.of(Kind::Task, task.as_str())
        };
        valid(TaskArn::new(other))
    }

    /// A network interface, also one of a kind that only a test's cluster has.
    fn interface_id(&mut self, id: &InterfaceId) -> InterfaceId {
        valid(InterfaceId::new(self.sought(Kind::Resource, id.as_str())))
    }

    /// What is connected to: an IP address, a name, or nothing.
    fn place(&mut self, address: &str) -> String {
        match address.parse::<IpAddr>() {
            Ok(address) => self.address(address),
            Err(_) if address.is_empty() => String::new(),
            Err(_) => self.sought(Kind::Host, address),
        }
    }

    /// A host's public key, of which the kind stays; or a container runtime's id.
    fn identity(&mut self, identity: &HostIdentity) -> HostIdentity {
        HostIdentity(match identity.0.split_once(' ') {
            Some((kind, key)) => format!("{kind} {}", self.of(Kind::Key, key)),
            None => self.of(Kind::Runtime, &identity.0),
        })
    }

    fn facts(&mut self, facts: &ShellFacts) -> ShellFacts {
        let ShellFacts { run_dir, follows_with_tail, has_setsid } = facts;
        let run_dir = self.sought(Kind::Path, run_dir);
        ShellFacts { run_dir, follows_with_tail: *follows_with_tail, has_setsid: *has_setsid }
    }

    fn report(&mut self, report: &TaskReport) -> TaskReport {
        let TaskReport { task, status, stop_desired, interface, containers, stopped } = report;
        TaskReport {
            task: self.task(task),
            status: self.task_status(status),
            stop_desired: *stop_desired,
            interface: interface.as_ref().map(
                |NetworkInterface { id, private_address, subnet }| NetworkInterface {
                    id: id.as_ref().map(|id| self.interface_id(id)),
                    private_address: private_address.as_ref().map(|address| self.place(address)),
                    subnet: subnet.as_ref().map(|subnet| self.sought(Kind::Resource, subnet)),
                },
            ),
            containers: containers
                .iter()
                .map(|container| self.container_report(container))
                .collect(),
            stopped: stopped.as_ref().map(|Stopped { code, reason }| Stopped {
                code: self.maybe(code),
                reason: self.maybe(reason),
            }),
        }
    }

    fn container_report(&mut self, container: &ContainerReport) -> ContainerReport {
        let ContainerReport { name, status, exit_code, reason, exec_agent, runtime_id } = container;
        ContainerReport {
            name: self.container(name),
            status: self.maybe(status),
            exit_code: *exit_code,
            reason: self.maybe(reason),
            exec_agent: self.maybe(exec_agent),
            runtime_id: runtime_id.as_ref().map(|id| self.of(Kind::Runtime, id)),
        }
    }

    pub(super) fn maybe(&mut self, text: &Option<String>) -> Option<String> {
        text.as_ref().map(|text| self.text(text))
    }

    pub(super) fn observation(&mut self, saw: &Observation) -> Observation {
        match saw {
            Observation::Missing
            | Observation::Delivered
            | Observation::Progress { .. }
            | Observation::Exited { .. }
            | Observation::Signalled(_)
            | Observation::CancelRequested
            | Observation::StopAccepted
            | Observation::TimePassed => saw.clone(),
            Observation::Opened { process, purpose } => {
                Observation::Opened { process: *process, purpose: self.purpose(purpose) }
            }
            Observation::Launched(report) => Observation::Launched(self.report(report)),
            Observation::Described(report) => Observation::Described(self.report(report)),
            Observation::LaunchFailed(error) => {
                Observation::LaunchFailed(self.control_error(error))
            }
            Observation::DescribeFailed(error) => {
                Observation::DescribeFailed(self.control_error(error))
            }
            Observation::AddressFailed(error) => {
                Observation::AddressFailed(self.control_error(error))
            }
            Observation::FindFailed(error) => Observation::FindFailed(self.control_error(error)),
            Observation::StopFailed(error) => Observation::StopFailed(self.control_error(error)),
            Observation::Addressed(address) => {
                Observation::Addressed(address.as_ref().map(|address| self.place(address)))
            }
            Observation::Answered(Greeting { identity, facts }) => {
                Observation::Answered(Greeting {
                    identity: self.identity(identity),
                    facts: self.facts(facts),
                })
            }
            Observation::Unreachable(error) => Observation::Unreachable(self.connect_error(error)),
            Observation::RunRequested { stage, digest } => {
                Observation::RunRequested { stage: self.stage(stage), digest: self.digest(digest) }
            }
            Observation::RunFailed(error) => Observation::RunFailed(self.run_error(error)),
            Observation::StopRequested(reason) => Observation::StopRequested(self.reason(reason)),
            Observation::Found(tasks) => {
                Observation::Found(tasks.iter().map(|task| self.task(task)).collect())
            }
        }
    }

    /// A job's state, under a header that [`Names::header`] made.
    pub(super) fn job(&mut self, job: &AnyJob, header: Header) -> AnyJob {
        match job {
            AnyJob::Provisioning(job) => {
                let Provisioning {
                    deadline: _,
                    launch: _,
                    asked: _,
                    unknown: _,
                    refusals: _,
                    next: _,
                    attempts: _,
                    problem,
                    search,
                } = &job.state;
                let (problem, search) =
                    (self.problem(problem), search.as_ref().map(|search| self.search(search)));
                Job { header, state: Provisioning { problem, search, ..job.state.clone() } }.into()
            }
            AnyJob::Pending(job) => {
                let Pending {
                    task,
                    since: _,
                    deadline: _,
                    interface,
                    address,
                    running: _,
                    describing: _,
                    addressing: _,
                    probing,
                } = &job.state;
                let state = Pending {
                    task: self.task(task),
                    interface: interface.as_ref().map(|id| self.interface_id(id)),
                    address: address.as_ref().map(|address| self.place(address)),
                    probing: self.probing(probing),
                    ..job.state.clone()
                };
                Job { header, state }.into()
            }
            AnyJob::Running(job) => {
                let Running {
                    task,
                    address,
                    since: _,
                    deadline: _,
                    describing: _,
                    probing,
                    agent_runs: _,
                } = &job.state;
                let (task, address, probing) = (
                    self.task(task),
                    address.as_ref().map(|address| self.place(address)),
                    self.probing(probing),
                );
                Job { header, state: Running { task, address, probing, ..job.state.clone() } }
                    .into()
            }
            AnyJob::Reachable(job) => Job { header, state: self.reachable(&job.state) }.into(),
            AnyJob::Executing(job) => {
                let Executing {
                    place,
                    order,
                    digest,
                    since: _,
                    started: _,
                    offset: _,
                    failures: _,
                    fleeting: _,
                    link,
                    connected: _,
                    followed: _,
                    ending: _,
                } = &job.state;
                let link = match link {
                    Link::Up => Link::Up,
                    Link::Down { deadline, probing, describing } => Link::Down {
                        deadline: *deadline,
                        probing: self.probing(probing),
                        describing: describing.clone(),
                    },
                };
                let (place, order, digest) =
                    (self.reachable(place), self.order(order), self.digest(digest));
                Job { header, state: Executing { place, order, digest, link, ..job.state.clone() } }
                    .into()
            }
            AnyJob::Stopping(job) => {
                let Stopping { reason, since, deadline, phase, describing, problem } = &job.state;
                let state = Stopping {
                    reason: self.reason(reason),
                    since: *since,
                    deadline: *deadline,
                    phase: self.phase(phase),
                    describing: describing.clone(),
                    problem: self.problem(problem),
                };
                Job { header, state }.into()
            }
        }
    }

    fn problem(&mut self, problem: &Option<ControlError>) -> Option<ControlError> {
        problem.as_ref().map(|problem| self.control_error(problem))
    }

    fn search(&mut self, search: &Search) -> Search {
        let Search { since, listed, candidates, asking } = search;
        let candidates = candidates.iter().map(|task| self.task(task)).collect();
        Search { since: *since, listed: *listed, candidates, asking: asking.clone() }
    }

    fn probing(&mut self, probing: &Probing) -> Probing {
        let Probing { next, attempts, problem, auth_refused } = probing;
        Probing {
            next: *next,
            attempts: *attempts,
            problem: problem.as_ref().map(|problem| self.connect_error(problem)),
            auth_refused: *auth_refused,
        }
    }

    fn reachable(&mut self, reachable: &Reachable) -> Reachable {
        let Reachable { task, address, since, identity, facts, runs, last } = reachable;
        Reachable {
            task: self.task(task),
            address: address.as_ref().map(|address| self.place(address)),
            since: *since,
            identity: self.identity(identity),
            facts: self.facts(facts),
            runs: *runs,
            last: last.as_ref().map(|Finished { run, stage, digest, outcome, at, cancelled }| {
                Finished {
                    run: self.run(run),
                    stage: self.stage(stage),
                    digest: self.digest(digest),
                    outcome: match outcome {
                        RunOutcome::Exited { .. } | RunOutcome::NeverSent => outcome.clone(),
                        RunOutcome::Failed(error) => RunOutcome::Failed(self.run_error(error)),
                        RunOutcome::Lost(why) => RunOutcome::Lost(self.text(why)),
                    },
                    at: *at,
                    cancelled: *cancelled,
                }
            }),
        }
    }

    fn order(&mut self, order: &RunOrder) -> RunOrder {
        let RunOrder { run, stage, forget } = order;
        RunOrder {
            run: self.run(run),
            stage: self.stage(stage),
            forget: forget.as_ref().map(|run| self.run(run)),
        }
    }
}

/// Other names are short and made of letters, digits, `-` and `_`: every identifier may be one.
fn valid<T>(made: Result<T, states::BadId>) -> T {
    made.unwrap_or_else(|e| unreachable!("{e}"))
}
