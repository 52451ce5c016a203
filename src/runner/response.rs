//! GitLab's response with the job, which gitlab-runner writes to a file that no variable of the job
//! can change.

use std::{
    borrow::Cow,
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use states::foreign_text;

use super::variables::Variable;

/// The variable in which gitlab-runner 14.1 and newer name the file. It is empty if the file could
/// not be written.
pub(super) const VARIABLE: &str = "JOB_RESPONSE_FILE";

/// The largest file that is read, in bytes. It holds the variables, of which GitLab admits some
/// megabytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Why the file does not identify the job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The variable is set and names no file.
    #[error(
        "JOB_RESPONSE_FILE is set but names no file: gitlab-runner could not write the job's response, so the driver cannot know which job this is. Nothing was touched. Make room in gitlab-runner's temporary directory (TMPDIR), and make it writable."
    )]
    Unnamed,
    /// The file cannot be read, or is not a job's response.
    #[error(
        "the job's response file {} cannot be used: {why}. Nothing was touched. gitlab-runner writes it anew for each job: see whether its temporary directory (TMPDIR) is full.",
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The parts of the job's response that identify it (gitlab-runner, `common/spec`, `Job`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Response {
    /// GitLab's number of the job.
    pub(super) id: u64,
    /// The job's token. Secret.
    #[serde(default)]
    pub(super) token: String,
    #[serde(default)]
    job_info: JobInfo,
    #[serde(default)]
    git_info: GitInfo,
    /// `null` if there is none.
    #[serde(default)]
    pub(super) variables: Option<Vec<Variable>>,
    /// What the job wants to run in. Read separately: a mistake there is the job's own, and the job
    /// is still known.
    #[serde(default)]
    pub(super) image: serde_json::Value,
    /// What it wants beside it, likewise.
    #[serde(default)]
    pub(super) services: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct JobInfo {
    #[serde(default)]
    name: String,
    #[serde(default)]
    project_id: u64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct GitInfo {
    /// The URL with the job's token.
    #[serde(default)]
    repo_url: String,
}

impl Response {
    /// Reads the response that the variable's value names; `None` without a value, as with
    /// gitlab-runner before 14.1.
    pub(super) fn named_by(value: Option<OsString>) -> Option<Result<Self, ResponseError>> {
        let name = value?;
        Some(if name.is_empty() {
            Err(ResponseError::Unnamed)
        } else {
            Self::read(Path::new(&name))
        })
    }

    fn read(path: &Path) -> Result<Self, ResponseError> {
        let fail = |why: String| ResponseError::Unusable { path: path.to_owned(), why };
        let text = read(path).map_err(|e| fail(e.to_string()))?;
        if text.trim_ascii().is_empty() {
            return Err(fail("it is empty".to_owned()));
        }
        serde_json::from_slice(&text)
            .map_err(|e| fail(foreign_text::clipped(&format!("it is not a job's response: {e}"))))
    }

    /// Returns the job's name from `.gitlab-ci.yml`. GitLab vouches that it is this job's; the text
    /// is the project's own.
    pub(super) fn job_name(&self) -> &str {
        &self.job_info.name
    }

    /// Returns the project's URL: its repository's, without the job's token and `.git`. It does not
    /// depend on variables.
    pub(super) fn project_url(&self) -> Cow<'_, str> {
        match without_token(&self.git_info.repo_url) {
            Some(url) => url.into(),
            None => format!("project {}", self.job_info.project_id).into(),
        }
    }

    /// Returns the pipeline's number, if the response has it.
    ///
    /// The response has it as a variable only. GitLab lists its own `CI_PIPELINE_ID` before all
    /// that a project defines (`Ci::Build`, `variables`), so the first one is GitLab's, even if it
    /// is repeated. It is only shown to people.
    pub(super) fn pipeline_id(&self) -> Option<&str> {
        let first =
            self.variables.iter().flatten().find(|variable| variable.key == "CI_PIPELINE_ID")?;
        let is_number = !first.value.is_empty() && first.value.bytes().all(|b| b.is_ascii_digit());
        is_number.then_some(&first.value)
    }
}

/// `https://gitlab-ci-token:TOKEN@host/group/project.git` as `https://host/group/project`.
fn without_token(repository: &str) -> Option<String> {
    let (scheme, rest) = repository.split_once("://")?;
    let (authority, path) = rest.split_once('/')?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = path.strip_suffix(".git").unwrap_or(path);
    (!host.is_empty() && !path.is_empty()).then(|| format!("{scheme}://{host}/{path}"))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Does not follow links to other files, and does not block on a pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    limited(file)
}

fn limited(file: File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {} MiB", MAX_BYTES / 1024 / 1024)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn parse(text: &str) -> Response {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_project_is_its_repository_without_token() {
        let of = |url: &str| {
            parse(&format!(
                r#"{{"id":1,"job_info":{{"project_id":7}},"git_info":{{"repo_url":"{url}"}}}}"#
            ))
        };
        for (repository, project) in [
            (
                "https://gitlab-ci-token:64_x@y@gitlab.example/group/sub/project.git",
                "https://gitlab.example/group/sub/project",
            ),
            (
                "http://gitlab.example:8080/g/p.git?private_token=x",
                "http://gitlab.example:8080/g/p",
            ),
            ("https://gitlab.example/relative/g/p", "https://gitlab.example/relative/g/p"),
            ("", "project 7"),
            ("https://gitlab.example", "project 7"),
        ] {
            assert_eq!(of(repository).project_url(), project, "{repository}");
        }
    }

    #[test]
    fn the_first_pipeline_is_gitlabs_whatever_a_project_repeats() {
        let of = |variables: &str| {
            parse(&format!(r#"{{"id":1,"variables":{variables}}}"#))
                .pipeline_id()
                .map(str::to_owned)
        };
        let repeated = r#"[{"key":"CI_PIPELINE_ID","value":"77","public":true},{"key":"CI_PIPELINE_ID","value":"99","public":true}]"#;
        assert_eq!(of(repeated).as_deref(), Some("77"));
        for none in [
            "null",
            "[]",
            r#"[{"key":"CI_PIPELINE_ID","value":"7\n7"}]"#,
            r#"[{"key":"CI_PIPELINE_ID"}]"#,
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn only_a_whole_response_in_a_regular_file_is_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("response.json");
        let refused = |path: &Path, why: &str| {
            let error = Response::read(path).unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains(path.to_str().unwrap()),
                "{why}: {error}"
            );
            assert!(!error.contains(char::is_control), "{error}");
        };
        refused(&path, "No such file");
        for (text, why) in [
            ("", "empty"),
            (" \n", "empty"),
            ("hello", "not a job's response"),
            (r#"{"token":"x"}"#, "missing field `id`"),
            (r#"{"id":"\u001b[31m\n1"}"#, "expected u64"),
        ] {
            fs::write(&path, text).unwrap();
            refused(&path, why);
        }
        fs::write(&path, r#"{"id":4711,"job_info":null}"#).unwrap();
        refused(&path, "not a job's response");
        fs::write(&path, r#"{"id":4711}"#).unwrap();
        assert_eq!(Response::read(&path).unwrap().id, 4711);
        let link = place.path().join("link");
        symlink(&path, &link).unwrap();
        refused(&link, "symbolic links");
        refused(place.path(), "not a regular file");
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        refused(&path, "larger than 64 MiB");
    }
}
