//! The status page: one document that asks this listener for `/status/overview` and nobody for anything else. Its policy lets
//! in the style and the script that it was built with, by their hashes, and nothing that data could bring along.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

const DOCUMENT: &str = include_str!("index.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");

/// The page and the headers that go with it.
#[derive(Debug)]
pub struct StatusPage {
    /// The document.
    pub body: Bytes,
    /// How a browser is to take it.
    pub headers: HeaderMap,
}

impl StatusPage {
    /// The page of this build.
    pub fn new() -> Self {
        let body = DOCUMENT.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT);
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        let mut headers = guarded();
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, html);
        if let Ok(policy) = HeaderValue::try_from(policy) {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        Self { body: body.into(), headers }
    }
}

/// What keeps a browser from making anything else of the page's parts than they are.
pub fn guarded() -> HeaderMap {
    let fixed: [(HeaderName, &str); 4] = [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    fixed.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
}

fn hash(text: &str) -> String {
    STANDARD.encode(digest(&SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_lets_in_what_is_in_the_document_and_nothing_else() {
        let page = StatusPage::new();
        let text = std::str::from_utf8(&page.body).unwrap();
        let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
            let (_, rest) = text.split_once(&format!("<{element}>")).unwrap();
            let (inner, rest) = rest.split_once(&format!("</{element}>")).unwrap();
            assert!(policy.contains(&format!("{directive} 'sha256-{}';", hash(inner))), "{policy}");
            assert!(!rest.contains(&format!("<{element}")), "one {element}");
        }
        assert!(
            policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
            "{policy}"
        );
    }

    #[test]
    fn the_page_asks_nobody_else_and_makes_no_markup_of_data() {
        let page = StatusPage::new();
        let text = std::str::from_utf8(&page.body).unwrap();
        // The name of a namespace is no address.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http:", "https:", "url(", "@import", "import(", "src=", "\"//", "'//"] {
            assert!(!text.contains(outside), "{outside}");
        }
        for markup in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=",
            " on",
        ] {
            let found = if markup == " on" {
                text.split(" on").skip(1).any(|rest| {
                    rest.split_once('=').is_some_and(|(name, _)| {
                        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase())
                    })
                })
            } else {
                text.contains(markup)
            };
            assert!(!found, "{markup}");
        }
    }
}
