//! Images: root file systems in a directory, with the image's configuration beside each.
//!
//! `registry.example.com/ci/debian:12` is the directory `registry.example.com_ci_debian_12`: `/`,
//! `:` and `@` become `_`. The tag `latest` may be left out, and so may `docker.io/` and
//! `docker.io/library/`. A symbolic link gives a root file system another name.
//!
//! The configuration of `NAME` is `NAME.json`: an OCI image's configuration, or its `config` object
//! alone, of which `Entrypoint`, `Cmd`, `Env`, `User` and `WorkingDir` are used. A directory may
//! also be a bundle, as `umoci unpack` makes it: `rootfs` and `config.json`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde::Deserialize;
use serde_json::Value;

/// Programs that containers are started with: util-linux, coreutils and a shell.
const TOOLS: [&str; 11] =
    ["unshare", "nsenter", "mount", "env", "sh", "cat", "cp", "ln", "mkdir", "sleep", "stat"];
/// Where they are looked up.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// Checks whether this process can run containers with root file systems of their own. The first
/// call tries it.
///
/// # Errors
/// Why not, and what to do.
pub fn available() -> Result<(), String> {
    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    TRIED.get_or_init(try_namespaces).clone()
}

fn try_namespaces() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "containers with a root file system of their own need root: start the local cluster as root"
                .to_owned(),
        );
    }
    for tool in TOOLS {
        tool_path(tool)?;
    }
    // Everything that may be forbidden: namespaces, mounts, an overlay on a file system in memory.
    // Then what is asked of util-linux (2.38) and coreutils (8.31).
    let script = "mount -t tmpfs t /mnt && mkdir /mnt/l /mnt/u /mnt/w /mnt/r && \
                  mount -t overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w o /mnt/r && \
                  mount -t proc proc /mnt/l && \
                  env --default-signal -- \
                  unshare --root=/ --wd=/ --setgid=0 --setuid=0 -- true && \
                  { nsenter --help | grep -q -e --wdns || \
                  { echo nsenter has no --wdns: util-linux 2.38 is needed >&2; exit 1; }; }";
    let tried = Command::new(tool_path("unshare")?)
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--", "/bin/sh", "-c"])
        .arg(script)
        .env_clear()
        .env("PATH", DIRECTORIES.join(":"))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("unshare does not start: {e}"))?;
    if tried.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&tried.stderr);
    Err(format!(
        "this machine does not let root make namespaces and overlays: {}. In a container, it must be privileged",
        why.lines().last().unwrap_or("no reason given")
    ))
}

/// Returns the path of a program of the host.
pub(crate) fn tool_path(name: &str) -> Result<String, String> {
    DIRECTORIES
        .iter()
        .map(|directory| format!("{directory}/{name}"))
        .find(|path| Path::new(path).exists())
        .ok_or_else(|| {
            format!("{name} is missing: install util-linux and coreutils ({})", TOOLS.join(", "))
        })
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) root: PathBuf,
    pub(crate) config: ImageConfig,
}

/// An image's configuration (OCI image specification, `config`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct ImageConfig {
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) user: Option<String>,
    pub(crate) working_dir: Option<String>,
}

impl Image {
    /// Returns the host's own file system as an image.
    pub(crate) fn of_host() -> Self {
        Self { root: "/".into(), config: ImageConfig::default() }
    }

    /// Pulls an image: finds its root file system. The error is the reason of a stopped task.
    pub(crate) fn pull(directory: Option<&Path>, reference: &str) -> Result<Self, String> {
        let failed = |why: String| {
            format!(
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {reference}: {why}"
            )
        };
        let directory = directory.ok_or_else(|| {
            failed(
                "the local cluster has no images: start it with a directory of root file systems (--images)"
                    .to_owned(),
            )
        })?;
        let found = names(reference).into_iter().map(|name| directory.join(name));
        let path = found
            .into_iter()
            .find(|path| path.is_dir())
            .ok_or_else(|| failed(format!("{reference}: not found")))?;
        Self::read(&path)
            .map_err(|e| failed(format!("{reference}: its configuration cannot be read: {e}")))
    }

