//! Pseudonyms: a name has the same one wherever it stands.

use std::collections::{BTreeMap, HashMap};

/// What a name names. That decides the form of its pseudonym.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Project,
    Host,
    PrivateAddress,
    PublicAddress,
    Account,
    Cluster,
    Definition,
    Image,
    Container,
    Task,
    Resource,
    Role,
    Manager,
    Runner,
    JobName,
    Stage,
    Key,
    Runtime,
    Digest,
    Request,
    TagKey,
    TagValue,
    Variable,
    Provider,
    Mail,
    Path,
    Name,
    Secret,
}

impl Kind {
    /// Returns the kind's name in singular and plural.
    pub(super) fn nouns(self) -> (&'static str, &'static str) {
        match self {
            Self::Project => ("project", "projects"),
            Self::Host => ("host name", "host names"),
            Self::PrivateAddress => ("private address", "private addresses"),
            Self::PublicAddress => ("public address", "public addresses"),
            Self::Account => ("AWS account", "AWS accounts"),
            Self::Cluster => ("cluster", "clusters"),
            Self::Definition => ("task definition", "task definitions"),
            Self::Image => ("image", "images"),
            Self::Container => ("container", "containers"),
            Self::Task => ("task", "tasks"),
            Self::Resource => ("AWS resource", "AWS resources"),
            Self::Role => ("part of an ARN", "parts of ARNs"),
            Self::Manager => ("runner manager", "runner managers"),
            Self::Runner => ("runner", "runners"),
            Self::JobName => ("job name", "job names"),
            Self::Stage => ("stage of the project's own", "stages of the project's own"),
            Self::Key => ("public key", "public keys"),
            Self::Runtime => ("container runtime id", "container runtime ids"),
            Self::Digest => ("script digest", "script digests"),
            Self::Request => ("request id", "request ids"),
            Self::TagKey => ("tag name", "tag names"),
            Self::TagValue => ("tag value", "tag values"),
            Self::Variable => ("variable name", "variable names"),
            Self::Provider => ("capacity provider", "capacity providers"),
            Self::Mail => ("mail address", "mail addresses"),
            Self::Path => ("path", "paths"),
            Self::Name => ("other name", "other names"),
            Self::Secret => ("text that may be secret", "texts that may be secret"),
        }
    }

    /// Makes the pseudonym with this number, from 1. Addresses and hosts are those for
    /// documentation (RFC 5737, 3849, 2606).
    fn pseudonym(self, real: &str, number: usize) -> String {
        match self {
            Self::Project => format!("project-{number}"),
            Self::Host => format!("host-{number}.example"),
            Self::PrivateAddress if real.contains(':') => format!("fd00::{number:x}"),
            Self::PrivateAddress => format!("10.0.{}.{}", number / 250, number % 250 + 1),
            Self::PublicAddress if real.contains(':') => format!("2001:db8::{number:x}"),
            Self::PublicAddress => format!("203.0.113.{}", number % 254 + 1),
            Self::Account => format!("{number:012}"),
            Self::Cluster => format!("cluster-{number}"),
            Self::Definition => format!("definition-{number}"),
            Self::Image => format!("image-{number}"),
            Self::Container => format!("container-{number}"),
            Self::Task => format!("{number:032x}"),
            Self::Resource => {
                let kind = real.split_once('-').map_or("", |(kind, _)| kind);
                format!(
                    "{}-{number:017x}",
                    if RESOURCES.contains(&kind) { kind } else { "resource" }
                )
            }
            Self::Role => format!("resource-{number}"),
            Self::Manager => format!("manager-{number}"),
            Self::Runner => format!("runner-{number}"),
            Self::JobName => format!("job-{number}"),
            Self::Stage => format!("step_{number}"),
            Self::Key => format!("key-{number}"),
            Self::Runtime => format!("runtime-{number}"),
            Self::Digest => format!("{number:064x}"),
            Self::Request => format!("00000000-0000-4000-8000-{number:012x}"),
            Self::TagKey => format!("tag-{number}"),
            Self::TagValue => format!("value-{number}"),
            Self::Variable => format!("VARIABLE_{number}"),
            Self::Provider => format!("provider-{number}"),
            Self::Mail => format!("mail-{number}@host.example"),
            Self::Path => format!("/path-{number}"),
            Self::Name => format!("name-{number}"),
            Self::Secret => format!("hidden-{number}"),
        }
    }
}

