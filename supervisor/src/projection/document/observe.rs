//! `observability_exporters`: where traces are sent to. Those of kind `otlp_http` are served, with metadata only; the other
//! kinds are reported as not enforced. They guard nothing.

use serde_json::{Map, Value};
use shared::resource::{Exporter, Resource};
use shared::secret::Secret;

use super::shape::Rule::{Bool, Choice, Integer, Like, Map as Names, Number, Tagged, Text};
use super::shape::{ANY_TEXT, Field, Rule, TEXT, TEXTS, field, is_enabled, needed, text};
use super::{Refusal, schema_failed};
use crate::settings::tracing::header;

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

/// What workers get: nothing of what is switched off, of another kind, or leads nowhere.
pub fn exporter(id: &str, value: &Value) -> Option<Resource> {
    if !is_enabled(value) || text(value, "kind") != Some("otlp_http") {
        return None;
    }
    Some(Resource::Exporter(Exporter {
        id: id.to_owned(),
        name: text(value, "name")?.to_owned(),
        endpoint: text(value, "endpoint")?.parse().ok()?,
        headers: headers(value).flatten().collect(),
        sample_rate: value.get("sample_rate").and_then(Value::as_f64).unwrap_or(1.0),
    }))
}

/// The headers of a document; `None` for one that cannot be sent.
fn headers(value: &Value) -> impl Iterator<Item = Option<(String, Secret<String>)>> + '_ {
    let headers = value.get("headers").and_then(Value::as_object);
    headers.into_iter().flatten().map(|(name, value)| header(name, value.as_str()?))
}

/// Fields of a document that the exporter does not act on.
pub fn not_honoured(value: &Value, resource: Option<&Resource>) -> Vec<String> {
    let Some(Resource::Exporter(_)) = resource else { return Vec::new() };
    let wants_content = text(value, "content_mode") == Some("full");
    let content = wants_content.then(|| "content_mode".to_owned());
    let headers = headers(value).any(|it| it.is_none()).then(|| "headers".to_owned());
    content.into_iter().chain(headers).collect()
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{NOT_ENFORCED, other};
    use super::*;

    fn read(mut value: Value) -> (Option<Exporter>, Vec<String>) {
        value["name"] = json!("o");
        let document = other::read("observability_exporters", "o-1", &value).unwrap();
        let exporter = document.resource.map(|resource| match resource {
            Resource::Exporter(exporter) => exporter,
            other => panic!("{other:?}"),
        });
        (exporter, document.fields)
    }

    #[test]
    fn an_exporter_of_otlp_is_served_with_what_its_document_says() {
        let (exporter, fields) = read(json!({"kind": "otlp_http", "sample_rate": 0.25,
            "endpoint": "https://otel.example/own?x=1", "headers": {"X-Key": "k"}}));
        let exporter = exporter.unwrap();
        assert_eq!(exporter.endpoint.to_string(), "https://otel.example/own?x=1");
        assert_eq!((exporter.id.as_str(), exporter.sample_rate), ("o-1", 0.25));
        assert_eq!(exporter.headers, [("x-key".to_owned(), Secret::new("k".to_owned()))]);
        assert_eq!(fields, [""; 0]);
        let (exporter, _) = read(json!({"kind": "otlp_http", "endpoint": "https://o/v1/traces"}));
        assert_eq!(exporter.unwrap().sample_rate, 1.0);
    }

    #[test]
    fn texts_of_callers_are_not_exported_and_that_is_reported() {
        let document = json!({"kind": "otlp_http", "endpoint": "https://o/x",
            "content_mode": "full", "headers": {"no name": "x"}});
        let (exporter, fields) = read(document);
        assert_eq!(exporter.unwrap().headers, []);
        assert_eq!(fields, ["content_mode", "headers"]);
    }

    #[test]
    fn kinds_that_nobody_speaks_and_places_that_are_none_are_not_enforced() {
        for document in [
            json!({"kind": "datadog", "credential_ref": "C", "service": "s", "site": "datadoghq.com"}),
            json!({"kind": "aliyun_sls", "endpoint": "cn.log.aliyuncs.com", "credential_ref": "C",
                "logstore": "l", "project": "p"}),
            json!({"kind": "object_store", "bucket": "b", "prefix": "p", "provider": "s3",
                "credential_ref": "C"}),
            json!({"kind": "otlp_http", "endpoint": "https://user@host/x"}),
        ] {
            let (exporter, fields) = read(document.clone());
            assert_eq!(exporter, None);
            assert_eq!(fields, [NOT_ENFORCED], "{document}");
        }
        let off = json!({"kind": "otlp_http", "endpoint": "https://o/x", "enabled": false,
            "content_mode": "full"});
        assert_eq!(read(off), (None, Vec::new()));
    }
}
