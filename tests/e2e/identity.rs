//! Which job a stage works on: GitLab's file decides, not the job's variables.

use std::{fs, path::Path};

use crate::{
    cluster::Cluster,
    runner::{Ended, Job, SYSTEM_FAILURE, is_of_service},
};

const STAGES: [&[&str]; 4] =
    [&["config"], &["prepare"], &["run", "/does/not/matter", "build_script"], &["cleanup"]];

/// Returns all files below a directory with their content, except lock holders.
fn content(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if is_of_service(path.file_name().unwrap()) {
            continue;
        }
        if path.is_dir() {
            files.extend(content(&path));
        } else if path.extension().is_none_or(|ending| ending != "lock") {
            files.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

fn assert_refused(ended: &Ended, words: &[&str]) {
    assert_eq!((ended.code, ended.stdout.as_slice()), (SYSTEM_FAILURE, &b""[..]), "{ended:#?}");
    for word in words.iter().chain(&["Nothing was touched"]) {
        assert!(ended.stderr.contains(word), "{word:?} is not in: {}", ended.stderr);
    }
}

/// Returns a job that poses as `victim` by its variables.
fn posing(victim: &Job, cluster: &Cluster) -> Job {
    let mut job = victim.beside(cluster);
    for name in ["CI_JOB_ID", "CI_PROJECT_URL", "CI_PIPELINE_ID", "CI_RUNNER_SHORT_TOKEN"] {
        let name = format!("CUSTOM_ENV_{name}");
        job.set(&name, victim.get(&name).unwrap());
    }
    job
}

#[test]
fn a_response_file_that_cannot_be_used_touches_nothing_at_any_stage() {
    let cluster = Cluster::local();
    let victim = Job::on(&cluster);
    victim.prepare();
    let before = content(&victim.metadata);
    let mut job = posing(&victim, &cluster);
    // gitlab-runner sets the variable to an empty value if it could not write the file, for
    // instance on a full disk.
    let (empty, torn, missing) =
        (job.path("empty.json"), job.path("torn.json"), job.path("missing.json"));
    fs::write(&empty, "").unwrap();
    fs::write(&torn, r#"{"id":1,"job_info":{"#).unwrap();
    // With either setting, a broken file is not treated like a missing one.
    let trusting =
        fs::read_to_string(&job.config).unwrap() + "\n[Runner]\nTrustJobVariables = true\n";
    for file in ["fargate.toml", "trusting.toml"] {
        if file == "trusting.toml" {
            job.config = job.path(file);
            fs::write(&job.config, &trusting).unwrap();
        }
        for (named, words) in [
            ("", ["JOB_RESPONSE_FILE is set but names no file", "gitlab-runner could not write"]),
            (empty.to_str().unwrap(), ["empty.json", "it is empty"]),
            (torn.to_str().unwrap(), ["torn.json", "not a job's response"]),
            (missing.to_str().unwrap(), ["missing.json", "No such file"]),
        ] {
            job.set("JOB_RESPONSE_FILE", named);
            for stage in STAGES {
                assert_refused(&job.stage(stage), &words);
            }
        }
    }
    assert_eq!(content(&victim.metadata), before, "the victim's files are as they were");
    assert_eq!(victim.run("build_script", "echo alive").stdout, b"alive\n", "and so is its task");
    assert_eq!(cluster.tasks().len(), 1);
    victim.cleanup();
}

#[test]
fn without_a_response_file_variables_count_only_if_trusted() {
    let cluster = Cluster::local();
    let mut job = Job::on(&cluster);
    job.writes_response = false;
    let file = fs::read_to_string(&job.config).unwrap();
    for trust in ["", "\n[Runner]\nTrustJobVariables = false\n"] {
        fs::write(&job.config, format!("{file}{trust}")).unwrap();
        for stage in STAGES {
            assert_refused(
                &job.stage(stage),
                &["JOB_RESPONSE_FILE is not set", "TrustJobVariables = true in [Runner]", "14.1"],
            );
        }
    }
    assert_eq!((cluster.tasks().len(), content(&job.metadata).len()), (0, 0));

    let script = job.script("echo by variables").display().to_string();
    for argument in ["--trust-job-variables", ""] {
        if argument.is_empty() {
            fs::write(&job.config, format!("{file}\n[Runner]\nTrustJobVariables = true\n"))
                .unwrap();
        }
        let stage = |words: &[&str]| {
            let words: Vec<&str> =
                [argument].iter().chain(words).copied().filter(|word| !word.is_empty()).collect();
            job.stage(&words)
        };
        assert_eq!(stage(&["config"]).code, 0);
        assert_eq!(stage(&["prepare"]).code, 0, "{}", job.log());
        assert_eq!(stage(&["run", &script, "build_script"]).stdout, b"by variables\n");
        assert!(job.snapshot().contains(job.get("CUSTOM_ENV_CI_JOB_ID").unwrap()));
        assert_eq!(stage(&["cleanup", "--wait"]).code, 0);
    }
    cluster.assert_nothing_is_left(2);
    job.unset("CUSTOM_ENV_CI_PIPELINE_ID");
    let refused = job.stage(&["prepare"]);
    assert_eq!(refused.code, SYSTEM_FAILURE, "{refused:#?}");
    assert!(refused.stderr.contains("CUSTOM_ENV_CI_PIPELINE_ID"), "{}", refused.stderr);
}

#[test]
fn a_job_that_poses_as_another_by_its_variables_gets_its_own_task_and_records() {
    let cluster = Cluster::local();
    let victim = Job::on(&cluster);
    victim.prepare();
    let honest = victim.beside(&cluster);
    let response = honest.response_file().display().to_string();
    let mut job = posing(&victim, &cluster);
    job.set("JOB_RESPONSE_FILE", &response);
    job.set("CUSTOM_ENV_CI_JOB_NAME", "deploy");
    job.prepare();
    assert_eq!(job.files(".ron").len(), 2, "a job of its own");
    job.cleanup();
    assert_eq!(victim.run("build_script", "echo alive").stdout, b"alive\n");
    let record = fs::read_to_string(&job.archived()[0]).unwrap();
    let number = honest.get("CUSTOM_ENV_CI_JOB_ID").unwrap();
    for text in [
        format!("job_id: \"{number}\""),
        format!("(\"gitlab:job\", \"{number}\")"),
        "build [1/2]".to_owned(),
    ] {
        assert!(
            record.replace('\n', "").contains(&text) || record.contains(&text),
            "{text} is not in {record}"
        );
    }
    assert!(
        !record.contains("deploy") && !record.contains(victim.get("CUSTOM_ENV_CI_JOB_ID").unwrap()),
        "{record}"
    );
    victim.cleanup();
    cluster.assert_nothing_is_left(2);
}
