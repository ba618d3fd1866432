//! Where vendors document their endpoints, for provider keys that name none.

use std::borrow::Cow;

use super::provider_key::RawAdapter;

/// Base URL of a vendor. Each is the one that the vendor's own API reference gives.
static BASE_URLS: [(&str, &str); 14] = [
    ("openai", "https://api.openai.com/v1"),
    ("anthropic", "https://api.anthropic.com/v1"),
    ("cerebras", "https://api.cerebras.ai/v1"),
    ("deepinfra", "https://api.deepinfra.com/v1/openai"),
    ("deepseek", "https://api.deepseek.com"),
    ("fireworks", "https://api.fireworks.ai/inference/v1"),
    ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai"),
    ("groq", "https://api.groq.com/openai/v1"),
    ("mistral", "https://api.mistral.ai/v1"),
    ("moonshot", "https://api.moonshot.ai/v1"),
    ("openrouter", "https://openrouter.ai/api/v1"),
    ("perplexity", "https://api.perplexity.ai"),
    ("together", "https://api.together.xyz/v1"),
    ("xai", "https://api.x.ai/v1"),
];

/// The documented base URL of `provider`.
pub fn base_url(provider: &str) -> Option<&'static str> {
    BASE_URLS.iter().find(|(vendor, _)| *vendor == provider).map(|(_, url)| *url)
}

/// The base URL that is meant: of Azure also the name of a resource alone stands for one.
pub fn full_url<'a>(adapter: Option<&RawAdapter>, base: &'a str) -> Cow<'a, str> {
    let is_name = base.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match adapter {
        Some(RawAdapter::AzureOpenAi) if is_name => {
            format!("https://{base}.openai.azure.com").into()
        }
        _ => base.into(),
    }
}

#[cfg(test)]
mod tests {
    use shared::resource::Endpoint;

    use super::*;

    #[test]
    fn every_entry_is_a_tls_endpoint() {
        for (vendor, url) in BASE_URLS {
            assert!(url.parse::<Endpoint>().unwrap().tls, "{vendor}");
        }
        assert_eq!(base_url("nobody"), None);
    }

    #[test]
    fn a_resource_of_azure_may_be_named_alone() {
        let azure = |base| full_url(Some(&RawAdapter::AzureOpenAi), base).into_owned();
        assert_eq!(azure("acme-west"), "https://acme-west.openai.azure.com");
        assert_eq!(azure("http://127.0.0.1:1"), "http://127.0.0.1:1");
        assert_eq!(full_url(None, "acme-west"), "acme-west");
    }
}
