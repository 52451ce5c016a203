//! Tests ECS Exec sessions with a handshake, and encrypted ones, from ExecuteCommand to a script's
//! exit status. The driver's own calls and transport run against the local cluster's agent and KMS.

#![allow(clippy::unwrap_used, reason = "in a test, the panic is the report")]

use std::{path::PathBuf, time::Duration};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use bytes::Bytes;
use fargate_driver::control::{EcsControl, ExecCalls};
use local_cluster::{
    ExecFaults, ExecSettings, Faults, Handshake, LocalCluster, Pause, Refusal, Settings, Upgrades,
};
use states::{
    Capacity, ClientToken, ConnectError, ConnectErrorKind, Greeting, LaunchSpec, Run, RunEvent,
    RunId, RunOrder, Session as _, Signal, StartedBy, Target, TaskControl as _,
};
use transports::{Connector as _, delivery::Session, ecs_exec::ExecTransport};

/// A cluster with one task, and how to reach it.
struct Place {
    cluster: LocalCluster,
    transport: ExecTransport<ExecCalls>,
    target: Target,
}

impl Place {
    async fn new(handshake: Handshake) -> Self {
        let settings = Settings {
            exec: ExecSettings { handshake, ..ExecSettings::default() },
            ..Settings::default()
        };
        let cluster = LocalCluster::start(settings).await.unwrap();
        let key = cluster.credentials();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .endpoint_url(cluster.endpoint())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::from_keys(
                &key.access_key_id,
                &key.secret_access_key,
                None,
            ))
            .retry_config(aws_config::retry::RetryConfig::disabled())
            .load()
            .await;
        let control = EcsControl::with_config(config);
        let spec = LaunchSpec {
            cluster: "local".to_owned(),
            task_definition: "local-job:1".to_owned(),
            platform_version: None,
            subnets: vec!["subnet-local".to_owned()],
            security_groups: Vec::new(),
            assign_public_ip: false,
            capacity: Capacity::ClusterDefault,
            container: "ci-coordinator".to_owned(),
            environment: Vec::new(),
            started_by: StartedBy::new("gitlab-1").unwrap(),
            tags: Vec::new(),
            enable_execute_command: true,
            propagate_tags: false,
            enable_ecs_managed_tags: false,
            additions: None,
            size: states::TaskSize::default(),
            task_role: None,
            service_environment: Vec::new(),
        };
        let task =
            control.launch(&ClientToken::new("gitlab-1-0").unwrap(), &spec).await.unwrap().task;
        let target = Target {
            transport: "ecs-exec".into(),
            destination: states::Destination::Task,
            cluster: "local".to_owned(),
            task,
            container: "ci-coordinator".to_owned(),
            key: PathBuf::new(),
            pinned: None,
            host_proof: None,
            facts: None,
            shared: None,
            connect_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(30),
        };
        Self { cluster, transport: ExecTransport::new(ExecCalls::new(control)), target }
    }

    /// Retries until the task and its agent run.
    async fn connect(&self) -> Result<Session, ConnectError> {
        self.greeted().await.map(|(session, _)| session)
    }

    async fn greeted(&self) -> Result<(Session, Greeting), ConnectError> {
        let tried = async {
            loop {
                match self.transport.connect(&self.target).await {
                    Ok(connected) => return Ok(connected),
                    Err(e)
                        if matches!(
                            e.kind,
                            ConnectErrorKind::AgentNotConnected | ConnectErrorKind::Interrupted
                        ) =>
                    {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Err(e) => return Err(e),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), tried).await.expect("an agent that is there")
    }

    /// Returns the same target for a job whose container was reached before.
    async fn known(mut self) -> Self {
        let (session, greeting) = self.greeted().await.unwrap();
        session.close().await;
        (self.target.pinned, self.target.facts) = (Some(greeting.identity), Some(greeting.facts));
        self
    }

    fn refuse(&self, action: &str, code: &str, message: &str) {
        let refusal =
            Refusal { status: 400, code: code.to_owned(), message: message.to_owned(), times: 1 };
        self.cluster.set_faults(Faults {
            refuse: [(action.to_owned(), refusal)].into(),
            ..Faults::default()
        });
    }

    fn calls(&self, action: &str) -> usize {
        self.cluster.calls().iter().filter(|call| call.action == action).count()
    }
}

fn order(name: &str) -> RunOrder {
    RunOrder {
        run: RunId::new(name).unwrap(),
        stage: "build_script".to_owned(),
        forget: None,
        container: states::RunContainer::Coordinator,
    }
}

/// A run's output and exit status.
async fn outcome(mut run: impl Run) -> (Vec<u8>, i32) {
    let mut output = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(60), run.next())
            .await
            .expect("it goes on")
            .unwrap()
        {
            RunEvent::Started | RunEvent::Measured(_) => {}
            RunEvent::Output(bytes) => output.extend_from_slice(&bytes),
            RunEvent::Exited { code, .. } => return (output, code),
        }
    }
}

