//! `provider_keys`: where a provider is, and the secret it asks for.

use serde::Deserialize;
use serde_json::Value;
use shared::resource::{Adapter, Endpoint, ProviderKey, Resource, TelemetryTags, UpstreamTls};
use shared::secret::Secret;
use tracing::warn;

use super::field::{Object, Text, present};
use super::request::{RawRequest, RawResponse};
use super::{Document, Refusal, cloud, parse_failed, read_as, schema_failed, vendor};

/// The longest label that usage carries. As published.
const LABEL_CHARS_MAX: usize = 256;

/// What a passthrough route keeps to itself where the document does not say. As published.
const STRIPPED: [&str; 4] = ["authorization", "cookie", "set-cookie", "x-api-key"];

#[derive(Deserialize)]
struct Raw {
    display_name: Text,
    #[serde(default, deserialize_with = "present")]
    api_key: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    secret: Option<Text>,
    #[serde(default)]
    provider: String,
    adapter: Option<RawAdapter>,
    api_base: Option<String>,
    tls: Option<Object<RawTls>>,
    #[serde(default)]
    telemetry_tags: Object<RawTags>,
    request: Option<Object<RawRequest>>,
    response: Option<Object<RawResponse>>,
    #[serde(default, deserialize_with = "present")]
    strip_headers: Option<Vec<String>>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawAdapter {
    #[serde(rename = "openai")]
    OpenAi,
    Anthropic,
    Bedrock,
    Vertex,
    #[serde(rename = "azure-openai")]
    AzureOpenAi,
}

#[derive(Deserialize)]
struct RawTls {
    ca_cert: Option<String>,
    #[serde(default = "yes")]
    verify: bool,
}

fn yes() -> bool {
    true
}

#[derive(Default, Deserialize)]
struct RawTags {
    kind: Option<RawTagKind>,
    #[serde(default)]
    featured: bool,
    branded_provider: Option<String>,
    pk_label: Option<String>,
    byo_label: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawTagKind {
    Catalog,
    Byo,
}

/// The provider key `id`.
pub fn read(id: &str, value: Value) -> Result<Document, Refusal> {
    let (raw, mut fields) = read_as::<Raw>(value)?;
    let secret = match (raw.api_key, raw.secret) {
        (Some(secret), None) | (None, Some(secret)) => Secret::new(secret.0),
        (None, None) => return Err(schema_failed("", "expected a field `api_key`")),
        (Some(_), Some(_)) => {
            return Err(parse_failed("", "expected only one of `api_key` and `secret`"));
        }
    };
    let endpoint = match raw.api_base.as_deref().filter(|base| !base.is_empty()) {
        None => match cloud::adapter(raw.adapter.as_ref().map(Adapter::from), &raw.provider) {
            // Where Bedrock is may be said by the configuration.
            Some(Adapter::Bedrock) => None,
            Some(Adapter::Vertex) => cloud::vertex_endpoint(secret.expose()),
            _ => vendor::base_url(&raw.provider).and_then(|base| base.parse().ok()),
        },
        Some(base) => match vendor::full_url(raw.adapter.as_ref(), base).parse::<Endpoint>() {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                warn!("provider key {id}: api_base {error}; its models cannot be reached");
                fields.push("api_base".to_owned());
                None
            }
        },
    };
    let name = raw.display_name.0.clone();
    let resource = Some(Resource::ProviderKey(ProviderKey {
        id: id.to_owned(),
        display_name: raw.display_name.0,
        provider: raw.provider,
        adapter: raw.adapter.as_ref().map(Adapter::from),
        token_endpoint: cloud::token_endpoint(secret.expose()),
        secret,
        endpoint,
        tls: raw.tls.map_or_else(UpstreamTls::default, |Object(tls)| UpstreamTls {
            ca_pem: tls.ca_cert.filter(|pem| !pem.trim().is_empty()),
            verify: tls.verify,
        }),
        telemetry_tags: raw.telemetry_tags.0.into(),
        request: raw.request.map(|Object(raw)| raw.into()).unwrap_or_default(),
        response: raw.response.map(|Object(raw)| raw.into()).unwrap_or_default(),
        strip_headers: match raw.strip_headers {
            Some(names) => names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            None => STRIPPED.map(str::to_owned).into(),
        },
    }));
    Ok(Document { resource, name: Some(name), fields })
}

impl From<&RawAdapter> for Adapter {
    fn from(raw: &RawAdapter) -> Self {
        match raw {
            RawAdapter::OpenAi => Self::OpenAi,
            RawAdapter::Anthropic => Self::Anthropic,
            RawAdapter::Bedrock => Self::Bedrock,
            RawAdapter::Vertex => Self::Vertex,
            RawAdapter::AzureOpenAi => Self::AzureOpenAi,
        }
    }
}

impl From<RawTags> for TelemetryTags {
    fn from(raw: RawTags) -> Self {
        let label = |text: String| -> String {
            text.chars().filter(|c| !c.is_control()).take(LABEL_CHARS_MAX).collect()
        };
        let kind = raw.kind.map(|kind| match kind {
            RawTagKind::Catalog => "catalog".to_owned(),
            RawTagKind::Byo => "byo".to_owned(),
        });
        Self {
            kind,
            featured: raw.featured,
            branded_provider: raw.branded_provider.map(label),
            pk_label: raw.pk_label.map(label),
            byo_label: raw.byo_label.map(label),
        }
    }
}
