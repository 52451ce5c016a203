//! The task role and the execution role: whether they exist, whether tasks may have them, and what
//! ECS Exec's agent may call.

use aws_sdk_ecs::types::LogDriver;
use serde_json::Value;
use states::foreign_text::clipped;

use super::{Check, Examination, Problem, name_in};
use crate::control::EcrImage;

/// What the exec agent calls. A test compares it with `deploy/iam/task-ecs-exec.json`.
const AGENT_ACTIONS: [&str; 4] = [
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
];
/// What ECS calls for images in ECR, and for logs (Amazon ECS developer guide, "Amazon ECS task
/// execution IAM role").
const PULL: [&str; 2] = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"];
const LOG: [&str; 2] = ["logs:CreateLogStream", "logs:PutLogEvents"];
const NO_PULL: &str = "tasks cannot pull their image";
const NO_START: &str = "tasks stop with ResourceInitializationError";
/// What does not work without the KMS key of sessions.
pub(super) const NO_SESSION: &str = "the cluster encrypts ECS Exec's sessions with this key";
/// The service that takes tasks' roles.
const TASKS: &str = "ecs-tasks.amazonaws.com";

impl Examination<'_> {
    /// The task definition's roles: which, and its ARN.
    pub(super) fn roles(&self) -> Vec<(&'static str, String)> {
        let Some(definition) = &self.definition else { return Vec::new() };
        [("task", definition.task_role_arn()), ("execution", definition.execution_role_arn())]
            .into_iter()
            .filter_map(|(which, arn)| Some((which, arn?.to_owned())))
            .filter(|(_, arn)| !arn.is_empty())
            .collect()
    }

    /// Checks both roles.
    pub(super) async fn check_roles(&mut self) {
        const CHECK: Check = Check::Roles;
        if self.definition.is_none() {
            return;
        }
        let roles = self.roles();
        for (which, arn) in &roles {
            let facts = || [(*which).to_owned(), arn.clone()];
            match self.control.role(name_in(arn)).await {
                Ok(None) => self.report.found(CHECK, Problem::NoRole, facts()),
                Ok(Some(role)) if !trusts_tasks(&role.trust) => {
                    self.report.found(CHECK, Problem::RoleNotForTasks, facts());
                }
                Ok(Some(_)) if *which == "execution" => self.check_execution_role(arn).await,
                Ok(Some(_)) => self.check_agent(arn).await,
                Err(error) => self.report.refused(CHECK, &error),
            }
        }
        if self.report.is_clean(CHECK) {
            let names: Vec<_> = roles.iter().map(|(_, arn)| name_in(arn)).collect();
            let says = match names.as_slice() {
                [] => "The task definition has none.".to_owned(),
                names => format!("Tasks may have {}.", names.join(" and ")),
            };
            self.report.pass(CHECK, says);
        }
    }

    /// Checks that a role, the execution role or another one, may do something with a resource.
    /// Returns whether IAM has answered.
    pub(super) async fn check_role_may(
        &mut self,
        check: Check,
        role: &str,
        actions: &[&str],
        resource: &str,
        else_what: &str,
    ) -> bool {
        match self.control.simulate(role, actions, resource, &[]).await {
            Ok(simulated) => {
                for refused in simulated.into_iter().filter(|simulated| !simulated.is_allowed) {
                    let facts = [
                        name_in(role).to_owned(),
                        refused.action,
                        clipped(resource),
                        else_what.to_owned(),
                    ];
                    self.report.found(check, Problem::RoleLacks, facts);
                }
                true
            }
            Err(error) => {
                self.report.refused(check, &error);
                false
            }
        }
    }

    /// Checks what ECS does with the execution role before the containers start.
    async fn check_execution_role(&mut self, arn: &str) {
        let Some(definition) = &self.definition else { return };
        let mut needs: Vec<(&[&str], String, &str)> = Vec::new();
        let partition = arn.split(':').nth(1).unwrap_or("aws").to_owned();
        for container in definition.container_definitions() {
            if let Some(image) = container.image().and_then(EcrImage::parse) {
                let EcrImage { region, account, repository, .. } = &image;
                let repository =
                    format!("arn:{partition}:ecr:{region}:{account}:repository/{repository}");
                needs.push((&["ecr:GetAuthorizationToken"], "*".to_owned(), NO_PULL));
                needs.push((&PULL, repository, NO_PULL));
            }
            let logs = container.log_configuration();
            let logs = logs.filter(|logs| *logs.log_driver() == LogDriver::Awslogs);
            if let Some(group) = logs.and_then(|logs| logs.options()?.get("awslogs-group")) {
                let account = arn.split(':').nth(4).unwrap_or_default();
                let group =
                    format!("arn:{partition}:logs:{}:{account}:log-group:{group}:*", self.region);
                needs.push((&LOG, group, NO_START));
            }
            let credentials =
                container.repository_credentials().map(|own| own.credentials_parameter());
            let secrets = container.secrets().iter().map(|secret| secret.value_from());
            for secret in secrets.chain(credentials) {
                // A name without ARN is a parameter's; a field of a secret may follow its ARN.
                if secret.contains(":secretsmanager:") {
                    let secret = secret.split(':').take(7).collect::<Vec<_>>().join(":");
                    needs.push((&["secretsmanager:GetSecretValue"], secret, NO_START));
                } else if secret.starts_with("arn:") {
                    needs.push((&["ssm:GetParameters"], secret.to_owned(), NO_START));
                }
            }
        }
        needs.dedup();
        for (actions, resource, else_what) in needs {
            if !self.check_role_may(Check::Roles, arn, actions, &resource, else_what).await {
                return;
            }
        }
    }

    async fn check_agent(&mut self, arn: &str) {
        if !self.config.transport.needs_execute_command {
            return;
        }
        if let Some(key) = self.session_key() {
            self.check_role_may(Check::EcsExec, arn, &["kms:Decrypt"], &key, NO_SESSION).await;
        }
        let region = [("aws:RequestedRegion", self.region.as_str())];
        match self.control.simulate(arn, &AGENT_ACTIONS, "*", &region).await {
            Ok(simulated) => {
                for refused in simulated.into_iter().filter(|simulated| !simulated.is_allowed) {
                    let facts = [name_in(arn).to_owned(), refused.action];
                    self.report.found(Check::EcsExec, Problem::NoExecAgentPermission, facts);
                }
            }
            Err(error) => self.report.refused(Check::EcsExec, &error),
        }
    }
}

