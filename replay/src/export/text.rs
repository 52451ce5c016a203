//! Pseudonyms in free text of AWS, containers and the driver. Names that are known from elsewhere
//! are replaced in it, and everything that looks like an address, a URL, an ARN, an id or a secret.

use std::net::IpAddr;

use super::pseudonyms::{Kind, Piece, Pseudonyms, RESOURCES};

/// Whether the character separates words.
fn is_separator(c: char) -> bool {
    c.is_whitespace() || "\"'`()<>{}[],;|".contains(c)
}

/// Words with a dot or a slash that identify nothing.
const HARMLESS: [&str; 11] = [
    "~/.ssh",
    "fargate.toml",
    "config.toml",
    ".gitlab-ci.yml",
    "and/or",
    "TCP/IP",
    "I/O",
    "n/a",
    "input/output",
    "read/write",
    "/dev/null",
];
/// Directories that every system has.
const SYSTEM: [&str; 6] = ["/bin/", "/sbin/", "/usr/", "/dev/", "/proc/", "/sys/"];
/// Extensions of files, which look like top-level domains.
const EXTENSIONS: [&str; 12] =
    ["toml", "yml", "yaml", "md", "sh", "log", "json", "ron", "key", "conf", "service", "lock"];
/// Prefixes of tokens and keys.
const SECRET_PREFIXES: [&str; 12] = [
    "glpat-", "glrt-", "gldt-", "glcbt-", "glptt-", "glsoat-", "AKIA", "ASIA", "eyJ", "ghp_",
    "xoxb-", "sk-",
];

