//! Keys of the projection: `<prefix>/<kind>/<id>`, where the id may hold slashes.

use shared::resource::Kind;

/// What a document describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKind {
    /// Segment of the key: `models`.
    pub name: &'static str,
    /// What workers know it as; `None` while no worker serves it.
    pub served: Option<Kind>,
}

const fn served(name: &'static str, kind: Kind) -> DocumentKind {
    DocumentKind { name, served: Some(kind) }
}

const fn unserved(name: &'static str) -> DocumentKind {
    DocumentKind { name, served: None }
}

/// Every kind that the Cloud projects.
static KINDS: [DocumentKind; 15] = [
    served("provider_keys", Kind::ProviderKey),
    served("models", Kind::Model),
    served("api_keys", Kind::ApiKey),
    served("guardrails", Kind::Guardrail),
    served("guardrail_attachments", Kind::GuardrailAttachment),
    served("cache_policies", Kind::CachePolicy),
    served("observability_exporters", Kind::Exporter),
    served("rate_limit_policies", Kind::RateLimitPolicy),
    unserved("mcp_servers"),
    unserved("mcp_policies"),
    served("passthrough_routes", Kind::PassthroughRoute),
    unserved("a2a_agents"),
    served("oidc_providers", Kind::OidcProvider),
    served("claim_mappings", Kind::ClaimMapping),
    unserved("mcp_auth_settings"),
];

/// The segment of the key of what workers know as `kind`.
pub fn name_of(kind: Kind) -> &'static str {
    KINDS.iter().find(|known| known.served == Some(kind)).map_or("", |known| known.name)
}

/// Why a key names no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError<'a> {
    /// Outside the prefix, not UTF-8, or a part is missing.
    #[error("the key is not <prefix>/<kind>/<id>")]
    Shape,
    /// No kind of this name.
    #[error("this gateway knows no resource kind of this name")]
    UnknownKind {
        /// The segment in the kind's place.
        kind: &'a str,
        /// What follows it.
        id: &'a str,
    },
}

/// Kind and id of the document at `key`. `prefix` ends with a slash.
pub fn parse<'a>(prefix: &[u8], key: &'a [u8]) -> Result<(DocumentKind, &'a str), KeyError<'a>> {
    let rest = key.strip_prefix(prefix).ok_or(KeyError::Shape)?;
    let rest = str::from_utf8(rest).map_err(|_| KeyError::Shape)?;
    match rest.split_once('/') {
        Some((kind, id)) if !kind.is_empty() && !id.is_empty() => {
            let known = KINDS.iter().find(|known| known.name == kind);
            known.map(|known| (*known, id)).ok_or(KeyError::UnknownKind { kind, id })
        }
        _ => Err(KeyError::Shape),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFIX: &[u8] = b"/aisix/e/";

    #[test]
    fn a_key_names_a_kind_and_an_id_that_may_hold_slashes() {
        let (kind, id) = parse(PREFIX, b"/aisix/e/models/a/b").unwrap();
        assert_eq!((kind.name, kind.served, id), ("models", Some(Kind::Model), "a/b"));
        assert_eq!(parse(PREFIX, b"/aisix/e/mcp_servers/s").unwrap().0.served, None);
    }

    #[test]
    fn what_is_not_such_a_key_is_told_apart_from_an_unknown_kind() {
        for key in ["/aisix/e/models", "/aisix/e/models/", "/aisix/e//x", "/aisix/other/models/x"] {
            assert_eq!(parse(PREFIX, key.as_bytes()), Err(KeyError::Shape), "{key}");
        }
        assert_eq!(parse(PREFIX, b"/aisix/e/models/\xff"), Err(KeyError::Shape));
        let unknown = KeyError::UnknownKind { kind: "widgets", id: "w" };
        assert_eq!(parse(PREFIX, b"/aisix/e/widgets/w"), Err(unknown));
    }

    proptest! {
        #[test]
        fn no_key_can_panic_the_parser(key: Vec<u8>) {
            let _ = parse(PREFIX, &key);
            let _ = parse(PREFIX, &[PREFIX, &key].concat());
        }
    }
}
