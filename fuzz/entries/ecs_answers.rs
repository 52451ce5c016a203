//! ECS's answers, through the SDK: a report, or an error. The first byte is the call, the second
//! one the status.

use std::cell::OnceCell;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_runtime_api::client::{
    http::{
        HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
        http_client_fn,
    },
    orchestrator::{HttpRequest, HttpResponse},
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::body::SdkBody;
use fargate_driver::control::EcsControl;
use states::{
    Capacity, ClientToken, ControlError, LaunchSpec, StartedBy, TaskArn, TaskControl as _,
};
use tokio::runtime::Runtime;

const STATUS: [u16; 8] = [200, 200, 200, 400, 400, 403, 500, 503];
const TASK: &str = "arn:aws:ecs:eu-west-1:1:task/ci/00000000000000000000000000000001";

std::thread_local! {
    static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
}

pub fn run(data: &[u8]) {
    let [call, status, body @ ..] = data else { return };
    let answer =
        Answer { status: STATUS[usize::from(*status) % STATUS.len()], body: body.to_vec() };
    RUNTIME.with(|runtime| {
        let runtime = runtime.get_or_init(|| {
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
        });
        runtime.block_on(ask(*call, answer));
    });
}

async fn ask(call: u8, answer: Answer) {
    let control = EcsControl::with_config(config(answer));
    let task = TaskArn::new(TASK).expect("an ARN");
    let started_by = StartedBy::new("gitlab-1").expect("a mark");
    let refused = match call % 4 {
        0 => {
            let token = ClientToken::new("gitlab-1-0").expect("a token");
            control
                .launch(&token, &spec(started_by))
                .await
                .map(|report| assert!(!report.task.as_str().is_empty()))
        }
        1 => {
            let asked = [task];
            control.describe("ci", &asked).await.map(|described| {
                assert!(
                    asked.iter().all(|task| described.iter().any(|d| d.task == *task)),
                    "nothing is said of a task: {described:?}"
                );
            })
        }
        2 => control.stop("ci", &task, &states::StopReason::Cleanup).await.map(|_| ()),
        // Pages: one that always has a next one would go on for ever with one answer.
        _ => control.launched("ci").await.map(drop),
    };
    if let Err(ControlError { operation, message, .. }) = refused {
        assert!(!operation.is_empty() && !message.is_empty());
    }
}

fn spec(started_by: StartedBy) -> LaunchSpec {
    LaunchSpec {
        cluster: "ci".to_owned(),
        task_definition: "job:1".to_owned(),
        platform_version: None,
        subnets: vec!["subnet-1".to_owned()],
        security_groups: Vec::new(),
        assign_public_ip: false,
        capacity: Capacity::ClusterDefault,
        container: "ci-coordinator".to_owned(),
        environment: Vec::new(),
        started_by,
        tags: Vec::new(),
        enable_execute_command: false,
        propagate_tags: false,
        enable_ecs_managed_tags: false,
        additions: None,
        size: states::TaskSize::default(),
        task_role: None,
        service_environment: Vec::new(),
    }
}

fn config(answer: Answer) -> SdkConfig {
    let credentials = Credentials::from_keys("fuzz", "fuzz", None);
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .http_client(http_client_fn(move |_: &HttpConnectorSettings, _: &RuntimeComponents| {
            SharedHttpConnector::new(answer.clone())
        }))
        .build()
}

/// Answers every request with the same.
#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl HttpConnector for Answer {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let status = self.status.try_into().expect("a status");
        HttpConnectorFuture::ready(Ok(HttpResponse::new(status, SdkBody::from(self.body.clone()))))
    }
}
