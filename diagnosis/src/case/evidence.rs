//! Journal lines that show something.

use serde::Serialize;
use states::{Entry, Observation, Timestamp};

use super::Case;
use crate::words;

/// Something that was observed, perhaps repeatedly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// When, first; `None` for what was seen around the snapshot, now.
    pub at: Option<Timestamp>,
    /// When, last.
    pub last: Option<Timestamp>,
    /// How many times.
    pub times: u32,
    /// What.
    pub text: String,
}

impl Evidence {
    /// Something seen now, beside the journal.
    pub(super) fn seen(text: impl Into<String>) -> Self {
        Self { at: None, last: None, times: 1, text: text.into() }
    }

    /// A journal's entry.
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

/// Lines of evidence that anybody wants to read.
const ENOUGH: usize = 4;

impl Case<'_> {
    /// The entries that fit, equal ones joined; the last few of them.
    pub(super) fn entries(&self, fits: impl Fn(&Observation) -> bool) -> Vec<Evidence> {
        let mut found: Vec<Evidence> = Vec::new();
        for entry in self.snapshot.journal.entries.iter().filter(|entry| fits(&entry.saw)) {
            let evidence = Evidence::of(entry);
            // Messages differ in request ids and waiting times; the beginning tells them apart.
            match found.iter_mut().find(|known| same(&known.text, &evidence.text)) {
                Some(known) => known.join(&evidence),
                None => found.push(evidence),
            }
        }
        found.split_off(found.len().saturating_sub(ENOUGH))
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
