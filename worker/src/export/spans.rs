//! Spans of a request, by OpenTelemetry's conventions for HTTP and for generative AI. Pure.
//!
//! ```text
//! POST /v1/chat/completions   SERVER   the request, child of the caller's span if there is one
//! ├─ chat gpt-4o              CLIENT   an attempt at an upstream
//! └─ chat gpt-4o-mini         CLIENT   the next
//! ```
//! What the conventions have no name for is called `aisix.…`. No text of a prompt or an answer is known here.

use std::rc::Rc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use shared::export::{ATTEMPTS_MAX, Attempt, Trace};
use shared::version::VERSION;

/// Chance that the ids of a request's spans are made of.
pub const SEED_BYTES: usize = 8 * (ATTEMPTS_MAX + 1);
/// The conventions that names are of.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";
/// `W3C trace flags`: the trace is recorded.
const SAMPLED: u32 = 1;
/// The parent is known to be of another process.
const REMOTE: u32 = 0x100 | 0x200;
/// The parent is known to be of this one.
const LOCAL: u32 = 0x100;

/// Who sends the spans.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// `service.name`
    pub name: String,
    /// `service.instance.id`
    pub instance_id: String,
    /// The environment of the Cloud.
    pub env_id: String,
}

/// A batch of spans as it is sent.
pub fn request(service: &Service, spans: &[Rc<[Span]>]) -> ExportTraceServiceRequest {
    let resource = Attributes::default()
        .text("service.name", &service.name)
        .text("service.version", VERSION)
        .text("service.instance.id", &service.instance_id)
        .text("aisix.environment_id", &service.env_id);
    let scope = InstrumentationScope {
        name: "aisix".to_owned(),
        version: VERSION.to_owned(),
        ..InstrumentationScope::default()
    };
    let of_scope = ScopeSpans {
        scope: Some(scope),
        spans: spans.iter().flat_map(|spans| spans.iter().cloned()).collect(),
        schema_url: SCHEMA.to_owned(),
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: resource.0, ..Resource::default() }),
            scope_spans: vec![of_scope],
            schema_url: SCHEMA.to_owned(),
        }],
    }
}

/// The spans of a request, its own first.
pub fn of(trace: &Trace, seed: [u8; SEED_BYTES]) -> Vec<Span> {
    let mut ids = seed.chunks_exact(8).map(<[u8]>::to_vec);
    let Some(server_id) = ids.next() else { return Vec::new() };
    let attempts = trace.attempts.iter().zip(ids);
    let clients = attempts.map(|(attempt, id)| client(trace, attempt, &server_id, id));
    let clients: Vec<_> = clients.collect();
    let mut spans = vec![server(trace, server_id)];
    spans.extend(clients);
    spans
}

fn server(trace: &Trace, span_id: Vec<u8>) -> Span {
    let method = known_method(&trace.method);
    let route = if trace.route.starts_with('/') { trace.route.as_str() } else { "" };
    let name = if method == "_OTHER" { "HTTP" } else { method };
    let is_genai = !trace.operation.is_empty();
    let attributes = Attributes::default()
        .text("http.request.method", method)
        .text("http.route", route)
        .number("http.response.status_code", trace.status)
        .text("error.type", &trace.error_type)
        // The words of the conventions are on the attempts, so that nobody adds up the same tokens twice.
        .text("aisix.operation", &trace.operation)
        .text("gen_ai.request.model", &trace.requested_model)
        .number_if(is_genai, "aisix.usage.input_tokens", trace.input_tokens)
        .number_if(is_genai, "aisix.usage.output_tokens", trace.output_tokens)
        .text("aisix.request_id", &trace.request_id)
        .text("aisix.protocol", &trace.protocol)
        .text("aisix.served_model", &trace.served_model)
        .truth("aisix.stream", trace.is_stream)
        .text("aisix.api_key_id", &trace.api_key_id)
        .text("aisix.team_id", &trace.team_id)
        .text("aisix.cache_status", &trace.cache_status)
        .text("aisix.guardrail", &trace.guardrail)
        .fraction_if(trace.cost_usd > 0.0, "aisix.cost_usd", trace.cost_usd)
        .number_if(
            is_genai,
            "aisix.attempts",
            trace.attempts.len() as u64 + u64::from(trace.attempts_left_out),
        );
    Span {
        trace_id: trace.trace_id.to_vec(),
        span_id,
        parent_span_id: trace.parent.map(|parent| parent.span_id.to_vec()).unwrap_or_default(),
        flags: SAMPLED | if trace.parent.is_some() { REMOTE } else { 0 },
        name: if route.is_empty() { name.to_owned() } else { format!("{name} {route}") },
        kind: SpanKind::Server.into(),
        start_time_unix_nano: trace.started,
        end_time_unix_nano: trace.ended.max(trace.started),
        attributes: attributes.0,
        events: first_token(trace.first_token),
        // What the caller has done wrong is no error of a server.
        status: status(trace.status >= 500, &trace.error_type),
        ..Span::default()
    }
}

