//! Anthropic, and whoever else offers Messages.
//!
//! A caller of the same dialect is relayed: the body goes with only the model's name changed (and marks for the prompt cache
//! added, where the model says so), the answer comes back to the byte. Any other caller is translated.

mod caching;
mod decoder;
mod forced_json;
mod message;
mod model;
mod native;
mod request;
mod thinking;
mod turns;

pub(super) use thinking::continues_without_thoughts;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use shared::resource::ModelKind;

use crate::call::{Call, Form, Operation};
use crate::chat::Translation;
use crate::dialect;
use crate::json::{JsonBody, quoted};
use crate::provider::{Context, Exchange, Reading, outgoing};
use crate::request::{RequestError, Target};

use decoder::Messages;
use native::Native;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// <https://docs.anthropic.com/en/api/versioning>
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const VERSION_DEFAULT: HeaderValue = HeaderValue::from_static("2023-06-01");
/// What of the API that is not settled yet a caller wants to use; only for callers who speak it themselves.
const BETA: HeaderName = HeaderName::from_static("anthropic-beta");

/// The exchange with the provider.
///
/// # Errors
/// As [`crate::provider::exchange`].
pub fn exchange(
    call: &Call,
    target: &Target,
    context: &Context<'_>,
) -> Result<Exchange, RequestError> {
    let is_native = matches!(call.operation, Operation::Messages | Operation::CountTokens);
    let (body, reading) = if is_native { native(call, target)? } else { translated(call, target)? };
    let accept = outgoing::accept(call.is_stream);
    let path = path(&target.endpoint.path, call.operation);
    let mut request = outgoing::post(target, context, &path, "application/json", accept, body)?;
    if !target.provider_key.secret.expose().is_empty() {
        outgoing::set_secret(&mut request, API_KEY, &target.provider_key.secret)?;
    }
    let headers = request.headers_mut();
    headers.insert(VERSION, VERSION_DEFAULT);
    if is_native {
        for name in [VERSION, BETA] {
            let mut values = context.headers.get_all(&name).into_iter().cloned();
            if let Some(first) = values.next() {
                headers.insert(name.clone(), first);
            }
            values.for_each(|value| {
                headers.append(name.clone(), value);
            });
        }
    }
    Ok(Exchange { request: request.into(), reading })
}

/// The path below the endpoint, which may or may not name the version of the API already.
fn path(base: &str, operation: Operation) -> String {
    let version = if base.ends_with("/v1") { "" } else { "/v1" };
    let count = if operation == Operation::CountTokens { "/count_tokens" } else { "" };
    format!("{version}/messages{count}")
}

fn native(call: &Call, target: &Target) -> Result<(Bytes, Box<dyn Reading>), RequestError> {
    let Form::Json(body) = &call.form else {
        return Err(RequestError::NotOffered(call.operation));
    };
    let mut edit = body.edit();
    if call.model != target.upstream_model {
        edit.set("model", quoted(&target.upstream_model));
    }
    if let ModelKind::Direct(direct) = &target.model.kind
        && let Some(lifetime) = direct.prompt_caching
    {
        caching::mark(body, &mut edit, lifetime);
    }
    let reading = match call.operation {
        Operation::CountTokens => Native::of_a_count(),
        _ => Native::default(),
    };
    Ok((edit.finish(), Box::new(reading)))
}

fn translated(call: &Call, target: &Target) -> Result<(Bytes, Box<dyn Reading>), RequestError> {
    let Some(encoder) = dialect::encoder(call) else {
        return Err(RequestError::NotOffered(call.operation));
    };
    let conversation = dialect::conversation(call)?;
    let request = request::write(conversation, &target.upstream_model, call.is_stream)?;
    let mut body = Bytes::from(request.body.to_string());
    if let ModelKind::Direct(direct) = &target.model.kind
        && let Some(lifetime) = direct.prompt_caching
        && let Ok(written) = JsonBody::parse(body.clone())
    {
        let mut edit = written.edit();
        caching::mark(&written, &mut edit, lifetime);
        body = edit.finish();
    }
    let decoder = Messages::new(request.forces_json);
    Ok((body, Box::new(Translation::new(Box::new(decoder), encoder))))
}

#[cfg(test)]
mod tests;
