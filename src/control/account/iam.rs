//! Roles, and what principals may do, as IAM describes them.

use percent_encoding::percent_decode_str;
use states::{ControlError, foreign_text::clipped};

use crate::control::{
    EcsControl,
    call::{self, find_text},
    errors,
};

/// IAM, and the version of its API.
const IAM: (&str, &str) = ("iam", "2010-05-08");

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Role {
    /// Its ARN, with its path.
    pub(crate) arn: String,
    /// Its trust policy, as JSON.
    pub(crate) trust: String,
}

/// Whether a principal may perform an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Simulated {
    /// The action.
    pub(crate) action: String,
    /// Whether its policies allow it.
    pub(crate) is_allowed: bool,
}

impl EcsControl {
    /// Describes a role by its name. `None`: it does not exist.
    ///
    /// # Errors
    /// When IAM refuses.
    pub(crate) async fn role(&self, name: &str) -> Result<Option<Role>, ControlError> {
        const OPERATION: &str = "GetRole";
        let parameters = [("RoleName".to_owned(), name.to_owned())];
        let answer = call::query(&self.clients().await.shared, IAM, OPERATION, &parameters).await?;
        let document = match call::read_xml(OPERATION, answer.status, answer.text(OPERATION)?) {
            Ok(document) => document,
            Err(error) if error.code.as_deref() == Some("NoSuchEntity") => return Ok(None),
            Err(error) => return Err(error),
        };
        let find = |name| find_text(document.root(), name);
        let arn = find("Arn").ok_or_else(|| errors::nonsense(OPERATION, "it has no ARN"))?;
        let trust = find("AssumeRolePolicyDocument").unwrap_or_default();
        let trust = percent_decode_str(trust).decode_utf8_lossy().into_owned();
        Ok(Some(Role { arn: clipped(arn), trust }))
    }

    /// Asks IAM which of the actions a principal's policies allow on a resource. Resource policies
    /// are not considered.
    ///
    /// # Errors
    /// When IAM refuses.
    pub(crate) async fn simulate(
        &self,
        principal: &str,
        actions: &[&str],
        resource: &str,
        context: &[(&str, &str)],
    ) -> Result<Vec<Simulated>, ControlError> {
        const OPERATION: &str = "SimulatePrincipalPolicy";
        let mut parameters = vec![
            ("PolicySourceArn".to_owned(), principal.to_owned()),
            ("ResourceArns.member.1".to_owned(), resource.to_owned()),
        ];
        for (action, n) in actions.iter().zip(1..) {
            parameters.push((format!("ActionNames.member.{n}"), (*action).to_owned()));
        }
        for ((key, value), n) in context.iter().zip(1..) {
            let entry = format!("ContextEntries.member.{n}");
            parameters.push((format!("{entry}.ContextKeyName"), (*key).to_owned()));
            parameters.push((format!("{entry}.ContextKeyType"), "string".to_owned()));
            let values = format!("{entry}.ContextKeyValues.member.1");
            parameters.push((values, (*value).to_owned()));
        }
        let answer = call::query(&self.clients().await.shared, IAM, OPERATION, &parameters).await?;
        read_simulated(answer.status, answer.text(OPERATION)?)
    }
}

fn read_simulated(status: u16, text: &str) -> Result<Vec<Simulated>, ControlError> {
    let document = call::read_xml("SimulatePrincipalPolicy", status, text)?;
    // Results for each resource are nested in these, and have no action's name.
    let results = document.descendants().filter_map(|node| {
        let child = |name| node.children().find(|child| child.tag_name().name() == name)?.text();
        let (action, decision) = (child("EvalActionName")?, child("EvalDecision")?);
        Some(Simulated { action: clipped(action), is_allowed: decision == "allowed" })
    });
    Ok(results.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_read_by_action() {
        let text = "<SimulatePrincipalPolicyResponse><SimulatePrincipalPolicyResult><EvaluationResults>
            <member><EvalActionName>ecs:RunTask</EvalActionName><EvalDecision>allowed</EvalDecision><ResourceSpecificResults><member><EvalResourceDecision>allowed</EvalResourceDecision></member></ResourceSpecificResults></member>
            <member><EvalActionName>ecs:StopTask</EvalActionName><EvalDecision>implicitDeny</EvalDecision></member>
            </EvaluationResults></SimulatePrincipalPolicyResult></SimulatePrincipalPolicyResponse>";
        let read = read_simulated(200, text).unwrap();
        let decided: Vec<_> = read.iter().map(|s| (s.action.as_str(), s.is_allowed)).collect();
        assert_eq!(decided, [("ecs:RunTask", true), ("ecs:StopTask", false)]);
    }
}
