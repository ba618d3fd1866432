//! The parts of models that stand for several others. They are checked in full, so that a document which the Cloud would
//! refuse is refused here, and not served yet.
#![expect(dead_code, reason = "read to be checked, not enforced yet")]

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::field::{
    Count32, Filled, Integer, NotNegative, Object, Positive32, Share, Text, present,
};

/// A group of direct models.
#[derive(Debug, Deserialize)]
pub struct Routing {
    targets: Filled<Object<Target>>,
    #[serde(default, deserialize_with = "present")]
    strategy: Option<Strategy>,
    #[serde(default)]
    fallback_on_statuses: Vec<Integer<400, 599>>,
    #[serde(default, deserialize_with = "present")]
    hash_on: Option<Filled<Object<HashOn>>>,
    #[serde(default, deserialize_with = "present")]
    max_fallbacks: Option<Count32>,
    #[serde(default, deserialize_with = "present")]
    retries: Option<Count32>,
    #[serde(default)]
    retry_on_429: bool,
    #[serde(default, deserialize_with = "present")]
    when_all_unavailable: Option<WhenAllUnavailable>,
}

#[derive(Debug, Deserialize)]
struct Target {
    model: Text,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    tags: Vec<Text>,
    #[serde(default, deserialize_with = "present")]
    weight: Option<Count32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Strategy {
    RoundRobin,
    ConsistentHash,
    Failover,
    LeastCost,
    LeastLatency,
    LeastBusy,
}

#[derive(Debug, Deserialize)]
struct HashOn {
    r#type: HashOnType,
    #[serde(default, deserialize_with = "present")]
    name: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HashOnType {
    Header,
    Cookie,
    ApiKey,
    ClientIp,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WhenAllUnavailable {
    Fail,
    TryAnyway,
}

/// A panel with a judge.
#[derive(Debug, Deserialize)]
pub struct Ensemble {
    judge: Object<Judge>,
    panel: Filled<Object<Member>>,
    #[serde(default, deserialize_with = "present")]
    min_responses: Option<Positive32>,
    #[serde(default)]
    timeout_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Judge {
    model: Text,
    #[serde(default, deserialize_with = "present")]
    synthesis_prompt: Option<Text>,
}

#[derive(Debug, Deserialize)]
struct Member {
    model: Text,
    #[serde(default)]
    seed: u64,
    #[serde(default, deserialize_with = "present")]
    temperature: Option<NotNegative>,
    #[serde(default, deserialize_with = "present")]
    weight: Option<Count32>,
}

/// A choice by the meaning of the request.
#[derive(Debug, Deserialize)]
pub struct Semantic {
    default: Text,
    embedding_model: Text,
    r#match: Object<Match>,
    routes: Filled<Object<Route>>,
    #[serde(default)]
    embedding_timeout_ms: u64,
    #[serde(default, deserialize_with = "present")]
    on_embedding_failure: Option<OnEmbeddingFailure>,
}

#[derive(Debug, Deserialize)]
struct Match {
    threshold: Share,
    #[serde(default, deserialize_with = "present")]
    aggregation: Option<Aggregation>,
    #[serde(default, deserialize_with = "present")]
    distance_metric: Option<DistanceMetric>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Aggregation {
    Max,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DistanceMetric {
    Cosine,
}

#[derive(Debug, Deserialize)]
struct Route {
    name: Text,
    target: Text,
    examples: Filled<Text>,
    #[serde(default, deserialize_with = "present")]
    description: Option<Text>,
    #[serde(default, deserialize_with = "present")]
    threshold: Option<Share>,
}

#[derive(Debug)]
enum OnEmbeddingFailure {
    Default,
    Fail,
    Target(FailureTarget),
}

#[derive(Debug, Deserialize)]
struct FailureTarget {
    target: Text,
}

impl<'de> Deserialize<'de> for OnEmbeddingFailure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnEmbeddingFailureVisitor)
    }
}

struct OnEmbeddingFailureVisitor;

impl<'de> Visitor<'de> for OnEmbeddingFailureVisitor {
    type Value = OnEmbeddingFailure;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("`default`, `fail` or an object with `target`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<OnEmbeddingFailure, E> {
        match text {
            "default" => Ok(OnEmbeddingFailure::Default),
            "fail" => Ok(OnEmbeddingFailure::Fail),
            _ => Err(E::custom("expected `default` or `fail`")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OnEmbeddingFailure, A::Error> {
        let target = FailureTarget::deserialize(MapAccessDeserializer::new(map))?;
        Ok(OnEmbeddingFailure::Target(target))
    }
}