fn client(trace: &Trace, attempt: &Attempt, parent: &[u8], span_id: Vec<u8>) -> Span {
    let provider = provider(&attempt.provider);
    let is_genai = !trace.operation.is_empty();
    let was_reached = attempt.status > 0;
    let to_first = attempt.first_token.saturating_sub(attempt.started) as f64 / 1e9;
    let reasons = Some(attempt.finish_reason.as_str()).filter(|it| !it.is_empty());
    let attributes = Attributes::default()
        .text("gen_ai.operation.name", &trace.operation)
        .text("gen_ai.provider.name", provider)
        // As it was called before 1.37: many collectors know it by that name only.
        .text("gen_ai.system", provider)
        .text("gen_ai.request.model", &attempt.upstream_model)
        .text("gen_ai.response.model", &attempt.response_model)
        .text("gen_ai.response.id", &attempt.response_id)
        .texts("gen_ai.response.finish_reasons", reasons)
        .number_if(is_genai, "gen_ai.usage.input_tokens", attempt.input_tokens)
        .number_if(is_genai, "gen_ai.usage.output_tokens", attempt.output_tokens)
        .number_if(
            attempt.cache_read_tokens > 0,
            "gen_ai.usage.cache_read.input_tokens",
            attempt.cache_read_tokens,
        )
        .number_if(
            attempt.cache_creation_tokens > 0,
            "gen_ai.usage.cache_creation.input_tokens",
            attempt.cache_creation_tokens,
        )
        .fraction_if(attempt.first_token > 0, "gen_ai.response.time_to_first_chunk", to_first)
        .text("error.type", &attempt.error_type)
        .number_if(was_reached, "http.response.status_code", attempt.status)
        .text("server.address", &attempt.host)
        .number_if(attempt.port > 0, "server.port", attempt.port)
        .text("aisix.attempt", &attempt.kind)
        .text("aisix.model", &attempt.model)
        .text("aisix.provider_key_id", &attempt.provider_key_id)
        .truth("aisix.usage_estimated", attempt.is_estimated);
    let operation = if is_genai { trace.operation.as_str() } else { known_method(&trace.method) };
    Span {
        trace_id: trace.trace_id.to_vec(),
        span_id,
        parent_span_id: parent.to_vec(),
        flags: SAMPLED | LOCAL,
        name: match attempt.upstream_model.as_str() {
            "" => operation.to_owned(),
            model => format!("{operation} {model}"),
        },
        kind: SpanKind::Client.into(),
        start_time_unix_nano: attempt.started,
        end_time_unix_nano: attempt.ended.max(attempt.started),
        attributes: attributes.0,
        events: first_token(attempt.first_token),
        status: status(!attempt.error_type.is_empty(), &attempt.error_type),
        ..Span::default()
    }
}

fn first_token(moment: u64) -> Vec<Event> {
    let event =
        || Event { time_unix_nano: moment, name: "first_token".to_owned(), ..Event::default() };
    (moment > 0).then(event).into_iter().collect()
}

fn status(is_error: bool, message: &str) -> Option<Status> {
    let error = || Status { message: message.to_owned(), code: StatusCode::Error.into() };
    is_error.then(error)
}

/// The conventions' name of a vendor, where they have one.
fn provider(vendor: &str) -> &str {
    match vendor {
        "azure" | "azure_openai" | "azure-openai" => "azure.ai.openai",
        "bedrock" | "aws_bedrock" | "aws-bedrock" => "aws.bedrock",
        "gemini" | "google" => "gcp.gemini",
        "vertex" | "vertex_ai" | "vertex-ai" => "gcp.vertex_ai",
        "mistral" => "mistral_ai",
        "xai" => "x_ai",
        vendor => vendor,
    }
}

/// A method that the conventions know; anything else may be of any length and number.
fn known_method(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => {
            method
        }
        _ => "_OTHER",
    }
}

