//! Ids of environments and data planes. Gateways refuse an environment that is not a UUID, so it is refused here first.

use uuid::Uuid;

/// A text that is not a UUID in its usual form.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a UUID such as 11111111-2222-3333-4444-555555555555")]
pub struct NotUuid(String);

/// The id in lower case.
pub fn uuid(text: &str) -> Result<String, NotUuid> {
    let id = text.to_ascii_lowercase();
    match Uuid::try_parse(&id) {
        Ok(parsed) if parsed.hyphenated().to_string() == id => Ok(id),
        _ => Err(NotUuid(text.to_owned())),
    }
}

/// `prefix` without its trailing slashes, the environment, and the slash that keeps neighbours apart.
pub fn key_prefix(prefix: &str, env_id: &str) -> String {
    format!("{}/{env_id}/", prefix.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let id = "11111111-2222-3333-4444-55555555abcd";
        assert_eq!(uuid(id).unwrap(), id);
        assert_eq!(uuid(&id.to_uppercase()).unwrap(), id);
        for wrong in [
            "",
            "prod",
            "11111111222233334444555555555555",
            "{11111111-2222-3333-4444-555555555555}",
        ] {
            assert!(uuid(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_prefix_of_an_environment_ends_with_one_slash() {
        assert_eq!(key_prefix("/aisix", "e"), "/aisix/e/");
        assert_eq!(key_prefix("/aisix//", "e"), "/aisix/e/");
    }
}
