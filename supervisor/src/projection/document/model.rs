//! `models`: names that callers ask for.

use serde::Deserialize;
use serde_json::Value;
use shared::cidr::Cidr;
use shared::resource::{self, DirectModel, Model, ModelKind, PromptCaching, Resource};

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
struct Cooldown {
    #[serde(default, deserialize_with = "present")]
    default_seconds: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    honor_retry_after: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    max_seconds: Option<Positive64>,
    #[serde(default, deserialize_with = "present")]
    trigger_on_timeout: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    trigger_on_transport: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    trigger_statuses: Option<Vec<Status>>,
}

impl Cooldown {
    /// What is left out is as if there were no document about it.
    fn into_resource(self) -> resource::Cooldown {
        let default = resource::Cooldown::default();
        resource::Cooldown {
            enabled: self.enabled.unwrap_or(default.enabled),
            default_seconds: self.default_seconds.unwrap_or(default.default_seconds),
            honor_retry_after: self.honor_retry_after.unwrap_or(default.honor_retry_after),
            max_seconds: self.max_seconds.map_or(default.max_seconds, |seconds| seconds.0),
            on_timeout: self.trigger_on_timeout.unwrap_or(default.on_timeout),
            on_transport: self.trigger_on_transport.unwrap_or(default.on_transport),
            statuses: self
                .trigger_statuses
                .map_or(default.statuses, |statuses| statuses.iter().map(Status::as_u16).collect()),
        }
    }
}

#[derive(Deserialize)]
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

impl BackgroundModelCheck {
    /// The check, if it is switched on.
    fn into_resource(self) -> Option<resource::BackgroundCheck> {
        self.enabled.then(|| resource::BackgroundCheck {
            interval_seconds: self.interval_seconds.0,
            max_tokens: self.max_tokens.as_u32(),
            prompt: self.prompt.0,
            stale_after_seconds: self.stale_after_seconds.0,
            timeout_seconds: self.timeout_seconds.0,
            ignore_statuses: self.ignore_statuses.iter().map(Status::as_u16).collect(),
        })
    }
}

#[derive(Deserialize)]
struct AutoPromptCaching {
    enabled: bool,
    #[serde(default, deserialize_with = "present")]
    ttl: Option<CacheTtl>,
}

impl From<AutoPromptCaching> for Option<PromptCaching> {
    fn from(caching: AutoPromptCaching) -> Self {
        caching.enabled.then_some(match caching.ttl {
            None | Some(CacheTtl::FiveMinutes) => PromptCaching::FiveMinutes,
            Some(CacheTtl::OneHour) => PromptCaching::OneHour,
        })
    }
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
    let retries = raw.retries.as_ref().map(Count32::as_u32);
    let display_name = raw.display_name.0.clone();
    let resource = Some(Resource::Model(Model {
        id: id.to_owned(),
        display_name: display_name.clone(),
        rate_limits: raw.rate_limit.as_ref().map(|it| it.0.limits()).unwrap_or_default(),
        kind: raw.kind()?,
        timeout_ms,
        stream_timeout_ms,
        allowed_cidrs,
        retries,
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
        [("ensemble", self.ensemble.is_some()), ("semantic", self.semantic.is_some())]
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
            (Some(routing), None, None, _, false) => {
                Ok(ModelKind::Routing(Box::new(routing.0.into_resource()?)))
            }
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
                    prompt_caching: self
                        .auto_prompt_caching
                        .and_then(|Object(caching)| caching.into()),
                    cooldown: self
                        .cooldown
                        .map_or_else(Default::default, |cooldown| cooldown.0.into_resource()),
                    background_check: self
                        .background_model_check
                        .and_then(|check| check.0.into_resource()),
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
