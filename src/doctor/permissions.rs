//! The manager's permissions, as IAM's simulator sees them: those of the policies in `deploy/iam`.

use states::{ControlErrorKind as Kind, StartedBy, TaskArn, TaskControl as _};

use super::{Check, Examination, Problem, name_in, roles::NO_SESSION};
use crate::config::Config;

/// A statement of a policy in `deploy/iam`, as it is simulated. A test compares the actions and the
/// conditions with the files.
#[derive(Debug)]
struct Statement {
    policy: &'static str,
    sid: &'static str,
    actions: &'static [&'static str],
    resource: Resource,
    conditions: &'static [(&'static str, Value)],
}

/// What a statement is about.
#[derive(Debug, Clone, Copy)]
enum Resource {
    Any,
    TaskDefinition,
    DerivedDefinition,
    Task,
    Session,
    ServiceLog,
}

/// The value of a condition's key.
#[derive(Debug, Clone, Copy)]
enum Value {
    Cluster,
    Region,
    Container,
    Text(&'static str),
}

const MANAGER: &str = "manager.json";
const ECS_EXEC: &str = "manager-ecs-exec.json";
const IMAGES: &str = "manager-images.json";
/// The statement without which jobs run, and warm tasks keep their pool's tags.
const TAGS_AT_THE_CLAIM: &str = "TagThemAtTheClaim";

/// All statements but `GiveTasksTheirRoles`, which is about the task definition's roles.
const STATEMENTS: &[Statement] = &[
    Statement {
        policy: MANAGER,
        sid: "LaunchJobs",
        actions: &["ecs:RunTask"],
        resource: Resource::TaskDefinition,
        conditions: &[("ecs:cluster", Value::Cluster)],
    },
    Statement {
        policy: MANAGER,
        sid: "TagThemAtLaunch",
        actions: &["ecs:TagResource"],
        resource: Resource::Task,
        conditions: &[("ecs:CreateAction", Value::Text("RunTask"))],
    },
    Statement {
        policy: MANAGER,
        sid: TAGS_AT_THE_CLAIM,
        actions: &["ecs:TagResource"],
        resource: Resource::Task,
        conditions: &[
            ("aws:ResourceTag/fargate-driver:pool", Value::Text("doctor")),
            ("aws:TagKeys", Value::Text("fargate-driver:job")),
        ],
    },
    Statement {
        policy: MANAGER,
        sid: "WatchAndStopThem",
        actions: &["ecs:DescribeTasks", "ecs:StopTask"],
        resource: Resource::Task,
        conditions: &[("ecs:cluster", Value::Cluster)],
    },
    Statement {
        policy: MANAGER,
        sid: "FindThoseWhoseLaunchHadNoAnswer",
        actions: &["ecs:ListTasks"],
        resource: Resource::Any,
        conditions: &[("ecs:cluster", Value::Cluster)],
    },
    Statement {
        policy: ECS_EXEC,
        sid: "RunScripts",
        actions: &["ecs:ExecuteCommand"],
        resource: Resource::Task,
        conditions: &[("ecs:container-name", Value::Container)],
    },
    Statement {
        policy: ECS_EXEC,
        sid: "OpenTheirSessions",
        actions: &["ssmmessages:OpenDataChannel", "ssm:TerminateSession"],
        resource: Resource::Session,
        conditions: &[],
    },
    Statement {
        policy: ECS_EXEC,
        sid: "FindSessionsWithoutAnAnswer",
        actions: &["ssm:DescribeSessions"],
        resource: Resource::Any,
        conditions: &[("aws:RequestedRegion", Value::Region)],
    },
    Statement {
        policy: IMAGES,
        sid: "FindDefinitions",
        actions: &["ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitionFamilies"],
        resource: Resource::Any,
        conditions: &[("aws:RequestedRegion", Value::Region)],
    },
    Statement {
        policy: IMAGES,
        sid: "RegisterDerivedOnes",
        actions: &["ecs:RegisterTaskDefinition"],
        resource: Resource::DerivedDefinition,
        conditions: &[],
    },
    Statement {
        policy: IMAGES,
        sid: "TagThemAtRegistration",
        actions: &["ecs:TagResource"],
        resource: Resource::DerivedDefinition,
        conditions: &[("ecs:CreateAction", Value::Text("RegisterTaskDefinition"))],
    },
    Statement {
        policy: IMAGES,
        sid: "DeregisterDefinitions",
        actions: &["ecs:DeregisterTaskDefinition"],
        resource: Resource::Any,
        conditions: &[("aws:RequestedRegion", Value::Region)],
    },
    Statement {
        policy: IMAGES,
        sid: "DeleteDerivedOnes",
        actions: &["ecs:DeleteTaskDefinitions"],
        resource: Resource::DerivedDefinition,
        conditions: &[],
    },
    Statement {
        policy: IMAGES,
        sid: "ReadWhatServicesLog",
        actions: &["logs:GetLogEvents"],
        resource: Resource::ServiceLog,
        conditions: &[],
    },
];

const PASS_ROLE: &str = "iam:PassRole";
const PASSED_TO: (&str, &str) = ("iam:PassedToService", "ecs-tasks.amazonaws.com");

/// A task that no cluster has.
const NO_TASK: &str = "00000000000000000000000000000000";

/// Whether the configuration needs a statement.
fn is_needed(statement: &Statement, config: &Config) -> bool {
    match (statement.policy, statement.sid) {
        (ECS_EXEC, _) => config.transport.needs_execute_command,
        (IMAGES, _) => config.images.allowed.is_some(),
        (_, TAGS_AT_THE_CLAIM) => !config.warm.is_empty(),
        _ => true,
    }
}

/// Names in ARNs of this account and region.
struct Names {
    partition: String,
    account: String,
    principal: String,
    manager: String,
}

impl Examination<'_> {
    /// Checks the permissions.
    pub(super) async fn check_permissions(&mut self) {
        const CHECK: Check = Check::Permissions;
        let Some(names) = self.names().await else {
            return self.report.unknown(CHECK, "It is not known whose credentials these are.");
        };
        if names.manager == "root" {
            return self.report.pass(CHECK, "The root user may do everything.");
        }
        let statements: Vec<&Statement> =
            STATEMENTS.iter().filter(|s| is_needed(s, self.config)).collect();
        let mut allowed = 0;
        for statement in statements {
            let resource = self.resource(statement.resource, &names);
            let cluster = self.cluster_arn(&names);
            let conditions: Vec<(&str, &str)> = statement
                .conditions
                .iter()
                .map(|(key, value)| match value {
                    Value::Cluster => (*key, cluster.as_str()),
                    Value::Region => (*key, self.region.as_str()),
                    Value::Container => (*key, self.config.fargate.container.as_str()),
                    Value::Text(text) => (*key, *text),
                })
                .collect();
            let call =
                self.control.simulate(&names.principal, statement.actions, &resource, &conditions);
            match call.await {
                Ok(simulated) => {
                    for one in simulated {
                        if one.is_allowed {
                            allowed += 1;
                            continue;
                        }
                        let facts = [
                            names.manager.clone(),
                            one.action,
                            statement.policy.to_owned(),
                            statement.sid.to_owned(),
                        ];
                        let problem = match statement.sid {
                            TAGS_AT_THE_CLAIM => Problem::ClaimsNotTagged,
                            _ => Problem::NotPermitted,
                        };
                        self.report.found(CHECK, problem, facts);
                    }
                }
                Err(error) => {
                    self.report.refused(CHECK, &error);
                    return self.try_harmless_calls(&names).await;
                }
            }
        }
        for (which, arn) in self.roles() {
            let actions = [PASS_ROLE];
            let call = self.control.simulate(&names.principal, &actions, &arn, &[PASSED_TO]);
            match call.await {
                Ok(simulated) if simulated.iter().any(|one| !one.is_allowed) => {
                    let facts = [names.manager.clone(), which.to_owned(), name_in(&arn).to_owned()];
                    self.report.found(CHECK, Problem::RoleNotPassable, facts);
                }
                Ok(_) => allowed += 1,
                Err(error) => return self.report.refused(CHECK, &error),
            }
        }
        let key = self.session_key().filter(|_| self.config.transport.needs_execute_command);
        if let Some(key) = key {
            let actions = ["kms:GenerateDataKey"];
            self.check_role_may(CHECK, &names.principal, &actions, &key, NO_SESSION).await;
        }
        if self.config.transport.needs_address && self.config.fargate.use_public_ip {
            let (actions, why) = (["ec2:DescribeNetworkInterfaces"], "UsePublicIP needs it");
            self.check_role_may(CHECK, &names.principal, &actions, "*", why).await;
        }
        if self.report.is_clean(CHECK) {
            let says = format!("{} may make the {allowed} calls that jobs need.", names.manager);
            self.report.pass(CHECK, says);
        }
    }

