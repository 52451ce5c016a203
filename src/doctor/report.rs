//! What was found, for people and for programs.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
};

use ::replay::{
    Screen,
    screen::{Tone, pad, printable_json, wrap},
};
use serde::Serialize;
use states::{ControlError, ControlErrorKind, foreign_text::tame};

use super::problem::{Problem, Severity, filled};

/// A subject that is checked, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// `fargate.toml`.
    Configuration,
    /// Whose credentials there are.
    Credentials,
    /// This machine's clock.
    Clock,
    /// The ECS cluster.
    Cluster,
    /// Capacity providers and strategies.
    Capacity,
    /// The task definition as a whole.
    TaskDefinition,
    /// The container that runs scripts, and its log.
    Container,
    /// What ECS Exec needs beyond that.
    EcsExec,
    /// The task role and the execution role.
    Roles,
    /// The containers' images.
    Image,
    /// The subnets.
    Subnets,
    /// The subnets' ways to the services that tasks need.
    Routes,
    /// The security groups.
    SecurityGroups,
    /// The manager's permissions.
    Permissions,
    /// The account's quotas.
    Quotas,
    /// The metadata directory.
    Directory,
    /// gitlab-runner's `config.toml`.
    GitlabRunner,
    /// Other managers in the cluster.
    Managers,
    /// A job that was run.
    Launch,
}

impl Check {
    /// All checks but that of `--launch`, in the order of the report.
    pub(super) const ALWAYS: [Self; 18] = [
        Self::Configuration,
        Self::Credentials,
        Self::Clock,
        Self::Cluster,
        Self::Capacity,
        Self::TaskDefinition,
        Self::Container,
        Self::EcsExec,
        Self::Roles,
        Self::Image,
        Self::Subnets,
        Self::Routes,
        Self::SecurityGroups,
        Self::Permissions,
        Self::Quotas,
        Self::Directory,
        Self::GitlabRunner,
        Self::Managers,
    ];

    /// Its name for people.
    fn title(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Credentials => "credentials",
            Self::Clock => "clock",
            Self::Cluster => "cluster",
            Self::Capacity => "capacity",
            Self::TaskDefinition => "task definition",
            Self::Container => "container",
            Self::EcsExec => "ECS Exec",
            Self::Roles => "roles",
            Self::Image => "image",
            Self::Subnets => "subnets",
            Self::Routes => "routes",
            Self::SecurityGroups => "security groups",
            Self::Permissions => "permissions",
            Self::Quotas => "quotas",
            Self::Directory => "directory",
            Self::GitlabRunner => "gitlab-runner",
            Self::Managers => "managers",
            Self::Launch => "launch",
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// All is well.
    Pass,
    /// Jobs run, but something should be changed.
    Warning,
    /// It could not be checked.
    Unknown,
    /// Jobs cannot run.
    Failure,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Failure => "failure",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Pass => Tone::Good,
            Self::Warning => Tone::Warn,
            Self::Unknown => Tone::Strong,
            Self::Failure => Tone::Bad,
        }
    }
}

/// One result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The check.
    pub check: Check,
    /// How it ended.
    pub status: Status,
    /// The problem, unless it passed or is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// What was found, or why it is unknown.
    pub says: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All results.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    outcomes: Vec<Outcome>,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    version: &'static str,
    /// How many outcomes there are of each status.
    summary: BTreeMap<&'static str, usize>,
    outcomes: &'a [Outcome],
}

impl Report {
    /// Records that something is as it should be.
    pub(super) fn pass(&mut self, check: Check, says: impl Into<String>) {
        let says = says.into();
        self.outcomes.push(Outcome {
            check,
            status: Status::Pass,
            problem: None,
            says,
            remedy: None,
        });
    }

    /// Records a problem with its facts.
    pub(super) fn found<const N: usize>(
        &mut self,
        check: Check,
        problem: Problem,
        facts: [String; N],
    ) {
        let words = problem.words();
        let status = match words.severity {
            Severity::Warning => Status::Warning,
            Severity::Failure => Status::Failure,
        };
        self.outcomes.push(Outcome {
            check,
            status,
            problem: Some(problem),
            says: filled(words.says, &facts),
            remedy: Some(filled(words.remedy, &facts)),
        });
    }

    /// Records that something could not be checked.
    pub(super) fn unknown(&mut self, check: Check, why: impl Into<String>) {
        let says = why.into();
        self.outcomes.push(Outcome {
            check,
            status: Status::Unknown,
            problem: None,
            says,
            remedy: None,
        });
    }

    /// Records that a call was refused, so that something could not be checked.
    pub(super) fn refused(&mut self, check: Check, error: &ControlError) {
        let why = match error.kind {
            // Its remedy is about ECS.
            ControlErrorKind::Other => format!("{}.", error.to_string().trim_end_matches('.')),
            _ => diagnosis::explain_control(error),
        };
        self.unknown(check, why);
    }

