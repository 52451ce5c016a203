//! The metadata directory: who may change it, what it is on, and how much room it has. Also the
//! driver's log.

use std::path::Path;

use rustix::fs::{Access, access, statfs, statvfs};
use states::{DirectoryStore, Exposed, Exposure, StoreError};

use super::{Check, Examination, Problem};

/// With less free space than this, in bytes, jobs fail soon.
const FULL: u64 = 10 * MEBIBYTE;
/// With less free space than this, in bytes, there should be more.
const NEARLY_FULL: u64 = 500 * MEBIBYTE;
const MEBIBYTE: u64 = 1024 * 1024;
/// The mode's bit by which only owners remove and rename entries of a directory.
const STICKY: u32 = 0o1000;
/// With fewer free inodes than this, jobs fail soon: each has several files.
const FEW_INODES: u64 = 100;

/// File systems by their numbers (Linux, `include/uapi/linux/magic.h`, and `fs/smb`): those in the
/// network, and those in memory.
const NETWORK: [(u64, &str); 7] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
];
const MEMORY: [(u64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

impl Examination<'_> {
    /// Checks the directory.
    pub(super) fn check_directory(&mut self) {
        const CHECK: Check = Check::Directory;
        let directory = self.config.metadata.directory.clone();
        let shown = directory.display().to_string();
        let exists = directory.is_dir();
        // A directory that is missing is made in the nearest one above it.
        let Some(existing) = directory.ancestors().find(|above| above.exists()) else {
            let facts = [shown, "no directory above it exists".to_owned()];
            return self.report.found(CHECK, Problem::DirectoryNotWritable, facts);
        };
        if !existing.is_dir() {
            let facts = [shown, format!("{} is no directory", existing.display())];
            return self.report.found(CHECK, Problem::DirectoryNotWritable, facts);
        }
        if let Err(e) = access(existing, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
            let facts = [shown, format!("{} cannot be written: {e}", existing.display())];
            return self.report.found(CHECK, Problem::DirectoryNotWritable, facts);
        }
        match DirectoryStore::look(existing).refuse_exposed() {
            Ok(()) => {}
            // Where the sticky bit keeps others off, as in /tmp, a directory that is made anew is
            // safe.
            Err(StoreError::Exposed {
                exposed: Exposed { part, exposure: Exposure::Writable { mode } },
                ..
            }) if !exists && part == existing && mode & STICKY != 0 => {}
            Err(StoreError::Exposed { exposed, .. }) => {
                self.report.found(CHECK, Problem::DirectoryExposed, [exposed.to_string()]);
            }
            Err(error) => self.report.unknown(CHECK, error.to_string()),
        }
        self.check_file_system(existing, &shown);
        self.check_log_file();
        if self.report.is_clean(CHECK) {
            let state = if exists { "is safe" } else { "will be made by the first job" };
            let user = rustix::process::geteuid().as_raw();
            self.report.pass(CHECK, format!("{shown} {state}, for the user with id {user}."));
        }
    }

    /// Checks that the driver's log can be written, without making it.
    fn check_log_file(&mut self) {
        let Some(file) = &self.config.log_file else { return };
        // A file that is missing is made, in a directory that is there.
        let (place, mode) = match file.parent().filter(|_| !file.exists()) {
            Some(parent) if parent.as_os_str().is_empty() => (Path::new("."), Access::WRITE_OK),
            Some(parent) => (parent, Access::WRITE_OK | Access::EXEC_OK),
            None => (file.as_path(), Access::WRITE_OK),
        };
        if let Err(e) = access(place, mode) {
            let facts = [file.display().to_string(), e.to_string()];
            self.report.found(Check::Directory, Problem::NoLogFile, facts);
        }
    }

    fn check_file_system(&mut self, existing: &Path, shown: &str) {
        const CHECK: Check = Check::Directory;
        match statfs(existing) {
            Ok(about) => {
                // The kernel's numbers have 32 bits; the field is wider on some machines.
                let number = u64::try_from(about.f_type).unwrap_or_default() & 0xffff_ffff;
                let named = |known: &[(u64, &str)]| {
                    known.iter().find(|(of, _)| *of == number).map(|(_, name)| (*name).to_owned())
                };
                if let Some(name) = named(&NETWORK) {
                    let facts = [shown.to_owned(), name];
                    self.report.found(CHECK, Problem::NetworkFileSystem, facts);
                } else if let Some(name) = named(&MEMORY) {
                    let facts = [shown.to_owned(), name];
                    self.report.found(CHECK, Problem::VolatileFileSystem, facts);
                }
            }
            Err(e) => self.report.unknown(CHECK, format!("Its file system is not known: {e}.")),
        }
        match statvfs(existing) {
            Ok(disk) => {
                let free = disk.f_bavail.saturating_mul(disk.f_frsize);
                // Some file systems, such as Btrfs, count no inodes.
                let inodes = (disk.f_files > 0).then_some(disk.f_favail);
                if let Some((problem, left)) = judge_room(free, inodes) {
                    self.report.found(CHECK, problem, [shown.to_owned(), left]);
                }
            }
            Err(e) => self.report.unknown(CHECK, format!("Its free space is not known: {e}.")),
        }
    }
}

/// Judges free space, in bytes, and free inodes.
fn judge_room(free: u64, inodes: Option<u64>) -> Option<(Problem, String)> {
    let left = format!("{} MiB", free / MEBIBYTE);
    match inodes {
        _ if free < FULL => Some((Problem::DiskFull, left)),
        Some(inodes) if inodes < FEW_INODES => {
            Some((Problem::DiskFull, format!("{inodes} inodes")))
        }
        _ if free < NEARLY_FULL => Some((Problem::DiskNearlyFull, left)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_found_in_bytes_and_in_inodes() {
        let problem = |free, inodes| judge_room(free, inodes).map(|(problem, _)| problem);
        assert_eq!(problem(MEBIBYTE, Some(1_000_000)), Some(Problem::DiskFull));
        assert_eq!(problem(NEARLY_FULL, Some(3)), Some(Problem::DiskFull));
        assert_eq!(problem(NEARLY_FULL - 1, Some(1000)), Some(Problem::DiskNearlyFull));
        assert_eq!(problem(NEARLY_FULL, Some(1000)), None);
        assert_eq!(problem(NEARLY_FULL, None), None);
    }
}
