//! What the secret of a provider key tells of where it leads, where the provider is a cloud: the supervisor has to know every
//! place that workers may be connected to. Pure.

use serde::Deserialize;
use shared::resource::{Adapter, Endpoint};

/// Gemini behind an API key, as Google documents it.
const GEMINI: &str = "https://generativelanguage.googleapis.com/v1beta";
/// Where Google's accounts ask for tokens.
const GOOGLE_TOKENS: &str = "https://oauth2.googleapis.com/token";
/// The location and the region, if nothing names one.
const LOCATION: &str = "global";
const REGION: &str = "us-east-1";

/// The parts of a secret that lead somewhere.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Secret {
    #[serde(rename = "type")]
    kind: Option<String>,
    client_email: Option<String>,
    private_key: Option<String>,
    token_uri: Option<String>,
    #[serde(alias = "project")]
    project_id: Option<String>,
    location: Option<String>,
    #[serde(alias = "aws_region", alias = "aws_region_name")]
    region: Option<String>,
}

/// The protocol of a cloud, as the document says or as follows from the vendor.
pub fn adapter(adapter: Option<Adapter>, provider: &str) -> Option<Adapter> {
    adapter.or(match provider {
        "bedrock" | "aws-bedrock" | "amazon-bedrock" => Some(Adapter::Bedrock),
        "vertex" | "vertex-ai" | "google-vertex" => Some(Adapter::Vertex),
        _ => None,
    })
}

/// Where the models of Google's are: at the location of an account, or behind an API key.
pub fn vertex_endpoint(secret: &str) -> Option<Endpoint> {
    let Some(account) = read(secret) else { return GEMINI.parse().ok() };
    let project = account.project_id.filter(|project| is_label(project))?;
    let location = account.location.or(account.region).unwrap_or_else(|| LOCATION.to_owned());
    let host = match location.as_str() {
        LOCATION => "aiplatform.googleapis.com".to_owned(),
        location if is_label(location) => format!("{location}-aiplatform.googleapis.com"),
        _ => return None,
    };
    format!("https://{host}/v1/projects/{project}/locations/{location}").parse().ok()
}

/// Where the account in the secret asks for tokens, if there is one: what its key says, else Google's own.
pub fn token_endpoint(secret: &str) -> Option<Endpoint> {
    let account = read(secret)?;
    account.client_email.as_ref().and(account.private_key.as_ref())?;
    match account.token_uri.as_deref().filter(|uri| !uri.is_empty()) {
        Some(uri) => uri.parse().ok(),
        None if account.kind.as_deref() == Some("service_account") => GOOGLE_TOKENS.parse().ok(),
        None => None,
    }
}

/// Where Bedrock is, in the region of the secret.
pub fn bedrock_endpoint(secret: &str) -> Option<Endpoint> {
    let region = read(secret).and_then(|secret| secret.region);
    let region = region.filter(|region| !region.is_empty()).unwrap_or_else(|| REGION.to_owned());
    if !is_label(&region) {
        return None;
    }
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://bedrock-runtime.{region}.{domain}").parse().ok()
}

fn read(secret: &str) -> Option<Secret> {
    let secret = secret.trim();
    secret.starts_with('{').then(|| serde_json::from_str(secret).ok()).flatten()
}

/// Whether this can be a part of a host's name or of a path, and nothing else.
fn is_label(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(endpoint: Option<Endpoint>) -> String {
        endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default()
    }

    #[test]
    fn an_account_leads_to_its_location_and_to_its_token_endpoint() {
        let account =
            r#"{"type":"service_account","project_id":"p","client_email":"a","private_key":"k"}"#;
        let at = "https://aiplatform.googleapis.com/v1/projects/p/locations/global";
        assert_eq!(told(vertex_endpoint(account)), at);
        assert_eq!(told(token_endpoint(account)), "https://oauth2.googleapis.com/token");
        let own = account.replace('}', r#","location":"eu-x","token_uri":"http://127.0.0.1:9/t"}"#);
        let at = "https://eu-x-aiplatform.googleapis.com/v1/projects/p/locations/eu-x";
        assert_eq!(told(vertex_endpoint(&own)), at);
        assert_eq!(told(token_endpoint(&own)), "http://127.0.0.1:9/t");
    }

    #[test]
    fn what_is_no_account_asks_nobody_for_tokens() {
        for secret in ["AIza", "{", "{}", r#"{"client_email":"a","private_key":"k"}"#] {
            assert_eq!(token_endpoint(secret), None, "{secret}");
        }
        assert_eq!(told(vertex_endpoint("AIza")), GEMINI);
    }

    #[test]
    fn bedrock_is_in_the_region_of_the_secret_and_nothing_else_of_it_is_in_the_host() {
        let at = |region: &str| told(bedrock_endpoint(&format!(r#"{{"region":"{region}"}}"#)));
        assert_eq!(at("eu-west-1"), "https://bedrock-runtime.eu-west-1.amazonaws.com");
        assert_eq!(at("cn-north-1"), "https://bedrock-runtime.cn-north-1.amazonaws.com.cn");
        assert_eq!(at("evil.example/x"), "");
        assert_eq!(
            told(bedrock_endpoint("A:s")),
            "https://bedrock-runtime.us-east-1.amazonaws.com"
        );
    }
}
