//! A file beside the job's key with the sessions that the job has, or may have. A killed process
//! cannot end its session, and a lost answer of ExecuteCommand leaves one with an unknown id. But a
//! container has few slots. The next attempt, in any process, finds the sessions here: see
//! [`super::admission`].
//!
//! A line for each event, never changed; without the file there are none:
//!
//! ```text
//! asked <call> <from, Unix time in ms>    ExecuteCommand is about to be called
//! lost <call> <until, Unix time in ms>    it has failed, and may have opened a session all the same
//! open <call> <session>                   it has opened this one
//! answered <call>                         its command has said something: it has one of the agent's workers
//! over <call>                             nothing is left of it
//! ```

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use states::{LONGEST_CALL, Timestamp, private_file};

/// Longest id that is accepted, in bytes.
const LONGEST: usize = 200;
/// Bytes of a file that are read.
const LONGEST_FILE: u64 = 1024 * 1024;

/// The ledger of one job's sessions. One process at a time works on a job.
#[derive(Debug, Clone)]
pub(super) struct SessionLedger {
    path: PathBuf,
    in_hand: InHand,
}

/// The calls that this process still handles, by their marks, with their ledgers. Its lock also
/// guards the files.
pub(super) type InHand = Arc<Mutex<HashMap<String, PathBuf>>>;

/// A call of ExecuteCommand in the ledger. If it is dropped before [`ExecuteCall::over`], the next attempt
/// handles it.
#[derive(Debug)]
pub(super) struct ExecuteCall {
    pub(super) ledger: SessionLedger,
    mark: String,
}

/// When a session was opened, if it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

/// A call of an earlier attempt or process that is not over.
#[derive(Debug)]
pub(super) struct Earlier {
    pub(super) call: ExecuteCall,
    pub(super) window: Window,
    /// The session, if it is known.
    pub(super) session: Option<String>,
    /// Whether its command has said something.
    pub(super) is_answered: bool,
}

/// A call and its progress.
#[derive(Debug)]
struct Entry {
    mark: String,
    from: Timestamp,
    until: Option<Timestamp>,
    session: Option<String>,
    is_answered: bool,
}

impl SessionLedger {
    /// Returns the ledger `<job>.session` beside `<job>.key`. The key need not exist.
    pub(super) fn beside(key: &Path, in_hand: &InHand) -> Self {
        Self { path: key.with_extension("session"), in_hand: Arc::clone(in_hand) }
    }

    /// Records that ExecuteCommand is about to be called.
    pub(super) fn ask(&self) -> ExecuteCall {
        let mark = format!("{:016x}", rand::random::<u64>());
        self.locked(|in_hand, path| {
            in_hand.insert(mark.clone(), path.to_owned());
            log_failure(
                path,
                append(path, &format!("asked {mark} {}", Timestamp::now().as_millis())),
            );
        });
        ExecuteCall { ledger: self.clone(), mark }
    }

    /// Takes over the calls of earlier attempts and processes.
    pub(super) fn earlier(&self) -> Vec<Earlier> {
        self.locked(|in_hand, path| {
            let mut earlier = Vec::new();
            for Entry { mark, from, until, session, is_answered } in entries(path) {
                if in_hand.contains_key(&mark) {
                    continue;
                }
                in_hand.insert(mark.clone(), path.to_owned());
                let window = Window { from, until: until.unwrap_or_else(|| from + LONGEST_CALL) };
                earlier.push(Earlier {
                    call: ExecuteCall { ledger: self.clone(), mark },
                    window,
                    session,
                    is_answered,
                });
            }
            earlier
        })
    }

    /// Counts the job's calls that this process handles: each may hold a slot of the container.
    pub(super) fn in_hand(&self) -> usize {
        self.locked(|in_hand, path| in_hand.values().filter(|ledger| *ledger == path).count())
    }

    /// Returns the sessions in the ledger.
    pub(super) fn sessions(&self) -> HashSet<String> {
        self.locked(|_, path| entries(path).into_iter().filter_map(|entry| entry.session).collect())
    }

    fn locked<T>(&self, then: impl FnOnce(&mut HashMap<String, PathBuf>, &Path) -> T) -> T {
        let mut in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        then(&mut in_hand, &self.path)
    }
}

impl ExecuteCall {
    /// Records that it has opened a session.
    pub(super) fn opened(&self, session: &str) {
        self.event(&format!("open {} {session}", self.mark));
    }

    /// Records that the session's command has said something.
    pub(super) fn answered(&self) {
        self.event(&format!("answered {}", self.mark));
    }

    /// Records that it has failed, and may have opened a session.
    pub(super) fn lost(self) {
        self.event(&format!("lost {} {}", self.mark, Timestamp::now().as_millis()));
    }

    /// Records that it has opened no session, or one that has ended.
    pub(super) fn over(self) {
        self.ledger.locked(|_, path| {
            if entries(path).iter().any(|entry| entry.mark != self.mark) {
                log_failure(path, append(path, &format!("over {}", self.mark)));
            } else {
                // If the file stays, its sessions are ended once more, which is harmless.
                let _ = fs::remove_file(path);
            }
        });
    }