/// Kinds of AWS resources whose ids are `<kind>-<hexadecimal>`.
pub(super) const RESOURCES: [&str; 17] = [
    "eni", "subnet", "sg", "vpc", "i", "nat", "rtb", "ami", "vol", "fs", "fsap", "eipalloc", "acl",
    "igw", "vpce", "snap", "lt",
];
/// Names that are ordinary words. In free text, they identify nothing.
const ORDINARY_WORDS: [&str; 20] = [
    "build", "test", "tests", "deploy", "lint", "release", "job", "jobs", "project", "group",
    "app", "web", "api", "main", "default", "local", "task", "docker", "script", "driver",
];
/// The least length of a name that is replaced inside words, in bytes. Shorter ones are part of too
/// many ordinary words.
const MIN_LENGTH_INSIDE_WORDS: usize = 5;
/// The least length of a name that is replaced in free text, in bytes.
const MIN_LENGTH: usize = 3;

/// The pseudonyms of one job.
#[derive(Debug, Default)]
pub(super) struct Pseudonyms {
    assigned: HashMap<(Kind, String), String>,
    counts: BTreeMap<Kind, usize>,
    /// Names that are replaced in free text, the longest first, with their pseudonyms.
    registered: Vec<(String, String)>,
}

impl Pseudonyms {
    /// Returns the name's pseudonym.
    pub(super) fn of(&mut self, kind: Kind, real: &str) -> String {
        if let Some(other) = self.assigned.get(&(kind, real.to_owned())) {
            return other.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let other = kind.pseudonym(real, *count);
        self.assigned.insert((kind, real.to_owned()), other.clone());
        other
    }

    /// Returns the name's pseudonym, and replaces the name in free text from now on.
    pub(super) fn register(&mut self, kind: Kind, real: &str) -> String {
        let other = self.of(kind, real);
        self.replace_in_text(real, &other);
        other
    }

    /// Replaces the name in free text from now on, unless it is too short or an ordinary word.
    pub(super) fn replace_in_text(&mut self, real: &str, other: &str) {
        if real.len() >= MIN_LENGTH
            && !ORDINARY_WORDS.contains(&real)
            && !self.registered.iter().any(|(known, _)| known == real)
        {
            self.registered.push((real.to_owned(), other.to_owned()));
            self.registered.sort_by_key(|(real, _)| std::cmp::Reverse(real.len()));
        }
    }

    /// Sets the name's pseudonym.
    pub(super) fn set(&mut self, kind: Kind, real: &str, other: &str) {
        self.assigned.insert((kind, real.to_owned()), other.to_owned());
    }

    /// Returns the pseudonym if the whole text is a name that is replaced in free text.
    pub(super) fn find_registered(&self, text: &str) -> Option<&str> {
        self.registered
            .iter()
            .find(|(real, _)| real.eq_ignore_ascii_case(text))
            .map(|(_, other)| other.as_str())
    }

    /// Splits the text into pieces: registered names that fit, replaced, and the text between them.
    pub(super) fn split<'a>(&self, text: &'a str, fits: impl Fn(&str) -> bool) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while at < text.len() {
            let found =
                self.registered.iter().find(|(real, _)| fits(real) && stands_at(text, at, real));
            if let Some((real, other)) = found {
                pieces.push(Piece::Rest(&text[begin..at]));
                pieces.push(Piece::Replaced(other.clone()));
                at += real.len();
                begin = at;
            } else {
                at += text[at..].chars().next().map_or(1, char::len_utf8);
            }
        }
        pieces.push(Piece::Rest(&text[begin..]));
        pieces
    }

    /// Returns how many names of each kind were replaced.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Kind, usize)> {
        self.counts.iter().map(|(kind, count)| (*kind, *count))
    }
}

/// A piece of a text.
pub(super) enum Piece<'a> {
    /// A name's pseudonym.
    Replaced(String),
    /// Text as it was.
    Rest(&'a str),
}

/// Whether the name stands at this position, in capitals or not. A short name counts only as a word
/// of its own.
fn stands_at(text: &str, at: usize, name: &str) -> bool {
    let Some(here) = text.get(at..at + name.len()) else { return false };
    if !here.eq_ignore_ascii_case(name) {
        return false;
    }
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let is_number = name.bytes().all(|b| b.is_ascii_digit());
    let anywhere = name.len() >= MIN_LENGTH_INSIDE_WORDS && !is_number;
    anywhere
        || !(inside(text[..at].chars().next_back())
            || inside(text[at + name.len()..].chars().next()))
}
