//! The kinds that are read by table: which table, by what name they should be unique, and what of them workers get.

use serde_json::{Map, Value};
use shared::resource::Resource;

use super::shape::{Rule, check, is_enabled, text};
use super::{
    Document, NOT_ENFORCED, Refusal, guardrail, identity, observe, policy, route, surface,
};

/// How documents of a kind are read.
struct Reading {
    kind: &'static str,
    rule: &'static Rule,
    /// What the table cannot say.
    extra: fn(&Map<String, Value>) -> Result<(), Refusal>,
    /// By what else than its id a document is known: should be its own.
    name: fn(&Value) -> Option<String>,
    /// What workers get.
    resource: fn(&str, &Value) -> Option<Resource>,
}

static READINGS: [Reading; 11] = [
    reading(
        "guardrails",
        &guardrail::GUARDRAIL,
        guardrail::expressions,
        name,
        guardrail::guardrail,
    ),
    reading(
        "guardrail_attachments",
        &guardrail::ATTACHMENT,
        no_extra,
        no_name,
        guardrail::attachment,
    ),
    reading("rate_limit_policies", &policy::POLICY, policy::extra, no_name, policy::policy),
    reading("oidc_providers", &identity::PROVIDER, no_extra, name, identity::provider),
    reading("claim_mappings", &identity::CLAIM_MAPPING, no_extra, name, identity::claim_mapping),
    reading(
        "observability_exporters",
        &observe::EXPORTER,
        observe::exporter_extra,
        name,
        observe::exporter,
    ),
    reading("mcp_servers", &surface::MCP_SERVER, surface::mcp_server_extra, name, nothing),
    reading("mcp_policies", &surface::MCP_POLICY, surface::mcp_policy_extra, no_name, nothing),
    reading("mcp_auth_settings", &surface::MCP_AUTH_SETTINGS, no_extra, constant, nothing),
    reading("a2a_agents", &surface::A2A_AGENT, surface::agent_extra, name, nothing),
    reading("passthrough_routes", &surface::PASSTHROUGH_ROUTE, route::extra, name, route::read),
];

const fn reading(
    kind: &'static str,
    rule: &'static Rule,
    extra: fn(&Map<String, Value>) -> Result<(), Refusal>,
    name: fn(&Value) -> Option<String>,
    resource: fn(&str, &Value) -> Option<Resource>,
) -> Reading {
    Reading { kind, rule, extra, name, resource }
}

/// The document `id` of one of these kinds. One that is switched off asks for nothing; any other is reported, if nobody
/// enforces its kind.
pub fn read(kind: &str, id: &str, value: &Value) -> Result<Document, Refusal> {
    let Some(reading) = READINGS.iter().find(|reading| reading.kind == kind) else {
        return Ok(Document { fields: vec![NOT_ENFORCED.to_owned()], ..Document::default() });
    };
    let mut fields = check(value, reading.rule)?;
    if let Some(members) = value.as_object() {
        (reading.extra)(members)?;
    }
    let (resource, name) = ((reading.resource)(id, value), (reading.name)(value));
    let is_enforced = match &resource {
        Some(Resource::RateLimitPolicy(policy)) => policy.limits.is_some(),
        Some(Resource::Exporter(_)) => true,
        _ => is_enforced(kind, value),
    };
    if kind == "observability_exporters" {
        fields.extend(observe::not_honoured(value, resource.as_ref()));
    }
    if is_enabled(value) && !is_enforced {
        fields.insert(0, NOT_ENFORCED.to_owned());
    }
    Ok(Document { resource, name, fields })
}

/// Whether workers carry out what the document asks for.
fn is_enforced(kind: &str, value: &Value) -> bool {
    match kind {
        "guardrails" => guardrail::is_enforced(value),
        "guardrail_attachments" => guardrail::is_heeded(value),
        "oidc_providers" | "claim_mappings" | "passthrough_routes" => true,
        _ => false,
    }
}

fn no_extra(_: &Map<String, Value>) -> Result<(), Refusal> {
    Ok(())
}

fn no_name(_: &Value) -> Option<String> {
    None
}

fn name(value: &Value) -> Option<String> {
    text(value, "name").or_else(|| text(value, "display_name")).map(str::to_owned)
}

/// There should be one document of the kind.
fn constant(_: &Value) -> Option<String> {
    Some(String::new())
}

fn nothing(_: &str, _: &Value) -> Option<Resource> {
    None
}
