//! `prepare`: launches a task for the job, and waits until its container answers.

use std::io::Write as _;

use rand::Rng as _;
use states::{
    AnyJob, ClientToken, Goal, Header, Outcome, SnapshotStore, StartedBy, StopReason, foreign_text,
    private_file,
};
use transports::ssh::key;

use super::{
    JobLog, LEASE_WAIT, Session, Work, has_ended,
    launch::{self, GrantError},
    remains, stopped,
};
use crate::{
    config::Chosen,
    control::STARTED_BY,
    definition::{Granted, Sizing},
    runner::Verdict,
    telemetry, transport,
};

/// Prepares the job's task.
pub async fn prepare(session: &Session, log: &mut JobLog) -> Verdict {
    match reach(session, log).await {
        Ok(verdict) => verdict,
        Err(e) => Verdict::SystemFailure(format!("fargate: prepare: {e}")),
    }
}

#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Engine(#[from] states::EngineError),
    #[error(transparent)]
    Store(#[from] states::StoreError),
    #[error(transparent)]
    KeyPair(#[from] key::KeyError),
    #[error("the job's key {path} cannot be written: {source}")]
    Key { path: String, source: std::io::Error },
}

async fn reach(session: &Session, log: &mut JobLog) -> Result<Verdict, PrepareError> {
    let config = session.configuration();
    let chosen =
        match launch::choose(session.configuration(), &session.flags, session.environment()) {
            Ok(chosen) => chosen,
            Err(refusal) => {
                return Ok(Verdict::BuildFailure {
                    code: None,
                    message: Some(format!("fargate: {refusal}")),
                });
            }
        };
    let sizing = Sizing::of(&config.fargate.capacity);
    let granted = launch::granted(&config.images, &config.sizes, sizing, session.environment());
    let granted = match granted {
        Ok(granted) => granted,
        Err(refusal @ GrantError::Refused(_)) => {
            return Ok(Verdict::BuildFailure {
                code: None,
                message: Some(format!("fargate: {refusal}")),
            });
        }
        Err(unknown) => return Ok(Verdict::SystemFailure(format!("fargate: prepare: {unknown}"))),
    };
    let engine = session.engine();
    let id = &session.identity.id;
    let lease = engine.store().lease(id, "prepare", LEASE_WAIT).await?;
    // A task that cannot be recorded must not be launched.
    engine.store().check_writable(&lease, id).await?;
    if session.configuration().images.allowed.is_none()
        && let Some(line) =
            services(&session.environment().job_variable("CI_JOB_SERVICES").unwrap_or_default())
    {
        log.say(&line);
    }
    let ignored = launch::ignored_platform(config, session.environment());
    granted.notes.iter().chain(&ignored).for_each(|note| log.say(note));
    let cancelled = || {
        Ok(Verdict::SystemFailure(
            "fargate: prepare was cancelled before a task was launched.".to_owned(),
        ))
    };
    let mut work = match engine.store().load(id).await? {
        None if log.is_cancelled().await => return cancelled(),
        None => begin(session, (chosen, granted), lease).await?,
        Some(snapshot) => {
            let mut work = engine.work(snapshot, lease);
            engine.open(&mut work, "prepare").await;
            if can_go_on(session, &work) || is_continued(session, &work) {
                tracing::info!(state = %work.snapshot.job.name(), "continuing with the task of an earlier prepare");
                work
            } else {
                let outcome = if has_ended(&work.snapshot) {
                    Outcome::Stopping(StopReason::Cleanup)
                } else {
                    engine.request_stop(
                        &mut work,
                        StopReason::Asked("prepare was called again".to_owned()),
                    );
                    engine.drive(&mut work, Goal::Stop, log).await?
                };
                match outcome {
                    Outcome::Ended(_) => {}
                    // ECS ends that task in any case; its snapshot's file is needed.
                    Outcome::Stopping(_) => {
                        engine.store().archive(&work.lease, &work.snapshot).await?
                    }
                    Outcome::Unfinished => {
                        return Ok(Verdict::SystemFailure(format!(
                            "fargate: prepare: of an earlier attempt, {}",
                            remains(&work.snapshot)
                        )));
                    }
                    other => {
                        return Ok(Verdict::SystemFailure(format!(
                            "fargate: prepare: an earlier attempt cannot be ended: {other:?}"
                        )));
                    }
                }
                telemetry::job::states_of(&work.snapshot);
                let lease = work.close().await;
                if log.is_cancelled().await {
                    return cancelled();
                }
                begin(session, (chosen, granted), lease).await?
            }
        }
    };
    log.begins(work.snapshot.job.header().token.as_str(), 0).await;
    session.state_log.entered(work.snapshot.job.name());
    let outcome = engine.drive(&mut work, Goal::Reach, log).await?;
    let snapshot = work.snapshot.clone();
    session.leave(work).await;
    Ok(match outcome {
        _ if log.was_cancelled() => {
            Verdict::SystemFailure("fargate: prepare was cancelled.".to_owned())
        }
        Outcome::Reachable(_) => Verdict::Success,
        Outcome::MustEnd(reason) | Outcome::Stopping(reason) | Outcome::Ended(reason) => {
            stopped(&reason, snapshot.job.header())
        }
        Outcome::Unfinished => {
            Verdict::SystemFailure(format!("fargate: prepare: {}", remains(&snapshot)))
        }
    })
}

/// Warns the CI user that the job's `services:` are not started. They are JSON, as in
/// `.gitlab-ci.yml`.
fn services(wanted: &str) -> Option<String> {
    const SHOWN: usize = 5;
    let wanted: Vec<Service> = serde_json::from_str(wanted).ok()?;
    let name =
        |service: &Service| foreign_text::tame(&service.name).chars().take(100).collect::<String>();
    let mut names = wanted.iter().take(SHOWN).map(name).collect::<Vec<_>>().join(", ");
    if wanted.len() > SHOWN {
        names.push_str(", …");
    }
    (!wanted.is_empty()).then(|| {
        format!(
            "This driver does not start services ({names}): a container beside the job's, in its task definition, answers at localhost. The runner's administrator can allow services with Allowed in [Images] of fargate.toml."
        )
    })
}

#[derive(serde::Deserialize)]
struct Service {
    #[serde(default)]
    name: String,
}

/// Whether the task of an earlier `prepare` can be used: it is starting, and its key exists. One
/// that was reachable may have run scripts, so a new attempt gets a fresh task.
fn can_go_on(session: &Session, work: &Work) -> bool {
    let on_its_way = matches!(
        work.snapshot.job,
        AnyJob::Provisioning(_) | AnyJob::Pending(_) | AnyJob::Running(_)
    );
    let transport = transport::named(&work.snapshot.job.header().transport().name);
    let needs_key = transport.is_none_or(|transport| transport.needs_login);
    on_its_way && (!needs_key || session.engine().store().key_path(&session.identity.id).exists())
}

/// Whether another process has begun this attempt, for this very stage. It may have finished it, too.
fn is_continued(session: &Session, work: &Work) -> bool {
    let token = &work.snapshot.job.header().token;
    session.continues.as_ref().is_some_and(|attempt| attempt.key == token.as_str())
}

async fn begin(
    session: &Session,
    (chosen, granted): (Chosen, Granted),
    lease: states::DirectoryLease,
) -> Result<Work, PrepareError> {
    let engine = session.engine();
    let identity = &session.identity;
    let transport = session.configuration().transport;
    let public_key = if transport.needs_login { Some(make_key(session)?) } else { None };
    let started_by = started_by(&identity.about.job_id, identity.id.as_str());
    let header = Header {
        id: identity.id.clone(),
        about: identity.about.clone(),
        created: engine.clock().now(),
        token: token(&started_by),
        definition_from_project: chosen.from_project,
        connect_to: launch::connect_to(session.configuration()),
        transport: Some(transport.record.clone()),
        login: launch::login(session.configuration()),
        host_proof: launch::host_proof(session.configuration()),
        limits: session.configuration().limits,
        trace: telemetry::root(),
        spec: launch::spec(
            session.configuration(),
            identity,
            chosen,
            granted,
            started_by,
            public_key.as_deref(),
        ),
    };
    let mut work = engine.begin(header, lease);
    engine.open(&mut work, "prepare").await;
    Ok(work)
}

/// Makes the job's key. Returns its public half.
fn make_key(session: &Session) -> Result<String, PrepareError> {
    let pair = key::generate()?;
    let path = session.engine().store().key_path(&session.identity.id);
    write_key(&path, &pair.private)
        .map_err(|source| PrepareError::Key { path: path.display().to_string(), source })?;
    Ok(pair.public)
}

/// A killed attempt may have left its key: a new file replaces it.
fn write_key(path: &std::path::Path, private: &str) -> std::io::Result<()> {
    let mut file = private_file::create_new(path)?;
    file.write_all(private.as_bytes())?;
    file.sync_data()
}

/// Returns `startedBy`: readable in the ECS console, unique per job, at most 36 characters.
pub(super) fn started_by(job_id: &str, unique: &str) -> StartedBy {
    use sha2::{Digest, Sha256};
    let digits: String = job_id.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
    let hash = hex::encode(Sha256::digest(unique));
    StartedBy::new(format!("{STARTED_BY}{digits}-{}", &hash[..10]))
        // 7 + 16 + 1 + 10 characters, all of them allowed.
        .unwrap_or_else(|e| unreachable!("{e}"))
}

/// Returns the stem of this attempt's idempotency tokens. Another attempt of the same job is
/// another task.
fn token(started_by: &StartedBy) -> ClientToken {
    let mut random = [0_u8; 8];
    rand::rng().fill_bytes(&mut random);
    ClientToken::new(format!("{started_by}-{}", hex::encode(random)))
        // 34 + 1 + 16 characters, all of them printable.
        .unwrap_or_else(|e| unreachable!("{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unstarted_services_are_named() {
        let message = services(
            r#"[{"name":"postgres:17","alias":"db","entrypoint":null},{"name":"re\u001b[31mdis"}]"#,
        )
        .unwrap();
        assert!(message.contains("(postgres:17, re\u{fffd}[31mdis)"), "{message}");
        for none in ["", "[]", "null", "{}", "what"] {
            assert_eq!(services(none), None, "{none}");
        }
    }
}
