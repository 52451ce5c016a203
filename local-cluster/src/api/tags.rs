//! What ECS admits in tags.

use serde_json::Value;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory as _};

use super::ApiError;

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

/// Checks the number of a resource's tags.
pub(crate) fn check_count(tags: &[Value]) -> Result<(), ApiError> {
    if tags.len() > MOST {
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
