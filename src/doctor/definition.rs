//! The task definition, the container that runs scripts, and what ECS Exec needs of both.

use aws_sdk_ecs::types::{
    Compatibility, ContainerDefinition, ExecuteCommandLogging, LogDriver, NetworkMode,
    TaskDefinition,
};
use states::{
    Additions, ContainerImage, ControlErrorKind as Kind, JobContainer, foreign_text::clipped,
};

use super::{Check, Examination, Problem};
use crate::{control::EcrImage, definition::Derivation, grant::shared_volume};

/// Programs that only wait.
const SLEEPERS: [&str; 3] = ["sleep", "tail", "pause"];

impl Examination<'_> {
    /// Checks the task definition as a whole.
    pub(super) async fn check_definition(&mut self) {
        const CHECK: Check = Check::TaskDefinition;
        let name = self.config.fargate.task_definition.clone();
        match self.control.task_definition(&name).await {
            Ok(definition) => self.definition = Some(definition),
            Err(error) if error.kind == Kind::TaskDefinition => {
                let facts = [name, error.message.trim_end_matches('.').to_owned()];
                self.report.found(CHECK, Problem::NoTaskDefinition, facts);
            }
            Err(error) => self.report.refused(CHECK, &error),
        }
        let Some(definition) = self.definition.take() else {
            let why = "The task definition is not known.";
            let checks = [Check::Container, Check::Roles, Check::Image];
            return self.report.unknown_rest(&checks, why);
        };
        for (problem, facts) in definition_problems(&definition) {
            self.report.found(CHECK, problem, facts);
        }
        self.check_extensible(&definition);
        if self.report.is_clean(CHECK) {
            let (cpu, memory) =
                (definition.cpu().unwrap_or_default(), definition.memory().unwrap_or_default());
            let says = format!("{} has {cpu} CPU units and {memory} MiB.", name_of(&definition));
            self.report.pass(CHECK, says);
        }
        self.definition = Some(definition);
    }

    /// Checks that jobs with images can have a definition that is derived from this one.
    fn check_extensible(&mut self, definition: &TaskDefinition) {
        if self.config.images.allowed.is_none() {
            return;
        }
        let image =
            ContainerImage { name: "image".to_owned(), credentials: None, entry_point: None };
        let job = JobContainer { image, user: None, shared: shared_volume() };
        let additions = Additions { job: Some(job), ..Additions::default() };
        let base = name_of(definition);
        let coordinator = &self.config.fargate.container;
        let derivation = Derivation { base: &base, additions: &additions, coordinator };
        if let Err(error) = derivation.request(definition, &[]) {
            let facts = [clipped(&error.to_string())];
            self.report.found(Check::TaskDefinition, Problem::NotExtensible, facts);
        }
    }

    /// Checks the container that runs scripts, and its log.
    pub(super) async fn check_container(&mut self) {
        const CHECK: Check = Check::Container;
        let Some(definition) = &self.definition else { return };
        let Some(container) = self.container().cloned() else {
            let names = definition.container_definitions().iter();
            let names: Vec<_> = names.filter_map(|container| container.name()).collect();
            let facts = [
                self.definition_name(),
                self.config.fargate.container.clone(),
                clipped(&names.join(", ")),
            ];
            return self.report.found(CHECK, Problem::NoContainer, facts);
        };
        let name = self.config.fargate.container.clone();
        let (is_ssh, is_exec) =
            (self.config.transport.needs_login, self.config.transport.needs_execute_command);
        // Over SSH, a volume may be where the entry point and scripts write.
        let is_read_only = container.readonly_root_filesystem() == Some(true)
            && (is_exec || container.mount_points().is_empty());
        for (is_so, problem) in [
            (container.essential() == Some(false), Problem::NotEssential),
            (is_read_only, Problem::ReadOnlyRoot),
            (is_ssh && container.log_configuration().is_none(), Problem::NoLog),
        ] {
            if is_so {
                self.report.found(CHECK, problem, [name.clone()]);
            }
        }
        if is_ssh && let Some(command) = only_sleeps(&container) {
            self.report.found(CHECK, Problem::NoSshServer, [name.clone(), command]);
        }
        let port = self.config.ssh.port;
        if is_ssh && let Some(others) = other_ports(&container, port) {
            self.report.found(CHECK, Problem::OtherPort, [name.clone(), others, port.to_string()]);
        }
        for other in self.other_essential() {
            self.report.found(CHECK, Problem::OtherEssential, [other, name.clone()]);
        }
        self.check_log_group(&container).await;
        if self.report.is_clean(CHECK) {
            self.report.pass(CHECK, format!("{name} is as the driver needs it."));
        }
    }

    /// The names of other containers with which the task ends. ECS's log router has to be one.
    fn other_essential(&self) -> Vec<String> {
        let containers = self.definition.iter().flat_map(|d| d.container_definitions());
        containers
            .filter(|container| container.name() != Some(&self.config.fargate.container))
            .filter(|container| container.essential() != Some(false))
            .filter(|container| container.firelens_configuration().is_none())
            .map(|container| clipped(container.name().unwrap_or_default()))
            .collect()
    }

    async fn check_log_group(&mut self, container: &ContainerDefinition) {
        const CHECK: Check = Check::Container;
        let logs = container.log_configuration();
        let logs = logs.filter(|logs| *logs.log_driver() == LogDriver::Awslogs);
        let option = |key: &str| logs?.options()?.get(key).cloned();
        let creates = option("awslogs-create-group").is_some_and(|creates| creates == "true");
        let is_here = option("awslogs-region").is_none_or(|region| region == self.region);
        let Some(group) = option("awslogs-group").filter(|_| !creates && is_here) else { return };
        match self.control.has_log_group(&group).await {
            Ok(true) => {}
            Ok(false) => {
                let facts = [clipped(&group), self.config.fargate.container.clone()];
                self.report.found(CHECK, Problem::NoLogGroup, facts);
            }
            Err(error) => self.report.refused(CHECK, &error),
        }
    }

    /// Checks what ECS Exec needs beyond that.
    pub(super) fn check_ecs_exec(&mut self) {
        const CHECK: Check = Check::EcsExec;
        if !self.config.transport.needs_execute_command {
            let says = format!("Not used: scripts run over {}.", self.config.transport.name());
            return self.report.pass(CHECK, says);
        }
        let (Some(definition), Some(container)) = (&self.definition, self.container()) else {
            return self.report.unknown(CHECK, "The container is not known.");
        };
        let name = name_of(definition);
        let own = self.config.fargate.container.clone();
        let init = container.linux_parameters().and_then(|linux| linux.init_process_enabled());
        let pid_mode = definition.pid_mode().map(|mode| mode.as_str().to_owned());
        let logging = self.cluster.as_ref().and_then(|cluster| {
            cluster.configuration()?.execute_command_configuration()?.logging().cloned()
        });
        let platform = self.config.fargate.platform_version.clone();
        let has_awslogs = container
            .log_configuration()
            .is_some_and(|logs| *logs.log_driver() == LogDriver::Awslogs);
        if definition.task_role_arn().is_none_or(str::is_empty) {
            self.report.found(CHECK, Problem::NoTaskRole, [name.clone()]);
        }
        if let Some(mode) = pid_mode {
            self.report.found(CHECK, Problem::SharedProcesses, [name, mode]);
        }
        if init != Some(true) {
            self.report.found(CHECK, Problem::NoInitProcess, [own]);
        }
        match logging {
            Some(ExecuteCommandLogging::Override) => {
                self.report.found(CHECK, Problem::SessionsLogged, ["OVERRIDE".to_owned()]);
            }
            // By default, sessions go where the container's own log goes.
            None | Some(ExecuteCommandLogging::Default) if has_awslogs => {
                self.report.found(CHECK, Problem::SessionsLogged, ["DEFAULT".to_owned()]);
            }
            _ => {}
        }
        if let Some(version) = platform.filter(|version| is_before_1_4(version)) {
            self.report.found(CHECK, Problem::PlatformTooOld, [version]);
        }
        if self.report.is_clean(CHECK) {
            self.report.pass(CHECK, "Task definition and cluster fit.");
        }
    }
}

