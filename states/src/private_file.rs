//! Files of the metadata directory: regular files of one user, never reached through a link.
//!
//! Other users cannot put a link into the directory:
//! [`DirectoryStore::open`](crate::DirectoryStore::open) refuses one that they can write to. This
//! is the second line of defence, as files from a time when they could may still be there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

/// Options that neither follow a link nor wait for the other end of a pipe.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

/// Opens a regular file to read it.
///
/// # Errors
/// When it is a link, a pipe, a device or a directory, or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    regular(options().read(true).open(path)?)
}

/// Opens a regular file to read and write it. Creates it, with mode 0600, if it is missing.
///
/// # Errors
/// As [`open`].
pub fn open_or_create(path: &Path) -> io::Result<File> {
    regular(options().read(true).write(true).create(true).truncate(false).open(path)?)
}

/// Creates a new, empty file with mode 0600. Removes what a killed process left under that name. A
/// link is removed, but not its target.
///
/// # Errors
/// When an existing file cannot be removed, or the new one cannot be created.
pub fn create_new(path: &Path) -> io::Result<File> {
    let create = || options().write(true).create_new(true).open(path);
    match create() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create()
        }
        created => created,
    }
}

/// Appends to a regular file, in one write. Creates it, with mode 0600, if it is missing.
///
/// # Errors
/// As [`open`], or when the bytes cannot be written.
pub fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    regular(options().append(true).create(true).open(path)?)?.write_all(bytes)
}

/// Reads at most `limit` bytes of a regular file.
///
/// # Errors
/// As [`open`], or when it cannot be read.
pub fn read_up_to(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes a file. A missing one is no error.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn links_pipes_and_directories_are_not_opened() {
        let place = tempfile::tempdir().unwrap();
        let (target, link) = (place.path().join("target"), place.path().join("link"));
        fs::write(&target, "theirs").unwrap();
        symlink(&target, &link).unwrap();
        let dangling = place.path().join("dangling");
        symlink(place.path().join("nowhere"), &dangling).unwrap();
        let pipe = place.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for path in [&link, &dangling, &pipe, &place.path().to_owned()] {
            assert!(
                open(path).is_err()
                    && open_or_create(path).is_err()
                    && append(path, b"ours").is_err(),
                "{}",
                path.display()
            );
            assert!(read_up_to(path, 9).is_err(), "{}", path.display());
        }
        create_new(&link).unwrap().write_all(b"ours").unwrap();
        assert_eq!(
            (fs::read(&target).unwrap(), fs::read(&link).unwrap()),
            (b"theirs".to_vec(), b"ours".to_vec())
        );
        assert!(!place.path().join("nowhere").exists());
    }

    #[test]
    fn files_are_private_and_read_up_to_a_limit() {
        let place = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let [one, two, three] = ["one", "two", "three"].map(|name| place.path().join(name));
        append(&one, b"ab").unwrap();
        append(&one, b"cd").unwrap();
        open_or_create(&two).unwrap();
        fs::write(&three, "left by a killed process").unwrap();
        fs::set_permissions(&three, fs::Permissions::from_mode(0o666)).unwrap();
        create_new(&three).unwrap();
        assert_eq!([&one, &two, &three].map(|path| mode(path)), [0o600; 3]);
        assert_eq!(
            (read_up_to(&one, 3).unwrap(), read_up_to(&one, 9).unwrap()),
            (b"abc".to_vec(), b"abcd".to_vec())
        );
        assert_eq!(read_up_to(&three, 9).unwrap(), b"");
    }
}
