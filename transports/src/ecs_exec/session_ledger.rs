//! The sessions that a job has, or may have, in a file beside the job's key. A process that is killed cannot end its
//! session, and an answer of ExecuteCommand that is lost leaves one whose id nobody knows; but a container has few
//! slots for them. The next attempt, of whichever process, finds them here and ends them.
//!
//! A line for each event, never changed; without the file there are none:
//!
//! ```text
//! asked <call> <from, Unix time in ms>    ExecuteCommand is about to be called
//! lost <call> <until, Unix time in ms>    it has failed, and may have opened a session all the same
//! open <call> <session>                   it has opened this one
//! over <call>                             nothing is left of it
//! ```

use std::{
    collections::HashSet,
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use states::{LONGEST_CALL, Timestamp};

/// Longest id that is believed, in bytes.
const LONGEST: usize = 200;

/// Where one job's sessions are noted. One process at a time works on a job.
#[derive(Debug, Clone)]
pub(super) struct Note {
    path: PathBuf,
    ours: Ours,
}

/// The calls that this process still has in hand, by their marks; and the lock of the files.
pub(super) type Ours = Arc<Mutex<HashSet<String>>>;

/// A call of ExecuteCommand that is noted. Dropped before [`Call::over`], it is left to the next attempt.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) note: Note,
    mark: String,
}

/// When a session was opened, if it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

/// What an attempt or a process left behind.
#[derive(Debug)]
pub(super) enum Left {
    /// A session.
    Open(Call, String),
    /// A session of which only this is known, or none.
    Lost(Call, Window),
}

/// A call, as far as it has come.
#[derive(Debug)]
struct Entry {
    mark: String,
    from: Timestamp,
    until: Option<Timestamp>,
    session: Option<String>,
}

impl Note {
    /// `<job>.session` beside `<job>.key`, whether that is there or not.
    pub(super) fn beside(key: &Path, ours: &Ours) -> Self {
        Self { path: key.with_extension("session"), ours: Arc::clone(ours) }
    }

    /// Notes that ExecuteCommand is about to be called.
    pub(super) fn ask(&self) -> Call {
        let mark = format!("{:016x}", rand::random::<u64>());
        self.alone(|ours, path| {
            ours.insert(mark.clone());
            told(path, append(path, &format!("asked {mark} {}", Timestamp::now().as_millis())));
        });
        Call { note: self.clone(), mark }
    }

    /// What nobody has in hand.
    pub(super) fn left(&self) -> Vec<Left> {
        self.alone(|ours, path| {
            let mut left = Vec::new();
            for entry in entries(path) {
                if !ours.insert(entry.mark.clone()) {
                    continue;
                }
                let call = Call { note: self.clone(), mark: entry.mark };
                left.push(match entry.session {
                    Some(session) => Left::Open(call, session),
                    None => {
                        let until = entry.until.unwrap_or_else(|| entry.from + LONGEST_CALL);
                        Left::Lost(call, Window { from: entry.from, until })
                    }
                });
            }
            left
        })
    }

    /// The sessions that are noted.
    pub(super) fn sessions(&self) -> HashSet<String> {
        self.alone(|_, path| entries(path).into_iter().filter_map(|entry| entry.session).collect())
    }

    fn alone<T>(&self, then: impl FnOnce(&mut HashSet<String>, &Path) -> T) -> T {
        let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        then(&mut ours, &self.path)
    }
}

impl Call {
    /// It has opened a session.
    pub(super) fn opened(&self, session: &str) {
        self.event(&format!("open {} {session}", self.mark));
    }

    /// It has failed in a way that does not tell whether it has opened a session.
    pub(super) fn lost(self) {
        self.event(&format!("lost {} {}", self.mark, Timestamp::now().as_millis()));
    }

    /// It has opened no session, or one that has ended.
    pub(super) fn over(self) {
        self.note.alone(|_, path| {
            if entries(path).iter().any(|entry| entry.mark != self.mark) {
                told(path, append(path, &format!("over {}", self.mark)));
            } else {
                // If it stays, what is over is ended once more.
                let _ = fs::remove_file(path);
            }
        });
    }

