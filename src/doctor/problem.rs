//! What can be wrong before a first job: the one table of problems, their words and remedies.

use serde::Serialize;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Jobs run, but not as well as they could.
    Warning,
    /// Jobs cannot run.
    Failure,
}

/// A problem's words. `{0}` and so on stand for the facts of a finding.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub says: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Declares the problems: the type, the list of all, and the table.
macro_rules! problems {
    ($($(#[$about:meta])* $name:ident: $severity:ident, $says:literal, $remedy:literal;)*) => {
        /// A problem that `fargate doctor` knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Problem {
            $($(#[$about])* $name,)*
        }

        impl Problem {
            /// All problems, in the order of the checks.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the problem's words.
            #[must_use]
            pub const fn words(self) -> Words {
                match self {
                    $(Self::$name => Words {
                        severity: Severity::$severity,
                        says: $says,
                        remedy: $remedy,
                    },)*
                }
            }
        }
    };
}

problems! {
    /// `fargate.toml` has a wrong value.
    WrongSetting: Failure, "{0}", "Correct the file; docs/configuration.md has every key.";
    /// `fargate.toml` has an unknown key, or a doubtful combination.
    DoubtfulSetting: Warning, "{0}", "Correct the line; docs/configuration.md has every key.";
    /// Projects may choose any task definition.
    OpenTaskDefinitions: Warning, "AllowedTaskDefinitions is not set: every project may run its jobs in any task definition whose roles the manager may pass.", "Set [Fargate] AllowedTaskDefinitions; [] admits TaskDefinition alone.";
    /// `UsePublicIP` without `EnablePublicIP`.
    NoPublicAddress: Failure, "UsePublicIP is true and EnablePublicIP is not: tasks have no public address to connect to.", "Set [Fargate] EnablePublicIP = true, or UsePublicIP = false.";
    /// The file of prices cannot be used, and costs are to be shown.
    BadPrices: Warning, "{0}", "Without it, jobs have no cost in their log: docs/costs.md.";
    /// No region is configured.
    NoRegion: Failure, "No AWS region is configured.", "Set [Fargate] Region, or AWS_REGION in gitlab-runner's environment.";
    /// The region has no region's name.
    NotARegion: Failure, "{0} is not the name of a region.", "Set [Fargate] Region, or AWS_REGION, to a name such as eu-central-1.";
    /// There are no credentials.
    NoCredentials: Failure, "There are no AWS credentials: {0}.", "Give the instance a profile, or gitlab-runner's service AWS_* variables.";
    /// AWS does not accept the credentials.
    CredentialsRefused: Failure, "{0}.", "Renew them, or correct the instance's profile. Check this machine's clock, too.";
    /// The credentials are the account's root user's.
    RootCredentials: Warning, "The credentials are those of the account's root user ({0}): no policy limits them.", "Use a role with the policies of docs/iam.md.";
    /// The credentials expire and are not renewed.
    FixedSession: Warning, "The credentials come from AWS_SESSION_TOKEN: they expire after hours, and are not renewed.", "Use an instance profile, or a profile that renews them.";
    /// An ARN of the configuration is of another account.
    OtherAccount: Failure, "{0} belongs to the account {1}, and the credentials to {2}.", "Correct the ARN, or use credentials of that account.";
    /// An ARN of the configuration is of another region.
    ArnOfOtherRegion: Failure, "{0} belongs to the region {1}, and the driver calls {2}.", "Correct the ARN or [Fargate] Region.";
    /// The clock is too far off for AWS.
    ClockWrong: Failure, "This machine's clock is {0} s {1} AWS's: AWS refuses requests from 300 s on.", "Synchronize the clock, for example with chrony and 169.254.169.123.";
    /// The clock drifts.
    ClockDrifts: Warning, "This machine's clock is {0} s {1} AWS's.", "Synchronize the clock, for example with chrony and 169.254.169.123.";
    /// Neither STS nor ECS answers.
    NoAnswer: Failure, "{0}. Without AWS, no job starts.", "Check the network from here to AWS{1}.";
    /// The cluster does not exist.
    NoCluster: Failure, "There is no cluster {0} in {1}.", "Correct [Fargate] Cluster or Region, or create it: aws ecs create-cluster.";
    /// The cluster is being deleted or made.
    ClusterInactive: Failure, "The cluster {0} is {1}, not ACTIVE.", "Create it again, or name another one in [Fargate] Cluster.";
    /// The cluster has no default strategy, and the configuration none either.
    NoDefaultStrategy: Failure, "The cluster {0} has no default capacity provider strategy, and fargate.toml names neither LaunchType nor CapacityProviders.", "Set [Fargate] LaunchType = \"FARGATE\", or give the cluster a default strategy.";
    /// The strategy's providers are instances.
    StrategyWithoutFargate: Failure, "The strategy {0} has no Fargate provider.", "Name FARGATE or FARGATE_SPOT in the cluster's default strategy, or set [Fargate] LaunchType = \"FARGATE\".";
    /// A provider does not belong to the cluster.
    ProviderNotAttached: Failure, "The capacity provider {0} is not associated with the cluster {1}.", "Associate it: aws ecs put-cluster-capacity-providers. Or remove it from [Fargate] CapacityProviders.";
    /// There is no alternative to Spot.
    SpotOnly: Warning, "Tasks run on FARGATE_SPOT alone: AWS may end any job with two minutes' notice, and none starts without Spot capacity.", "Add FARGATE to the strategy.";
    /// The platform version has no version's form.
    NotAPlatform: Failure, "PlatformVersion {0} is not a version of Fargate's platform.", "Set [Fargate] PlatformVersion to \"LATEST\" or a version such as \"1.4.0\", or remove it.";
    /// The task definition does not exist.
    NoTaskDefinition: Failure, "The task definition {0} cannot be used: {1}.", "Correct [Fargate] TaskDefinition, or register it: docs/getting-started.md.";
    /// The task definition is deregistered.
    DefinitionInactive: Failure, "The task definition {0} is {1}, not ACTIVE.", "Register a new revision, and name it or the family in [Fargate] TaskDefinition.";
    /// The network mode does not fit.
    NotAwsvpc: Failure, "The task definition {0} has the network mode {1}, and Fargate needs awsvpc.", "Register a revision with \"networkMode\": \"awsvpc\".";
    /// The task definition is for instances.
    NotForFargate: Failure, "The task definition {0} is not compatible with Fargate.", "Register a revision with \"requiresCompatibilities\": [\"FARGATE\"].";
    /// The task definition has no size.
    NoTaskSize: Failure, "The task definition {0} has no {1} for the task.", "Register a revision with cpu and memory on the task, not only on its containers.";
    /// The task runs Windows.
    NotLinux: Failure, "The task definition {0} is for {1}, and the driver's scripts need a POSIX shell.", "Register a revision for LINUX.";
    /// Jobs with images need more of the base than it has.
    NotExtensible: Failure, "{0}.", "Register a revision as docs/images.md says, or remove Allowed from [Images].";
    /// There is no container for scripts.
    NoContainer: Failure, "The task definition {0} has no container {1}: it has {2}.", "Name the container in [Fargate] ContainerName, or rename it in the task definition.";
    /// The container can end without the task.
    NotEssential: Warning, "The container {0} is not essential: when it ends, the task continues without it.", "Register a revision with \"essential\": true.";
    /// Another container ends the task, too.
    OtherEssential: Warning, "The container {0} is essential beside {1}: if it exits, ECS stops the task and the job with it.", "Set \"essential\": false for it, unless jobs cannot run without it.";
    /// SSH, and a container that only sleeps.
    NoSshServer: Failure, "The container {0} runs {1}, which starts no SSH server.", "Use deploy/ssh-entrypoint.sh as entry point, or set Transport = \"ecs-exec\".";
    /// The container maps other ports than that of the SSH server.
    OtherPort: Warning, "The container {0} maps port {1}, and [SSH] Port is {2}.", "Correct [SSH] Port, or the port in the entry point and the task definition.";
    /// A container has no log.
    NoLog: Warning, "The container {0} has no logConfiguration: nothing shows why it ended.", "Add the log driver awslogs to the task definition.";
    /// The log group is missing.
    NoLogGroup: Failure, "The log group {0} of the container {1} does not exist: tasks stop with ResourceInitializationError.", "Create it: aws logs create-log-group. Or set \"awslogs-create-group\": \"true\".";
    /// ECS itself has no role.
    NoExecutionRole: Failure, "The task definition {0} has no execution role, and needs one for {1}.", "Add executionRoleArn: docs/iam.md.";
    /// ECS Exec without a task role.
    NoTaskRole: Failure, "The task definition {0} has no task role: ECS Exec's agent has no permissions.", "Add taskRoleArn, with deploy/iam/task-ecs-exec.json.";
    /// A read-only root file system.
    ReadOnlyRoot: Failure, "The container {0} has a read-only root file system: neither ECS Exec's agent nor scripts can write.", "Remove readonlyRootFilesystem from the task definition.";
    /// Containers share processes.
    SharedProcesses: Warning, "The task definition {0} has pidMode {1}: ECS Exec takes one session for all its containers.", "Remove pidMode from the task definition.";
    /// There is no init process.
    NoInitProcess: Warning, "The container {0} has no init process: ended processes of ECS Exec's agent remain.", "Set linuxParameters.initProcessEnabled to true.";
    /// The cluster records sessions.
    SessionsLogged: Warning, "The cluster logs ECS Exec's sessions ({0}): that is slow, and fails in images without script(1).", "Set the cluster's executeCommandConfiguration to logging=NONE.";
    /// ECS Exec needs a newer platform.
    PlatformTooOld: Failure, "PlatformVersion {0} has no ECS Exec, which needs 1.4.0.", "Set [Fargate] PlatformVersion = \"1.4.0\", or remove it.";
    /// A role does not exist.
    NoRole: Failure, "The {0} role {1} does not exist.", "Create it, or correct the task definition: docs/iam.md.";
    /// ECS may not take a role.
    RoleNotForTasks: Failure, "The {0} role {1} does not trust ecs-tasks.amazonaws.com.", "Give it the trust policy deploy/iam/task-trust.json.";
    /// The task role lacks what the exec agent needs.
    NoExecAgentPermission: Failure, "The task role {0} may not call {1}: ECS Exec's agent cannot connect.", "Attach deploy/iam/task-ecs-exec.json to it.";
    /// The repository does not exist.
    NoRepository: Failure, "The image {0} of the container {1} is in no repository of ECR.", "Push the image, or correct its name in the task definition.";
    /// The tag or digest does not exist.
    NoImage: Failure, "ECR's repository has no image {0}, which the container {1} uses.", "Push the image, or correct its tag in the task definition.";
    /// A large image without an index for lazy loading.
    LargeImage: Warning, "The image {0} has {1} MB (compressed): each job waits a minute or more for it.", "Make it smaller, or build a SOCI index, with which Fargate starts before all is there.";
    /// The image comes from another region.
    OtherRegion: Warning, "The image {0} is in {1}, and tasks run in {2}: each pull is slow and is charged.", "Replicate the repository to the tasks' region.";
    /// Docker Hub limits anonymous pulls.
    DockerHub: Warning, "The image {0} comes from Docker Hub, which limits anonymous pulls of one address.", "Copy it to ECR, use a pull-through cache, or add repositoryCredentials.";
    /// A subnet does not exist.
    NoSubnet: Failure, "A subnet does not exist in {0}: {1}.", "Correct [Fargate] Subnet or Subnets.";
    /// The subnets are of several VPCs.
    SeveralVpcs: Failure, "The subnets are in several VPCs: {0}.", "Name subnets of one VPC in [Fargate] Subnets.";
    /// A subnet has no address left.
    SubnetFull: Failure, "The subnet {0} has no free address.", "Add another one to [Fargate] Subnets.";
    /// The subnets have fewer addresses than jobs may run.
    FewAddresses: Warning, "The subnets have {0} free addresses, and gitlab-runner runs up to {1} jobs.", "Add subnets to [Fargate] Subnets.";
    /// A route leads nowhere.
    Blackhole: Failure, "The subnet {0} has its default route to {1}, which does not exist any more.", "Correct the route table {2}.";
    /// A public subnet, and tasks without public addresses.
    PublicWithoutAddress: Failure, "The subnet {0} reaches the internet by {1}, which needs a public address, and EnablePublicIP is false. It has no endpoints for {2}.", "Set [Fargate] EnablePublicIP = true, use a subnet with NAT, or make the endpoints.";
    /// No way to the services that tasks need.
    NoRoute: Failure, "The subnet {0} has no route to the internet, and no endpoints for {1}.", "Add NAT, or make the VPC endpoints.";
    /// The registry is outside AWS.
    NoRouteToRegistry: Failure, "The subnet {0} has no route to the internet, and the image {1} is not in ECR.", "Add NAT, or copy the image to ECR.";
    /// An endpoint without its name.
    NoPrivateDns: Failure, "The endpoint for {0} in {1} has no private DNS name, so no task uses it.", "Enable private DNS names on the endpoint.";
    /// The VPC has no name server.
    NoDns: Failure, "The VPC {0} has no DNS (enableDnsSupport is false): tasks find no service.", "Enable enableDnsSupport of the VPC.";
    /// A security group does not exist.
    NoSecurityGroup: Failure, "A security group does not exist in {0}: {1}.", "Correct [Fargate] SecurityGroup or SecurityGroups.";
    /// The security group is of another VPC.
    OtherVpc: Failure, "The security group {0} is in {1}, and the subnets are in {2}.", "Name a group of the subnets' VPC in [Fargate] SecurityGroups.";
    /// The manager may not connect.
    ManagerNotAdmitted: Failure, "The security groups {0} do not admit this manager ({1}) to port {2}.", "Add an inbound rule for TCP from the manager's security group or address.";
    /// The port is open to the internet.
    OpenToAll: Warning, "The security group {0} admits every address to port {1}.", "Admit the manager's security group alone.";
    /// Tasks may not send anything.
    NoEgress: Failure, "The security groups {0} let nothing out to port 443: tasks cannot pull their image.", "Add an outbound rule for TCP 443.";
    /// A permission is missing.
    NotPermitted: Failure, "The manager ({0}) may not call {1}.", "Add the statement {3} of deploy/iam/{2} to its policy: docs/iam.md.";
    /// Claimed warm tasks do not get the tags of their jobs.
    ClaimsNotTagged: Warning, "The manager ({0}) may not call {1} for a task that a job claims: warm tasks keep their pool's tags.", "Add the statement {3} of deploy/iam/{2} to its policy: docs/iam.md.";
    /// A role lacks a permission that no policy of `deploy/iam` has for every installation.
    RoleLacks: Failure, "The role {0} may not call {1} on {2}: {3}.", "Add the permission to the role's policy: docs/iam.md.";
    /// A role may not be given to tasks.
    RoleNotPassable: Failure, "The manager ({0}) may not pass the {1} role {2} to tasks.", "Add the role to iam:PassRole in deploy/iam/manager.json.";
    /// One task is more than the quota.
    QuotaTooLow: Failure, "The quota for Fargate {0} is {1} vCPUs, and one task has {2}.", "Request a higher quota in Service Quotas, or make tasks smaller.";
    /// All jobs are more than the quota.
    QuotaBelowConcurrent: Warning, "The quota for Fargate {0} is {1} vCPUs, and {2} concurrent jobs of {3} need {4}.", "Request a higher quota in Service Quotas, or lower concurrent in gitlab-runner's config.toml.";
    /// A burst of jobs is more than the launch rate.
    AboveLaunchRate: Warning, "gitlab-runner runs up to {0} jobs, and Fargate launches 100 tasks at once, then 20 a second.", "Nothing has to be done: the driver waits. Request a higher rate if bursts are slow.";
    /// Other users can change the directory.
    DirectoryExposed: Failure, "The metadata directory is not safe: {0}.", "Run the chmod or chown that the text names.";
    /// The directory cannot be written.
    DirectoryNotWritable: Failure, "The metadata directory {0} cannot be used: {1}.", "Create it for the user of gitlab-runner, or correct [TaskMetadata] Directory.";
    /// The directory is in the network.
    NetworkFileSystem: Failure, "The metadata directory {0} is on {1}: locks and fsync are not reliable there.", "Use a local disk for [TaskMetadata] Directory.";
    /// The directory is in memory.
    VolatileFileSystem: Warning, "The metadata directory {0} is on {1}: a reboot loses the jobs in it.", "Use a local disk for [TaskMetadata] Directory.";
    /// The driver's log cannot be written.
    NoLogFile: Failure, "The log file {0} cannot be written: {1}. Every stage fails.", "Create its directory for the user of gitlab-runner, or correct LogFile.";
    /// The disk is full.
    DiskFull: Failure, "The disk of {0} has {1} left.", "Make room; a job needs some kilobytes, and the archive grows.";
    /// The disk is nearly full.
    DiskNearlyFull: Warning, "The disk of {0} has {1} left.", "Make room, or lower [TaskMetadata] Keep and KeepCount.";
    /// gitlab-runner's file cannot be read as TOML.
    RunnerConfigWrong: Failure, "gitlab-runner's {0} is not usable: {1}.", "Correct the file.";
    /// No runner has the custom executor.
    NoCustomRunner: Failure, "No runner in {0} has executor = \"custom\".", "Register one: docs/getting-started.md.";
    /// No runner uses this configuration.
    OtherConfiguration: Warning, "No runner in {0} calls the driver with --config {1}.", "Name this file in the runner's *_args, or give doctor the file that they name.";
    /// The runner has no token yet.
    NoRunnerToken: Failure, "The runner {0} has {1} as its token: GitLab does not accept it.", "Replace it by the runner's authentication token (glrt-...).";
    /// gitlab-runner writes scripts for another shell.
    NotAPosixShell: Failure, "The runner {0} has shell = \"{1}\", and jobs run in a POSIX shell.", "Remove shell from [[runners]], or set it to \"bash\" or \"sh\".";
    /// A stage's program is not named.
    NoStageProgram: Failure, "The runner {0} has no {1}_exec.", "Add it to [runners.custom]: docs/getting-started.md.";
    /// `config_exec` is not named.
    NoConfigStage: Warning, "The runner {0} has no config_exec: jobs with images get no builds directory, and mistakes show late.", "Add it to [runners.custom]: docs/getting-started.md.";
    /// A stage's program does not exist.
    NoProgram: Failure, "The runner {0} calls {1} for {2}, which is not an executable file.", "Install the driver there, or correct the path.";
    /// A stage's program is another one than this.
    OtherProgram: Warning, "The runner {0} calls {1} for {2}, and this is {3}.", "Name one program in all *_exec, and remove the other: it may be another version, or GitLab's Go driver.";
    /// A stage's arguments are wrong.
    WrongArguments: Failure, "The runner {0} has {1}_args {2}: expected custom {1} at the end.", "Correct [runners.custom]: docs/getting-started.md.";
    /// A stage's arguments do not name the configuration.
    NoConfigArgument: Failure, "The runner {0} has no --config with an absolute path in {1}_args, and stages run in a temporary directory.", "Add --config with the absolute path of fargate.toml.";
    /// gitlab-runner refuses a runner without directories.
    NoRunnerDirectory: Failure, "The runner {0} has no {1}: gitlab-runner fails its jobs.", "Add it to [[runners]]: docs/getting-started.md.";
    /// gitlab-runner ends a stage before the driver gives up.
    StageTimeout: Warning, "The runner {0} ends {1} after {2} s, and the driver's own deadlines are {3} s.", "Raise {1}_exec_timeout, or lower [Deadlines].";
    /// gitlab-runner kills the driver before it has ended a script or a task.
    KillTimeout: Warning, "The runner {0} kills a cancelled stage after {1} s, and [Deadlines] {2} is {3} s.", "Raise graceful_kill_timeout in [runners.custom], or lower {2}.";
    /// A task cannot start within its deadline.
    ShortDeadline: Warning, "[Deadlines] {0} is {1} s: a task on Fargate often needs longer to start.", "Remove it from fargate.toml, or raise it.";
    /// The driver's credentials are given to jobs.
    CredentialsInJobs: Warning, "The runner {0} sets {1} in environment: jobs get it, and the driver does not.", "Set it in the environment of gitlab-runner's service.";
    /// Another manager has this one's name.
    SameManager: Warning, "{0} tasks in the cluster are of a manager that is called {1} too, with another metadata directory ({2}).", "Give each manager a [TaskMetadata] Manager of its own.";
    /// The job of `--launch` has failed.
    LaunchFailed: Failure, "The job failed ({0}).", "Its last line above says why; docs/troubleshooting.md explains it.";
}

impl Problem {
    /// Returns its name: that of `--json` and the documentation.
    #[must_use]
    pub fn name(self) -> String {
        // Serializing a variant without fields gives its name.
        serde_json::to_value(self)
            .ok()
            .and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// Puts facts in place of `{0}` and so on.
#[must_use]
pub(super) fn filled(text: &str, facts: &[String]) -> String {
    let mut pieces = text.split('{');
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let fact = piece
            .split_once('}')
            .and_then(|(number, rest)| Some((facts.get(number.parse::<usize>().ok()?)?, rest)));
        match fact {
            Some((fact, rest)) => filled.extend([fact.as_str(), rest]),
            None => filled.extend(["{", piece]),
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::config::declared_settings;

    #[test]
    fn each_problem_has_words_and_a_remedy() {
        let mut names = HashSet::new();
        for problem in Problem::ALL {
            let Words { says, remedy, .. } = problem.words();
            let name = problem.name();
            assert!(!name.is_empty() && names.insert(name.clone()), "{name}");
            assert!(says == "{0}" || says.ends_with('.'), "{name}: {says}");
            assert!(remedy.ends_with('.') && remedy.len() > 10, "{name}: {remedy}");
            // Facts are numbered from 0, without gaps, in what it says.
            let used: HashSet<usize> =
                (0..9).filter(|n| says.contains(&format!("{{{n}}}"))).collect();
            assert!((0..used.len()).all(|n| used.contains(&n)) || remedy.contains('{'), "{name}");
        }
    }

    /// A remedy names settings as `[Table] Key`.
    #[test]
    fn settings_in_remedies_exist() {
        let declared: Vec<_> = declared_settings().collect();
        for problem in Problem::ALL {
            let remedy = problem.words().remedy;
            for rest in remedy.split('[').skip(1) {
                let Some((table, rest)) = rest.split_once("] ") else { continue };
                let key = rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
                let is_table =
                    !table.is_empty() && declared.iter().any(|setting| setting.table == table);
                let is_key =
                    declared.iter().any(|setting| setting.table == table && setting.key == key);
                assert!(!is_table || key.is_empty() || is_key, "{problem:?}: [{table}] {key}");
            }
        }
    }

    #[test]
    fn facts_are_put_in_their_places_and_nothing_else_is() {
        let facts = ["a{1}".to_owned(), "b".to_owned()];
        assert_eq!(filled("{1} and {0}, {2} {", &facts), "b and a{1}, {2} {");
    }
}
