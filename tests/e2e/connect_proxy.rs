//! AWS's APIs through an HTTP proxy, by their own names and over TLS: the proxy answers CONNECT,
//! and behind it is the local cluster with a certificate for AWS's names.

use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use local_cluster::{Handshake, Settings};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::{
    cluster::{Cluster, Local},
    runner::Job,
};

/// The host names that these tests call.
const NAMES: [&str; 2] = ["*.us-east-1.amazonaws.com", "*.us-east-1.api.aws"];

/// A proxy that connects every host name to the local cluster.
struct ConnectProxy {
    url: String,
    /// Who trusts it takes the cluster for AWS.
    certificate: PathBuf,
    _place: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    fn before(cluster: &Cluster) -> Self {
        let api: SocketAddr = cluster.endpoint().trim_start_matches("http://").parse().unwrap();
        let place = tempfile::tempdir().unwrap();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(NAMES.map(str::to_owned)).unwrap();
        let certificate = place.path().join("aws.pem");
        fs::write(&certificate, cert.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let server =
            server.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        let tls = TlsAcceptor::from(Arc::new(server));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&asked);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((client, _)) = listener.accept().await {
                    let (tls, kept) = (tls.clone(), Arc::clone(&kept));
                    tokio::spawn(async move { pass(client, &tls, api, &kept).await });
                }
            });
        });
        Self { url, certificate, _place: place, asked }
    }

    /// Returns a job whose driver knows only AWS's own names, and the proxy.
    fn job(&self, cluster: &Cluster) -> Job {
        let mut job = Job::on(cluster);
        job.unset("AWS_ENDPOINT_URL");
        job.set("HTTPS_PROXY", &self.url);
        job.set("SSL_CERT_FILE", self.certificate.to_str().unwrap());
        job
    }

    /// Returns every `CONNECT`, once.
    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked.dedup();
        asked
    }
}

async fn pass(
    mut client: TcpStream,
    tls: &TlsAcceptor,
    api: SocketAddr,
    kept: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    kept.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    let mut client = tls.accept(client).await?;
    let mut api = TcpStream::connect(api).await?;
    copy_bidirectional(&mut client, &mut api).await?;
    Ok(())
}

fn use_public_address(job: &Job) {
    let text = fs::read_to_string(&job.config).unwrap();
    fs::write(
        &job.config,
        text.replace("EnablePublicIP = false\n", "EnablePublicIP = true\nUsePublicIP = true\n"),
    )
    .unwrap();
}

#[test]
fn ecs_and_ec2_are_called_through_the_proxy() {
    let cluster = Cluster::local();
    let proxy = ConnectProxy::before(&cluster);
    let job = proxy.job(&cluster);
    use_public_address(&job);
    job.prepare();
    assert_eq!(job.run("build_script", "echo reached").stdout, b"reached\n");
    job.cleanup();
    let expected = [
        "CONNECT ec2.us-east-1.amazonaws.com:443 HTTP/1.1",
        "CONNECT ecs.us-east-1.amazonaws.com:443 HTTP/1.1",
    ];
    assert_eq!(proxy.asked(), expected);
    cluster.assert_nothing_is_left(1);
}

#[test]
fn fips_and_dual_stack_endpoints_are_called_if_configured() {
    for (settings, ec2, ecs) in [
        (
            &["AWS_USE_FIPS_ENDPOINT"][..],
            "ec2-fips.us-east-1.amazonaws.com",
            "ecs-fips.us-east-1.amazonaws.com",
        ),
        (&["AWS_USE_DUALSTACK_ENDPOINT"], "ec2.us-east-1.api.aws", "ecs.us-east-1.api.aws"),
    ] {
        let cluster = Cluster::local();
        let proxy = ConnectProxy::before(&cluster);
        let mut job = proxy.job(&cluster);
        settings.iter().for_each(|name| job.set(name, "true"));
        use_public_address(&job);
        job.prepare();
        job.cleanup();
        assert_eq!(proxy.asked(), [ec2, ecs].map(|host| format!("CONNECT {host}:443 HTTP/1.1")));
    }
}

/// A session whose connection was lost is ended by Session Manager's TerminateSession.
#[test]
fn session_manager_is_called_through_the_proxy() {
    let cluster = Cluster::local_by_ecs_exec();
    let proxy = ConnectProxy::before(&cluster);
    let job = proxy.job(&cluster);
    job.prepare();
    cluster
        .as_local()
        .set_faults(&json!({ "exec": { "cut": { "how": "reset", "after_ms": 300, "times": 1 } } }));
    assert_eq!(job.run("build_script", "sleep 1; echo done").stdout, b"done\n");
    job.cleanup();
    assert!(cluster.as_local().calls("TerminateSession") >= 1, "{}", job.log());
    let expected = [
        "CONNECT ecs.us-east-1.amazonaws.com:443 HTTP/1.1",
        "CONNECT ssm.us-east-1.amazonaws.com:443 HTTP/1.1",
    ];
    assert_eq!(proxy.asked(), expected);
}

/// The session's data key comes from KMS.
#[test]
fn kms_is_called_through_the_proxy() {
    let mut settings = Settings::default();
    settings.exec.handshake = Handshake::Kms;
    let mut local = Local::here(settings);
    local.transport = "ecs-exec";
    let cluster = Cluster::Local(local);
    let proxy = ConnectProxy::before(&cluster);
    let job = proxy.job(&cluster);
    job.prepare();
    assert_eq!(job.run("build_script", "echo encrypted").stdout, b"encrypted\n");
    job.cleanup();
    let kms = "CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.1".to_owned();
    assert!(proxy.asked().contains(&kms), "{:?}", proxy.asked());
}

#[test]
fn exceptions_from_the_proxy_are_called_straight() {
    let cluster = Cluster::local();
    let mut job = Job::on(&cluster);
    // The cluster's address is an http:// URL; nothing listens at the proxy's.
    job.set("HTTP_PROXY", "http://127.0.0.1:1");
    job.set("NO_PROXY", "127.0.0.1");
    use_public_address(&job);
    job.prepare();
    assert!(cluster.as_local().calls("DescribeNetworkInterfaces") >= 1);
    job.cleanup();
    cluster.assert_nothing_is_left(1);
}
