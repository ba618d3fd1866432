//! Another path for a request, before it is routed: the first rule that matches the path as it came, percent-encoded, has
//! its match replaced, once. The query stays.

use std::borrow::Cow;

use http::Uri;
use http::uri::PathAndQuery;
use regex::Regex;
use shared::worker_settings::UrlRewrite;

/// The rules, in their order.
#[derive(Debug, Default)]
pub struct Rewrites(Vec<(Regex, String)>);

impl Rewrites {
    /// The rules of the settings. The supervisor has seen that every pattern compiles.
    pub fn new(rules: &[UrlRewrite]) -> Self {
        let compiled = rules.iter().filter_map(|rule| match Regex::new(&rule.pattern) {
            Ok(pattern) => Some((pattern, rule.template.clone())),
            Err(error) => {
                tracing::error!(pattern = rule.pattern, %error, "a URL rewrite is not in effect");
                None
            }
        });
        Self(compiled.collect())
    }

    /// What `uri` becomes, if a rule matches and what comes of it is a path.
    pub fn rewritten(&self, uri: &Uri) -> Option<Uri> {
        let (pattern, template) = self.0.iter().find(|(rule, _)| rule.is_match(uri.path()))?;
        let Cow::Owned(path) = pattern.replace(uri.path(), template.as_str()) else { return None };
        if !path.starts_with('/') {
            return None;
        }
        let path = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
        Uri::from_parts(parts).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(rules: &[(&str, &str)], uri: &str) -> String {
        let rules: Vec<_> = rules
            .iter()
            .map(|(pattern, template)| UrlRewrite {
                pattern: (*pattern).to_owned(),
                template: (*template).to_owned(),
            })
            .collect();
        let uri: Uri = uri.parse().unwrap();
        Rewrites::new(&rules).rewritten(&uri).unwrap_or(uri).to_string()
    }

    #[test]
    fn the_match_is_replaced_with_its_groups_and_the_query_stays() {
        let rules = [("^/servers/([^/]+)/mcp$", "/mcp/$1")];
        assert_eq!(rewritten(&rules, "/servers/git%2Fhub/mcp?a=b%20c"), "/mcp/git%2Fhub?a=b%20c");
        assert_eq!(rewritten(&[("^/(?<all>.*)", "/v1/${all}")], "/models"), "/v1/models");
        assert_eq!(rewritten(&[("/old/", "/")], "/a/old/b/old/c"), "/a/b/old/c");
        let absolute = rewritten(&[("^/x$", "/y")], "http://gateway.test/x?q");
        assert_eq!(absolute, "http://gateway.test/y?q");
    }

    #[test]
    fn the_first_rule_that_matches_counts_and_its_result_is_not_rewritten_again() {
        let rules = [("^/a", "/b"), ("^/b", "/c"), ("^/a/x", "/never")];
        assert_eq!(rewritten(&rules, "/a/x"), "/b/x");
        assert_eq!(rewritten(&rules, "/b"), "/c");
        assert_eq!(rewritten(&rules, "/elsewhere"), "/elsewhere");
    }

    #[test]
    fn the_path_is_matched_as_it_came() {
        assert_eq!(rewritten(&[("^/a b$", "/c")], "/a%20b"), "/a%20b");
        assert_eq!(rewritten(&[("^/a%20b$", "/c")], "/a%20b"), "/c");
    }

    #[test]
    fn what_would_be_no_path_leaves_the_request_as_it_was() {
        assert_eq!(rewritten(&[("^/a", "b")], "/a/x"), "/a/x");
    }
}
