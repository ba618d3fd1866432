//! A caller of the gateway, with its key.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Method, Request};
use serde_json::{Value, json};

use crate::client::{self, Answer, ClientError, Connection};

/// Who asks, and where. Each request has a connection of its own unless one is given.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The proxy listener.
    pub address: SocketAddr,
    /// The caller's key.
    pub key: String,
}

/// The body of an unary chat request.
pub fn chat(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}

/// The body of a streamed chat request.
pub fn chat_stream(model: &str, text: &str) -> Value {
    let mut body = chat(model, text);
    body["stream"] = json!(true);
    body
}

impl Caller {
    /// A request of this caller.
    pub fn request(&self, path: &str, body: &Value) -> Request<Bytes> {
        self.sign(client::post(path, body))
    }

    /// Asks a model, unary.
    ///
    /// # Panics
    /// If no answer comes.
    pub async fn ask(&self, model: &str, text: &str) -> Answer {
        self.try_chat(&chat(model, text)).await.expect("the gateway answers")
    }

    /// Asks a model for a stream.
    ///
    /// # Panics
    /// If no answer comes.
    pub async fn ask_stream(&self, model: &str, text: &str) -> Answer {
        self.try_chat(&chat_stream(model, text)).await.expect("the gateway answers")
    }

    /// Sends a chat request.
    pub async fn try_chat(&self, body: &Value) -> Result<Answer, ClientError> {
        self.chat_over(&mut Connection::open(self.address).await?, body).await
    }

    /// Sends a chat request over a connection that is there already.
    pub async fn chat_over(
        &self,
        connection: &mut Connection,
        body: &Value,
    ) -> Result<Answer, ClientError> {
        connection.send(self.request("/v1/chat/completions", body)).await
    }

    /// Asks for the list of models.
    pub async fn models(&self) -> Result<Answer, ClientError> {
        self.models_over(&mut Connection::open(self.address).await?).await
    }

    /// Asks for the list of models over a connection that is there already.
    pub async fn models_over(&self, connection: &mut Connection) -> Result<Answer, ClientError> {
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = http::Uri::from_static("/v1/models");
        connection.send(self.sign(request)).await
    }

    fn sign(&self, mut request: Request<Bytes>) -> Request<Bytes> {
        let credential = HeaderValue::try_from(format!("Bearer {}", self.key));
        request.headers_mut().insert(AUTHORIZATION, credential.expect("a key of visible ASCII"));
        request
    }
}
