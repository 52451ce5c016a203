//! Checks which KMS key may encrypt a session. The exec agent names one in its handshake, but it
//! runs in the container, so the job controls that name. Otherwise a job could make the runner
//! manager call KMS with any key of its role.

use states::foreign_text::clipped;

/// Returns the key to call KMS with: the cluster's own, which the requested one must not
/// contradict.
///
/// # Errors
/// When the cluster has none, or the agent names another: a sentence for people.
pub(super) fn checked<'a>(asked: &str, own: Option<&'a str>) -> Result<&'a str, String> {
    match own {
        None => Err(format!(
            "the container asks for a session that is encrypted by the KMS key {}, and the cluster's executeCommandConfiguration names none",
            clipped(asked)
        )),
        Some(own) if contradicts(asked, own) => Err(format!(
            "the container asks for the KMS key {}, and the cluster's executeCommandConfiguration names {own}: KMS was not called",
            clipped(asked)
        )),
        Some(own) => Ok(own),
    }
}

/// Whether two names are certainly those of different keys. An alias and a key id cannot be
/// compared. That is safe, as the cluster's key is used.
fn contradicts(asked: &str, own: &str) -> bool {
    let (asked, own) = (Name::of(asked), Name::of(own));
    asked.is_alias == own.is_alias && asked.name != own.name
        || matches!((asked.scope, own.scope), (Some(a), Some(o)) if a != o)
}

/// A key's id, ARN, alias name or alias ARN (KMS API reference, GenerateDataKey, `KeyId`).
struct Name<'a> {
    /// Partition, region and account, if it is an ARN.
    scope: Option<&'a str>,
    name: &'a str,
    is_alias: bool,
}

impl<'a> Name<'a> {
    fn of(text: &'a str) -> Self {
        // arn:aws:kms:eu-west-1:111122223333:key/…
        let resource = text.starts_with("arn:").then(|| text.match_indices(':').nth(4)).flatten();
        let (scope, resource) = match resource {
            Some((colon, _)) => (Some(&text[..colon]), &text[colon + 1..]),
            None => (None, text),
        };
        let name = resource.strip_prefix("key/").unwrap_or(resource);
        Self { scope, name, is_alias: name.starts_with("alias/") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn the_clusters_key_is_accepted_in_every_form() {
        let arn = format!("arn:aws:kms:eu-west-1:111122223333:key/{ID}");
        let alias_arn = "arn:aws:kms:eu-west-1:111122223333:alias/exec";
        for (asked, own) in [
            (ID, ID),
            (&arn, ID),
            (ID, &arn),
            (&arn, &arn),
            ("alias/exec", alias_arn),
            (alias_arn, "alias/exec"),
            (&arn, "alias/exec"),
        ] {
            assert_eq!(checked(asked, Some(own)), Ok(own), "{asked} for {own}");
        }
    }

    #[test]
    fn another_key_is_refused() {
        let arn = |account: &str| format!("arn:aws:kms:eu-west-1:{account}:key/{ID}");
        for (asked, own) in [
            ("other", ID),
            (&arn("999999999999"), &arn("111122223333")),
            ("alias/production", "alias/exec"),
            ("arn:aws:kms:eu-west-1:999999999999:alias/exec", &arn("111122223333")),
            ("", ID),
        ] {
            assert!(
                checked(asked, Some(own)).unwrap_err().contains("KMS was not called"),
                "{asked} for {own}"
            );
        }
        let foreign = format!("\u{1b}[2J{}", "x".repeat(10_000));
        for own in [None, Some(ID)] {
            let refused = checked(&foreign, own).unwrap_err();
            assert!(refused.len() < 1000 && !refused.contains('\u{1b}'), "{refused}");
        }
    }
}
