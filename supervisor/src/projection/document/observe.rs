//! `observability_exporters`: not honoured yet, and guarding nothing.

use serde_json::{Map, Value};

use super::shape::Rule::{Bool, Choice, Integer, Like, Map as Names, Number, Tagged, Text};
use super::shape::{ANY_TEXT, Field, Rule, TEXT, TEXTS, field, needed};
use super::{Refusal, schema_failed};

/// Where usage is sent to; [`exporter_extra`] has what belongs together.
pub static EXPORTER: Rule = Tagged(
    "kind",
    &[
        ("otlp_http", &[EXPORTERS, CONTENT, OTLP]),
        ("aliyun_sls", &[EXPORTERS, CONTENT, SLS]),
        ("object_store", &[EXPORTERS, OBJECT_STORE]),
        ("datadog", &[EXPORTERS, CONTENT, DATADOG]),
    ],
);
static EXPORTERS: &[Field] = &[needed("name", Text(1, 120)), field("enabled", Bool)];
static CONTENT: &[Field] = &[
    field("content_max_bytes", Integer(1, 1_048_576)),
    field("content_mode", Choice(&["metadata_only", "full"])),
];
static OTLP: &[Field] = &[
    needed(
        "endpoint",
        Like(
            r"^https://.+|^http://(mock-otlp|otel-collector|127\.0\.0\.1|localhost)(:[0-9]+)?(/.*)?$",
            "a URL with https",
        ),
    ),
    field("headers", Names(&ANY_TEXT)),
    field("sample_rate", Number(0.0, 1.0)),
];
static SLS: &[Field] = &[
    needed("credential_ref", TEXT),
    needed(
        "endpoint",
        Like(
            r"^[a-z0-9][a-z0-9.-]*\.aliyuncs\.com$|^http://(mock-sls|127\.0\.0\.1|localhost)(:[0-9]+)?$",
            "a host of aliyuncs.com",
        ),
    ),
    needed("logstore", TEXT),
    needed("project", TEXT),
];
static OBJECT_STORE: &[Field] = &[
    needed("bucket", TEXT),
    needed("prefix", TEXT),
    needed("provider", Choice(&["s3", "gcs", "azure_blob"])),
    field("auth_mode", Choice(&["credential_ref", "cloud_identity"])),
    field("compression", Choice(&["gzip", "none"])),
    field("credential_ref", TEXT),
    field(
        "endpoint",
        Like(
            r"^https://.+|^http://(minio|azurite|fake-gcs-server|fake-gcs|127\.0\.0\.1|localhost)(:[0-9]+)?(/.*)?$",
            "a URL with https",
        ),
    ),
    field("region", TEXT),
];
static DATADOG: &[Field] = &[
    needed("credential_ref", TEXT),
    needed("service", TEXT),
    needed(
        "site",
        Like(
            r"^((us3\.|us5\.|ap1\.|ap2\.)?datadoghq\.com|datadoghq\.eu|ddog-gov\.com)$|^(mock-datadog|127\.0\.0\.1|localhost)(:[0-9]+)?$",
            "a site of Datadog",
        ),
    ),
    field("ddsource", TEXT),
    field("tags", TEXTS),
];

/// What an object store must have beside what its table says.
pub fn exporter_extra(members: &Map<String, Value>) -> Result<(), Refusal> {
    let word = |name: &str| members.get(name).and_then(Value::as_str);
    if word("kind") != Some("object_store") {
        return Ok(());
    }
    match (word("auth_mode"), word("provider")) {
        (Some("cloud_identity"), Some("azure_blob")) => {
            Err(schema_failed("/provider", "expected `s3` or `gcs` with `cloud_identity`"))
        }
        (Some("cloud_identity"), _) => Ok(()),
        _ if members.contains_key("credential_ref") => Ok(()),
        _ => Err(schema_failed("", "missing field `credential_ref`")),
    }
}
