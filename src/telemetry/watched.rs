//! A transport whose connections are recorded.

use states::{ConnectError, Greeting, Target, TaskArn, Transport};

use super::{recorder, span};

/// Records the connections of the inner transport. With telemetry off, it costs one check of a
/// pointer per connection.
#[derive(Debug)]
pub struct Watched<T>(pub T);

impl<T: Transport> Transport for Watched<T> {
    type Session = T::Session;

    async fn connect(&self, target: &Target) -> Result<(Self::Session, Greeting), ConnectError> {
        let Some(recorder) = recorder() else { return self.0.connect(target).await };
        let start = span::now();
        let connected = self.0.connect(target).await;
        let outcome = connected.as_ref().err().map(|error| error.kind.name());
        let counted = outcome.iter().map(|error| ("error.type", (*error).into())).collect();
        recorder.count("fargate.connections", counted, 1);
        match outcome {
            None => {
                let attributes = vec![
                    ("server.address", target.destination.to_string().into()),
                    ("aws.ecs.task.arn", target.task.as_str().into()),
                    ("fargate.connection.first", target.pinned.is_none().into()),
                ];
                recorder.called("connect".to_owned(), start, attributes, None);
            }
            // While a container starts, this happens every second, so an event is enough.
            Some(error) => recorder.event("connection.failed", vec![("error.type", error.into())]),
        }
        connected
    }

    async fn waits_for(&self, transport: &str, task: &TaskArn) -> String {
        self.0.waits_for(transport, task).await
    }
}
