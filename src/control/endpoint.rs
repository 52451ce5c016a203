//! Endpoints of services without an SDK here, such as EC2 and KMS, in any partition, with FIPS and
//! dual-stack.
//!
//! The SDK's rules return ECS's endpoint, and the host's first label is replaced: the hosts differ
//! in nothing else, with three exceptions. In AWS GovCloud (US), most ordinary endpoints are those
//! with FIPS. ECR's hosts with IPv4 alone begin with `api.`. IAM has one endpoint for a whole
//! partition. Source: botocore, `endpoint-rule-set-1.json` of each service, compared for all
//! partitions.

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
    let id = match service {
        "logs" => "CLOUDWATCH_LOGS".to_owned(),
        "servicequotas" => "SERVICE_QUOTAS".to_owned(),
        _ => service.to_uppercase(),
    };
    let key = ServiceConfigKey::builder()
        .service_id(&id)
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    let own = config.service_config().and_then(|settings| settings.load_config(key));
    own.filter(|url| !url.is_empty()).or_else(general)
}

/// Returns the region that a service's requests are signed for: IAM is in one region of each
/// partition.
pub(super) fn signing_region<'a>(service: &str, region: &'a str) -> &'a str {
    if service != "iam" {
        return region;
    }
    let homes = [
        ("cn-", "cn-north-1"),
        ("us-gov-", "us-gov-west-1"),
        ("us-iso-", "us-iso-east-1"),
        ("us-isob-", "us-isob-east-1"),
        ("us-isof-", "us-isof-south-1"),
        ("eu-isoe-", "eu-isoe-west-1"),
        ("eusc-", "eusc-de-east-1"),
    ];
    homes.into_iter().find(|(prefix, _)| region.starts_with(prefix)).map_or("us-east-1", |h| h.1)
}

async fn by_rule(config: &SdkConfig, service: &str, region: &str) -> Result<String, String> {
    let has_fips = config.use_fips().unwrap_or_default();
    let has_dual_stack = config.use_dual_stack().unwrap_or_default();
    if service == "iam" {
        match signing_region(service, region) {
            "us-east-1" if has_fips => return Ok("https://iam-fips.amazonaws.com".to_owned()),
            "us-east-1" => return Ok("https://iam.amazonaws.com".to_owned()),
            "us-gov-west-1" => return Ok("https://iam.us-gov.amazonaws.com".to_owned()),
            _ => {}
        }
    }
    // IAM's other endpoints are those without dual-stack and FIPS.
    let (has_fips, has_dual_stack) =
        if service == "iam" { (false, false) } else { (has_fips, has_dual_stack) };
    let region = signing_region(service, region);
    let ordinary_has_fips = region.starts_with("us-gov-")
        && matches!(service, "ec2" | "ssm" | "sts" | "logs" | "servicequotas")
        && !has_dual_stack;
    let wanted = Params::builder()
        .region(region)
        .use_fips(has_fips && !ordinary_has_fips)
        .use_dual_stack(has_dual_stack);
    let wanted = wanted.build().map_err(|e| e.to_string())?;
    let endpoint =
        DefaultResolver::new().resolve_endpoint(&wanted).await.map_err(|e| e.to_string())?;
    let label = if service == "ecr" && !has_dual_stack { "api.ecr" } else { service };
    Ok(endpoint.url().replacen("://ecs", &format!("://{label}"), 1))
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
            ("sts", "eu-central-1", true, false, "https://sts-fips.eu-central-1.amazonaws.com/"),
            ("sts", "us-gov-west-1", true, false, "https://sts.us-gov-west-1.amazonaws.com/"),
            ("logs", "us-gov-west-1", true, false, "https://logs.us-gov-west-1.amazonaws.com/"),
            (
                "servicequotas",
                "us-gov-west-1",
                true,
                true,
                "https://servicequotas-fips.us-gov-west-1.api.aws/",
            ),
            ("ecr", "eu-central-1", false, false, "https://api.ecr.eu-central-1.amazonaws.com/"),
            ("ecr", "us-east-1", true, false, "https://api.ecr-fips.us-east-1.amazonaws.com/"),
            ("ecr", "eu-central-1", true, true, "https://ecr-fips.eu-central-1.api.aws/"),
            ("iam", "eu-central-1", false, false, "https://iam.amazonaws.com/"),
            ("iam", "us-east-1", true, false, "https://iam-fips.amazonaws.com/"),
            ("iam", "us-gov-east-1", true, false, "https://iam.us-gov.amazonaws.com/"),
            ("iam", "cn-northwest-1", false, false, "https://iam.cn-north-1.amazonaws.com.cn/"),
            ("iam", "us-isob-east-1", false, false, "https://iam.us-isob-east-1.sc2s.sgov.gov/"),
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
