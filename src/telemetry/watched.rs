//! A transport whose connections are recorded.

use states::{ConnectError, Greeting, Target, TaskArn, Transport};
use tracing::field::Empty;

use super::{SPANS, fail, is_on, metric, stage_event, stage_span};

/// Records the connections of the inner transport. With telemetry off, it costs one check of a
/// pointer per connection.
#[derive(Debug)]
pub struct Watched<T>(pub T);

impl<T: Transport> Transport for Watched<T> {
    type Session = T::Session;

    async fn connect(&self, target: &Target) -> Result<(Self::Session, Greeting), ConnectError> {
        if !is_on() {
            return self.0.connect(target).await;
        }
        let span = tracing::info_span!(
            target: SPANS,
            parent: &stage_span(),
            "connect",
            otel.kind = "client",
            otel.status_description = Empty,
            server.address = %target.destination,
            aws.ecs.task.arn = target.task.as_str(),
            fargate.connection.first = target.pinned.is_none(),
            error.type = Empty,
        );
        let connected = self.0.connect(target).await;
        let error = connected.as_ref().err().map(|error| error.kind.name());
        metric!(monotonic_counter.fargate.connections = 1_u64, error.type = error);
        if let Some(error) = error {
            // Its span is not exported.
            fail(&span, error);
            stage_event!("connection.failed", error.type = error);
        }
        connected
    }

    async fn waits_for(&self, transport: &str, task: &TaskArn) -> String {
        self.0.waits_for(transport, task).await
    }
}
