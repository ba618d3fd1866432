//! The kinds that a resources file may hold, and by what its entries are known.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use serde_json::Value;
use uuid::{Builder, Uuid};

/// A list of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct FileKind {
    /// Its key in the file, and the kind of its documents.
    pub name: &'static str,
    /// By what its entries are known.
    pub identity: Identity,
    /// Its name in the variables of an export.
    pub token: &'static str,
}

/// By what an entry is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The first of these fields that is there.
    Fields(&'static [&'static str]),
    /// Guardrail, kind of scope and scope: an attachment has no name.
    Attachment,
    /// There is one entry at most.
    Single,
}

const DISPLAY_NAME: Identity = Identity::Fields(&["display_name"]);
const NAME: Identity = Identity::Fields(&["name"]);
const EITHER: Identity = Identity::Fields(&["name", "display_name"]);

/// Every kind, in the order in which a file is read and written.
#[rustfmt::skip]
pub static KINDS: [FileKind; 14] = [
    FileKind { name: "provider_keys", identity: DISPLAY_NAME, token: "PROVIDER_KEY" },
    FileKind { name: "models", identity: DISPLAY_NAME, token: "MODEL" },
    FileKind { name: "api_keys", identity: DISPLAY_NAME, token: "API_KEY" },
    FileKind { name: "guardrails", identity: NAME, token: "GUARDRAIL" },
    FileKind { name: "guardrail_attachments", identity: Identity::Attachment, token: "GUARDRAIL_ATTACHMENT" },
    FileKind { name: "mcp_servers", identity: EITHER, token: "MCP_SERVER" },
    FileKind { name: "a2a_agents", identity: EITHER, token: "A2A_AGENT" },
    FileKind { name: "cache_policies", identity: NAME, token: "CACHE_POLICY" },
    FileKind { name: "observability_exporters", identity: NAME, token: "OBSERVABILITY_EXPORTER" },
    FileKind { name: "rate_limit_policies", identity: NAME, token: "RATE_LIMIT_POLICY" },
    FileKind { name: "oidc_providers", identity: NAME, token: "OIDC_PROVIDER" },
    FileKind { name: "claim_mappings", identity: NAME, token: "CLAIM_MAPPING" },
    FileKind { name: "passthrough_routes", identity: EITHER, token: "PASSTHROUGH_ROUTE" },
    FileKind { name: "mcp_auth_settings", identity: Identity::Single, token: "MCP_AUTH_SETTINGS" },
];

impl FileKind {
    /// The kind of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}

impl Identity {
    /// What this entry is known by.
    pub fn of(self, entry: &Value) -> Option<String> {
        let text =
            |field: &str| entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        match self {
            Self::Fields(fields) => fields.iter().find_map(|field| text(field)).map(str::to_owned),
            Self::Attachment => {
                let (guardrail, scope) = (text("guardrail_id")?, text("scope_type")?);
                Some(format!("{guardrail}/{scope}/{}", text("scope_id").unwrap_or("-")))
            }
            Self::Single => Some("mcp_auth_settings".to_owned()),
        }
    }

    /// In words, for who forgot it.
    pub fn needed(self) -> String {
        match self {
            Self::Fields(fields) => fields.join(" or "),
            Self::Attachment => "guardrail_id and scope_type".to_owned(),
            Self::Single => String::new(),
        }
    }
}

/// The id of an entry: a UUID of version 5 over kind and name, so that it is the same at every reading.
pub fn id(kind: &str, identity: &str) -> String {
    let namespace = of_name(&Uuid::NAMESPACE_URL, "https://github.com/api7/aisix#resources-file");
    of_name(&namespace, &format!("{kind}/{identity}")).to_string()
}

fn of_name(namespace: &Uuid, name: &str) -> Uuid {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(namespace.as_bytes());
    context.update(name.as_bytes());
    let digest = context.finish();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest.as_ref()).for_each(|(byte, from)| *byte = *from);
    Builder::from_sha1_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_published_format() {
        let dns = Uuid::NAMESPACE_DNS;
        let known = "2ed6657d-e927-568b-95e1-2665a8aea6a2";
        assert_eq!(of_name(&dns, "www.example.com").to_string(), known);
        let url = "https://github.com/api7/aisix#resources-file";
        let namespace = of_name(&Uuid::NAMESPACE_URL, url);
        assert_eq!(namespace.to_string(), "63e50ab2-677a-54d3-8d1e-c0cb29ceae94");
        assert_eq!(id("models", "a"), id("models", "a"));
        assert_ne!(id("models", "a"), id("provider_keys", "a"));
    }
}