    /// Asks for tasks that do not exist, where the simulator cannot be asked: ECS refuses that before
    /// it looks for them.
    async fn try_harmless_calls(&mut self, names: &Names) {
        let (Ok(task), Ok(started_by)) =
            (TaskArn::new(self.resource(Resource::Task, names)), StartedBy::new("gitlab-doctor"))
        else {
            return;
        };
        let cluster = &self.config.fargate.cluster;
        let described = self.control.describe(cluster, std::slice::from_ref(&task)).await;
        let listed = self.control.find(cluster, &started_by).await;
        for (error, action, sid) in [
            (described.err(), "ecs:DescribeTasks", "WatchAndStopThem"),
            (listed.err(), "ecs:ListTasks", "FindThoseWhoseLaunchHadNoAnswer"),
        ] {
            // Where AWS refuses everything, one statement is not the cause.
            if self.is_answered && error.is_some_and(|error| error.kind == Kind::Denied) {
                let facts = [&names.manager, action, MANAGER, sid].map(str::to_owned);
                self.report.found(Check::Permissions, Problem::NotPermitted, facts);
            }
        }
    }

    async fn names(&self) -> Option<Names> {
        let identity = self.identity.as_ref()?;
        let mut parts = identity.arn.splitn(6, ':').skip(1);
        let partition = parts.next()?.to_owned();
        let resource = parts.nth(3)?;
        let account = identity.account.clone();
        let mut path = resource.split('/');
        let (kind, name) = (path.next()?, path.next().unwrap_or(resource));
        let principal = match kind {
            // A session's ARN has no path, and IAM asks for the role's own.
            "assumed-role" => match self.control.role(name).await {
                Ok(Some(role)) => role.arn,
                _ => format!("arn:{partition}:iam::{account}:role/{name}"),
            },
            _ => identity.arn.clone(),
        };
        let manager = name_in(&principal).to_owned();
        let manager = if kind == "root" { "root".to_owned() } else { manager };
        Some(Names { partition, account, principal, manager })
    }

