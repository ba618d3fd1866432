//! How requests to one provider are changed, and what is unusual about its answers: `request` and `response` of a provider key.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use shared::resource::{RequestOverrides, ResponseOverrides};

use super::field::Object;

/// `request`.
#[derive(Default, Deserialize)]
pub struct RawRequest {
    #[serde(default)]
    default_body_fields: Map<String, Value>,
    #[serde(default)]
    default_headers: BTreeMap<String, String>,
    #[serde(default)]
    forward_client_headers: Vec<String>,
    param_constraints: Option<Object<Constraints>>,
    #[serde(default)]
    param_renames: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Constraints {
    temperature_max: Option<f64>,
    temperature_min: Option<f64>,
}

/// `response`.
#[derive(Default, Deserialize)]
pub struct RawResponse {
    #[serde(default)]
    content_list_to_string: bool,
    /// As published: kept by the control plane, and applied by nobody.
    #[serde(rename = "error_envelope")]
    _error_envelope: Option<String>,
    reasoning_field: Option<String>,
    stream_done_marker: Option<StreamDoneMarker>,
}

#[derive(PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StreamDoneMarker {
    Required,
    Optional,
    None,
}

impl From<RawRequest> for RequestOverrides {
    fn from(raw: RawRequest) -> Self {
        let temperature = raw.param_constraints.map(|Object(constraints)| constraints);
        Self {
            default_body_fields: raw
                .default_body_fields
                .into_iter()
                .map(|(name, value)| (name, value.to_string()))
                .collect(),
            default_headers: raw.default_headers.into_iter().collect(),
            forward_client_headers: raw
                .forward_client_headers
                .iter()
                .map(|glob| glob.to_ascii_lowercase())
                .collect(),
            param_renames: raw.param_renames.into_iter().collect(),
            temperature: temperature
                .map_or((None, None), |it| (it.temperature_min, it.temperature_max)),
        }
    }
}

impl From<RawResponse> for ResponseOverrides {
    fn from(raw: RawResponse) -> Self {
        Self {
            content_list_to_string: raw.content_list_to_string,
            reasoning_field: raw.reasoning_field.filter(|path| !path.is_empty()),
            requires_done: raw.stream_done_marker == Some(StreamDoneMarker::Required),
        }
    }
}
