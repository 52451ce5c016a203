//! Names of images: their parts, what they are called as services, and who may use them.

use wildmatch::WildMatch;

/// The longest name that is accepted, in bytes. Docker's limit is 255 for the part before the tag.
const LONGEST_NAME: usize = 512;

/// An image's name, which is well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageName<'a> {
    whole: &'a str,
    /// The name without tag and digest.
    repository: &'a str,
}

impl<'a> ImageName<'a> {
    /// Takes a name as Docker writes it: `[registry[:port]/]path[:tag][@digest]`. `None` if it has
    /// other characters, or none.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let is_admitted = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        let without_digest = name.split_once('@').map_or(name, |(before, _)| before);
        let last = without_digest.rfind('/').map_or(0, |at| at + 1);
        let tag = without_digest[last..].find(':').map(|at| last + at);
        let repository = &without_digest[..tag.unwrap_or(without_digest.len())];
        let is_part = |(at, part): (usize, &str)| {
            let (host, port) = part.split_once(':').unwrap_or((part, "0"));
            // A colon is before a registry's port, or before the tag.
            host.starts_with(|c: char| c.is_ascii_alphanumeric())
                && (at == 0 || host == part)
                && port.bytes().all(|b| b.is_ascii_digit())
        };
        let is_path = repository.split('/').enumerate().all(is_part);
        let is_name = name.len() <= LONGEST_NAME && name.chars().all(is_admitted) && is_path;
        is_name.then_some(Self { whole: name, repository })
    }

    /// The registry that the name has, with its port.
    fn registry(&self) -> Option<&'a str> {
        let (first, _) = self.repository.split_once('/')?;
        (first.contains(['.', ':']) || first == "localhost").then_some(first)
    }

    /// Whether a pattern of the administrator admits the image. Without a tag, the name means
    /// `latest`. `*` also stands for `/`, but not for the one after a registry: `node:*` does not
    /// admit `node:5000/other`. Only `*` alone admits every image.
    pub(crate) fn matches(&self, pattern: &str) -> bool {
        let rest = match (self.registry(), pattern.split_once('/')) {
            _ if pattern == "*" => return true,
            (None, _) => self.whole,
            (Some(registry), Some((of_registry, _)))
                if WildMatch::new(of_registry).matches(registry) =>
            {
                &self.whole[registry.len() + 1..]
            }
            (Some(_), _) => return false,
        };
        let pattern = match (self.registry(), pattern.split_once('/')) {
            (Some(_), Some((_, of_path))) => of_path,
            _ => pattern,
        };
        let pattern = WildMatch::new(pattern);
        let has_tag = self.repository != self.whole;
        pattern.matches(rest) || (!has_tag && pattern.matches(&format!("{rest}:latest")))
    }

    /// The name under which ECS is to pull it: from the mirror if the name has no registry.
    pub(crate) fn pulled_from(&self, mirror: Option<&str>) -> String {
        match (mirror, self.registry()) {
            (None, _) => self.whole.to_owned(),
            (Some(mirror), None) => {
                // Docker Hub keeps its own images there, and caches ask it by the full path.
                let library = if self.repository.contains('/') { "" } else { "library/" };
                format!("{}/{library}{}", mirror.trim_end_matches('/'), self.whole)
            }
            (Some(mirror), Some("docker.io")) => {
                let hub = Self::parse(&self.whole["docker.io/".len()..]);
                hub.map_or_else(|| self.whole.to_owned(), |name| name.pulled_from(Some(mirror)))
            }
            (Some(_), Some(_)) => self.whole.to_owned(),
        }
    }

    /// The secret with the credentials for its registry.
    pub(crate) fn credentials(&self, by_registry: &[(String, String)]) -> Option<String> {
        let own = self.registry().unwrap_or("docker.io");
        by_registry.iter().find(|(registry, _)| registry == own).map(|(_, secret)| secret.clone())
    }

    /// The host names that GitLab gives to a service with this image: `a/b:1` is `a-b` and `a__b`
    /// (GitLab's documentation, "Services", "Accessing the services").
    pub(crate) fn aliases(&self) -> Vec<String> {
        let path = match self.registry() {
            Some(registry) => {
                let host = registry.split(':').next().unwrap_or(registry);
                format!("{host}{}", &self.repository[registry.len()..])
            }
            None => self.repository.to_owned(),
        };
        let mut aliases = vec![path.replace('/', "__")];
        let second = path.replace('/', "-");
        if !aliases.contains(&second) {
            aliases.push(second);
        }
        aliases
    }
}

