//! Pseudonyms in each field of a snapshot. Every structure is destructured completely: a new field
//! of the machine does not compile here until its pseudonym is decided.

use std::{net::IpAddr, sync::Arc};

use states::{
    AnyJob, Billing, Claim, ContainerReport, ControlError, Executing, Finished, Greeting, Header,
    HostIdentity, InterfaceId, Job, JobId, JobShell, Link, NetworkInterface, Observation, Pending,
    Probing, Provisioning, Reachable, RunId, RunOrder, RunOutcome, Running, Search, ShellFacts,
    Stopped, Stopping, TaskArn, TaskReport,
};

use super::pseudonyms::{Kind, Pseudonyms};

/// Purposes of the driver's processes: gitlab-runner's stages, and commands of the driver's tools.
const PURPOSES: [&str; 22] = [
    "config",
    "prepare",
    "run",
    "cleanup",
    "reap",
    "resume",
    "stop",
    "archive",
    "warm",
    "retire",
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

/// The id of the warm task that a job claimed.
const WARM_ID: &str = "warm-0000000000000001";

impl Pseudonyms {
    fn stage(&mut self, stage: &str) -> String {
        if PURPOSES.contains(&stage) { stage.to_owned() } else { self.register(Kind::Stage, stage) }
    }

    fn purpose(&mut self, purpose: &str) -> String {
        let words: Vec<String> = purpose.split(' ').map(|word| self.stage(word)).collect();
        words.join(" ")
    }

    /// Replaces the stage in a run id, `<number>-<stage>`.
    fn run(&mut self, run: &RunId) -> RunId {
        match run.as_str().split_once('-') {
            Some((number, stage)) => {
                valid_id(RunId::new(format!("{number}-{}", self.stage(stage))))
            }
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
        valid_id(TaskArn::new(other))
    }

    /// Replaces a network interface's id, of any form: test clusters have their own.
    fn interface_id(&mut self, id: &InterfaceId) -> InterfaceId {
        valid_id(InterfaceId::new(self.register(Kind::Resource, id.as_str())))
    }

    /// Replaces what is connected to: an IP address, a host name, or nothing.
    fn address_or_host(&mut self, address: &str) -> String {
        match address.parse::<IpAddr>() {
            Ok(address) => self.address(address),
            Err(_) if address.is_empty() => String::new(),
            Err(_) => self.register(Kind::Host, address),
        }
    }

    /// Replaces a host's public key, except its type, or a container runtime's id.
    fn identity(&mut self, identity: &HostIdentity) -> HostIdentity {
        HostIdentity(match identity.0.split_once(' ') {
            Some((kind, key)) => format!("{kind} {}", self.of(Kind::Key, key)),
            None => self.of(Kind::Runtime, &identity.0),
        })
    }

    fn greeting(&mut self, greeting: &Greeting) -> Greeting {
        let Greeting { identity, facts } = greeting;
        Greeting { identity: self.identity(identity), facts: self.facts(facts) }
    }

    fn facts(&mut self, facts: &ShellFacts) -> ShellFacts {
        let ShellFacts { run_dir, follows_with_tail, has_setsid, job } = facts;
        ShellFacts {
            run_dir: self.register(Kind::Path, run_dir),
            follows_with_tail: *follows_with_tail,
            has_setsid: *has_setsid,
            job: job.as_ref().map(|JobShell { run_dir, has_bash, has_setsid, can_edit_hosts }| {
                JobShell {
                    run_dir: self.register(Kind::Path, run_dir),
                    has_bash: *has_bash,
                    has_setsid: *has_setsid,
                    can_edit_hosts: *can_edit_hosts,
                }
            }),
        }
    }

    fn report(&mut self, report: &TaskReport) -> TaskReport {
        let TaskReport { task, status, stop_desired, interface, containers, stopped, billing } =
            report;
        TaskReport {
            task: self.task(task),
            status: self.task_status(status),
            stop_desired: *stop_desired,
            interface: interface.as_ref().map(
                |NetworkInterface { id, private_address, subnet }| NetworkInterface {
                    id: id.as_ref().map(|id| self.interface_id(id)),
                    private_address: private_address
                        .as_ref()
                        .map(|address| self.address_or_host(address)),
                    subnet: subnet.as_ref().map(|subnet| self.register(Kind::Resource, subnet)),
                },
            ),
            containers: containers
                .iter()
                .map(|container| self.container_report(container))
                .collect(),
            stopped: stopped.as_ref().map(|Stopped { code, reason }| Stopped {
                code: self.optional_text(code),
                reason: self.optional_text(reason),
            }),
            billing: billing.as_ref().map(|billing| Box::new(self.billing(billing))),
        }
    }

    fn billing(&mut self, billing: &Billing) -> Billing {
        let Billing {
            size: _,
            architecture: _,
            launch_type,
            capacity_provider,
            pull_started: _,
            started: _,
            execution_stopped: _,
            stopped: _,
        } = billing;
        Billing {
            launch_type: self.optional_text(launch_type),
            capacity_provider: capacity_provider.as_ref().map(|name| self.provider(name)),
            ..billing.clone()
        }
    }

    /// Replaces a capacity provider's name, unless it is one of Fargate's.
    pub(super) fn provider(&mut self, name: &str) -> String {
        if name.starts_with("FARGATE") {
            name.to_owned()
        } else {
            self.register(Kind::Provider, name)
        }
    }

    fn container_report(&mut self, container: &ContainerReport) -> ContainerReport {
        let ContainerReport { name, status, exit_code, reason, exec_agent, runtime_id } = container;
        ContainerReport {
            name: self.container(name),
            status: self.optional_text(status),
            exit_code: *exit_code,
            reason: self.optional_text(reason),
            exec_agent: self.optional_text(exec_agent),
            runtime_id: runtime_id.as_ref().map(|id| self.of(Kind::Runtime, id)),
        }
    }

    pub(super) fn optional_text(&mut self, text: &Option<String>) -> Option<String> {
        text.as_ref().map(|text| self.text(text))
    }

    pub(super) fn observation(&mut self, saw: &Observation) -> Observation {
        match saw {
            Observation::Missing
            | Observation::Delivered
            | Observation::Progress { .. }
            | Observation::Exited { .. }
            | Observation::Measured { .. }
            | Observation::Signalled(_)
            | Observation::CancelRequested
            | Observation::StopAccepted
            | Observation::TimePassed => saw.clone(),
            Observation::Opened { process, purpose } => {
                Observation::Opened { process: *process, purpose: self.purpose(purpose) }
            }
            Observation::Claimed(claim) => {
                let Claim { warm, pool, task, address, greeting, began, ready, billing } = &**claim;
                self.replace_in_text(warm.as_str(), WARM_ID);
                Observation::Claimed(Box::new(Claim {
                    warm: valid_id(JobId::new(WARM_ID)),
                    pool: self.register(Kind::Name, pool),
                    task: self.task(task),
                    address: address.as_ref().map(|address| self.address_or_host(address)),
                    greeting: self.greeting(greeting),
                    began: *began,
                    ready: *ready,
                    billing: billing.as_deref().map(|billing| Box::new(self.billing(billing))),
                }))
            }
            Observation::Launched(report) => Observation::Launched(self.report(report).into()),
            Observation::Described(report) => Observation::Described(self.report(report).into()),
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
            Observation::Addressed(address) => Observation::Addressed(
                address.as_ref().map(|address| self.address_or_host(address)),
            ),
            Observation::Answered(greeting) => Observation::Answered(self.greeting(greeting)),
            Observation::Unreachable(error) => Observation::Unreachable(self.connect_error(error)),
            Observation::RunRequested { stage, digest, container } => Observation::RunRequested {
                stage: self.stage(stage),
                digest: self.digest(digest),
                container: *container,
            },
            Observation::RunFailed(error) => Observation::RunFailed(self.run_error(error)),
            Observation::StopRequested(reason) => Observation::StopRequested(self.reason(reason)),
            Observation::Found(tasks) => {
                Observation::Found(tasks.iter().map(|task| self.task(task)).collect())
            }
        }
    }

    /// Replaces the names in a job's state. [`Pseudonyms::header`] made the header.
    pub(super) fn job(&mut self, job: &AnyJob, header: Arc<Header>) -> AnyJob {
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
                    address: address.as_ref().map(|address| self.address_or_host(address)),
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
                    address.as_ref().map(|address| self.address_or_host(address)),
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
            address: address.as_ref().map(|address| self.address_or_host(address)),
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
        let RunOrder { run, stage, forget, container } = order;
        RunOrder {
            run: self.run(run),
            stage: self.stage(stage),
            forget: forget.as_ref().map(|run| self.run(run)),
            container: *container,
        }
    }
}

/// Unwraps an identifier. Every pseudonym is a valid one: it is short, and consists of letters,
/// digits, `-` and `_`.
pub(super) fn valid_id<T>(made: Result<T, states::BadId>) -> T {
    made.unwrap_or_else(|e| unreachable!("{e}"))
}
