//! Scripted faults of the API and of tasks.

use local_cluster::{Death, EarlyStop, Faults, LaunchFailure, Refusal, SshFaults};
use serde_json::json;

use crate::*;

#[tokio::test]
async fn calls_fail_as_scripted_and_no_longer() {
    let cluster = start().await;
    cluster.set_faults(Faults {
        throttle: [("RunTask".to_owned(), 2)].into(),
        refuse: [(
            "ListTasks".to_owned(),
            Refusal {
                status: 403,
                code: "AccessDeniedException".into(),
                message: "no".into(),
                times: 1,
            },
        )]
        .into(),
        launch_failure: Some(LaunchFailure {
            reason: "RESOURCE:ENI".into(),
            detail: None,
            times: 1,
        }),
        ..Faults::default()
    });
    for _ in 0..2 {
        assert!(
            ecs(&cluster, "RunTask", launch()).await.unwrap_err().contains("ThrottlingException")
        );
    }
    let failed = ecs(&cluster, "RunTask", launch()).await.unwrap();
    assert_eq!(
        (failed["tasks"].as_array().unwrap().len(), failed["failures"][0]["reason"].as_str()),
        (0, Some("RESOURCE:ENI"))
    );
    run(&cluster).await;
    assert!(
        ecs(&cluster, "ListTasks", json!({ "cluster": "local" }))
            .await
            .unwrap_err()
            .contains("403 AccessDeniedException")
    );
    ecs(&cluster, "ListTasks", json!({ "cluster": "local" })).await.unwrap();
    let errors: Vec<Option<String>> =
        cluster.calls().into_iter().filter(|c| c.action == "RunTask").map(|c| c.error).collect();
    let throttled = Some("ThrottlingException".to_owned());
    assert_eq!(errors, [throttled.clone(), throttled, None, None]);
}

#[tokio::test]
async fn tasks_fail_as_scripted() {
    let cluster = start().await;
    let early = EarlyStop {
        code: "TaskFailedToStart".into(),
        reason: "CannotPullContainerError: no such image".into(),
        container_reason: Some("CannotPullContainerError".into()),
        exit_code: None,
    };
    cluster.set_faults(Faults { stops_early: Some(early), ..Faults::default() });
    let task = run(&cluster).await;
    let (stopped, statuses) = until(&cluster, &task, is("STOPPED")).await;
    assert!(!statuses.contains(&"RUNNING".to_owned()), "{statuses:?}");
    assert_eq!(stopped["stopCode"], "TaskFailedToStart");
    assert_eq!(stopped["containers"][0]["reason"], "CannotPullContainerError");

    let death = Death {
        after_ms: 1000,
        code: "SpotInterruption".into(),
        reason: "Your Spot Task was interrupted.".into(),
        container_reason: None,
        exit_code: Some(137),
    };
    cluster.set_faults(Faults { dies: Some(death), ..Faults::default() });
    let task = run(&cluster).await;
    let (stopped, statuses) = until(&cluster, &task, is("STOPPED")).await;
    assert!(statuses.contains(&"RUNNING".to_owned()), "{statuses:?}");
    assert_eq!(
        (stopped["stopCode"].as_str(), stopped["containers"][0]["exitCode"].as_i64()),
        (Some("SpotInterruption"), Some(137))
    );

    cluster.set_faults(Faults { never_starts: true, stop_ignored: true, ..Faults::default() });
    let task = run(&cluster).await;
    until(&cluster, &task, is("PENDING")).await;
    ecs(&cluster, "StopTask", json!({ "cluster": "local", "task": task })).await.unwrap();
    assert_eq!(describe(&cluster, &task).await["tasks"][0]["desiredStatus"], "RUNNING", "ignored");
    cluster.set_faults(Faults {
        ssh: SshFaults { never_listens: true, ..SshFaults::default() },
        ..Faults::default()
    });
    assert!(cluster.faults().ssh.never_listens);
    cluster.shutdown().await;
}
