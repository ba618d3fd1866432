//! Where vendors document their endpoints, for provider keys that name none.

/// Base URL of a vendor that speaks OpenAI's protocol. Each is the one that the vendor's own API reference gives.
static BASE_URLS: [(&str, &str); 13] = [
    ("openai", "https://api.openai.com/v1"),
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
}
