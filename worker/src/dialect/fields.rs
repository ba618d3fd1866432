//! A caller's JSON, read strictly: what is there has the type that the dialect names, or the caller is told what is wrong and
//! where. `null` is as if it were absent; members that nobody asks for are passed over.

use serde_json::{Map, Value};

use crate::call::{Call, Form};
use crate::chat::CacheMark;
use crate::request::RequestError;

/// The members of one object, taken out one by one.
pub struct Fields {
    /// Where the object is, such as `messages[2]`; empty for the body itself.
    at: String,
    members: Map<String, Value>,
}

impl Fields {
    /// The body of a call.
    ///
    /// # Errors
    /// That it is no JSON object.
    pub fn of(call: &Call) -> Result<Self, RequestError> {
        let Form::Json(body) = &call.form else {
            return Err(RequestError::NotOffered(call.operation));
        };
        let members = serde_json::from_slice(body.bytes())
            .map_err(|error| RequestError::Invalid(format!("invalid request body: {error}")))?;
        Ok(Self { at: String::new(), members })
    }

    /// The object `value`, which is at `at`.
    ///
    /// # Errors
    /// That it is no object.
    pub fn at(at: String, value: Value) -> Result<Self, RequestError> {
        match value {
            Value::Object(members) => Ok(Self { at, members }),
            _ => Err(wrong(&at, "an object")),
        }
    }

    /// Where a member is, for messages.
    pub fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// The error that a member is not what it must be.
    pub fn wrong(&self, name: &str, expected: &str) -> RequestError {
        wrong(&self.path(name), expected)
    }

    /// Whether a member is there.
    pub fn has(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|value| !value.is_null())
    }

    /// A member of any type.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name).filter(|value| !value.is_null())
    }

    /// Looks at a member.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// An object, as it is.
    ///
    /// # Errors
    /// That it is none.
    pub fn object_value(&mut self, name: &str) -> Result<Option<Value>, RequestError> {
        let value = self.take(name);
        match value {
            Some(value) if !value.is_object() => Err(self.wrong(name, "an object")),
            value => Ok(value),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// That it is none.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// That it is not, or is none.
    pub fn required_text(&mut self, name: &str) -> Result<String, RequestError> {
        self.text(name)?.ok_or_else(|| self.wrong(name, "a string"))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// That it is neither.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, RequestError> {
        self.typed(name, "a boolean", Value::as_bool)
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// That it is none.
    pub fn count(&mut self, name: &str) -> Result<Option<u64>, RequestError> {
        self.typed(name, "a whole number, not negative", Value::as_u64)
    }

    /// A whole number.
    ///
    /// # Errors
    /// That it is none.
    pub fn integer(&mut self, name: &str) -> Result<Option<i64>, RequestError> {
        self.typed(name, "a whole number", Value::as_i64)
    }

    /// A number.
    ///
    /// # Errors
    /// That it is none.
    pub fn number(&mut self, name: &str) -> Result<Option<f64>, RequestError> {
        self.typed(name, "a number", Value::as_f64)
    }

    /// An object.
    ///
    /// # Errors
    /// That it is none.
    pub fn object(&mut self, name: &str) -> Result<Option<Self>, RequestError> {
        self.take(name).map(|value| Self::at(self.path(name), value)).transpose()
    }

    /// A list; empty if it is absent.
    ///
    /// # Errors
    /// That it is none.
    pub fn list(&mut self, name: &str) -> Result<Vec<Value>, RequestError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.wrong(name, "an array")),
        }
    }

    /// A list of objects; empty if it is absent.
    ///
    /// # Errors
    /// That it is none, or that one of its items is no object.
    pub fn objects(&mut self, name: &str) -> Result<Vec<Self>, RequestError> {
        let path = self.path(name);
        let items = self.list(name)?.into_iter().enumerate();
        items.map(|(index, item)| Self::at(format!("{path}[{index}]"), item)).collect()
    }

    /// A list of texts; empty if it is absent.
    ///
    /// # Errors
    /// That it is none, or that one of its items is no text.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, RequestError> {
        let items = self.list(name)?.into_iter();
        let texts = items.map(|item| match item {
            Value::String(text) => Ok(text),
            _ => Err(self.wrong(name, "an array of strings")),
        });
        texts.collect()
    }

    /// `cache_control`, Anthropic's mark for its prompt cache, which many clients of OpenAI's dialect send too. A lifetime
    /// that is not known is the short one.
    ///
    /// # Errors
    /// That it is no object.
    pub fn cache_mark(&mut self) -> Result<Option<CacheMark>, RequestError> {
        let Some(mut mark) = self.object("cache_control")? else { return Ok(None) };
        let is_hour = mark.text("ttl")?.is_some_and(|ttl| ttl == "1h");
        Ok(Some(if is_hour { CacheMark::Hour } else { CacheMark::Short }))
    }

    fn typed<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => read(&value).map(Some).ok_or_else(|| self.wrong(name, expected)),
        }
    }
}

fn wrong(at: &str, expected: &str) -> RequestError {
    RequestError::Invalid(format!("invalid request body: `{at}` must be {expected}"))
}