    fn cluster_arn(&self, names: &Names) -> String {
        let Names { partition, account, .. } = names;
        let cluster = name_in(&self.config.fargate.cluster);
        format!("arn:{partition}:ecs:{}:{account}:cluster/{cluster}", self.region)
    }

    fn resource(&self, resource: Resource, names: &Names) -> String {
        let Names { partition, account, .. } = names;
        let of = |service: &str, rest: &str| {
            format!("arn:{partition}:{service}:{}:{account}:{rest}", self.region)
        };
        let cluster = name_in(&self.config.fargate.cluster);
        match resource {
            Resource::Any => "*".to_owned(),
            Resource::TaskDefinition => {
                of("ecs", &format!("task-definition/{}", self.definition_name()))
            }
            Resource::DerivedDefinition => {
                let name = self.definition_name();
                let family = name.split(':').next().unwrap_or_default();
                of("ecs", &format!("task-definition/{family}--{NO_TASK}:1"))
            }
            Resource::Task => of("ecs", &format!("task/{cluster}/{NO_TASK}")),
            Resource::Session => of("ssm", "session/ecs-execute-command-doctor"),
            Resource::ServiceLog => {
                let group = self.container().and_then(|container| {
                    container.log_configuration()?.options()?.get("awslogs-group")
                });
                let group = group.map_or("none", String::as_str);
                of("logs", &format!("log-group:{group}:log-stream:ssh/service-0/{NO_TASK}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value as Json;

    use super::*;

    fn texts(value: &Json) -> BTreeSet<&str> {
        match value {
            Json::Array(all) => all.iter().map(|text| text.as_str().unwrap()).collect(),
            one => [one.as_str().unwrap()].into(),
        }
    }

    #[test]
    fn the_statements_are_those_of_the_policies_in_deploy() {
        for (policy, text) in [
            (MANAGER, include_str!("../../deploy/iam/manager.json")),
            (ECS_EXEC, include_str!("../../deploy/iam/manager-ecs-exec.json")),
            (IMAGES, include_str!("../../deploy/iam/manager-images.json")),
        ] {
            let document: Json = serde_json::from_str(text).unwrap();
            for statement in document["Statement"].as_array().unwrap() {
                let sid = statement["Sid"].as_str().unwrap();
                let none = serde_json::Map::new();
                let conditions = statement["Condition"].as_object().unwrap_or(&none);
                let keys: BTreeSet<&str> = conditions
                    .values()
                    .flat_map(|of_operator| of_operator.as_object().unwrap().keys())
                    .map(String::as_str)
                    .collect();
                if sid == "GiveTasksTheirRoles" {
                    assert_eq!(texts(&statement["Action"]), [PASS_ROLE].into());
                    assert_eq!(keys, [PASSED_TO.0].into());
                    continue;
                }
                let ours = STATEMENTS
                    .iter()
                    .find(|ours| ours.policy == policy && ours.sid == sid)
                    .unwrap_or_else(|| panic!("{policy}: {sid} is not checked"));
                assert_eq!(texts(&statement["Action"]), ours.actions.iter().copied().collect());
                assert_eq!(keys, ours.conditions.iter().map(|(key, _)| *key).collect(), "{sid}");
            }
        }
    }
}