fn name_of(definition: &TaskDefinition) -> String {
    format!("{}:{}", definition.family().unwrap_or_default(), definition.revision())
}

/// Whether ECS pulls an image or a secret, or writes a log, for the task: then it needs the
/// execution role. Returns for what.
fn needs_execution_role(definition: &TaskDefinition) -> Option<&'static str> {
    definition.container_definitions().iter().find_map(|container| {
        if container.image().is_some_and(|image| EcrImage::parse(image).is_some()) {
            return Some("images in ECR");
        }
        if container.repository_credentials().is_some() || !container.secrets().is_empty() {
            return Some("secrets");
        }
        let logs = container.log_configuration()?;
        (*logs.log_driver() == LogDriver::Awslogs).then_some("logs")
    })
}

fn definition_problems(definition: &TaskDefinition) -> Vec<(Problem, Facts)> {
    let name = name_of(definition);
    let mut problems = Vec::new();
    let status = definition.status().map_or("ACTIVE", |status| status.as_str());
    if status != "ACTIVE" {
        problems.push((Problem::DefinitionInactive, [name.clone(), status.to_owned()]));
    }
    match definition.network_mode() {
        Some(NetworkMode::Awsvpc) => {}
        mode => {
            let mode = mode.map_or("bridge", NetworkMode::as_str).to_owned();
            problems.push((Problem::NotAwsvpc, [name.clone(), mode]));
        }
    }
    let mut kinds =
        definition.compatibilities().iter().chain(definition.requires_compatibilities());
    if !kinds.any(|kind| *kind == Compatibility::Fargate) {
        problems.push((Problem::NotForFargate, [name.clone(), String::new()]));
    }
    for (what, size) in [("cpu", definition.cpu()), ("memory", definition.memory())] {
        if size.is_none_or(str::is_empty) {
            problems.push((Problem::NoTaskSize, [name.clone(), what.to_owned()]));
        }
    }
    let system = definition.runtime_platform().and_then(|p| p.operating_system_family());
    if let Some(system) = system.filter(|system| system.as_str() != "LINUX") {
        problems.push((Problem::NotLinux, [name.clone(), system.as_str().to_owned()]));
    }
    if definition.execution_role_arn().is_none_or(str::is_empty)
        && let Some(what) = needs_execution_role(definition)
    {
        problems.push((Problem::NoExecutionRole, [name, what.to_owned()]));
    }
    problems
}