    fn event(&self, line: &str) {
        self.ledger.locked(|_, path| log_failure(path, append(path, line)));
    }
}

impl Drop for ExecuteCall {
    fn drop(&mut self) {
        self.ledger.locked(|in_hand, _| in_hand.remove(&self.mark));
    }
}

/// Returns the calls that are not over.
fn entries(path: &Path) -> Vec<Entry> {
    let text = private_file::read_up_to(path, LONGEST_FILE).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(event), Some(mark)) = (words.next(), words.next()) else { continue };
        let value = words.next().unwrap_or_default();
        let known = entries.iter().position(|entry| entry.mark == mark);
        match (event, known) {
            ("asked", None) => {
                let Ok(from) = value.parse().map(Timestamp::from_millis) else { continue };
                entries.push(Entry {
                    mark: mark.to_owned(),
                    from,
                    until: None,
                    session: None,
                    is_answered: false,
                });
            }
            ("lost", Some(at)) => {
                entries[at].until = value.parse().ok().map(Timestamp::from_millis)
            }
            ("open", Some(at))
                if !value.is_empty()
                    && value.len() <= LONGEST
                    && value.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                entries[at].session = Some(value.to_owned());
            }
            ("answered", Some(at)) => entries[at].is_answered = true,
            ("over", Some(at)) => drop(entries.remove(at)),
            // An unknown event, or a torn one.
            _ => {}
        }
    }
    entries
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    private_file::append(path, format!("{line}\n").as_bytes())
}

/// Only logs the failure: a session works without its line in the ledger.
fn log_failure(path: &Path, written: io::Result<()>) {
    if let Err(e) = written {
        tracing::debug!(path = %path.display(), %e, "a session is not in the ledger");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(directory: &Path) -> SessionLedger {
        SessionLedger::beside(&directory.join("a.b.key"), &Arc::default())
    }

    fn open(earlier: &[Earlier]) -> Vec<(&str, bool)> {
        earlier
            .iter()
            .filter_map(|earlier| Some((earlier.session.as_deref()?, earlier.is_answered)))
            .collect()
    }

    #[test]
    fn sessions_are_in_the_ledger_until_they_are_over() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = ledger(directory.path());
        assert!(ledger.earlier().is_empty());
        let (first, second) = (ledger.ask(), ledger.ask());
        first.opened("first");
        second.opened("second");
        assert!(ledger.earlier().is_empty(), "they are in hand");
        assert_eq!((ledger.sessions().len(), ledger.in_hand()), (2, 2));
        first.over();
        assert_eq!(
            (ledger.sessions(), ledger.in_hand()),
            (HashSet::from(["second".to_owned()]), 1)
        );
        assert!(directory.path().join("a.b.session").exists());
        second.over();
        assert_eq!((fs::read_dir(directory.path()).unwrap().count(), ledger.in_hand()), (0, 0));
    }

    #[test]
    fn a_dropped_call_is_left_to_the_next_attempt() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = ledger(directory.path());
        let call = ledger.ask();
        call.opened("first");
        drop(call);
        let earlier = ledger.earlier();
        assert_eq!(open(&earlier), [("first", false)]);
        assert!(ledger.earlier().is_empty(), "it is in hand");
        earlier[0].call.answered();
        drop(earlier);
        assert_eq!(open(&ledger.earlier()), [("first", true)]);
    }

    #[test]
    fn an_unanswered_call_has_a_time_window() {
        let directory = tempfile::tempdir().unwrap();
        let before = Timestamp::now();
        // Another process that was killed during its second call.
        let (lost, _under_way) = (ledger(directory.path()).ask(), ledger(directory.path()).ask());
        lost.lost();
        let after = Timestamp::now();
        let earlier = ledger(directory.path()).earlier();
        assert!(
            earlier.len() == 2 && earlier.iter().all(|earlier| earlier.session.is_none()),
            "{earlier:?}"
        );
        let windows = [earlier[0].window, earlier[1].window];
        assert!(
            windows.iter().all(|window| (before..=after).contains(&window.from)),
            "{windows:?}"
        );
        assert!(windows[0].until <= after, "{windows:?}");
        assert_eq!(windows[1].until, windows[1].from + LONGEST_CALL);
    }

    #[test]
    fn invalid_lines_are_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = ledger(directory.path());
        for nonsense in [
            "",
            "\n\n",
            "open x y\n",
            "asked\n",
            "asked x\n",
            "asked x y\n",
            &"x".repeat(1000),
            "lost a 1",
            "over a",
        ] {
            fs::write(directory.path().join("a.b.session"), nonsense).unwrap();
            assert!(ledger.earlier().is_empty(), "{nonsense:?}");
        }
        let id = "x".repeat(LONGEST + 1);
        fs::write(
            directory.path().join("a.b.session"),
            format!("asked a 1\nopen a {id}\nopen a two words\nop"),
        )
        .unwrap();
        assert_eq!(open(&ledger.earlier()), [("two", false)]);
    }
}
