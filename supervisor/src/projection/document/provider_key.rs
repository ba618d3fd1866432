//! `provider_keys`: where a provider is, and the secret it asks for.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use shared::resource::{Adapter, Endpoint, ProviderKey, Resource, TelemetryTags, UpstreamTls};
use shared::secret::Secret;
use tracing::warn;

use super::field::{Object, Text, present};
use super::{Document, Refusal, cloud, parse_failed, read_as, schema_failed, vendor};

/// The longest label that usage carries. As published.
const LABEL_CHARS_MAX: usize = 256;

#[derive(Deserialize)]
#[expect(
    dead_code,
    reason = "`strip_headers` is for passthrough routes, which this build does not have"
)]
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
    request: Option<Object<RequestOverrides>>,
    response: Option<Object<ResponseOverrides>>,
    #[serde(default)]
    strip_headers: Vec<String>,
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

#[derive(Deserialize)]
#[expect(dead_code, reason = "read to be checked, not enforced yet")]
struct RequestOverrides {
    #[serde(default)]
    default_body_fields: Map<String, Value>,
    #[serde(default)]
    default_headers: BTreeMap<String, String>,
    #[serde(default)]
    forward_client_headers: Vec<String>,
    param_constraints: Option<Object<ParamConstraints>>,
    #[serde(default)]
    param_renames: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read to be checked, not enforced yet")]
struct ParamConstraints {
    temperature_max: Option<f64>,
    temperature_min: Option<f64>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read to be checked, not enforced yet")]
struct ResponseOverrides {
    #[serde(default)]
    content_list_to_string: bool,
    error_envelope: Option<String>,
    reasoning_field: Option<String>,
    stream_done_marker: Option<StreamDoneMarker>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum StreamDoneMarker {
    Required,
    Optional,
    None,
}

/// The provider key `id`.
pub fn read(id: &str, value: Value) -> Result<Document, Refusal> {
    // An empty object of overrides overrides nothing.
    let overriding = |name: &str| {
        value.get(name).and_then(Value::as_object).is_some_and(|members| !members.is_empty())
    };
    let overrides: Vec<_> =
        ["request", "response"].into_iter().filter(|name| overriding(name)).collect();
    let (raw, mut fields) = read_as::<Raw>(value)?;
    fields.extend(overrides.into_iter().map(str::to_owned));
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
        ..ProviderKey::default()
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
