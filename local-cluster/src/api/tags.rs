//! TagResource, and what ECS admits in tags.

use serde_json::{Value, json};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory as _};

use super::{ApiError, text};
use crate::cluster::{Cluster, Status};

/// Most tags of a resource.
const MOST: usize = 50;

/// Checks the tags of a call.
pub(crate) fn check_tags(tags: &[Value]) -> Result<(), ApiError> {
    for tag in tags {
        // ECS turns an absent value into an empty one.
        let part = |name| tag.get(name).and_then(Value::as_str).unwrap_or_default();
        let (key, value) = (part("key"), part("value"));
        if key.is_empty() || !is_admitted(key, 128) || !is_admitted(value, 256) {
            return Err(ApiError::parameter(format!("Invalid tag: {key}={value}")));
        }
    }
    check_count(tags)
}

/// Adds tags to a task. The local cluster tags nothing else later.
pub(super) fn tag_resource(cluster: &Cluster, parameters: &Value) -> Result<Value, ApiError> {
    let arn = text(parameters, "resourceArn").unwrap_or_default();
    let tags = parameters.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
    check_tags(&tags)?;
    let task = cluster.task(arn).filter(|task| cluster.task_arn(task) == arn).ok_or_else(|| {
        ApiError::new(
            400,
            "ResourceNotFoundException",
            "The specified resource could not be found.",
        )
    })?;
    if task.state().status == Status::Stopped {
        return Err(ApiError::parameter(
            "The specified task is stopped. Specify a running task and try again.",
        ));
    }
    task.tag(&tags, check_count)?;
    Ok(json!({}))
}

/// Checks the number of a resource's tags.
///
/// Amazon ECS API reference, `TagResource`: AWS's own tags do not count.
pub(crate) fn check_count(tags: &[Value]) -> Result<(), ApiError> {
    let is_aws = |tag: &&Value| tag["key"].as_str().is_some_and(|key| key.starts_with("aws:"));
    if tags.iter().filter(|tag| !is_aws(tag)).count() > MOST {
        return Err(ApiError::parameter("Tags can not have more than 50 elements."));
    }
    Ok(())
}

/// Amazon ECS API reference, `Tag`: `^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$`, and no `aws:` in front.
fn is_admitted(text: &str, longest: usize) -> bool {
    use GeneralCategoryGroup::{Letter, Number, Separator};
    let admitted = |c: char| {
        "_.:/=+-@".contains(c) || matches!(c.general_category_group(), Letter | Number | Separator)
    };
    text.encode_utf16().count() <= longest
        && !text.to_ascii_lowercase().starts_with("aws:")
        && text.chars().all(admitted)
}