    /// Records as unknown, for this reason, each check of these that has no outcome.
    pub(super) fn unknown_rest(&mut self, checks: &[Check], why: &str) {
        for check in checks {
            if !self.has(*check) {
                self.unknown(*check, why);
            }
        }
    }

    /// Whether a check has an outcome.
    pub(super) fn has(&self, check: Check) -> bool {
        self.outcomes.iter().any(|outcome| outcome.check == check)
    }

    /// Whether a check has a problem, or could not be made.
    pub(super) fn is_clean(&self, check: Check) -> bool {
        let mut of_check = self.outcomes.iter().filter(|outcome| outcome.check == check);
        of_check.all(|outcome| outcome.status == Status::Pass)
    }

    /// Orders the outcomes as the checks.
    pub(super) fn finish(&mut self) {
        self.outcomes.sort_by_key(|outcome| outcome.check);
    }

    /// Returns the worst status.
    pub(super) fn worst(&self) -> Status {
        self.outcomes.iter().map(|outcome| outcome.status).max().unwrap_or(Status::Pass)
    }

    fn counts(&self) -> BTreeMap<Status, usize> {
        let mut counts = BTreeMap::new();
        for outcome in &self.outcomes {
            *counts.entry(outcome.status).or_default() += 1;
        }
        counts
    }

    /// Writes the report as a JSON object.
    ///
    /// # Errors
    /// As those of the output.
    pub(super) fn write_json(&self, screen: &mut Screen) -> io::Result<()> {
        let counts = self.counts().into_iter();
        let document = Document {
            version: env!("CARGO_PKG_VERSION"),
            summary: counts.map(|(status, count)| (status.word(), count)).collect(),
            outcomes: &self.outcomes,
        };
        let json = serde_json::to_string_pretty(&document).map_err(io::Error::from)?;
        writeln!(screen, "{}", printable_json(&json))
    }

    /// Writes the report as a table, with the remedies below the problems.
    ///
    /// # Errors
    /// As those of the output.
    pub(super) fn write_table(&self, screen: &mut Screen) -> io::Result<()> {
        const STATUS: usize = 9;
        const CHECK: usize = 17;
        let width = screen.width.saturating_sub(STATUS + CHECK).max(20);
        let mut last = None;
        for outcome in &self.outcomes {
            let title = if last == Some(outcome.check) { "" } else { outcome.check.title() };
            last = Some(outcome.check);
            let word = screen.paint(outcome.status.tone(), &pad(outcome.status.word(), STATUS));
            let mut lines = wrap(&tame(&outcome.says), width).into_iter();
            let first = lines.next().unwrap_or_default();
            writeln!(screen, "{word}{title:CHECK$}{first}")?;
            for line in lines {
                writeln!(screen, "{:1$}{line}", "", STATUS + CHECK)?;
            }
            for line in wrap(&tame(outcome.remedy.as_deref().unwrap_or_default()), width) {
                if !line.is_empty() {
                    let line = screen.paint(Tone::Faint, &line);
                    writeln!(screen, "{:1$}{line}", "", STATUS + CHECK)?;
                }
            }
        }
        let counts: Vec<String> = self
            .counts()
            .into_iter()
            .rev()
            .map(|(status, count)| format!("{} {count}", status.word()))
            .collect();
        writeln!(screen, "\n{}", counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn report() -> Report {
        let mut report = Report::default();
        report.unknown(Check::Quotas, "no\u{1b}[2J answer");
        report.pass(Check::Configuration, "fargate.toml");
        let facts = ["ci".to_owned(), "eu-west-1".to_owned()];
        report.found(Check::Cluster, Problem::NoCluster, facts);
        report.finish();
        report
    }

    fn written(write: impl Fn(&Report, &mut Screen) -> io::Result<()>) -> String {
        let out = Written::default();
        let mut screen = Screen::plain(out.clone(), 60);
        write(&report(), &mut screen).unwrap();
        let bytes = out.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_table_has_the_checks_in_order_with_remedies_below() {
        let table = written(Report::write_table);
        let expected = "\
pass     configuration    fargate.toml
failure  cluster          There is no cluster ci in
                          eu-west-1.
                          Correct [Fargate] Cluster or
                          Region, or create it: aws ecs
                          create-cluster.
unknown  quotas           no\u{fffd}[2J answer

failure 1, unknown 1, pass 1
";
        assert_eq!(table, expected);
    }

    #[test]
    fn json_names_the_problem() {
        let json: serde_json::Value = serde_json::from_str(&written(Report::write_json)).unwrap();
        assert_eq!(json["summary"]["failure"], 1);
        assert_eq!(json["outcomes"][1]["problem"], "no-cluster");
        assert_eq!(json["outcomes"][2]["status"], "unknown");
    }

    #[test]
    fn a_failure_is_worse_than_what_is_unknown() {
        assert_eq!(report().worst(), Status::Failure);
        assert_eq!(Report::default().worst(), Status::Pass);
    }
}
