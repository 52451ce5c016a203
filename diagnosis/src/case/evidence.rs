//! Evidence: journal lines that show a problem.

use serde::Serialize;
use states::{Entry, Observation, Timestamp};

use super::Case;
use crate::words;

/// An observation, perhaps a repeated one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// When it was first observed; `None` for a present fact around the snapshot.
    pub at: Option<Timestamp>,
    /// When it was last observed.
    pub last: Option<Timestamp>,
    /// How many times.
    pub times: u32,
    /// What.
    pub text: String,
}

impl Evidence {
    /// A present fact that is not in the journal.
    pub(super) fn seen(text: impl Into<String>) -> Self {
        Self { at: None, last: None, times: 1, text: text.into() }
    }

    /// Evidence of a journal's entry.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        Self {
            at: Some(entry.at),
            last: entry.last,
            times: entry.times,
            text: words::observation(&entry.saw),
        }
    }

    fn join(&mut self, other: &Self) {
        self.times += other.times;
        self.last = other.last.or(other.at);
    }
}

/// The largest number of lines of evidence.
const MAX_LINES: usize = 4;

impl Case<'_> {
    /// The last few entries that fit. Equal ones are joined.
    pub(super) fn entries(&self, fits: impl Fn(&Observation) -> bool) -> Vec<Evidence> {
        let mut found: Vec<Evidence> = Vec::new();
        for entry in self.snapshot.journal.entries.iter().filter(|entry| fits(&entry.saw)) {
            let evidence = Evidence::of(entry);
            // Compare the beginnings: messages differ in request ids and waiting times.
            match found.iter_mut().find(|known| same(&known.text, &evidence.text)) {
                Some(known) => known.join(&evidence),
                None => found.push(evidence),
            }
        }
        found.split_off(found.len().saturating_sub(MAX_LINES))
    }

    /// The last entry that fits.
    pub(super) fn last(&self, fits: impl Fn(&Observation) -> bool) -> Vec<Evidence> {
        self.snapshot
            .journal
            .entries
            .iter()
            .rev()
            .find(|entry| fits(&entry.saw))
            .map(Evidence::of)
            .into_iter()
            .collect()
    }

    /// The newest entries.
    pub(super) fn newest(&self, count: usize) -> Vec<Evidence> {
        let entries = &self.snapshot.journal.entries;
        entries[entries.len().saturating_sub(count)..].iter().map(Evidence::of).collect()
    }
}

fn same(one: &str, other: &str) -> bool {
    let stem = |text: &str| text.split(" (request ").next().unwrap_or_default().to_owned();
    stem(one) == stem(other)
}