#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn with(mut self, key: &str, value: Value) -> Self {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.to_owned(), value, ..KeyValue::default() });
        self
    }

    fn text(self, key: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.with(key, Value::StringValue(value.to_owned())) }
    }

    fn texts<'a>(self, key: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        let text = |text: &str| AnyValue { value: Some(Value::StringValue(text.to_owned())) };
        let values: Vec<_> = values.into_iter().map(text).collect();
        if values.is_empty() {
            return self;
        }
        self.with(key, Value::ArrayValue(ArrayValue { values }))
    }

    fn number(self, key: &str, value: impl Into<u64>) -> Self {
        self.with(key, Value::IntValue(i64::try_from(value.into()).unwrap_or(i64::MAX)))
    }

    fn number_if(self, is_told: bool, key: &str, value: impl Into<u64>) -> Self {
        if is_told { self.number(key, value) } else { self }
    }

    fn fraction_if(self, is_told: bool, key: &str, value: f64) -> Self {
        if is_told { self.with(key, Value::DoubleValue(value)) } else { self }
    }

    fn truth(self, key: &str, value: bool) -> Self {
        if value { self.with(key, Value::BoolValue(true)) } else { self }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use shared::export::Parent;

    use super::*;

    fn attribute(span: &Span, key: &str) -> Option<String> {
        let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
        Some(match found.value.clone()?.value? {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            Value::DoubleValue(number) => number.to_string(),
            Value::BoolValue(truth) => truth.to_string(),
            other => format!("{other:?}"),
        })
    }

    fn seed() -> [u8; SEED_BYTES] {
        std::array::from_fn(|at| (at / 8) as u8 + 1)
    }

    fn failed_over() -> Trace {
        let attempt = |kind: &str, status: u16| Attempt {
            started: 2_000_000_000,
            ended: 4_000_000_000,
            first_token: 2_500_000_000,
            kind: kind.to_owned(),
            provider: "azure".to_owned(),
            upstream_model: "gpt-4o".to_owned(),
            host: "up.example".to_owned(),
            port: 443,
            status,
            error_type: if status == 200 { "" } else { "upstream_error" }.to_owned(),
            finish_reason: "stop".to_owned(),
            input_tokens: 3,
            output_tokens: 5,
            ..Attempt::default()
        };
        Trace {
            trace_id: [9; 16],
            parent: Some(Parent { span_id: [4; 8], is_sampled: true }),
            started: 1_000_000_000,
            ended: 5_000_000_000,
            method: "POST".to_owned(),
            route: "/v1/chat/completions".to_owned(),
            status: 200,
            operation: "chat".to_owned(),
            requested_model: "group".to_owned(),
            cost_usd: 0.25,
            input_tokens: 6,
            output_tokens: 10,
            attempts: vec![attempt("initial", 503), attempt("fallback", 200)],
            ..Trace::default()
        }
    }

    #[test]
    fn a_request_is_a_span_of_its_caller_and_every_attempt_is_one_of_the_request() {
        let spans = of(&failed_over(), seed());
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["POST /v1/chat/completions", "chat gpt-4o", "chat gpt-4o"]);
        assert_eq!(spans[0].parent_span_id, [4; 8]);
        assert!(spans.iter().all(|span| span.trace_id == [9; 16]));
        assert!(spans[1..].iter().all(|span| span.parent_span_id == spans[0].span_id));
        let ids: BTreeSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
        assert_eq!(ids.len(), 3);
        let kinds: Vec<_> = spans.iter().map(Span::kind).collect();
        assert_eq!(kinds, [SpanKind::Server, SpanKind::Client, SpanKind::Client]);
        let failed: Vec<_> = spans.iter().map(|span| span.status.is_some()).collect();
        assert_eq!(failed, [false, true, false]);
    }

    #[test]
    fn attributes_have_the_names_of_the_conventions() {
        let spans = of(&failed_over(), seed());
        for (key, value) in [
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "azure.ai.openai"),
            ("gen_ai.request.model", "gpt-4o"),
            ("gen_ai.usage.input_tokens", "3"),
            ("gen_ai.usage.output_tokens", "5"),
            ("gen_ai.response.time_to_first_chunk", "0.5"),
            ("error.type", "upstream_error"),
            ("http.response.status_code", "503"),
            ("server.address", "up.example"),
            ("server.port", "443"),
            ("aisix.attempt", "initial"),
        ] {
            assert_eq!(attribute(&spans[1], key).as_deref(), Some(value), "{key}");
        }
        let reasons = attribute(&spans[1], "gen_ai.response.finish_reasons").unwrap();
        assert!(reasons.contains("stop"), "{reasons}");
        assert_eq!(attribute(&spans[0], "gen_ai.request.model").as_deref(), Some("group"));
        assert_eq!(attribute(&spans[0], "aisix.cost_usd").as_deref(), Some("0.25"));
        assert_eq!(attribute(&spans[0], "aisix.attempts").as_deref(), Some("2"));
        assert_eq!(attribute(&spans[0], "error.type"), None);
    }

    #[test]
    fn names_of_spans_are_bounded_whatever_a_caller_sends() {
        let trace = Trace {
            method: "BREW".to_owned(),
            route: "other".to_owned(),
            status: 404,
            ..Trace::default()
        };
        let spans = of(&trace, seed());
        assert_eq!((spans.len(), spans[0].name.as_str()), (1, "HTTP"));
        assert_eq!(attribute(&spans[0], "http.request.method").as_deref(), Some("_OTHER"));
        assert_eq!(attribute(&spans[0], "http.route"), None);
        assert!(spans[0].parent_span_id.is_empty());
    }

    #[test]
    fn a_batch_says_who_sends_it() {
        let service = Service {
            name: "aisix".to_owned(),
            instance_id: "i".to_owned(),
            env_id: "e".to_owned(),
        };
        let spans: Vec<Rc<[Span]>> =
            vec![of(&failed_over(), seed()).into(), of(&failed_over(), seed()).into()];
        let request = request(&service, &spans);
        let of_resource = &request.resource_spans[0];
        let keys: Vec<_> = of_resource
            .resource
            .iter()
            .flat_map(|it| &it.attributes)
            .map(|it| it.key.as_str())
            .collect();
        assert_eq!(
            keys,
            ["service.name", "service.version", "service.instance.id", "aisix.environment_id"]
        );
        assert_eq!(of_resource.scope_spans[0].spans.len(), 6);
    }
}
