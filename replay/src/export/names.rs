//! Other names for real ones: each real name gets the same other one wherever it stands.

use std::collections::{BTreeMap, HashMap};

/// What a name names. Decides what its other name looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Project,
    Host,
    PrivateAddress,
    PublicAddress,
    Account,
    Cluster,
    Definition,
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
    /// One of them and several, for people.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Project => ("project", "projects"),
            Self::Host => ("host name", "host names"),
            Self::PrivateAddress => ("private address", "private addresses"),
            Self::PublicAddress => ("public address", "public addresses"),
            Self::Account => ("AWS account", "AWS accounts"),
            Self::Cluster => ("cluster", "clusters"),
            Self::Definition => ("task definition", "task definitions"),
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

    /// The `number`-th other name, from 1. Addresses and hosts are those that documents may use
    /// (RFC 5737, 3849, 2606).
    fn other(self, real: &str, number: usize) -> String {
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
/// Names that are ordinary words: in free text they tell nothing of anybody.
const ORDINARY: [&str; 20] = [
    "build", "test", "tests", "deploy", "lint", "release", "job", "jobs", "project", "group",
    "app", "web", "api", "main", "default", "local", "task", "docker", "script", "driver",
];
/// Shorter names are part of too many ordinary words to be looked for inside of them.
const LONG_ENOUGH_ANYWHERE: usize = 5;
/// Shorter ones are ordinary words.
const LONG_ENOUGH: usize = 3;

/// The other names that were given so far.
#[derive(Debug, Default)]
pub(super) struct Names {
    given: HashMap<(Kind, String), String>,
    counts: BTreeMap<Kind, usize>,
    /// Names that are looked for in free text, the longest first, with what they become.
    sought: Vec<(String, String)>,
}

impl Names {
    /// The other name of this one.
    pub(super) fn of(&mut self, kind: Kind, real: &str) -> String {
        if let Some(other) = self.given.get(&(kind, real.to_owned())) {
            return other.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let other = kind.other(real, *count);
        self.given.insert((kind, real.to_owned()), other.clone());
        other
    }

    /// As [`Names::of`]; from now on the name is found in free text, too.
    pub(super) fn sought(&mut self, kind: Kind, real: &str) -> String {
        let other = self.of(kind, real);
        self.seek(real, &other);
        other
    }

    /// From now on, this becomes that in free text.
    pub(super) fn seek(&mut self, real: &str, other: &str) {
        if real.len() >= LONG_ENOUGH
            && !ORDINARY.contains(&real)
            && !self.sought.iter().any(|(known, _)| known == real)
        {
            self.sought.push((real.to_owned(), other.to_owned()));
            self.sought.sort_by_key(|(real, _)| std::cmp::Reverse(real.len()));
        }
    }

    /// Sets what a name becomes.
    pub(super) fn set(&mut self, kind: Kind, real: &str, other: &str) {
        self.given.insert((kind, real.to_owned()), other.to_owned());
    }

    /// What a sought name becomes, if the whole text is one.
    pub(super) fn whole(&self, text: &str) -> Option<&str> {
        self.sought
            .iter()
            .find(|(real, _)| real.eq_ignore_ascii_case(text))
            .map(|(_, other)| other.as_str())
    }

    /// The text in pieces: those that were sought, replaced, and what is between them.
    pub(super) fn split<'a>(&self, text: &'a str, fits: impl Fn(&str) -> bool) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while at < text.len() {
            let found =
                self.sought.iter().find(|(real, _)| fits(real) && stands_at(text, at, real));
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

    /// How many names of each kind got another.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Kind, usize)> {
        self.counts.iter().map(|(kind, count)| (*kind, *count))
    }
}

/// A piece of a text.
pub(super) enum Piece<'a> {
    /// A name's other name.
    Replaced(String),
    /// What is as it was.
    Rest(&'a str),
}

/// Whether a name stands there, in capitals or not; a short one only as a word of its own.
fn stands_at(text: &str, at: usize, name: &str) -> bool {
    let Some(here) = text.get(at..at + name.len()) else { return false };
    if !here.eq_ignore_ascii_case(name) {
        return false;
    }
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let is_number = name.bytes().all(|b| b.is_ascii_digit());
    let anywhere = name.len() >= LONG_ENOUGH_ANYWHERE && !is_number;
    anywhere
        || !(inside(text[..at].chars().next_back())
            || inside(text[at + name.len()..].chars().next()))
}