    fn read(path: &Path) -> io::Result<Self> {
        let bundle = path.join("rootfs");
        if bundle.is_dir() && path.join("config.json").is_file() {
            let spec: Value = serde_json::from_slice(&fs::read(path.join("config.json"))?)?;
            return Ok(Self { root: bundle.canonicalize()?, config: of_bundle(&spec) });
        }
        let config = match fs::read(beside(path)) {
            Ok(text) => {
                let mut config: Value = serde_json::from_slice(&text)?;
                let inner = config.get_mut("config").map(Value::take);
                serde_json::from_value(inner.unwrap_or(config))?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => ImageConfig::default(),
            Err(e) => return Err(e),
        };
        Ok(Self { root: path.canonicalize()?, config })
    }
}

/// Returns the path of an image's configuration: that of its name, which may be a link to another's
/// directory, or that of the link's target.
fn beside(path: &Path) -> PathBuf {
    let json = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".json");
        PathBuf::from(name)
    };
    let own = json(path);
    match path.canonicalize() {
        Ok(target) if !own.exists() => json(&target),
        _ => own,
    }
}

/// Returns what a runtime bundle's configuration says of the image (OCI runtime specification).
fn of_bundle(spec: &Value) -> ImageConfig {
    let process = &spec["process"];
    let list = |name: &str| crate::api::strings(process, name);
    let id = |name: &str| process["user"][name].as_u64().unwrap_or(0);
    ImageConfig {
        entrypoint: None,
        cmd: list("args"),
        env: list("env"),
        user: Some(format!("{}:{}", id("uid"), id("gid"))),
        working_dir: process["cwd"].as_str().map(str::to_owned),
    }
}

/// Returns the names of directories that may be an image, the most exact first.
fn names(reference: &str) -> Vec<String> {
    let short = reference.strip_prefix("docker.io/").unwrap_or(reference);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let forms = if short == reference { vec![reference] } else { vec![reference, short] };
    let mut names = Vec::new();
    for reference in forms {
        let name = reference.replace(['/', ':', '@'], "_");
        let has_tag = reference.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        names.push(name.clone());
        match reference.strip_suffix(":latest") {
            Some(untagged) => names.push(untagged.replace(['/', ':', '@'], "_")),
            None if !has_tag => names.push(format!("{name}_latest")),
            None => {}
        }
    }
    // Neither a hidden file nor a parent directory is an image.
    names.retain(|name| !name.is_empty() && !name.starts_with('.'));
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn references_are_names_of_directories() {
        assert_eq!(names("debian"), ["debian", "debian_latest"]);
        assert_eq!(names("redis:7"), ["redis_7"]);
        assert_eq!(
            names("docker.io/library/redis:latest"),
            ["docker.io_library_redis_latest", "docker.io_library_redis", "redis_latest", "redis"]
        );
        assert_eq!(
            names("localhost:5000/ci/x"),
            ["localhost_5000_ci_x", "localhost_5000_ci_x_latest"]
        );
        assert_eq!(names("a@sha256:0"), ["a_sha256_0"]);
        assert!(names("..").is_empty() && names(".hidden").is_empty());
    }

    #[test]
    fn configurations_are_read_in_three_forms() {
        let images = tempfile::tempdir().unwrap();
        let path = |name: &str| images.path().join(name);
        for name in ["plain", "whole", "bare", "bundle/rootfs"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        symlink("plain", path("other_1.0")).unwrap();
        let config = r#"{ "Entrypoint": ["/e"], "Cmd": ["c"], "User": "1000", "Env": ["A=1"] }"#;
        fs::write(path("plain.json"), config).unwrap();
        fs::write(path("whole.json"), format!(r#"{{ "os": "linux", "config": {config} }}"#))
            .unwrap();
        let spec = r#"{ "process": { "args": ["/e", "c"], "cwd": "/w", "user": { "uid": 5, "gid": 6 } } }"#;
        fs::write(path("bundle/config.json"), spec).unwrap();
        let pull = |name: &str| Image::pull(Some(images.path()), name).unwrap();
        let plain = pull("plain");
        assert_eq!(plain.config.entrypoint.as_deref(), Some(&["/e".to_owned()][..]));
        assert_eq!(pull("other:1.0"), plain);
        assert_eq!(pull("whole").config, plain.config);
        assert_eq!(pull("bare").config, ImageConfig::default());
        let bundle = pull("bundle");
        assert!(bundle.root.ends_with("bundle/rootfs"));
        assert_eq!(bundle.config.user.as_deref(), Some("5:6"));
        assert_eq!(bundle.config.working_dir.as_deref(), Some("/w"));
        let missing = Image::pull(Some(images.path()), "nothing:1").unwrap_err();
        assert!(missing.starts_with("CannotPullContainerError") && missing.ends_with("not found"));
        fs::write(path("bare.json"), "{").unwrap();
        assert!(Image::pull(Some(images.path()), "bare").unwrap_err().contains("configuration"));
    }
}