/// A script that is not small, output that is not text, a signal: all of it over one session.
async fn a_job(place: &Place) {
    let session = place.connect().await.unwrap();
    let script = format!(": {}\nprintf '\\000\\377\\n'; seq 1 20000; exit 7", "x".repeat(200_000));
    let (output, code) =
        outcome(session.start(&order("first"), Bytes::from(script)).await.unwrap()).await;
    let expected: Vec<u8> = b"\0\xff\n"
        .iter()
        .copied()
        .chain((1..=20_000).flat_map(|n| format!("{n}\n").into_bytes()))
        .collect();
    assert!(output == expected && code == 7, "{} bytes, {code}", output.len());
    let mut run = session.start(&order("second"), Bytes::from_static(b"sleep 1000")).await.unwrap();
    assert_eq!(run.next().await, Ok(RunEvent::Started));
    session.signal(&order("second"), Signal::Term).await.unwrap();
    assert_eq!(outcome(run).await, (Vec::new(), 128 + 15));
    session.close().await;
}

#[tokio::test]
async fn a_job_over_a_session_that_begins_with_a_handshake() {
    let place = Place::new(Handshake::Plain).await;
    a_job(&place).await;
    assert_eq!(place.calls("GenerateDataKey"), 0);
}

#[tokio::test]
async fn a_job_over_an_encrypted_session() {
    let place = Place::new(Handshake::Kms).await;
    a_job(&place).await;
    assert_eq!((place.calls("GenerateDataKey"), place.calls("TerminateSession")), (1, 0));
}

#[tokio::test]
async fn a_job_over_an_encrypted_session_on_a_line_that_loses_and_pauses() {
    let place = Place::new(Handshake::Kms).await;
    place.connect().await.unwrap().close().await;
    let exec = ExecFaults {
        pause: Some(Pause { after_bytes: 40_000, for_ms: 200, announced: false, times: 1 }),
        duplicate_percent: 10,
        reorder_percent: 10,
        drop_percent: 3,
        corrupt_percent: 2,
        wrong_digest_percent: 2,
        ..ExecFaults::default()
    };
    place.cluster.set_faults(Faults { exec, ..Faults::default() });
    a_job(&place).await;
}

#[tokio::test]
async fn a_key_that_the_manager_may_not_use_is_explained() {
    let place = Place::new(Handshake::Kms).await;
    place.refuse(
        "GenerateDataKey",
        "AccessDeniedException",
        "not authorized to perform: kms:GenerateDataKey",
    );
    let refused = place.connect().await.err().unwrap();
    assert_eq!(refused.kind, ConnectErrorKind::Denied, "{refused:?}");
    assert!(
        refused.message.contains("kms:GenerateDataKey")
            && diagnosis::connect_remedy(&refused).contains("docs/iam.md"),
        "{refused:?}"
    );
}

/// The container controls the handshake, and must not choose a key for the manager's role.
#[tokio::test]
async fn kms_is_called_for_the_clusters_own_key_only() {
    let place = Place::new(Handshake::Kms).await;
    let other = Some("arn:aws:kms:us-east-1:999999999999:key/production\u{1b}[2J".to_owned());
    place.cluster.set_faults(Faults {
        exec: ExecFaults { kms_key: other, ..ExecFaults::default() },
        ..Faults::default()
    });
    let refused = place.connect().await.err().unwrap();
    assert_eq!(refused.kind, ConnectErrorKind::Denied, "{refused:?}");
    assert!(
        refused.message.contains("key/production") && !refused.message.contains('\u{1b}'),
        "{refused:?}"
    );
    assert_eq!(place.calls("GenerateDataKey"), 0);
}

#[tokio::test]
async fn the_key_of_a_cluster_without_describe_permission_is_not_requested() {
    let place = Place::new(Handshake::Kms).await;
    place.refuse(
        "DescribeClusters",
        "AccessDeniedException",
        "not authorized to perform: ecs:DescribeClusters",
    );
    let refused = place.connect().await.err().unwrap();
    assert_eq!(refused.kind, ConnectErrorKind::Denied, "{refused:?}");
    assert!(
        refused.message.contains("ecs:DescribeClusters")
            && diagnosis::connect_remedy(&refused).contains("docs/iam.md"),
        "{refused:?}"
    );
    assert_eq!(place.calls("GenerateDataKey"), 0);
}

