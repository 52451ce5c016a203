//! Read-only calls about the account, for `fargate doctor` and `fargate init`. None of them changes
//! anything, and none is made by a job's stages.

mod iam;
mod network;
mod registry;

pub(crate) use network::{Endpoint, Exit, Permission, RouteTable, SecurityGroup, Subnet};
pub(crate) use registry::EcrImage;

use std::time::SystemTime;

use aws_credential_types::provider::ProvideCredentials as _;
use aws_sdk_ecs::types::{Cluster, ClusterField, TaskDefinition};
use aws_smithy_types::date_time::{DateTime, Format};
use serde_json::{Value, json};
use states::{ControlError, foreign_text::clipped};

use super::{
    EcsControl,
    call::{self, find_text},
    errors,
};

/// STS, and the version of its API.
const STS: (&str, &str) = ("sts", "2011-06-15");

/// The credentials in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The account's number.
    pub(crate) account: String,
    /// The principal, by its ARN.
    pub(crate) arn: String,
}

/// When the credentials expire, and where they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    /// When they expire. `None`: never, or it is not known.
    pub(crate) expiry: Option<SystemTime>,
    /// Whether they are a session's, from the environment: no provider renews these.
    pub(crate) is_fixed_session: bool,
}

/// What STS has answered, and the service's clock.
#[derive(Debug)]
pub(crate) struct Whoami {
    /// Whose credentials they are.
    pub(crate) identity: Result<Identity, ControlError>,
    /// By how many seconds this machine's clock is ahead of the service's. `None`: the answer has no
    /// date.
    pub(crate) ahead: Option<i64>,
}

impl EcsControl {
    /// Returns the region in use.
    pub(crate) async fn region(&self) -> Option<String> {
        self.clients().await.shared.region().map(ToString::to_string)
    }

    /// Returns how long the credentials last.
    ///
    /// # Errors
    /// When there are none.
    pub(crate) async fn validity(&self) -> Result<Validity, ControlError> {
        const OPERATION: &str = "GetCallerIdentity";
        let provider = self.clients().await.shared.credentials_provider();
        let provider = provider.ok_or_else(|| errors::nowhere(OPERATION))?;
        let credentials = provider.provide_credentials().await;
        let credentials = credentials.map_err(|e| errors::no_credentials(OPERATION, &e))?;
        let variable = std::env::var("AWS_SESSION_TOKEN").ok();
        let is_fixed_session =
            credentials.session_token().is_some_and(|token| variable.as_deref() == Some(token));
        Ok(Validity { expiry: credentials.expiry(), is_fixed_session })
    }