/// The facts of a task definition's problem: its name, and a detail.
type Facts = [String; 2];

/// Whether a platform version is older than 1.4.0.
fn is_before_1_4(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (1, 4),
        _ => false,
    }
}

/// The command of a container that does nothing but wait.
fn only_sleeps(container: &ContainerDefinition) -> Option<String> {
    let words: Vec<&str> =
        container.entry_point().iter().chain(container.command()).map(String::as_str).collect();
    let program = words.first()?.rsplit('/').next()?;
    SLEEPERS.contains(&program).then(|| clipped(&words.join(" ")))
}

/// The ports that a container maps, if it maps some and not this one. With `awsvpc`, none has to be
/// mapped.
fn other_ports(container: &ContainerDefinition, port: u16) -> Option<String> {
    let ports: Vec<_> = container
        .port_mappings()
        .iter()
        .filter_map(|mapping| mapping.container_port())
        .map(|mapped| mapped.to_string())
        .collect();
    let has_range = container.port_mappings().iter().any(|m| m.container_port_range().is_some());
    let is_mapped = ports.is_empty() || has_range || ports.contains(&port.to_string());
    (!is_mapped).then(|| ports.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_versions_are_compared_by_their_numbers() {
        for (version, is_old) in [
            ("1.3.0", true),
            ("1.4.0", false),
            ("1.10.0", false),
            ("2.0", false),
            ("LATEST", false),
        ] {
            assert_eq!(is_before_1_4(version), is_old, "{version}");
        }
    }

    #[test]
    fn a_container_that_only_sleeps_is_found_by_its_first_word() {
        let container = |entry: &[&str], command: &[&str]| {
            let owned =
                |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
            ContainerDefinition::builder()
                .set_entry_point(owned(entry))
                .set_command(owned(command))
                .build()
        };
        let sleeps = container(&["/bin/sleep"], &["infinity"]);
        assert_eq!(only_sleeps(&sleeps).as_deref(), Some("/bin/sleep infinity"));
        assert_eq!(only_sleeps(&container(&[], &["tail", "-f"])).as_deref(), Some("tail -f"));
        assert_eq!(only_sleeps(&container(&["/entry.sh"], &["sleep"])), None);
        assert_eq!(only_sleeps(&container(&[], &[])), None);
    }
}