#[tokio::test]
async fn a_transient_describe_failure_is_retried() {
    let place = Place::new(Handshake::Kms).await.known().await;
    place.refuse("DescribeClusters", "ThrottlingException", "Rate exceeded");
    let refused = place.transport.connect(&place.target).await.err().unwrap();
    assert_eq!(refused.kind, ConnectErrorKind::Interrupted, "{refused:?}");
    place.connect().await.unwrap().close().await;
}

#[tokio::test]
async fn a_signed_stream_url_is_not_signed_again() {
    let place = Place::new(Handshake::None).await;
    place.cluster.set_faults(Faults {
        exec: ExecFaults { signs_urls: true, ..ExecFaults::default() },
        ..Faults::default()
    });
    place.connect().await.unwrap().close().await;
    let dialled: Vec<_> =
        place.cluster.calls().into_iter().filter(|call| call.action == "OpenDataChannel").collect();
    assert!(dialled.len() == 1 && dialled[0].error.is_none(), "{dialled:?}");
}

#[tokio::test]
async fn a_refused_signature_is_left_out_for_any_status() {
    let place = Place::new(Handshake::None).await.known().await;
    for status in [400, 401, 403, 404, 410, 426] {
        let exec = ExecFaults {
            refuses_upgrades: Some(Upgrades::Signed),
            upgrade_status: Some(status),
            ..ExecFaults::default()
        };
        place.cluster.set_faults(Faults { exec, ..Faults::default() });
        place
            .transport
            .connect(&place.target)
            .await
            .unwrap_or_else(|e| panic!("{status}: {e:?}"))
            .0
            .close()
            .await;
    }
    let exec = ExecFaults {
        refuses_upgrades: Some(Upgrades::All),
        upgrade_status: Some(503),
        ..ExecFaults::default()
    };
    place.cluster.set_faults(Faults { exec, ..Faults::default() });
    let before = place.calls("OpenDataChannel");
    assert_eq!(
        place.transport.connect(&place.target).await.err().unwrap().kind,
        ConnectErrorKind::Interrupted
    );
    assert_eq!(
        place.calls("OpenDataChannel"),
        before + 1,
        "a failure of the service says nothing of the signature"
    );
}

/// This holds even if the text mentions KMS.
#[tokio::test]
async fn a_key_that_kms_withholds_now_is_requested_again() {
    let place = Place::new(Handshake::Kms).await.known().await;
    for code in ["ThrottlingException", "ExpiredTokenException"] {
        place.refuse("GenerateDataKey", code, "Rate exceeded");
        let refused = place.transport.connect(&place.target).await.err().unwrap();
        assert_eq!(refused.kind, ConnectErrorKind::Interrupted, "{refused:?}");
        assert!(refused.message.contains("KMS key"), "{refused:?}");
        place.connect().await.unwrap().close().await;
    }
}

#[tokio::test]
async fn a_refusal_of_a_container_that_was_reached_before_may_pass() {
    let place = Place::new(Handshake::None).await.known().await;
    for (action, code) in [
        ("ExecuteCommand", "AccessDeniedException"),
        ("ExecuteCommand", "OddException"),
        ("DescribeTasks", "AccessDenied"),
    ] {
        place.refuse(action, code, "not authorized");
        let refused = place.transport.connect(&place.target).await.err().unwrap();
        assert!(refused.kind.is_transient(), "{refused:?}");
        place.transport.connect(&place.target).await.unwrap().0.close().await;
    }
}

/// Unused sessions would soon take a container's two slots and its queue.
#[tokio::test]
async fn a_session_is_ended_when_its_container_could_not_be_described() {
    let place = Place::new(Handshake::None).await.known().await;
    for failures in 1..=5 {
        let (opened, ended) = (place.calls("ExecuteCommand"), place.calls("TerminateSession"));
        place.refuse("DescribeTasks", "ThrottlingException", "Rate exceeded");
        let refused = place.transport.connect(&place.target).await.err().unwrap();
        assert_eq!(refused.kind, ConnectErrorKind::Interrupted, "{failures}: {refused:?}");
        // If ECS answered first, no session was requested.
        let all_ended = async {
            while place.calls("ExecuteCommand") - opened != place.calls("TerminateSession") - ended
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all_ended)
            .await
            .expect("what was opened is ended");
    }
    place.transport.connect(&place.target).await.unwrap().0.close().await;
}
