//! Images in ECR.

use serde_json::{Value, json};
use states::{ControlError, foreign_text::clipped};

use crate::control::{EcsControl, call};

const TARGET: &str = "AmazonEC2ContainerRegistry_V20150921.DescribeImages";

/// An image's name, if it is in ECR:
/// `ACCOUNT.dkr.ecr.REGION.SUFFIX/REPOSITORY[:TAG|@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EcrImage {
    /// The registry's account.
    pub(crate) account: String,
    /// Its region.
    pub(crate) region: String,
    /// The repository.
    pub(crate) repository: String,
    /// The tag (`latest` if the name has none), or the digest.
    reference: Reference,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reference {
    Tag(String),
    Digest(String),
}

/// An image in ECR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegistryImage {
    /// Its compressed size, in bytes. `None`: ECR does not know it, as of an index of several
    /// architectures.
    pub(crate) bytes: Option<u64>,
    /// Whether its repository has an index of SOCI, with which Fargate starts a container before
    /// all of its image is there.
    pub(crate) has_soci_index: bool,
}

impl EcrImage {
    /// Parses a name; `None` if the image is elsewhere.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (host, path) = name.split_once('/')?;
        let mut labels = host.split('.');
        let account = labels.next()?;
        let is_ecr = account.len() == 12
            && account.bytes().all(|b| b.is_ascii_digit())
            && labels.next() == Some("dkr")
            && labels.next().is_some_and(|label| label == "ecr" || label == "ecr-fips");
        let region = labels.next().filter(|_| is_ecr)?;
        let (repository, reference) = match path.split_once('@') {
            Some((repository, digest)) => {
                let repository = repository.split(':').next().unwrap_or(repository);
                (repository, Reference::Digest(digest.to_owned()))
            }
            None => {
                let (repository, tag) = path.split_once(':').unwrap_or((path, "latest"));
                (repository, Reference::Tag(tag.to_owned()))
            }
        };
        Some(Self {
            account: account.to_owned(),
            region: region.to_owned(),
            repository: repository.to_owned(),
            reference,
        })
    }
}

impl EcsControl {
    /// Describes an image in ECR.
    ///
    /// # Errors
    /// When it does not exist (`ImageNotFoundException`, `RepositoryNotFoundException`), or ECR
    /// refuses.
    pub(crate) async fn image(&self, image: &EcrImage) -> Result<RegistryImage, ControlError> {
        let id = match &image.reference {
            Reference::Tag(tag) => json!({ "imageTag": tag }),
            Reference::Digest(digest) => json!({ "imageDigest": digest }),
        };
        let (account, repository) = (&image.account, &image.repository);
        let clients = self.clients().await;
        let config = &clients.shared;
        let body = json!({ "registryId": account, "repositoryName": repository, "imageIds": [id] });
        let found = call::json(config, "ecr", TARGET, &body).await?;
        let bytes = found.pointer("/imageDetails/0/imageSizeInBytes").and_then(Value::as_u64);
        // An index is an image of its own beside the one that it is for. One page is enough to tell
        // whether the repository has any.
        let body = json!({ "registryId": account, "repositoryName": repository });
        let all = call::json(config, "ecr", TARGET, &body).await?;
        let details = all.get("imageDetails").and_then(Value::as_array).into_iter().flatten();
        let mut kinds = details.filter_map(|d| d.get("artifactMediaType")?.as_str().map(clipped));
        let has_soci_index = kinds.any(|kind| kind.contains("soci"));
        Ok(RegistryImage { bytes: bytes.filter(|bytes| *bytes > 0), has_soci_index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_in_ecr_are_recognized() {
        let host = "111122223333.dkr.ecr.eu-central-1.amazonaws.com";
        let image = |reference| EcrImage {
            account: "111122223333".to_owned(),
            region: "eu-central-1".to_owned(),
            repository: "team/job".to_owned(),
            reference,
        };
        let tag = |tag: &str| image(Reference::Tag(tag.to_owned()));
        assert_eq!(EcrImage::parse(&format!("{host}/team/job:1")), Some(tag("1")));
        assert_eq!(EcrImage::parse(&format!("{host}/team/job")), Some(tag("latest")));
        let digest = image(Reference::Digest("sha256:00".to_owned()));
        assert_eq!(EcrImage::parse(&format!("{host}/team/job:1@sha256:00")), Some(digest));
        for other in ["debian:12", "public.ecr.aws/x/y", "1.dkr.ecr.r.amazonaws.com/x", "a/b"] {
            assert_eq!(EcrImage::parse(other), None, "{other}");
        }
    }
}