/// Splits an image's name into its repository and its tag. A digest is in neither.
#[cfg(feature = "telemetry")]
pub(crate) fn image_parts(name: &str) -> (&str, Option<&str>) {
    let repository = ImageName::parse(name).map_or(name, |name| name.repository);
    let rest = name[repository.len()..].split('@').next().unwrap_or_default();
    (repository, rest.strip_prefix(':'))
}

/// Whether a service can be called this: `/etc/hosts` separates names by blanks.
pub(crate) fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> ImageName<'_> {
        ImageName::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn services_are_called_as_in_gitlabs_documentation() {
        for (image, aliases) in [
            ("postgres:17", &["postgres"][..]),
            ("tutum/wordpress:latest", &["tutum__wordpress", "tutum-wordpress"]),
            (
                "registry.example.com:5000/my/app:1@sha256:00",
                &["registry.example.com__my__app", "registry.example.com-my-app"],
            ),
            ("redis@sha256:00", &["redis"]),
        ] {
            assert_eq!(name(image).aliases(), aliases, "{image}");
        }
    }

    #[test]
    fn a_mirror_serves_what_has_no_registry() {
        let mirror = Some("1.dkr.ecr.eu-central-1.amazonaws.com/hub");
        for (image, pulled) in [
            ("node:22", "1.dkr.ecr.eu-central-1.amazonaws.com/hub/library/node:22"),
            ("grafana/grafana", "1.dkr.ecr.eu-central-1.amazonaws.com/hub/grafana/grafana"),
            ("docker.io/library/node", "1.dkr.ecr.eu-central-1.amazonaws.com/hub/library/node"),
            ("ghcr.io/a/b:1", "ghcr.io/a/b:1"),
            ("localhost/a", "localhost/a"),
        ] {
            assert_eq!(name(image).pulled_from(mirror), pulled, "{image}");
            assert_eq!(name(image).pulled_from(None), image);
        }
    }

    #[test]
    fn patterns_admit_tags_and_paths() {
        for (image, pattern, admitted) in [
            ("postgres:17", "postgres:*", true),
            ("postgres", "postgres:*", true),
            ("postgres", "postgres", true),
            ("postgres:17", "postgres", false),
            ("postgres-evil:17", "postgres:*", false),
            ("registry.example.com/ci/a/b:1", "registry.example.com/ci/*", true),
            ("registry.example.com.evil/ci/a", "registry.example.com/ci/*", false),
            ("evil/registry.example.com/ci/a", "registry.example.com/ci/*", false),
            ("node:5000/evil:1", "node:*", false),
            ("registry.example.com/a", "r*", false),
            ("registry.example.com/a", "*", true),
            ("registry.example.com/a/b:1", "*.example.com/*", true),
            ("registry.example.com/a/b", "registry.example.com/a/b:*", true),
            ("grafana/grafana:9", "grafana/*", true),
            ("localhost/evil", "l*", false),
        ] {
            assert_eq!(name(image).matches(pattern), admitted, "{image} {pattern}");
        }
    }

    #[test]
    fn credentials_are_the_registrys() {
        let secrets = [
            ("registry.example.com".to_owned(), "arn:r".to_owned()),
            ("docker.io".to_owned(), "arn:hub".to_owned()),
        ];
        let of = |image: &str| name(image).credentials(&secrets);
        assert_eq!(of("registry.example.com/a:1").as_deref(), Some("arn:r"));
        assert_eq!(of("node:22").as_deref(), Some("arn:hub"));
        assert_eq!(of("registry.example.com:5000/a"), None);
    }

    #[test]
    fn malformed_names_are_refused() {
        for bad in [
            "", ":1", "@x", "a b", "a\n", "-a", "a//b", "/a", "a/-b", "$X", "a;b", "é", "a/b:/c",
            "a:b/c",
        ] {
            assert_eq!(ImageName::parse(bad), None, "{bad:?}");
        }
        assert!(ImageName::parse(&"a".repeat(LONGEST_NAME + 1)).is_none());
    }

    proptest! {
        #[test]
        fn every_alias_is_a_host_name_or_too_long(text in "[a-zA-Z0-9._/:@-]{1,60}") {
            if let Some(name) = ImageName::parse(&text) {
                for alias in name.aliases() {
                    prop_assert!(is_host_name(&alias), "{}", alias);
                }
                prop_assert!(text.ends_with(&name.pulled_from(None)));
            }
        }
    }
}
