//! AWS Bedrock: Converse and its stream, whatever model is behind it.

mod credential;
mod decoder;
mod frames;
mod request;
mod sign;

use time::OffsetDateTime;

use super::outgoing::segment;
use super::{Context, Exchange, outgoing};
use crate::call::Call;
use crate::chat::Translation;
use crate::dialect;
use crate::request::{RequestError, Target};

use self::credential::Credential;
use self::decoder::ConverseDecoder;

/// The exchange with Bedrock.
///
/// # Errors
/// That it does not offer this operation, has no words for what is asked, or that the credential is not usable.
pub fn exchange(
    call: &Call,
    target: &Target,
    context: &Context<'_>,
) -> Result<Exchange, RequestError> {
    let encoder = dialect::encoder(call).ok_or(RequestError::NotOffered(call.operation))?;
    let conversation = dialect::conversation(call)?;
    let body = request::body(&conversation, &target.upstream_model)?;
    let (method, accept) = match call.is_stream {
        true => ("converse-stream", decoder::EVENT_STREAM),
        false => ("converse", "application/json"),
    };
    let path = format!("/model/{}/{method}", segment(&target.upstream_model));
    let body = body.to_string().into();
    let mut request = outgoing::post(target, context, &path, "application/json", accept, body)?;
    match Credential::read(&target.provider_key.secret)? {
        Credential::Bearer(token) => outgoing::bearer_token(&mut request, &token)?,
        Credential::Keys(keys) => {
            let now = OffsetDateTime::now_utc().into();
            sign::sign(&mut request, &keys, &target.endpoint, now)?;
        }
    }
    let reading = Translation::new(Box::new(ConverseDecoder::default()), encoder);
    Ok(Exchange { request: request.into(), reading: Box::new(reading) })
}
