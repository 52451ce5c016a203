//! Who may call the cluster, and log in to its tasks.

use std::time::{Duration, SystemTime};

use local_cluster::{Credentials, LocalCluster, Settings, StartError};

use crate::{signer::Signer, *};

#[tokio::test]
async fn the_cluster_listens_on_loopback_only() {
    let listen = "0.0.0.0:0".parse().unwrap();
    let error =
        LocalCluster::start(Settings { listen, ..Settings::default() }).await.err().unwrap();
    assert!(matches!(error, StartError::NotLoopback(_)), "{error}");
    let first = start().await;
    let listen = first.endpoint().trim_start_matches("http://").parse().unwrap();
    let error =
        LocalCluster::start(Settings { listen, ..Settings::default() }).await.err().unwrap();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
}

#[tokio::test]
async fn calls_without_the_clusters_credentials_are_refused() {
    let cluster = start().await;
    let mine = cluster.credentials().clone();
    let right = Signer {
        access_key_id: &mine.access_key_id,
        secret_access_key: &mine.secret_access_key,
        service: "ecs",
        at: SystemTime::now(),
    };
    let (headers, body) = (ecs_headers("RunTask"), launch().to_string());
    let other = Credentials::random();
    let hour = Duration::from_secs(3600);
    let cases = [
        (
            Signer { access_key_id: &other.access_key_id, ..right.clone() },
            "UnrecognizedClientException",
        ),
        (
            Signer { access_key_id: "local", secret_access_key: "local", ..right.clone() },
            "UnrecognizedClientException",
        ),
        (
            Signer { secret_access_key: &other.secret_access_key, ..right.clone() },
            "InvalidSignatureException",
        ),
        (Signer { at: right.at - hour, ..right.clone() }, "InvalidSignatureException"),
        (Signer { service: "ec2", ..right.clone() }, "InvalidSignatureException"),
    ];
    for (signer, code) in cases {
        let answer = send(&cluster, &signer, &headers, &body).await;
        assert!(
            answer.status == 400 && answer.body.contains(code),
            "{code}: {} {}",
            answer.status,
            answer.body
        );
    }
    for action in ["RunTask", "ExecuteCommand", "DescribeTasks", "StopTask"] {
        let answer = raw(&cluster, "POST /", &ecs_headers(action), "{}").await;
        assert!(
            answer.status == 400 && answer.body.contains("MissingAuthenticationTokenException"),
            "{action}: {}",
            answer.body
        );
    }
    for target in ["AmazonSSM.ResumeSession", "TrentService.GenerateDataKey"] {
        let answer = raw(&cluster, "POST /", &[("x-amz-target", target.to_owned())], "{}").await;
        assert!(
            answer.status == 400 && answer.body.contains("MissingAuthenticationTokenException"),
            "{target}: {}",
            answer.body
        );
    }
    let form = "Action=DescribeNetworkInterfaces&NetworkInterfaceId.1=eni-0";
    assert_eq!(raw(&cluster, "POST /", &form_headers(), form).await.status, 403);
    let answer = send(
        &cluster,
        &Signer { secret_access_key: "local", service: "ec2", ..right.clone() },
        &form_headers(),
        form,
    )
    .await;
    assert!(
        answer.status == 403 && answer.body.contains("SignatureDoesNotMatch"),
        "{}",
        answer.body
    );
    assert!(cluster.tasks().is_empty(), "a task was launched: {:?}", cluster.tasks());
    assert_eq!(send(&cluster, &right, &headers, &body).await.status, 200);
}

#[tokio::test]
async fn the_clusters_own_endpoints_require_its_secret() {
    let cluster = start().await;
    let bearer = |token: &str| vec![("authorization", format!("Bearer {token}"))];
    let faults = r#"{"never_starts":true}"#;
    for headers in
        [Vec::new(), bearer(""), bearer("local"), bearer(&cluster.credentials().access_key_id)]
    {
        for request in [
            "PUT /_faults",
            "GET /_faults",
            "POST /_drop-connections",
            "POST /_crash-tasks",
            "GET /_calls",
            "GET /_tasks",
            "GET /_containers",
        ] {
            assert_eq!(
                raw(&cluster, request, &headers, faults).await.status,
                401,
                "{request} {headers:?}"
            );
        }
    }
    assert!(!cluster.faults().never_starts);
    let headers = bearer(&cluster.credentials().secret_access_key);
    assert_eq!(raw(&cluster, "PUT /_faults", &headers, faults).await.status, 200);
    assert!(cluster.faults().never_starts);
}

/// A client of SSH that takes any host key.
struct Stranger;

impl russh::client::Handler for Stranger {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

#[tokio::test]
async fn a_tasks_ssh_server_requires_the_jobs_key() {
    let cluster = start().await;
    let task = run(&cluster).await;
    until(&cluster, &task, is("RUNNING")).await;
    let address = (cluster.tasks()[0].address, cluster.ssh_port());
    let mut session = loop {
        match russh::client::connect(std::sync::Arc::default(), address, Stranger).await {
            Ok(session) => break session,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert!(!session.authenticate_none("root").await.unwrap().success());
    assert!(!session.authenticate_password("root", "").await.unwrap().success());
    let key =
        russh::keys::PrivateKey::random(&mut rand::rng(), russh::keys::Algorithm::Ed25519).unwrap();
    let key = russh::keys::PrivateKeyWithHashAlg::new(std::sync::Arc::new(key), None);
    assert!(!session.authenticate_publickey("root", key).await.unwrap().success());
    assert!(session.channel_open_session().await.is_err());
}
