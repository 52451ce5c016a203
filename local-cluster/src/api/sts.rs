//! STS's GetCallerIdentity: the cluster has one user, that of its access key.

use super::{ApiError, ec2};
use crate::cluster::Cluster;

/// Performs the only action.
pub(crate) fn perform(cluster: &Cluster, action: &str) -> Result<String, ApiError> {
    if action != "GetCallerIdentity" {
        return Err(ec2::invalid_action(action));
    }
    let account = &cluster.settings.account;
    Ok(format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>arn:aws:iam::{account}:user/local</Arn><UserId>local</UserId><Account>{account}</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
    ))
}