impl Pseudonyms {
    /// Replaces the names in a text.
    pub(super) fn text(&mut self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len());
        // Names of several words come first, then the rest, word by word.
        for piece in self.split(text, |name| name.contains(is_separator)) {
            match piece {
                Piece::Replaced(other) => replaced.push_str(&other),
                Piece::Rest(rest) => self.words(rest, &mut replaced),
            }
        }
        replaced
    }

    fn words(&mut self, text: &str, replaced: &mut String) {
        for part in text.split_inclusive(is_separator) {
            let word = part.trim_end_matches(is_separator);
            let core = word.trim_end_matches(['.', ':', '!', '?']);
            replaced.push_str(&self.word(core));
            replaced.push_str(&part[core.len()..]);
        }
    }

    fn word(&mut self, word: &str) -> String {
        if word.is_empty() || HARMLESS.contains(&word) {
            return word.to_owned();
        }
        if let Some(other) = self.find_registered(word) {
            return other.to_owned();
        }
        if word.contains("://") {
            return self.url(word);
        }
        if word.starts_with("arn:") {
            return self.arn(word);
        }
        if let Some(fingerprint) = word.strip_prefix("SHA256:") {
            return format!("SHA256:{}", self.of(Kind::Key, fingerprint));
        }
        if let Some((name, value)) = word.split_once('=') {
            let value = if is_name_of_secret(name) && !value.is_empty() {
                self.of(Kind::Secret, value)
            } else {
                self.word(value)
            };
            return format!("{}={value}", self.word(name));
        }
        if let Ok(address) = word.parse::<IpAddr>() {
            return self.address(address);
        }
        if let Some(kind) = self::kind(word) {
            return self.of(kind, word);
        }
        if word.starts_with('/') {
            let known = SYSTEM.iter().any(|prefix| word.starts_with(prefix));
            return if known || word == "/" || word == "/tmp" {
                word.to_owned()
            } else {
                self.of(Kind::Path, word)
            };
        }
        if let Some((first, rest)) = word.split_once('/').filter(|(first, _)| !first.is_empty()) {
            return match first.split_once(':').unwrap_or((first, "")) {
                (host, _) if is_host(host) => {
                    format!("{}/{}", self.of(Kind::Host, host), self.of(Kind::Name, rest))
                }
                _ => self.of(Kind::Name, word),
            };
        }
        if word.contains(':') {
            let pieces: Vec<String> = word.split(':').map(|piece| self.word(piece)).collect();
            return pieces.join(":");
        }
        if is_endpoint(word) {
            return word.to_owned();
        }
        if is_host(word) {
            let file = word.rsplit('.').next().is_some_and(|ending| EXTENSIONS.contains(&ending));
            return self.of(if file { Kind::Name } else { Kind::Host }, word);
        }
        let pieces = self.split(word, |_| true);
        pieces
            .into_iter()
            .map(|piece| match piece {
                Piece::Replaced(other) => other,
                Piece::Rest(rest) => rest.to_owned(),
            })
            .collect()
    }

    /// Replaces an address. It stays recognisable as private or public, as that may be what is
    /// wrong.
    pub(super) fn address(&mut self, address: IpAddr) -> String {
        if address.is_loopback() || address.is_unspecified() {
            return address.to_string();
        }
        let private = match address {
            IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
        };
        self.of(
            if private { Kind::PrivateAddress } else { Kind::PublicAddress },
            &address.to_string(),
        )
    }

    /// Replaces host and path of a URL, and leaves out user, password and query.
    pub(super) fn url(&mut self, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let host = authority.rsplit('@').next().unwrap_or_default();
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                (host, format!(":{port}"))
            }
            _ => (host, String::new()),
        };
        let host = self.host(host);
        let path =
            if matches!(path, "" | "/") { path.to_owned() } else { self.of(Kind::Path, path) };
        let scheme = if scheme.len() <= 6 && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) {
            scheme
        } else {
            "https"
        };
        format!("{scheme}://{host}{port}{path}")
    }

    fn host(&mut self, host: &str) -> String {
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => self.address(address),
            Err(_) if is_endpoint(host) || host == "localhost" => host.to_owned(),
            Err(_) => self.of(Kind::Host, host),
        }
    }

    /// Replaces account and names of an ARN, such as
    /// `arn:aws:ecs:<region>:<account>:task/<cluster>/<id>`. Partition, service, region and kind
    /// stay.
    pub(super) fn arn(&mut self, arn: &str) -> String {
        let mut parts = arn.splitn(6, ':');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let (prefix, partition, service, region, account, resource) =
            (next(), next(), next(), next(), next(), next());
        let account = if account.is_empty() || account == "aws" {
            account
        } else {
            self.of(Kind::Account, &account)
        };
        let resource = self.resource(&service, &resource);
        format!("{prefix}:{partition}:{service}:{region}:{account}:{resource}")
    }

    fn resource(&mut self, service: &str, resource: &str) -> String {
        let Some(at) = resource.find(['/', ':']) else { return self.of(Kind::Role, resource) };
        let (kind, rest) = (&resource[..at], &resource[at + 1..]);
        let between = &resource[at..=at];
        let rest = match (service, kind) {
            ("ecs", "cluster") => self.cluster(rest),
            ("ecs", "task-definition") => self.definition(rest),
            ("ecs", "task" | "container") => {
                let (path, id) =
                    rest.rsplit_once('/').map_or((None, rest), |(path, id)| (Some(path), id));
                let id = self.of(Kind::Task, id);
                path.map_or(id.clone(), |cluster| format!("{}/{id}", self.cluster(cluster)))
            }
            _ => self.of(Kind::Role, rest),
        };
        format!("{kind}{between}{rest}")
    }

    /// Replaces a cluster's name or ARN.
    pub(super) fn cluster(&mut self, cluster: &str) -> String {
        match cluster {
            "" | "default" => cluster.to_owned(),
            arn if arn.starts_with("arn:") => self.arn(arn),
            name => self.register(Kind::Cluster, name),
        }
    }

    /// Replaces a task definition: `family`, `family:revision`, or an ARN.
    pub(super) fn definition(&mut self, definition: &str) -> String {
        if definition.starts_with("arn:") {
            return self.arn(definition);
        }
        match definition.split_once(':') {
            Some((family, revision)) if revision.bytes().all(|b| b.is_ascii_digit()) => {
                format!("{}:{revision}", self.register(Kind::Definition, family))
            }
            _ => self.register(Kind::Definition, definition),
        }
    }
}

/// Returns the kind of a word, by its form alone.
fn kind(word: &str) -> Option<Kind> {
    let all =
        |text: &str, fits: fn(&u8) -> bool| !text.is_empty() && text.bytes().all(|b| fits(&b));
    let hexadecimal = |text: &str| all(text, u8::is_ascii_hexdigit);
    let mixed = |text: &str| {
        text.bytes().any(|b| b.is_ascii_digit()) && text.bytes().any(|b| b.is_ascii_alphabetic())
    };
    if word.len() == 12 && all(word, u8::is_ascii_digit) {
        return Some(Kind::Account);
    }
    if word.len() == 36
        && word.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && word.split('-').all(hexadecimal)
    {
        return Some(Kind::Request);
    }
    if let Some((kind, id)) = word.split_once('-')
        && RESOURCES.contains(&kind)
        && id.len() >= 8
        && hexadecimal(id)
    {
        return Some(Kind::Resource);
    }
    if word.contains('@') {
        return Some(Kind::Mail);
    }
    let token = word.len() >= 20
        && mixed(word)
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+_-/".contains(&b));
    if token && !word.starts_with('/')
        || SECRET_PREFIXES
            .iter()
            .any(|prefix| word.starts_with(prefix) && word.len() >= prefix.len() + 8)
    {
        return Some(Kind::Secret);
    }
    (word.len() >= 8 && hexadecimal(word) && mixed(word)).then_some(Kind::Secret)
}

