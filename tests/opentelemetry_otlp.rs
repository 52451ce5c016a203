//! What the exporters of `opentelemetry-otlp` do not tell. The driver's export does it itself for
//! that reason: see `docs/decisions/0050-telemetry-by-opentelemetrys-sdk.md`.

#![cfg(feature = "telemetry")]
#![allow(clippy::unwrap_used, reason = "tests end by panics")]

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{error::OTelSdkError, trace::SpanExporter as _};

/// Answers every request with one status.
#[derive(Debug)]
struct Answers(u16);

#[async_trait::async_trait]
impl HttpClient for Answers {
    async fn send_bytes(&self, _: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        Ok(Response::builder().status(self.0).body(Bytes::new())?)
    }
}

/// OTLP/HTTP, "Failures": 503 is to be sent again, 400 is not.
#[tokio::test]
async fn the_error_does_not_say_whether_a_request_may_be_sent_again() {
    for status in [503, 400] {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Answers(status))
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .unwrap();
        let error = exporter.export(Vec::new()).await.unwrap_err();
        assert!(matches!(error, OTelSdkError::InternalFailure(_)), "{status}: {error:?}");
    }
}

/// Answers one call with a status of gRPC. Returns its address.
async fn grpc_server(status: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let answer = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", status)
                .body(())
                .unwrap();
            respond.send_response(answer, true).unwrap();
        }
    });
    address
}

/// OTLP/gRPC, "Failures": UNAVAILABLE (14) is to be sent again, UNAUTHENTICATED (16) is not.
#[tokio::test]
async fn the_error_over_grpc_does_not_say_it_either() {
    for (status, name) in [("14", "Unavailable"), ("16", "Unauthenticated")] {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(grpc_server(status).await)
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .unwrap();
        let error = exporter.export(Vec::new()).await.unwrap_err();
        assert!(
            matches!(&error, OTelSdkError::InternalFailure(text) if text.contains(name)),
            "{status}: {error:?}"
        );
    }
}
