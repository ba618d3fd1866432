//! The parts of models that stand for several others. Those that are not served yet are checked in full all the same, so
//! that a document which the Cloud would refuse is refused here.

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use shared::resource::{self, RoutingTarget};

use super::field::{
    Count32, Filled, Integer, NotNegative, Object, Positive32, Share, Text, present,
};
use super::{Refusal, parse_failed};

/// A group of direct models.
#[derive(Debug, Deserialize)]
pub struct Routing {
    targets: Filled<Object<Target>>,
    #[serde(default, deserialize_with = "present")]
    strategy: Option<Strategy>,
    #[serde(default, deserialize_with = "present")]
    fallback_on_statuses: Option<Vec<Integer<400, 599>>>,
    #[serde(default, deserialize_with = "present")]
    hash_on: Option<Filled<Object<HashOn>>>,
    #[serde(default, deserialize_with = "present")]
    max_fallbacks: Option<Count32>,
    #[serde(default, deserialize_with = "present")]
    retries: Option<Count32>,
    #[serde(default, deserialize_with = "present")]
    retry_on_429: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    when_all_unavailable: Option<WhenAllUnavailable>,
}

#[derive(Debug, Deserialize)]
struct Target {
    model: Text,
    #[serde(default, deserialize_with = "present")]
    priority: Option<i32>,
    #[serde(default, deserialize_with = "present")]
    tags: Option<Vec<Text>>,
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

impl Routing {
    /// The group as workers know it.
    ///
    /// # Errors
    /// Which source of a key has no name, or has one that it does not take.
    pub fn into_resource(self) -> Result<resource::Routing, Refusal> {
        let strategy = match self.strategy {
            None | Some(Strategy::Failover) => resource::Strategy::Failover,
            Some(Strategy::RoundRobin) => resource::Strategy::RoundRobin,
            Some(Strategy::ConsistentHash) => resource::Strategy::ConsistentHash,
            Some(Strategy::LeastCost) => resource::Strategy::LeastCost,
            Some(Strategy::LeastLatency) => resource::Strategy::LeastLatency,
            Some(Strategy::LeastBusy) => resource::Strategy::LeastBusy,
        };
        if self.hash_on.is_some() && strategy != resource::Strategy::ConsistentHash {
            let expectation = "expected no `hash_on` without `strategy: consistent_hash`";
            return Err(parse_failed("/routing/hash_on", expectation));
        }
        let sources = self.hash_on.map(|sources| sources.0).unwrap_or_default();
        let hash_on = sources.into_iter().enumerate().map(|(index, source)| {
            let place = format!("/routing/hash_on/{index}");
            match (source.0.r#type, source.0.name) {
                (HashOnType::Header, Some(name)) => Ok(resource::HashOn::Header(name.0)),
                (HashOnType::Cookie, Some(name)) => Ok(resource::HashOn::Cookie(name.0)),
                (HashOnType::ApiKey, None) => Ok(resource::HashOn::ApiKey),
                (HashOnType::ClientIp, None) => Ok(resource::HashOn::ClientIp),
                (HashOnType::Header | HashOnType::Cookie, None) => {
                    Err(parse_failed(&place, "expected `name` for a header or a cookie"))
                }
                (HashOnType::ApiKey | HashOnType::ClientIp, Some(_)) => {
                    Err(parse_failed(&place, "expected no `name` for `api_key` or `client_ip`"))
                }
            }
        });
        let statuses = self.fallback_on_statuses.unwrap_or_default();
        Ok(resource::Routing {
            hash_on: hash_on.collect::<Result<_, _>>()?,
            targets: self.targets.0.into_iter().map(|target| target.0.into_resource()).collect(),
            strategy,
            fallback_on_statuses: statuses.iter().map(Integer::as_u16).collect(),
            max_fallbacks: self.max_fallbacks.map(|count| count.as_u32()),
            retries: self.retries.map(|count| count.as_u32()),
            retry_on_429: self.retry_on_429.unwrap_or(false),
            try_anyway: match self.when_all_unavailable {
                Some(WhenAllUnavailable::TryAnyway) => true,
                Some(WhenAllUnavailable::Fail) | None => false,
            },
        })
    }
}

impl Target {
    fn into_resource(self) -> RoutingTarget {
        RoutingTarget {
            model: self.model.0,
            priority: self.priority.unwrap_or(0),
            weight: self.weight.map_or(1, |weight| weight.as_u32()),
            tags: self.tags.unwrap_or_default().into_iter().map(|tag| tag.0).collect(),
        }
    }
}

/// A panel with a judge.
#[expect(dead_code, reason = "read to be checked, not served yet")]
#[derive(Debug, Deserialize)]
pub struct Ensemble {
    judge: Object<Judge>,
    panel: Filled<Object<Member>>,
    #[serde(default, deserialize_with = "present")]
    min_responses: Option<Positive32>,
    #[serde(default)]
    timeout_ms: u64,
}

#[expect(dead_code, reason = "read to be checked, not served yet")]
#[derive(Debug, Deserialize)]
struct Judge {
    model: Text,
    #[serde(default, deserialize_with = "present")]
    synthesis_prompt: Option<Text>,
}

#[expect(dead_code, reason = "read to be checked, not served yet")]
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
#[expect(dead_code, reason = "read to be checked, not served yet")]
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

#[expect(dead_code, reason = "read to be checked, not served yet")]
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

#[expect(dead_code, reason = "read to be checked, not served yet")]
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

#[expect(dead_code, reason = "read to be checked, not served yet")]
#[derive(Debug)]
enum OnEmbeddingFailure {
    Default,
    Fail,
    Target(FailureTarget),
}

#[expect(dead_code, reason = "read to be checked, not served yet")]
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
