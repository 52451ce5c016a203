//! How often this process calls AWS, by operation. The service shows it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Calls of the same slot are counted together.
const SLOT: Duration = Duration::from_secs(10);
/// Slots of the last minute, and of the last quarter of an hour.
const MINUTE: u64 = 6;
const QUARTER: u64 = 15 * MINUTE;
/// Error codes of an operation that are counted apart. AWS has fewer; another server may not.
const CODES: usize = 50;
/// What further codes are counted as.
const OTHER: &str = "other";

/// The calls of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallCount {
    /// The operation, such as `ECS/RunTask`.
    pub method: String,
    /// All calls since the process began.
    pub calls: u64,
    /// The calls of the last minute.
    pub last_minute: u64,
    /// The calls of the last 15 minutes.
    pub last_quarter: u64,
    /// Those of all calls that failed, by AWS's error code.
    pub errors: Vec<(String, u64)>,
}

impl CallCount {
    /// The calls that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.iter().map(|(_, count)| count).sum()
    }
}

/// The calls of this process. There is one list, as several clients call AWS: those of the engine,
/// of the reaper and of ECS Exec.
static CALLS: LazyLock<Calls> =
    LazyLock::new(|| Calls { began: Instant::now(), operations: Mutex::default() });

struct Calls {
    began: Instant,
    operations: Mutex<BTreeMap<String, Operation>>,
}

/// Counts a call.
pub(super) fn count(method: &str, error: Option<&str>) {
    let now = CALLS.now();
    CALLS.operations().entry(method.to_owned()).or_default().count(now, error);
}

/// Returns how often this process has called AWS, by operation.
#[must_use]
pub fn calls() -> Vec<CallCount> {
    let now = CALLS.now();
    CALLS.operations().iter().map(|(method, operation)| operation.counted(method, now)).collect()
}

impl Calls {
    /// Returns the slot of this moment.
    fn now(&self) -> u64 {
        self.began.elapsed().as_secs() / SLOT.as_secs()
    }

    fn operations(&self) -> MutexGuard<'_, BTreeMap<String, Operation>> {
        // Counts are consistent after every step.
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Operation {
    calls: u64,
    errors: BTreeMap<String, u64>,
    /// The slots with calls, and how many each has; the oldest first.
    recent: VecDeque<(u64, u64)>,
}

impl Operation {
    fn count(&mut self, now: u64, error: Option<&str>) {
        self.calls += 1;
        if let Some(code) = error {
            let is_known = self.errors.contains_key(code) || self.errors.len() < CODES;
            *self.errors.entry(if is_known { code } else { OTHER }.to_owned()).or_default() += 1;
        }
        match self.recent.back_mut() {
            Some((slot, calls)) if *slot == now => *calls += 1,
            _ => self.recent.push_back((now, 1)),
        }
        while self.recent.front().is_some_and(|(slot, _)| slot + QUARTER <= now) {
            self.recent.pop_front();
        }
    }

    fn counted(&self, method: &str, now: u64) -> CallCount {
        let within = |slots: u64| {
            let recent = self.recent.iter().filter(|(slot, _)| slot + slots > now);
            recent.map(|(_, calls)| calls).sum()
        };
        CallCount {
            method: method.to_owned(),
            calls: self.calls,
            last_minute: within(MINUTE),
            last_quarter: within(QUARTER),
            errors: self.errors.iter().map(|(code, count)| (code.clone(), *count)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_leave_the_last_minute_and_the_last_quarter_of_an_hour() {
        let mut operation = Operation::default();
        operation.count(0, None);
        operation.count(4, Some("ThrottlingException"));
        let recent = |operation: &Operation, now| {
            let counted = operation.counted("ECS/RunTask", now);
            (counted.last_minute, counted.last_quarter)
        };
        assert_eq!(recent(&operation, 5), (2, 2));
        assert_eq!(recent(&operation, 6), (1, 2));
        assert_eq!(recent(&operation, 90), (0, 1));
        operation.count(1000, None);
        assert_eq!(operation.recent, [(1000, 1)], "what is older is forgotten");
        let counted = operation.counted("ECS/RunTask", 1000);
        assert_eq!((counted.calls, counted.failed()), (3, 1));
    }

    #[test]
    fn the_number_of_codes_is_bounded() {
        let mut operation = Operation::default();
        for code in 0..1000 {
            operation.count(0, Some(&format!("Code{code}")));
        }
        let counted = operation.counted("ECS/RunTask", 0);
        assert_eq!((counted.errors.len(), counted.failed()), (CODES + 1, 1000));
    }
}
