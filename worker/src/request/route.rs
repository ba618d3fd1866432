//! Which path is what: the routes of the gateway, and what becomes of everything else.

use http::Method;

use crate::call::Operation;
use crate::dialect::Dialect;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/livez`
    Live,
    /// `/readyz`
    Ready,
    /// An endpoint for callers with a key.
    Endpoint(Endpoint),
    /// A path of the gateway, asked with another method; what is allowed.
    WrongMethod(&'static str),
    /// A path that had a meaning in earlier versions.
    Removed,
    /// No path of the gateway.
    Unknown,
}

/// An endpoint for callers with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The path, with names in place of what varies: the word for it in metrics.
    pub template: &'static str,
    /// What its callers speak.
    pub dialect: Dialect,
    /// What it does.
    pub action: Action,
}

impl Endpoint {
    /// Whether a request there consumes quota, so that the budget of its caller counts.
    pub fn is_charged(&self) -> bool {
        // Of MCP only calls of tools do, which are known by their body.
        let is_free = self.template.starts_with("/mcp")
            || self.template.ends_with("/agent-card.json")
            || self.action == Action::Models;
        !is_free
    }
}

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lists models.
    Models,
    /// Asks a provider.
    Call(Operation),
    /// Nothing yet: the endpoint is part of the gateway's contract, but not of this build.
    NotServed,
}

/// Where a passthrough route is.
pub const PASSTHROUGH: Endpoint = Endpoint {
    template: "/passthrough_route",
    dialect: Dialect::OpenAi,
    action: Action::NotServed,
};

/// Where no endpoint is.
pub const OTHER: Endpoint =
    Endpoint { template: "other", dialect: Dialect::OpenAi, action: Action::NotServed };

const GET: &str = "GET,HEAD";
const POST: &str = "POST";
const GET_POST: &str = "GET,HEAD,POST";
const GET_DELETE: &str = "GET,HEAD,DELETE";
const ANY: &str = "";

/// What providers are asked for.
const CALLS: &[Operation] = &[
    Operation::ChatCompletions,
    Operation::Messages,
    Operation::CountTokens,
    Operation::Completions,
    Operation::Embeddings,
    Operation::Rerank,
    Operation::Responses,
    Operation::Messages,
    Operation::CountTokens,
    Operation::ImageGenerations,
    Operation::ImageEdits,
    Operation::Speech,
    Operation::Transcriptions,
    Operation::Translations,
];

/// Path, methods (`ANY` = all). `:name` stands for one segment.
const NOT_SERVED: &[(&str, &str)] = &[
    ("/v1/videos", POST),
    ("/v1/videos/:id", GET),
    ("/v1/videos/:id/content", GET),
    ("/v1/realtime", GET),
    ("/v1/files", GET_POST),
    ("/v1/files/:id", GET_DELETE),
    ("/v1/files/:id/content", GET),
    ("/v1/batches", GET_POST),
    ("/v1/batches/:id", GET),
    ("/v1/batches/:id/cancel", POST),
    ("/v1/fine_tuning/jobs", GET_POST),
    ("/v1/fine_tuning/jobs/:id", GET),
    ("/v1/fine_tuning/jobs/:id/cancel", POST),
    ("/mcp", ANY),
    ("/mcp/", ANY),
    ("/mcp/:server", ANY),
    ("/a2a/:agent", POST),
    ("/a2a/:agent/.well-known/agent-card.json", GET),
];

/// What a request is for. `HEAD` is answered wherever `GET` is.
pub fn find(method: &Method, path: &str) -> Route {
    let endpoint = |template, action| {
        let is_messages = matches!(template, "/v1/messages" | "/v1/messages/count_tokens");
        let dialect = if is_messages { Dialect::Anthropic } else { Dialect::OpenAi };
        Route::Endpoint(Endpoint { template, dialect, action })
    };
    let (route, allowed) = match path {
        "/v1/models" => (endpoint("/v1/models", Action::Models), GET),
        "/livez" => (Route::Live, GET),
        "/readyz" => (Route::Ready, GET),
        _ if let Some(operation) = CALLS.iter().find(|call| call.path() == path) => {
            (endpoint(operation.path(), Action::Call(*operation)), POST)
        }
        _ => match NOT_SERVED.iter().find(|(template, _)| matches_template(template, path)) {
            Some((template, allowed)) => (endpoint(template, Action::NotServed), *allowed),
            None if path.starts_with("/passthrough/") => (Route::Removed, ANY),
            None => (Route::Unknown, ANY),
        },
    };
    let is_allowed = allowed.is_empty() || allowed.split(',').any(|name| name == method.as_str());
    if is_allowed { route } else { Route::WrongMethod(allowed) }
}

fn matches_template(template: &str, path: &str) -> bool {
    let (mut expected, mut segments) = (template.split('/'), path.split('/'));
    loop {
        match (expected.next(), segments.next()) {
            (None, None) => return true,
            (Some(name), Some(segment)) if name.starts_with(':') && !segment.is_empty() => {}
            (Some(name), Some(segment)) if name == segment => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(method: Method, path: &str) -> Option<&'static str> {
        match find(&method, path) {
            Route::Endpoint(endpoint) => Some(endpoint.template),
            _ => None,
        }
    }

    #[test]
    fn a_path_is_found_as_a_whole_and_ids_stand_for_one_segment() {
        assert_eq!(template(Method::POST, "/v1/chat/completions"), Some("/v1/chat/completions"));
        assert_eq!(template(Method::GET, "/v1/files/f-1/content"), Some("/v1/files/:id/content"));
        assert_eq!(template(Method::PUT, "/mcp/x"), Some("/mcp/:server"));
        for path in ["/v1/files/", "/v1/chat/completions/", "/v1/files/a/b", "//livez", "", "*"] {
            assert_eq!(find(&Method::GET, path), Route::Unknown, "{path}");
        }
        assert_eq!(find(&Method::GET, "/passthrough/x"), Route::Removed);
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones_and_head_goes_where_get_goes() {
        let post = find(&Method::POST, "/v1/models");
        assert_eq!(post, Route::WrongMethod("GET,HEAD"));
        assert_eq!(find(&Method::GET, "/v1/embeddings"), Route::WrongMethod("POST"));
        assert_eq!(find(&Method::HEAD, "/livez"), Route::Live);
    }

    #[test]
    fn only_messages_speak_anthropic_s_dialect() {
        let Route::Endpoint(messages) = find(&Method::POST, "/v1/messages") else { panic!() };
        assert_eq!(messages.dialect, Dialect::Anthropic);
        let Route::Endpoint(chat) = find(&Method::POST, "/v1/chat/completions") else { panic!() };
        assert_eq!(chat.dialect, Dialect::OpenAi);
    }
}