    /// Asks STS whose credentials these are. It needs no permission.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn whoami(&self) -> Result<Whoami, ControlError> {
        const OPERATION: &str = "GetCallerIdentity";
        let asked = SystemTime::now();
        let answer = call::query(&self.clients().await.shared, STS, OPERATION, &[]).await?;
        let date = answer.date.as_deref();
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        let ahead = date.map(|date| DateTime::from(asked).secs() - date.secs());
        Ok(Whoami { identity: identity(answer.status, answer.text(OPERATION)?), ahead })
    }

    /// Describes a cluster, with its settings. `None`: it does not exist.
    ///
    /// # Errors
    /// When ECS refuses.
    pub(crate) async fn cluster(&self, name: &str) -> Result<Option<Cluster>, ControlError> {
        let call = self.clients().await.ecs.describe_clusters().clusters(name);
        let answer = call.include(ClusterField::Configurations).send().await;
        let subject = errors::Subject::cluster(name);
        let answer = answer.map_err(|e| errors::refused("DescribeClusters", &e, &subject))?;
        Ok(answer.clusters.unwrap_or_default().into_iter().next())
    }

    /// Describes a task definition.
    ///
    /// # Errors
    /// When it does not exist, or ECS refuses.
    pub(crate) async fn task_definition(&self, name: &str) -> Result<TaskDefinition, ControlError> {
        self.describe_definition(name).await
    }

    /// Lists the names of the account's clusters.
    ///
    /// # Errors
    /// When ECS refuses.
    pub(crate) async fn cluster_names(&self) -> Result<Vec<String>, ControlError> {
        let mut arns = Vec::new();
        let call = self.clients().await.ecs.list_clusters();
        let mut pages = call.into_paginator().items().send();
        while let Some(arn) = pages.next().await {
            let subject = errors::Subject::cluster("");
            arns.push(arn.map_err(|e| errors::refused("ListClusters", &e, &subject))?);
        }
        Ok(arns.iter().map(|arn| clipped(arn.rsplit('/').next().unwrap_or(arn))).collect())
    }

    /// Lists the families of active task definitions that are not derived.
    ///
    /// # Errors
    /// When ECS refuses.
    pub(crate) async fn definition_families(&self) -> Result<Vec<String>, ControlError> {
        use aws_sdk_ecs::types::TaskDefinitionFamilyStatus as Status;
        let mut families = Vec::new();
        let call = self.clients().await.ecs.list_task_definition_families();
        let mut pages = call.status(Status::Active).into_paginator().items().send();
        while let Some(family) = pages.next().await {
            let subject = errors::Subject::definition("");
            let family =
                family.map_err(|e| errors::refused("ListTaskDefinitionFamilies", &e, &subject))?;
            families.push(clipped(&family));
        }
        families.retain(|family| !family.contains("--"));
        Ok(families)
    }

    /// Returns a quota's value (Service Quotas API reference, GetServiceQuota).
    ///
    /// # Errors
    /// When the service refuses.
    pub(crate) async fn quota(&self, service: &str, code: &str) -> Result<f64, ControlError> {
        const TARGET: &str = "ServiceQuotasV20190624.GetServiceQuota";
        let body = json!({ "ServiceCode": service, "QuotaCode": code });
        let clients = self.clients().await;
        let config = &clients.shared;
        let answer = call::json(config, "servicequotas", TARGET, &body).await?;
        answer
            .pointer("/Quota/Value")
            .and_then(Value::as_f64)
            .ok_or_else(|| errors::nonsense("GetServiceQuota", "it has no value"))
    }

    /// Whether CloudWatch Logs has a log group of this name.
    ///
    /// # Errors
    /// When the service refuses.
    pub(crate) async fn has_log_group(&self, name: &str) -> Result<bool, ControlError> {
        let body = json!({ "logGroupNamePrefix": name });
        let clients = self.clients().await;
        let config = &clients.shared;
        let answer = call::json(config, "logs", "Logs_20140328.DescribeLogGroups", &body).await?;
        // In order of their names, so that of exactly this prefix is first.
        let groups = answer.get("logGroups").and_then(Value::as_array);
        let mut groups = groups.into_iter().flatten();
        Ok(groups.any(|group| group.get("logGroupName").and_then(Value::as_str) == Some(name)))
    }
}

fn identity(status: u16, text: &str) -> Result<Identity, ControlError> {
    const OPERATION: &str = "GetCallerIdentity";
    let document = call::read_xml(OPERATION, status, text)?;
    let find = |name| {
        find_text(document.root(), name)
            .map(clipped)
            .ok_or_else(|| errors::nonsense(OPERATION, &format!("it has no {name}")))
    };
    Ok(Identity { account: find("Account")?, arn: find("Arn")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whose_credentials_they_are() {
        let answer = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>arn:aws:sts::111122223333:assumed-role/ci-manager/i-0a</Arn><UserId>X:i-0a</UserId><Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";
        let expected = Identity {
            account: "111122223333".to_owned(),
            arn: "arn:aws:sts::111122223333:assumed-role/ci-manager/i-0a".to_owned(),
        };
        assert_eq!(identity(200, answer).unwrap(), expected);
        assert!(identity(200, &answer.replace("Account>", "Other>")).is_err());
    }
}
