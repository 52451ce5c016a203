//! Observations as people type them.

use states::{ConnectError, ConnectErrorKind, Observation, RunError, StopReason};

/// The help for observations.
pub const SHORT_FORMS: &str = "OBSERVATION is RON as in a snapshot, such as 'Exited(code: 1, total: 10)', or one of:
  exit:CODE      the script ended         lost           the connection was lost
  refused        nothing listens          timeout        the address does not answer
  auth           the key is refused       missing        ECS does not know the task
  cancel         gitlab-runner cancels    stop           the task is to end
  unknown-run    the container lost the run              time           time passed, and nothing else";

/// Reads an observation.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse(text: &str) -> Result<Observation, String> {
    let unreachable = |kind, message: &str| {
        Observation::Unreachable(ConnectError {
            kind,
            message: message.to_owned(),
            cause: Default::default(),
        })
    };
    Ok(match text.trim() {
        "refused" => unreachable(ConnectErrorKind::Refused, "nothing listens there"),
        "timeout" => unreachable(ConnectErrorKind::TimedOut, "the address does not answer"),
        "auth" => unreachable(ConnectErrorKind::AuthRefused, "the key is refused"),
        "missing" => Observation::Missing,
        "cancel" => Observation::CancelRequested,
        "stop" => Observation::StopRequested(StopReason::Asked("supposed".to_owned())),
        "lost" => Observation::RunFailed(RunError::ConnectionLost("supposed".to_owned())),
        "unknown-run" => Observation::RunFailed(RunError::Unknown("supposed".to_owned())),
        "time" => Observation::TimePassed,
        text => match text.strip_prefix("exit:") {
            Some(code) => Observation::Exited {
                code: code.parse().map_err(|e| format!("exit status {code:?}: {e}"))?,
                total: 0,
            },
            None => ron::from_str(text).map_err(|e| format!("it is no observation: {e}"))?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_short_forms_and_ron() {
        assert_eq!(
            parse("Exited(code: 1, total: 10)"),
            Ok(Observation::Exited { code: 1, total: 10 })
        );
        assert_eq!(parse("exit:7"), Ok(Observation::Exited { code: 7, total: 0 }));
        for name in [
            "lost",
            "refused",
            "timeout",
            "auth",
            "missing",
            "cancel",
            "stop",
            "unknown-run",
            "time",
        ] {
            assert!(parse(name).is_ok() && SHORT_FORMS.contains(name), "{name}");
        }
        assert!(parse("nonsense").is_err() && parse("exit:x").is_err());
    }
}