    fn event(&self, line: &str) {
        self.note.alone(|_, path| told(path, append(path, line)));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.note.alone(|ours, _| ours.remove(&self.mark));
    }
}

/// The calls that are not over.
fn entries(path: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(event), Some(mark)) = (words.next(), words.next()) else { continue };
        let value = words.next().unwrap_or_default();
        let known = entries.iter().position(|entry| entry.mark == mark);
        match (event, known) {
            ("asked", None) => {
                let Ok(from) = value.parse().map(Timestamp::from_millis) else { continue };
                entries.push(Entry { mark: mark.to_owned(), from, until: None, session: None });
            }
            ("lost", Some(at)) => entries[at].until = value.parse().ok().map(Timestamp::from_millis),
            ("open", Some(at)) if !value.is_empty() && value.len() <= LONGEST && value.bytes().all(|b| b.is_ascii_graphic()) => {
                entries[at].session = Some(value.to_owned());
            }
            ("over", Some(at)) => drop(entries.remove(at)),
            // Nothing of ours, or the end of it is missing.
            _ => {}
        }
    }
    entries
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// A session is none the worse for not being noted.
fn told(path: &Path, noted: io::Result<()>) {
    if let Err(e) = noted {
        tracing::debug!(path = %path.display(), %e, "a session cannot be noted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(place: &Path) -> Note {
        Note::beside(&place.join("a.b.key"), &Arc::default())
    }

    fn open(left: &[Left]) -> Vec<&str> {
        left.iter().filter_map(|left| if let Left::Open(_, session) = left { Some(session.as_str()) } else { None }).collect()
    }

    #[test]
    fn sessions_are_noted_until_they_are_over() {
        let place = tempfile::tempdir().unwrap();
        let note = note(place.path());
        assert!(note.left().is_empty());
        let (first, second) = (note.ask(), note.ask());
        first.opened("first");
        second.opened("second");
        assert!(note.left().is_empty(), "they are in hand");
        assert_eq!(note.sessions().len(), 2);
        first.over();
        assert_eq!(note.sessions(), HashSet::from(["second".to_owned()]));
        assert!(place.path().join("a.b.session").exists());
        second.over();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_dropped_is_left_to_one_who_asks() {
        let place = tempfile::tempdir().unwrap();
        let note = note(place.path());
        let call = note.ask();
        call.opened("first");
        drop(call);
        let left = note.left();
        assert_eq!(open(&left), ["first"]);
        assert!(note.left().is_empty(), "somebody has it in hand");
        drop(left);
        assert_eq!(open(&note.left()), ["first"]);
    }

    #[test]
    fn a_call_without_an_answer_has_a_window() {
        let place = tempfile::tempdir().unwrap();
        let before = Timestamp::now();
        // Another process, which was killed during its second call.
        let (lost, _under_way) = (note(place.path()).ask(), note(place.path()).ask());
        lost.lost();
        let after = Timestamp::now();
        let windows: Vec<_> = note(place.path())
            .left()
            .iter()
            .map(|left| match left {
                Left::Lost(_, window) => *window,
                Left::Open(..) => panic!("{left:?}"),
            })
            .collect();
        assert_eq!(windows.len(), 2);
        assert!(windows.iter().all(|window| (before..=after).contains(&window.from)), "{windows:?}");
        assert!(windows[0].until <= after, "{windows:?}");
        assert_eq!(windows[1].until, windows[1].from + LONGEST_CALL);
    }

    #[test]
    fn nonsense_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let note = note(place.path());
        for nonsense in ["", "\n\n", "open x y\n", "asked\n", "asked x\n", "asked x y\n", &"x".repeat(1000), "lost a 1", "over a"] {
            fs::write(place.path().join("a.b.session"), nonsense).unwrap();
            assert!(note.left().is_empty(), "{nonsense:?}");
        }
        let id = "x".repeat(LONGEST + 1);
        fs::write(place.path().join("a.b.session"), format!("asked a 1\nopen a {id}\nopen a two words\nop")).unwrap();
        assert_eq!(open(&note.left()), ["two"]);
    }
}
