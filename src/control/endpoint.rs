//! Endpoints of services without an SDK here: EC2, Systems Manager and KMS, in any partition, with
//! FIPS and dual-stack.
//!
//! The SDK's rules return ECS's endpoint, and the host's first label is replaced: the hosts differ
//! in nothing else. The exception is AWS GovCloud (US): EC2's and Systems Manager's ordinary
//! endpoints there are those with FIPS. Source: botocore, `endpoint-rule-set-1.json` of each
//! service, compared for all partitions.

use aws_config::SdkConfig;
use aws_sdk_ecs::config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _};
use aws_types::service_config::ServiceConfigKey;
use states::ControlError;

use super::errors;

/// Returns a service's endpoint: that of the environment or the profile
/// (`AWS_ENDPOINT_URL_<SERVICE>`, `AWS_ENDPOINT_URL`), else AWS's own. It ends with a slash.
///
/// # Errors
/// When the region's partition has no endpoint of the requested kind.
pub(super) async fn of(
    config: &SdkConfig,
    operation: &str,
    service: &str,
    region: &str,
) -> Result<String, ControlError> {
    let url = match configured(config, service) {
        Some(url) => url,
        None => by_rule(config, service, region)
            .await
            .map_err(|why| errors::no_endpoint(operation, service, region, &why))?,
    };
    Ok(format!("{}/", url.trim_end_matches('/')))
}

/// Returns the endpoint of the environment or the profile, in the order of the SDK's own clients.
fn configured(config: &SdkConfig, service: &str) -> Option<String> {
    let general = || config.endpoint_url().map(str::to_owned);
    if config.get_origin("endpoint_url").is_client_config() {
        return general();
    }
    let id = service.to_uppercase();
    let key = ServiceConfigKey::builder()
        .service_id(&id)
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    let own = config.service_config().and_then(|settings| settings.load_config(key));
    own.filter(|url| !url.is_empty()).or_else(general)
}

async fn by_rule(config: &SdkConfig, service: &str, region: &str) -> Result<String, String> {
    let has_fips = config.use_fips().unwrap_or_default();
    let has_dual_stack = config.use_dual_stack().unwrap_or_default();
    let ordinary_has_fips =
        region.starts_with("us-gov-") && matches!(service, "ec2" | "ssm") && !has_dual_stack;
    let wanted = Params::builder()
        .region(region)
        .use_fips(has_fips && !ordinary_has_fips)
        .use_dual_stack(has_dual_stack);
    let wanted = wanted.build().map_err(|e| e.to_string())?;
    let endpoint =
        DefaultResolver::new().resolve_endpoint(&wanted).await.map_err(|e| e.to_string())?;
    Ok(endpoint.url().replacen("://ecs", &format!("://{service}"), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn endpoint(
        service: &str,
        region: &'static str,
        fips: bool,
        dual_stack: bool,
    ) -> Result<String, ControlError> {
        let config = SdkConfig::builder().use_fips(fips).use_dual_stack(dual_stack).build();
        of(&config, "Test", service, region).await
    }

    /// The addresses are those that botocore 1.43 makes.
    #[tokio::test]
    async fn endpoints_follow_partition_fips_and_dual_stack() {
        for (service, region, fips, dual_stack, expected) in [
            ("ec2", "eu-central-1", false, false, "https://ec2.eu-central-1.amazonaws.com/"),
            ("ssm", "eu-central-1", false, true, "https://ssm.eu-central-1.api.aws/"),
            ("kms", "eu-central-1", true, false, "https://kms-fips.eu-central-1.amazonaws.com/"),
            ("ssm", "us-east-1", true, true, "https://ssm-fips.us-east-1.api.aws/"),
            ("ec2", "cn-north-1", false, false, "https://ec2.cn-north-1.amazonaws.com.cn/"),
            (
                "kms",
                "cn-north-1",
                false,
                true,
                "https://kms.cn-north-1.api.amazonwebservices.com.cn/",
            ),
            ("ec2", "us-gov-west-1", true, false, "https://ec2.us-gov-west-1.amazonaws.com/"),
            ("ssm", "us-gov-west-1", true, false, "https://ssm.us-gov-west-1.amazonaws.com/"),
            ("ec2", "us-gov-west-1", true, true, "https://ec2-fips.us-gov-west-1.api.aws/"),
            ("kms", "us-gov-west-1", true, false, "https://kms-fips.us-gov-west-1.amazonaws.com/"),
            ("ec2", "us-iso-east-1", false, false, "https://ec2.us-iso-east-1.c2s.ic.gov/"),
            ("ssm", "eusc-de-east-1", false, false, "https://ssm.eusc-de-east-1.amazonaws.eu/"),
            ("kms", "xx-new-1", false, false, "https://kms.xx-new-1.amazonaws.com/"),
        ] {
            let made = endpoint(service, region, fips, dual_stack).await;
            assert_eq!(made.as_deref(), Ok(expected), "{service} {region} {fips} {dual_stack}");
        }
    }

    #[tokio::test]
    async fn a_configured_endpoint_wins() {
        let config =
            SdkConfig::builder().endpoint_url("http://127.0.0.1:4566/").use_fips(true).build();
        assert_eq!(
            of(&config, "Test", "ec2", "eu-central-1").await.unwrap(),
            "http://127.0.0.1:4566/"
        );
    }
}
