//! What the help of each command says below its options: its exit codes.

pub(super) const CALLED_BY: &str = "\
In gitlab-runner's config.toml, and the same for config, run and cleanup:
  [runners.custom]
    prepare_exec = \"/opt/gitlab-runner/fargate\"
    prepare_args = [\"--config\", \"/etc/gitlab-runner/fargate.toml\", \"custom\", \"prepare\"]

A first try, without AWS: fargate try fixtures/jobs/hello.sh";

pub(super) const STAGE_CODES: &str = "\
Exit codes:
  0                           the stage went well
  $BUILD_FAILURE_EXIT_CODE    the script failed, or the job chose what it may not
  $SYSTEM_FAILURE_EXIT_CODE   anything else; GitLab can retry the job
  2                           these variables, which gitlab-runner sets, are not there";

pub(super) const TRY_CODES: &str = "\
Exit codes:
  0      every script went well
  1-255  the exit status of the script that failed
  70     the task could not be launched, was lost, or could not be stopped: stderr says why
  2      wrong usage, configuration or script; nothing was started";

pub(super) const REAP_CODES: &str = "\
Exit codes:
  0  all that was to be ended is
  1  something could not be ended: stderr says what and why
  2  wrong usage or configuration";

pub(super) const SERVE_CODES: &str = "\
Exit codes:
  0  it was ended by SIGTERM, and stages that ran go on by themselves; or it was drained
  1  --drain: the service was not drained, stderr says why
  2  it could not begin: stderr says why";

pub(super) const STATUS_CODES: &str = "\
Exit codes:
  0  all is well
  1  jobs need help, or the metadata directory cannot be written
  2  wrong usage or configuration, or the directory cannot be read";

pub(super) const DOCTOR_CODES: &str = "\
Exit codes:
  0  jobs can run; there may be warnings
  1  jobs cannot run: there are failures
  2  wrong usage, or the configuration cannot be read
  3  nothing failed, and something could not be checked";

pub(super) const INIT_CODES: &str = "\
Exit codes:
  0  the file was written
  2  it was not: stderr says why";
