//! `models`: names that callers ask for.

use serde::Deserialize;
use serde_json::Value;
use shared::cidr::Cidr;
use shared::resource::{self, DirectModel, Model, ModelKind, Resource};

use super::field::{
    Count32, Integer, NotNegative, Object, Positive32, Positive64, RateLimit, Status, Text, Vendor,
    present,
};
use super::group::{Ensemble, Routing, Semantic};
use super::{Document, Refusal, parse_failed, read_as, schema_failed};

/// Fields that say nothing about a group: they are passed over, and reported as such.
static INAPPLICABLE: [(&str, &[&str]); 3] = [
    ("routing", &["auto_prompt_caching", "cost", "retries"]),
    ("ensemble", &["auto_prompt_caching", "cost", "retries", "stream_timeout", "timeout"]),
    ("semantic", &["auto_prompt_caching", "cost"]),
];

#[derive(Deserialize)]
struct Raw {
    display_name: Text,
    #[serde(default, deserialize_with = "present")]
    provider: Option<Vendor>,
    #[serde(default, deserialize_with = "present")]
    model_name: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    provider_key_id: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    routing: Option<Object<Routing>>,
    #[serde(default, deserialize_with = "present")]
    ensemble: Option<Object<Ensemble>>,
    #[serde(default, deserialize_with = "present")]
    semantic: Option<Object<Semantic>>,
    #[serde(default, deserialize_with = "present")]
    timeout: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    stream_timeout: Option<u64>,
    #[serde(default)]
    allowed_cidrs: Vec<Text>,
    #[serde(default, deserialize_with = "present")]
    retries: Option<Count32>,
    #[serde(default, deserialize_with = "present")]
    rate_limit: Option<Object<RateLimit>>,
    #[serde(default, deserialize_with = "present")]
    cost: Option<Object<Cost>>,
    #[serde(default, deserialize_with = "present")]
    cooldown: Option<Object<Cooldown>>,
    #[serde(default, deserialize_with = "present")]
    background_model_check: Option<Object<BackgroundModelCheck>>,
    #[serde(default, deserialize_with = "present")]
    auto_prompt_caching: Option<Object<AutoPromptCaching>>,
    #[serde(default, deserialize_with = "present")]
    embedding: Option<Object<Embedding>>,
}

#[derive(Deserialize)]
struct Cost {
    input_per_1k: NotNegative,
    output_per_1k: NotNegative,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read to be checked, not enforced yet")]
struct Cooldown {
    #[serde(default)]
    default_seconds: u64,
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    honor_retry_after: bool,
    #[serde(default, deserialize_with = "present")]
    max_seconds: Option<Positive64>,
    #[serde(default)]
    trigger_on_timeout: bool,
    #[serde(default)]
    trigger_on_transport: bool,
    #[serde(default)]
    trigger_statuses: Vec<Status>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read to be checked, not enforced yet")]
struct BackgroundModelCheck {
    enabled: bool,
    interval_seconds: Integer<5, { u64::MAX }>,
    max_tokens: Positive32,
    prompt: Text,
    stale_after_seconds: Positive64,
    timeout_seconds: Positive64,
    #[serde(default)]
    ignore_statuses: Vec<Status>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read to be checked, not enforced yet")]
struct AutoPromptCaching {
    enabled: bool,
    #[serde(default, deserialize_with = "present")]
    ttl: Option<CacheTtl>,
}

#[derive(Deserialize)]
enum CacheTtl {
    #[serde(rename = "5m")]
    FiveMinutes,
    #[serde(rename = "1h")]
    OneHour,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "describes a route that this build does not have")]
struct Embedding {
    dimensions: Positive32,
    #[serde(default)]
    normalize: bool,
}

/// The model `id`.
pub fn read(id: &str, mut value: Value) -> Result<Document, Refusal> {
    let inapplicable = strip_inapplicable(&mut value);
    let (raw, mut fields) = read_as::<Raw>(value)?;
    fields.extend(inapplicable);
    fields.extend(raw.not_enforced().map(str::to_owned));
    let cidrs = raw.allowed_cidrs.iter().enumerate().map(|(index, text)| {
        text.0.parse::<Cidr>().map_err(|_| {
            let expectation = "expected an IP address or a block such as 10.0.0.0/8";
            parse_failed(&format!("/allowed_cidrs/{index}"), expectation)
        })
    });
    let allowed_cidrs = cidrs.collect::<Result<_, _>>()?;
    let (timeout_ms, stream_timeout_ms) = (raw.timeout, raw.stream_timeout);
    let display_name = raw.display_name.0.clone();
    let resource = Some(Resource::Model(Model {
        id: id.to_owned(),
        display_name: display_name.clone(),
        rate_limits: raw.rate_limit.as_ref().map(|it| it.0.limits()).unwrap_or_default(),
        kind: raw.kind()?,
        timeout_ms,
        stream_timeout_ms,
        allowed_cidrs,
        ..Model::default()
    }));
    Ok(Document { resource, name: Some(display_name), fields })
}

fn strip_inapplicable(value: &mut Value) -> Vec<String> {
    let mut stripped = Vec::new();
    let Some(members) = value.as_object_mut() else { return stripped };
    for (group, fields) in INAPPLICABLE {
        if members.contains_key(group) {
            let present = fields.iter().filter(|field| members.remove(**field).is_some());
            stripped.extend(present.map(|field| format!("inapplicable:{field}")));
        }
    }
    stripped
}

impl Raw {
    /// Fields that are there and that no worker honours yet.
    fn not_enforced(&self) -> impl Iterator<Item = &'static str> {
        [
            ("auto_prompt_caching", self.auto_prompt_caching.is_some()),
            ("background_model_check", self.background_model_check.is_some()),
            ("cooldown", self.cooldown.is_some()),
            ("ensemble", self.ensemble.is_some()),
            ("retries", self.retries.is_some()),
            ("routing", self.routing.is_some()),
            ("semantic", self.semantic.is_some()),
        ]
        .into_iter()
        .filter_map(|(field, there)| there.then_some(field))
    }

    /// Exactly one of four shapes.
    fn kind(self) -> Result<ModelKind, Refusal> {
        let any_direct = self.provider.is_some()
            || self.model_name.is_some()
            || self.provider_key_id.is_some()
            || self.background_model_check.is_some()
            || self.cooldown.is_some()
            || self.embedding.is_some();
        let direct = (self.provider, self.model_name, self.provider_key_id);
        match (self.routing, self.ensemble, self.semantic, direct, any_direct) {
            (Some(_), None, None, _, false) => Ok(ModelKind::Routing(Box::default())),
            (None, Some(_), None, _, false) => Ok(ModelKind::Ensemble),
            (None, None, Some(_), _, false) => Ok(ModelKind::Semantic),
            (None, None, None, (Some(provider), Some(model_name), Some(key)), _) => {
                Ok(ModelKind::Direct(Box::new(DirectModel {
                    provider: provider.0,
                    model_name: model_name.0,
                    provider_key_id: key.0,
                    cost: self.cost.map(|cost| resource::Cost {
                        input_per_1k: cost.0.input_per_1k.0,
                        output_per_1k: cost.0.output_per_1k.0,
                    }),
                    ..DirectModel::default()
                })))
            }
            _ => Err(schema_failed(
                "",
                "expected either `provider`, `model_name` and `provider_key_id`, or one of `routing`, `ensemble` and \
                 `semantic` without fields of a direct model",
            )),
        }
    }
}