/// Whether the value after this name and `=` may be secret.
fn is_name_of_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "token", "secret", "key", "credential", "signature", "auth"]
        .iter()
        .any(|word| name.contains(word))
}

/// Whether the word has a host name's form: labels with dots between them, the last one of letters.
fn is_host(word: &str) -> bool {
    let labels: Vec<&str> = word.split('.').collect();
    let valid_id = |label: &&str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = labels.last().copied().unwrap_or_default();
    labels.len() >= 2
        && labels.iter().all(valid_id)
        && last.len() >= 2
        && last.bytes().all(|b| b.is_ascii_alphabetic())
}

/// Whether the host is an endpoint of AWS, which identifies nothing:
/// `<service>.<region>.amazonaws.com`.
fn is_endpoint(host: &str) -> bool {
    let Some(rest) = host.strip_suffix(".amazonaws.com") else { return false };
    let (service, region) = rest.split_once('.').unwrap_or((rest, ""));
    matches!(service, "ecs" | "ec2" | "ssm" | "ssmmessages" | "sts" | "logs" | "secretsmanager")
        && !region.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_by_their_form_and_other_text_stays() {
        let mut pseudonyms = Pseudonyms::default();
        pseudonyms.register(Kind::Project, "payroll");
        for (text, expected) in [
            ("Essential container in task exited", "Essential container in task exited"),
            ("connect to 10.1.2.3:22: refused", "connect to 10.0.0.2:22: refused"),
            (
                "again 10.1.2.3, then 54.1.2.3 and 2600:1f18::7",
                "again 10.0.0.2, then 203.0.113.2 and 2001:db8::2",
            ),
            (
                "User: arn:aws:sts::987654321098:assumed-role/ops/i-0a1b2c3d4e5f60718 may not",
                "User: arn:aws:sts::000000000001:assumed-role/resource-1 may not",
            ),
            ("account 987654321098.", "account 000000000001."),
            (
                "CannotPullContainerError: ref registry.acme.test/payroll-web:1: not found",
                "CannotPullContainerError: ref host-1.example/name-1: not found",
            ),
            ("image acme/web:1", "image name-2"),
            (
                "see https://me:pw@git.acme.test:8443/a/b?token=1, or ecs.eu-west-1.amazonaws.com",
                "see https://host-2.example:8443/path-1, or ecs.eu-west-1.amazonaws.com",
            ),
            ("Payroll-Builder failed in PAYROLL", "project-1-Builder failed in project-1"),
            (
                "The subnet ID 'subnet-0a1b2c3d' does not exist",
                "The subnet ID 'subnet-00000000000000001' does not exist",
            ),
            (
                "request 7d3c2a10-1111-2222-3333-444455556666 by ops@acme.test",
                "request 00000000-0000-4000-8000-000000000001 by mail-1@host.example",
            ),
            ("password=hunter2, mode=fast", "password=hidden-1, mode=fast"),
            (
                "key=glpat-abcdefghij1234567890 and wJalrXUtnFEMI1K7MDENGbPxRfiCY",
                "key=hidden-2 and hidden-3",
            ),
            ("/home/alice/.ssh/id and /bin/sh", "/path-2 and /bin/sh"),
            ("Correct fargate.toml.", "Correct fargate.toml."),
            (
                "its host key is SHA256:4VXe5m/ReKW3X+W8U, not SHA256:3cB1",
                "its host key is SHA256:key-1, not SHA256:key-2",
            ),
            ("exit code 137 after 12345678 bytes", "exit code 137 after 12345678 bytes"),
        ] {
            assert_eq!(pseudonyms.text(text), expected);
        }
    }

    #[test]
    fn names_of_several_words_are_replaced() {
        let mut pseudonyms = Pseudonyms::default();
        pseudonyms.register(Kind::JobName, "deploy payroll now");
        assert_eq!(pseudonyms.text("the job Deploy payroll now: failed"), "the job job-1: failed");
    }
}
