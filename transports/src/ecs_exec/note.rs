//! The open session's id in a file beside the job's key: a process that is killed cannot end its session, and the
//! container has few slots for them. The next process finds it there and does.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Longest id that is believed, in bytes.
const LONGEST: usize = 200;

/// Where the session of one job is noted. One process at a time works on a job.
#[derive(Debug, Clone)]
pub(super) struct Note {
    path: PathBuf,
    /// A session that ends and the one after it write to the same file.
    lock: Arc<Mutex<()>>,
}

impl Note {
    /// `<job>.session` beside `<job>.key`, whether that is there or not.
    pub(super) fn beside(key: &Path, lock: &Arc<Mutex<()>>) -> Self {
        Self { path: key.with_extension("session"), lock: Arc::clone(lock) }
    }

    /// The session that was open when the file was last written.
    pub(super) fn read(&self) -> Option<String> {
        self.alone(|path| {
            let id = fs::read_to_string(path).ok()?.trim().to_owned();
            let plausible = !id.is_empty() && id.len() <= LONGEST && id.bytes().all(|b| b.is_ascii_graphic());
            plausible.then_some(id)
        })
    }

    /// Notes the session that is open now. Of the last one, whoever reads this has taken care.
    pub(super) fn write(&self, session: &str) {
        let written = self.alone(|path| {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
            io::Write::write_all(&mut file, session.as_bytes())
        });
        if let Err(e) = written {
            // The session is none the worse for it.
            tracing::debug!(path = %self.path.display(), %e, "the session cannot be noted");
        }
    }

    /// This session is over.
    pub(super) fn clear(&self, session: &str) {
        self.alone(|path| {
            if fs::read_to_string(path).is_ok_and(|noted| noted == session) {
                // If it stays, a session that is over is ended once more.
                let _ = fs::remove_file(path);
            }
        });
    }

    fn alone<T>(&self, then: impl FnOnce(&Path) -> T) -> T {
        let _alone = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        then(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_session_is_noted_until_it_is_over() {
        let place = tempfile::tempdir().unwrap();
        let note = Note::beside(&place.path().join("a.b.key"), &Arc::default());
        assert_eq!(note.read(), None);
        note.write("first");
        note.write("second");
        note.clear("first");
        assert_eq!(note.read().as_deref(), Some("second"));
        assert!(place.path().join("a.b.session").exists());
        note.clear("second");
        assert_eq!((note.read(), fs::read_dir(place.path()).unwrap().count()), (None, 0));
        for nonsense in ["", "two words\n", &"x".repeat(1000)] {
            note.write(nonsense);
            assert_eq!(note.read(), None);
        }
    }
}
