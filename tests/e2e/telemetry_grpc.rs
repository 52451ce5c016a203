//! Collectors that speak gRPC, with TLS and without, and HTTP with TLS.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use http::{HeaderMap, HeaderValue, Request, Response};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::{
    cluster::Cluster,
    collector::Collector,
    runner::{Alone, Job},
    telemetry::traced,
};

/// A server of gRPC.
#[derive(Clone, Default)]
struct Grpc {
    /// What it answers with.
    status: Arc<AtomicU8>,
    received: Arc<Mutex<Vec<Call>>>,
}

/// A path and a message.
type Call = (String, Vec<u8>);

impl Grpc {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().answer(request, respond));
        }
    }

    async fn answer(
        self,
        request: Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<bytes::Bytes>,
    ) {
        let (head, mut body) = request.into_parts();
        assert_eq!(head.headers["content-type"], "application/grpc");
        assert_eq!(head.headers["te"], "trailers");
        assert!(head.headers.contains_key("api-key"));
        let mut framed = Vec::new();
        while let Some(Ok(part)) = body.data().await {
            framed.extend(&part);
            let _ = body.flow_control().release_capacity(part.len());
        }
        let (prefix, message) = framed.split_first_chunk::<5>().unwrap();
        assert_eq!(prefix[0], 0, "not compressed");
        assert_eq!(prefix[1..], u32::try_from(message.len()).unwrap().to_be_bytes());
        let status = HeaderValue::from(u16::from(self.status.load(Ordering::Relaxed)));
        let answer = Response::builder().header("content-type", "application/grpc");
        if status != "0" {
            // There is no message, so the status is in the headers.
            let answer = answer.header("grpc-status", status).body(()).unwrap();
            respond.send_response(answer, true).unwrap();
            return;
        }
        self.received.lock().unwrap().push((head.uri.path().to_owned(), message.to_owned()));
        let mut sending = respond.send_response(answer.body(()).unwrap(), false).unwrap();
        sending.send_data(vec![0; 5].into(), false).unwrap();
        sending
            .send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), status)]))
            .unwrap();
    }

    /// Returns the names of the spans that arrived.
    fn spans(&self) -> Vec<String> {
        let received = self.received.lock().unwrap();
        let traces = received.iter().filter(|(path, _)| {
            path == "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        });
        traces
            .flat_map(|(_, message)| {
                ExportTraceServiceRequest::decode(&**message).unwrap().resource_spans
            })
            .flat_map(|of| of.scope_spans)
            .flat_map(|of| of.spans)
            .map(|span| span.name)
            .collect()
    }
}

/// What is behind a [`Front`].
#[derive(Clone)]
enum Behind {
    Grpc(Grpc),
    /// The address of a server of HTTP/1.
    Http(String),
}

/// A listener in front of a collector.
struct Front {
    endpoint: String,
    /// Who trusts it trusts the server.
    certificate: PathBuf,
    _place: TempDir,
}

impl Front {
    fn of(behind: Behind, with_tls: bool) -> Self {
        let place = tempfile::tempdir().unwrap();
        let certificate = place.path().join("collector.pem");
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(&certificate, cert.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        if matches!(behind, Behind::Grpc(_)) {
            server.alpn_protocols = vec![b"h2".to_vec()];
        }
        let tls = TlsAcceptor::from(Arc::new(server));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let scheme = if with_tls { "https" } else { "http" };
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((client, _)) = listener.accept().await {
                    let (tls, behind) = (tls.clone(), behind.clone());
                    tokio::spawn(async move {
                        if !with_tls {
                            pass(client, behind).await;
                        } else if let Ok(client) = tls.accept(client).await {
                            // Not by a client that does not trust the certificate.
                            pass(client, behind).await;
                        }
                    });
                }
            });
        });
        Self { endpoint, certificate, _place: place }
    }

    fn trusted(&self) -> String {
        format!("Certificate = \"{}\"", self.certificate.display())
    }
}

async fn pass(mut client: impl AsyncRead + AsyncWrite + Unpin, behind: Behind) {
    match behind {
        Behind::Grpc(grpc) => grpc.serve(client).await,
        Behind::Http(address) => {
            let mut server = TcpStream::connect(address).await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
    }
}

fn config(job: &Job) {
    assert_eq!(job.stage(&["config"]).code, 0);
}

#[test]
fn a_status_says_whether_data_is_sent_again() {
    let (cluster, grpc) = (Cluster::local(), Grpc::default());
    let front = Front::of(Behind::Grpc(grpc.clone()), false);
    let job = traced(&cluster, &front.endpoint, "Protocol = \"grpc\"").alone(Alone::CountsExports);
    // OTLP/gRPC, "Failures": UNAVAILABLE is to be sent again, UNAUTHENTICATED is not. INTERNAL is, as
    // tonic reports broken connections with it.
    for (status, kept) in [(14, 1), (16, 0), (13, 1), (0, 0)] {
        grpc.status.store(status, Ordering::Relaxed);
        config(&job);
        assert_eq!(job.files(".otlp").len(), kept, "{status}: {}", job.log());
    }
    // The first was refused with the second, and the third was sent with the fourth.
    assert_eq!(grpc.spans(), ["stage config", "stage config"]);
    assert!(job.log().contains("gRPC status Unauthenticated; it is dropped"), "{}", job.log());
}

#[test]
fn a_collector_with_tls_is_checked_against_the_certificate() {
    let (cluster, grpc, collector) = (Cluster::local(), Grpc::default(), Collector::start());
    let address = collector.endpoint.trim_start_matches("http://").to_owned();
    for (protocol, behind) in
        [("grpc", Behind::Grpc(grpc.clone())), ("http/protobuf", Behind::Http(address))]
    {
        let front = Front::of(behind, true);
        let protocol = format!("Protocol = \"{protocol}\"");
        let strange = traced(&cluster, &front.endpoint, &protocol).alone(Alone::CountsExports);
        config(&strange);
        assert_eq!(strange.files(".otlp").len(), 1, "{}", strange.log());
        assert!(strange.log().contains("certificate"), "{}", strange.log());
        assert!(grpc.spans().len() + collector.spans().len() <= 1, "{protocol}");
        let trusted =
            traced(&cluster, &front.endpoint, &format!("{protocol}\n{}", front.trusted()))
                .alone(Alone::CountsExports);
        config(&trusted);
        assert_eq!(trusted.files(".otlp").len(), 0, "{}", trusted.log());
    }
    assert_eq!(grpc.spans(), ["stage config"]);
    assert_eq!(collector.spans().len(), 1);
}

#[test]
fn a_certificate_file_that_is_wrong_is_one_line_in_the_log() {
    let (cluster, front) = (Cluster::local(), Front::of(Behind::Grpc(Grpc::default()), true));
    let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(&front.certificate, text).unwrap();
    for protocol in ["grpc", "http/protobuf"] {
        let more = format!("Protocol = \"{protocol}\"\n{}", front.trusted());
        let job = traced(&cluster, &front.endpoint, &more).alone(Alone::CountsExports);
        config(&job);
        let line = format!("the certificate file {} cannot be used", front.certificate.display());
        assert_eq!(job.log().matches(&line).count(), 1, "{}", job.log());
        assert_eq!(job.files(".otlp").len(), 0, "{}", job.log());
    }
}
