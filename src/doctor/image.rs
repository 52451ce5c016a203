//! The images of the task definition's containers: whether ECR has them, and how large they are.

use states::foreign_text::clipped;

use super::{Check, Examination, Problem};
use crate::control::EcrImage;

/// From this compressed size on, in MB, an image without a SOCI index is worth a warning. Fargate
/// pulls and unpacks a gigabyte in about a minute.
const LARGE: u64 = 1000;

impl Examination<'_> {
    /// Checks the images.
    pub(super) async fn check_images(&mut self) {
        const CHECK: Check = Check::Image;
        let Some(definition) = &self.definition else { return };
        let containers: Vec<(String, String, bool)> = definition
            .container_definitions()
            .iter()
            .map(|container| {
                let text = |text: Option<&str>| clipped(text.unwrap_or_default());
                let has_credentials = container.repository_credentials().is_some();
                (text(container.name()), text(container.image()), has_credentials)
            })
            .collect();
        let mut sizes = Vec::new();
        for (container, image, has_credentials) in &containers {
            match EcrImage::parse(image) {
                Some(of_ecr) => {
                    let size = self.check_ecr_image(container, image, &of_ecr).await;
                    sizes.extend(size);
                }
                None if is_of_docker_hub(image) && !has_credentials => {
                    self.report.found(CHECK, Problem::DockerHub, [image.clone()]);
                }
                None => sizes.push(format!("{image} is not in ECR")),
            }
        }
        if self.report.is_clean(CHECK) {
            self.report.pass(CHECK, format!("{}.", sizes.join("; ")));
        }
    }

    async fn check_ecr_image(
        &mut self,
        container: &str,
        image: &str,
        of_ecr: &EcrImage,
    ) -> Option<String> {
        const CHECK: Check = Check::Image;
        if of_ecr.region != self.region {
            let facts = [image.to_owned(), of_ecr.region.clone(), self.region.clone()];
            self.report.found(CHECK, Problem::OtherRegion, facts);
            return None;
        }
        let found = match self.control.image(of_ecr).await {
            Ok(found) => found,
            Err(error) => {
                let facts = [image.to_owned(), container.to_owned()];
                match error.code.as_deref() {
                    Some("RepositoryNotFoundException") => {
                        self.report.found(CHECK, Problem::NoRepository, facts);
                    }
                    Some("ImageNotFoundException") => {
                        self.report.found(CHECK, Problem::NoImage, facts);
                    }
                    _ => self.report.refused(CHECK, &error),
                }
                return None;
            }
        };
        let index = if found.has_soci_index { ", and its repository has SOCI indexes" } else { "" };
        let Some(bytes) = found.bytes else {
            return Some(format!("{image} is there{index}"));
        };
        let megabytes = bytes / 1_000_000;
        if megabytes >= LARGE && !found.has_soci_index {
            let facts = [image.to_owned(), megabytes.to_string()];
            self.report.found(CHECK, Problem::LargeImage, facts);
        }
        Some(format!("{image} has {megabytes} MB{index}"))
    }
}

/// Whether an image's name has no registry, so that it is Docker Hub's.
fn is_of_docker_hub(image: &str) -> bool {
    match image.split_once('/') {
        None => true,
        Some(("docker.io", _)) => true,
        Some((first, _)) => !first.contains(['.', ':']) && first != "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_without_a_registry_are_docker_hub_s() {
        for (image, is_hub) in [
            ("debian:12", true),
            ("library/debian", true),
            ("docker.io/library/debian", true),
            ("registry.gitlab.com/a/b", false),
            ("localhost/x", false),
            ("host:5000/x", false),
        ] {
            assert_eq!(is_of_docker_hub(image), is_hub, "{image}");
        }
    }
}