/// Whether a trust policy admits tasks. A policy that is not understood counts as one that does.
fn trusts_tasks(policy: &str) -> bool {
    let Ok(policy) = serde_json::from_str::<Value>(policy) else { return true };
    let statements = match policy.get("Statement") {
        Some(Value::Array(statements)) => statements.iter().collect(),
        Some(statement) => vec![statement],
        None => return true,
    };
    statements.into_iter().any(|statement| {
        let service = statement.pointer("/Principal/Service");
        let is_tasks = match service {
            Some(Value::String(service)) => service == TASKS,
            Some(Value::Array(services)) => services.iter().any(|service| service == TASKS),
            _ => false,
        };
        is_tasks && statement.get("Effect").and_then(Value::as_str) == Some("Allow")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trust_policy_in_deploy_admits_tasks_and_others_do_not() {
        let policy = include_str!("../../deploy/iam/task-trust.json");
        assert!(trusts_tasks(policy));
        assert!(!trusts_tasks(&policy.replace("ecs-tasks", "ec2")));
        assert!(!trusts_tasks(&policy.replace("Allow", "Deny")));
        let several = policy.replace(
            "\"ecs-tasks.amazonaws.com\"",
            "[\"ec2.amazonaws.com\", \"ecs-tasks.amazonaws.com\"]",
        );
        assert!(trusts_tasks(&several));
        assert!(trusts_tasks("what is this"));
    }

    #[test]
    fn the_agent_s_actions_are_those_of_the_policy_in_deploy() {
        let policy = include_str!("../../deploy/iam/task-ecs-exec.json");
        let policy: Value = serde_json::from_str(policy).unwrap();
        let actions = policy["Statement"][0]["Action"].as_array().unwrap();
        assert_eq!(actions.iter().map(|a| a.as_str().unwrap()).collect::<Vec<_>>(), AGENT_ACTIONS);
    }
}
