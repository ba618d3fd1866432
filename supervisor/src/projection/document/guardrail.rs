//! `guardrails` and `guardrail_attachments`. No kind of guardrail is enforced yet: what one is attached to is refused.

use serde_json::Value;
use shared::resource::{Check, Guardrail, GuardrailAttachment, Resource, Subject};

use super::shape::Rule::{
    Bool, Choice, Integer, List, Map, Number, Object, OrNull, Signed, Tagged, Text, True,
};
use super::shape::{
    ANY_TEXT, COUNT, COUNT_32, Field, POSITIVE, Rule, TEXT, TEXTS, field, is_enabled, needed, text,
};

/// How a guardrail watches without deciding.
const MONITOR: &str = "monitor";

const ACTION: Rule = Choice(&["mask", "block"]);
const MODE: Rule = Choice(&["window", "buffer_full"]);
const SCORE: Rule = Number(0.0, 1.0);
const MANY: usize = usize::MAX;

static COMMON: &[Field] = &[
    needed("name", TEXT),
    field("created_at", ANY_TEXT),
    field("direction", ANY_TEXT),
    field("enabled", Bool),
    field("enforcement_mode", ANY_TEXT),
    field("hook_point", Choice(&["input", "output", "both"])),
    field("mandatory", Bool),
];
static FAIL_OPEN: &[Field] = &[field("fail_open", Bool)];
static REMOTE: &[Field] = &[field("fail_open", Bool), field("output_fail_open", Bool)];
static TIMEOUT: &[Field] = &[field("timeout_ms", COUNT_32)];
static BUFFER: &[Field] =
    &[field("max_buffer_bytes", POSITIVE), field("on_buffer_exceeded", ANY_TEXT)];
static WINDOW: &[Field] =
    &[field("stream_processing_mode", MODE), field("window_overlap_size", COUNT)];

static KEYWORD: &[Field] = &[needed("patterns", List(0, MANY, &KEYWORD_PATTERN))];
static KEYWORD_PATTERN: Rule =
    Tagged("kind", &[("literal", &[KEYWORD_VALUE]), ("regex", &[KEYWORD_VALUE])]);
static KEYWORD_VALUE: &[Field] = &[needed("value", TEXT)];

static BEDROCK: &[Field] = &[
    needed("aws_credentials", Tagged("kind", &[("static", &[AWS_CREDENTIALS])])),
    needed("guardrail_id", Text(1, 64)),
    needed("guardrail_version", Text(1, 16)),
    needed("latency_mode", Tagged("kind", &[("serial", &[]), ("timed", &[TIMED])])),
    needed("region", TEXT),
];
static AWS_CREDENTIALS: &[Field] =
    &[needed("access_key_id", TEXT), needed("secret_access_key", TEXT)];
static TIMED: &[Field] = &[needed("timeout_ms", Integer(100, 5000))];

static AZURE: &[Field] = &[needed("api_key", TEXT), needed("endpoint", TEXT)];
static AZURE_MODERATION: &[Field] = &[
    field("blocklist_names", TEXTS),
    field("categories", List(0, MANY, &Choice(&["Hate", "Sexual", "SelfHarm", "Violence"]))),
    field("halt_on_blocklist_hit", Bool),
    field("output_type", Choice(&["FourSeverityLevels", "EightSeverityLevels"])),
    field("severity_threshold", Integer(0, 7)),
    field("severity_threshold_by_category", Map(&COUNT)),
    field("text_source", Choice(&["concatenate_user_content", "concatenate_all_content"])),
    field("window_size", Integer(1, 10_000)),
];

static ALIYUN: &[Field] = &[
    needed("access_key_id", TEXT),
    needed("access_key_secret", TEXT),
    needed("region", TEXT),
    field("endpoint", TEXT),
    field("window_size", Integer(1, 2000)),
];
static ALIYUN_MODERATION: &[Field] =
    &[field("risk_level_threshold", Choice(&["low", "medium", "high"]))];
static ALIYUN_GUARDRAIL: &[Field] = &[
    field("service_level", ANY_TEXT),
    field("stream_processing_mode", ANY_TEXT),
    field("window_overlap_size", COUNT),
];

static PII: &[Field] = &[
    field("custom_patterns", List(0, MANY, &Object(PII_PATTERN))),
    field("default_action", ACTION),
    field("detectors", List(0, MANY, &Object(PII_DETECTOR))),
];
static PII_PATTERN: &[Field] = &[
    needed("name", Text(1, 64)),
    needed("regex", TEXT),
    field("action", ACTION),
    field("replacement", Text(0, 256)),
];
static PII_DETECTOR: &[Field] = &[
    needed(
        "type",
        Choice(&[
            "email",
            "china_mobile",
            "china_id_card",
            "bank_card",
            "us_ssn",
            "ip_address",
            "api_key",
            "jwt",
            "private_key",
        ]),
    ),
    field("action", ACTION),
];

static LAKERA: &[Field] =
    &[needed("api_key", TEXT), field("endpoint", TEXT), field("project_id", TEXT)];

