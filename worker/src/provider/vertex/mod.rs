//! Gemini, on Google's Vertex AI and behind an API key: `generateContent` and its stream.

mod address;
mod credential;
mod decoder;
mod request;
mod schema;
mod token;

use http::header::AUTHORIZATION;
use http::{HeaderName, Request};
use shared::secret::Secret;
use uuid::Uuid;

use super::{Context, Exchange, outgoing};
use crate::call::Call;
use crate::chat::Translation;
use crate::dialect;
use crate::request::{RequestError, Target};

use self::credential::Credential;
use self::decoder::GeminiDecoder;
pub use self::token::Tokens;

/// How Google takes an API key.
const API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

/// The exchange with Gemini.
///
/// # Errors
/// That it does not offer this operation, has no words for what is asked, or that there is no token for it.
pub async fn exchange(
    call: &Call,
    target: &Target,
    context: &Context<'_>,
) -> Result<Exchange, RequestError> {
    let encoder = dialect::encoder(call).ok_or(RequestError::NotOffered(call.operation))?;
    let conversation = dialect::conversation(call)?;
    let body = request::body(&conversation, &target.upstream_model)?;
    let key = &target.provider_key;
    let credential = Credential::read(&key.secret)?;
    let path = address::path(target, credential.account());
    let method = if call.is_stream { ":streamGenerateContent?alt=sse" } else { ":generateContent" };
    let is_project = path.contains("/projects/");
    let path = format!("{path}{method}");
    let accept = outgoing::accept(call.is_stream);
    let body = body.to_string().into();
    let mut request = outgoing::post_at(target, context, &path, "application/json", accept, body)?;
    match credential {
        Credential::Account(account) => {
            let proxy = context.proxy;
            let token = proxy.google.token(key, &account, &proxy.upstreams).await?;
            bearer(&mut request, &token)?;
        }
        Credential::Token(token) => bearer(&mut request, &token)?,
        // A project asks for a token, unless this is plainly a key.
        Credential::Text(token) if is_project && !credential::is_api_key(&token) => {
            bearer(&mut request, &token)?;
        }
        Credential::Text(key) => outgoing::set_secret(&mut request, API_KEY, &key)?,
    }
    let decoder = GeminiDecoder::new(Uuid::new_v4().simple().to_string());
    Ok(Exchange {
        request: request.into(),
        reading: Box::new(Translation::new(Box::new(decoder), encoder)),
    })
}

fn bearer(request: &mut Request<bytes::Bytes>, token: &Secret<String>) -> Result<(), RequestError> {
    let value = Secret::new(format!("Bearer {}", token.expose()));
    outgoing::set_secret(request, AUTHORIZATION, &value)
}
