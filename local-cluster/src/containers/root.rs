//! Paths, users and programs inside a container's root file system.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

/// Most symbolic links that are followed for a path, as in Linux.
const MOST_LINKS: usize = 40;

/// Resolves a container's path as a process in the container would: links lead to places inside
/// `root`, and `..` does not leave it. Parts that do not exist are kept. Returns the path inside
/// `root`; `None` if there are too many links.
pub(super) fn resolve(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut pending: VecDeque<OsString> = parts(path);
    let mut resolved = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = pending.pop_front() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        match fs::read_link(on_host(root, &next)) {
            Ok(target) => {
                links += 1;
                if links > MOST_LINKS {
                    return None;
                }
                if target.is_absolute() {
                    resolved = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    pending.push_front(part);
                }
            }
            Err(_) => resolved = next,
        }
    }
    Some(resolved)
}

/// Returns where a resolved path is on the host.
pub(super) fn on_host(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// Checks that a program can be executed, in the words of runc. `mounted` are paths whose content is
/// not that of `root`.
pub(super) fn check_program(
    root: &Path,
    program: &str,
    directory: &str,
    search: &str,
    mounted: &[&str],
) -> Result<(), String> {
    let is_mounted = |path: &Path| mounted.iter().any(|mount| path.starts_with(mount));
    let status = |path: &Path| {
        let inside = resolve(root, path)?;
        fs::metadata(on_host(root, &inside)).ok()
    };
    if program.contains('/') {
        let path = Path::new(directory).join(program);
        if is_mounted(&path) {
            return Ok(());
        }
        return match status(&path) {
            None => Err(format!("exec: \"{program}\": stat {program}: no such file or directory")),
            Some(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => Ok(()),
            Some(_) => Err(format!("exec: \"{program}\": permission denied")),
        };
    }
    let is_found = |part: &str| {
        let path = Path::new(directory).join(part).join(program);
        is_mounted(&path)
            || status(&path)
                .is_some_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if !program.is_empty() && search.split(':').any(is_found) {
        Ok(())
    } else {
        Err(format!("exec: \"{program}\": executable file not found in $PATH"))
    }
}

/// The user that a container runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
}

impl User {
    /// Resolves `user[:group]`, names or numbers, by the root file system's own files, as Docker
    /// does.
    pub(super) fn find(root: &Path, given: &str) -> Result<Self, String> {
        let (user, group) = match given.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (given, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let entry =
            entry(root, "/etc/passwd", |fields| fields[0] == user || fields.get(2) == Some(&user));
        let number = |fields: &[String], at: usize| fields.get(at)?.parse::<u32>().ok();
        let uid = entry.as_deref().and_then(|fields| number(fields, 2)).or(user.parse().ok());
        let uid = uid.ok_or_else(|| {
            format!("unable to find user {user}: no matching entries in passwd file")
        })?;
        let gid = match group {
            None => entry.as_deref().and_then(|fields| number(fields, 3)).unwrap_or(0),
            Some(group) => {
                let known = self::entry(root, "/etc/group", |fields| fields[0] == group);
                known
                    .as_deref()
                    .and_then(|fields| number(fields, 2))
                    .or(group.parse().ok())
                    .ok_or_else(|| {
                        format!("unable to find group {group}: no matching entries in group file")
                    })?
            }
        };
        let home = entry.and_then(|fields| fields.get(5).cloned()).filter(|home| !home.is_empty());
        Ok(Self { uid, gid, home: home.unwrap_or_else(|| "/".to_owned()) })
    }
}

/// Finds a line of a file like `/etc/passwd`.
fn entry(root: &Path, file: &str, matches: impl Fn(&[&str]) -> bool) -> Option<Vec<String>> {
    let inside = resolve(root, Path::new(file))?;
    let text = fs::read_to_string(on_host(root, &inside)).ok()?;
    let lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let fields = lines.into_iter().find(|fields| matches(fields))?;
    Some(fields.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str, mode: u32, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        file("usr/bin/tool", 0o755, "");
        file("usr/bin/text", 0o644, "");
        file(
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nci:x:1000:1001::/home/ci:/bin/sh\n",
        );
        file("etc/group", 0o644, "root:x:0:\ndocker:x:999:\n");
        symlink("usr/bin", root.path().join("bin")).unwrap();
        symlink("/usr/bin/tool", root.path().join("usr/bin/absolute")).unwrap();
        symlink("../../../../../../etc", root.path().join("usr/out")).unwrap();
        symlink("loop", root.path().join("loop")).unwrap();
        root
    }

    #[test]
    fn links_stay_inside_the_root() {
        let root = root();
        let resolved = |path: &str| resolve(root.path(), Path::new(path));
        assert_eq!(resolved("/bin/absolute"), Some("/usr/bin/tool".into()));
        assert_eq!(resolved("/usr/out/passwd"), Some("/etc/passwd".into()));
        assert_eq!(resolved("/../../etc/new/file"), Some("/etc/new/file".into()));
        assert_eq!(resolved("/loop/x"), None);
    }

    #[test]
    fn programs_are_found_as_by_runc() {
        let root = root();
        let check =
            |program: &str| check_program(root.path(), program, "/usr", "/sbin:/bin", &["/builds"]);
        for program in ["tool", "absolute", "/bin/tool", "bin/tool", "/builds/run"] {
            assert_eq!(check(program), Ok(()), "{program}");
        }
        for (program, expected) in [
            ("sh", "exec: \"sh\": executable file not found in $PATH"),
            ("", "exec: \"\": executable file not found in $PATH"),
            ("text", "exec: \"text\": executable file not found in $PATH"),
            ("/bin/text", "exec: \"/bin/text\": permission denied"),
            ("/bin/sh", "exec: \"/bin/sh\": stat /bin/sh: no such file or directory"),
        ] {
            assert_eq!(check(program), Err(expected.to_owned()));
        }
    }

    #[test]
    fn users_are_those_of_the_root_file_system() {
        let root = root();
        let user = |given: &str| {
            User::find(root.path(), given).map(|user| (user.uid, user.gid, user.home))
        };
        let found = |uid, gid, home: &str| Ok((uid, gid, home.to_owned()));
        assert_eq!(user(""), found(0, 0, "/root"));
        assert_eq!(user("ci"), found(1000, 1001, "/home/ci"));
        assert_eq!(user("1000"), found(1000, 1001, "/home/ci"));
        assert_eq!(user("ci:docker"), found(1000, 999, "/home/ci"));
        assert_eq!(user("70:71"), found(70, 71, "/"));
        assert!(user("nobody-here").unwrap_err().contains("no matching entries in passwd file"));
        assert!(user("ci:nothing").unwrap_err().contains("no matching entries in group file"));
    }
}