static OPENAI: &[Field] = &[
    needed("api_key", TEXT),
    field("category_thresholds", Map(&Number(f64::MIN, f64::MAX))),
    field("endpoint", TEXT),
    field("model", TEXT),
];

static PRESIDIO: &[Field] = &[
    needed("analyzer_url", TEXT),
    needed("anonymizer_url", TEXT),
    field("default_action", ACTION),
    field("entities", List(0, MANY, &Object(PRESIDIO_ENTITY))),
    field("language", TEXT),
    field("operator", Choice(&["replace", "mask", "hash", "redact"])),
    field("score_threshold", SCORE),
];
static PRESIDIO_ENTITY: &[Field] = &[needed("type", TEXT), field("action", ACTION)];

static SEMANTIC: &[Field] =
    &[needed("categories", List(1, 30, &Object(SEMANTIC_CATEGORY))), field("fail_open", True)];
static SEMANTIC_CATEGORY: &[Field] = &[
    needed("candidate_patterns", List(1, 10, &ANY_TEXT)),
    needed("description", Text(1, 1000)),
    needed("name", Text(1, 64)),
    field("action", Choice(&["mask"])),
    field("hotword_groups", List(0, 10, &Object(HOTWORD_GROUP))),
    field("negative_patterns", List(0, 20, &ANY_TEXT)),
    field("replacement", Text(0, 256)),
    field("threshold", Number(-1.0, 1.0)),
];
static HOTWORD_GROUP: &[Field] = &[needed("terms", List(1, 50, &ANY_TEXT))];

/// A guardrail.
pub static GUARDRAIL: Rule = Tagged(
    "kind",
    &[
        ("keyword", &[COMMON, FAIL_OPEN, KEYWORD]),
        ("bedrock", &[COMMON, REMOTE, BEDROCK]),
        ("azure_content_safety", &[COMMON, REMOTE, TIMEOUT, AZURE]),
        (
            "azure_content_safety_text_moderation",
            &[COMMON, REMOTE, TIMEOUT, BUFFER, WINDOW, AZURE, AZURE_MODERATION],
        ),
        (
            "aliyun_text_moderation",
            &[COMMON, REMOTE, TIMEOUT, BUFFER, WINDOW, ALIYUN, ALIYUN_MODERATION],
        ),
        ("aliyun_ai_guardrail", &[COMMON, REMOTE, TIMEOUT, BUFFER, ALIYUN, ALIYUN_GUARDRAIL]),
        ("pii", &[COMMON, FAIL_OPEN, BUFFER, PII]),
        ("lakera", &[COMMON, REMOTE, TIMEOUT, BUFFER, LAKERA]),
        ("openai_moderation", &[COMMON, REMOTE, TIMEOUT, OPENAI]),
        ("presidio", &[COMMON, REMOTE, TIMEOUT, BUFFER, PRESIDIO]),
        ("semantic", &[COMMON, SEMANTIC]),
    ],
);

/// An attachment of a guardrail.
pub static ATTACHMENT: Rule = Object(&[
    needed("guardrail_id", TEXT),
    needed("priority", Signed),
    needed(
        "scope_type",
        Choice(&["env", "model", "mcp_server", "api_key", "team", "passthrough_route"]),
    ),
    field("enabled", Bool),
    field("env_id", OrNull(&ANY_TEXT)),
    field("scope_id", OrNull(&ANY_TEXT)),
]);

/// The guardrail, if it decides.
pub fn guardrail(id: &str, value: &Value) -> Option<Resource> {
    let decides = is_enabled(value) && text(value, "enforcement_mode") != Some(MONITOR);
    decides.then(|| {
        let of = |name| text(value, name).unwrap_or_default().to_owned();
        Resource::Guardrail(Guardrail {
            id: id.to_owned(),
            name: of("name"),
            kind: of("kind"),
            on_input: true,
            on_output: true,
            is_monitor: false,
            created_at_unix_ms: None,
            check: Check::NotEnforceable,
        })
    })
}

/// A guardrail of a kind that this build does not know, if it decides.
pub fn newer(id: &str, value: &Value) -> Option<Resource> {
    let Tagged(tag, kinds) = &GUARDRAIL else { return None };
    let kind = text(value, tag)?;
    let is_known = kinds.iter().any(|(known, _)| *known == kind);
    if is_known { None } else { guardrail(id, value) }
}

/// The attachment, if it is about requests that this build serves at all: MCP servers are not.
pub fn attachment(id: &str, value: &Value) -> Option<Resource> {
    let of = |name| text(value, name).map(str::to_owned);
    let subject = match text(value, "scope_type")? {
        "env" => Subject::Everything,
        "model" => Subject::Model(of("scope_id")?),
        "api_key" => Subject::ApiKey(of("scope_id")?),
        "team" => Subject::Team(of("scope_id")?),
        "passthrough_route" => Subject::Route(of("scope_id")?),
        _ => return None,
    };
    let guardrail_id = of("guardrail_id")?;
    let attachment = GuardrailAttachment { id: id.to_owned(), guardrail_id, subject, priority: 0 };
    is_enabled(value).then_some(Resource::GuardrailAttachment(attachment))
}
