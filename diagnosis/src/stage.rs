//! Which of gitlab-runner's stages decide how a job ends.

/// Whether a job fails when this stage's script does.
///
/// gitlab-runner only warns of a failed `after_script` and of a failed `cleanup_file_variables`,
/// and what is run `_on_failure` comes after a failure (gitlab-runner, `common/build.go`,
/// `executeScript`).
#[must_use]
pub fn is_judged(stage: &str) -> bool {
    !(stage == "after_script" || stage.starts_with("cleanup") || stage.ends_with("_on_failure"))
}

/// Returns the stage that fails a job: the first of the judged ones whose last run failed. If
/// gitlab-runner repeats a stage, the last attempt counts. Stages such as `after_script` follow a
/// failed one.
///
/// `runs` are stages with their outcomes, in the order in which they ended.
pub fn decisive<'a, T>(
    runs: impl IntoIterator<Item = (&'a str, T)>,
    failed: impl Fn(&T) -> bool,
) -> Option<(&'a str, T)> {
    let mut stages: Vec<(&str, T)> = Vec::new();
    for (stage, ended) in runs.into_iter().filter(|(stage, _)| is_judged(stage)) {
        match stages.iter_mut().find(|(seen, _)| *seen == stage) {
            Some((_, last)) => *last = ended,
            None => stages.push((stage, ended)),
        }
    }
    stages.into_iter().find(|(_, ended)| failed(ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(runs: &[(&'static str, i32)]) -> Option<(&'static str, i32)> {
        decisive(runs.iter().copied(), |code| *code != 0)
    }

    #[test]
    fn a_failed_script_fails_the_job_even_if_later_ones_succeed() {
        let runs = [
            ("get_sources", 0),
            ("step_script", 7),
            ("after_script", 0),
            ("upload_artifacts_on_failure", 0),
        ];
        assert_eq!(of(&runs), Some(("step_script", 7)));
    }

    #[test]
    fn the_last_attempt_of_a_repeated_stage_counts() {
        assert_eq!(of(&[("get_sources", 1), ("get_sources", 0), ("step_script", 0)]), None);
        assert_eq!(of(&[("get_sources", 1), ("get_sources", 2)]), Some(("get_sources", 2)));
    }

    #[test]
    fn stages_that_only_cause_warnings_decide_nothing() {
        assert_eq!(
            of(&[("step_script", 0), ("after_script", 1), ("cleanup_file_variables", 1)]),
            None
        );
        assert_eq!(
            of(&[("step_script", 0), ("upload_artifacts_on_success", 1)]),
            Some(("upload_artifacts_on_success", 1))
        );
    }
}
