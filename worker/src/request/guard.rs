//! What guards the text of a request and of its answer: looked up once, and carried out in order.
//!
//! The request is looked at before anything is spent on it, its answer before it is kept or sent.

use std::rc::Rc;

use bytes::Bytes;

use super::RequestError;
use super::account::Account;
use crate::call::{Call, Form, Operation};
use crate::guardrail::{self, Record, Rule, Shape, Stop, StreamFilter};
use crate::guards::Guarded;
use crate::json::JsonBody;
use crate::tables::{FoundModel, Tables};

/// The guardrails of a request, and what they have done so far.
#[derive(Default)]
pub struct Guarding {
    output: Vec<Rc<Rule>>,
    /// What the stream passes through, while there is one.
    stream: Option<StreamFilter>,
    done: Vec<Done>,
}

/// What a guardrail has done at one side.
pub struct Done {
    /// Which.
    pub rule: Rc<Rule>,
    /// `input` or `output`.
    pub hook: &'static str,
    /// What.
    pub record: Record,
}

/// Looks at a request, and changes it where it must not go on as it is.
///
/// # Errors
/// It must not go on at all.
pub fn request(
    account: &mut Account,
    found: &FoundModel,
    call: &mut Call,
) -> Result<(), RequestError> {
    let rules = {
        let tables = account.proxy.tables.borrow();
        let Some(caller) = &account.caller else { return Ok(()) };
        tables.guards().rules(Guarded { model: &found.model, caller }, &members(&tables, found))
    };
    if rules.is_empty() {
        return Ok(());
    }
    let (input, output) = of_both_sides(rules);
    account.guarding.output = output;
    if input.is_empty() {
        return Ok(());
    }
    let mut records = vec![Record::default(); input.len()];
    let seen = match &call.form {
        Form::Json(body) => guardrail::request(call.operation, body.bytes(), &input, &mut records),
        Form::Multipart { content_type, bytes } => {
            guardrail::multipart(content_type, bytes, &input, &mut records)
        }
    };
    let changed = seen.map_err(|stop| stopped(stop, &input));
    account.guarding.note("input", &input, records);
    let Some(changed) = changed? else { return Ok(()) };
    match &mut call.form {
        Form::Json(body) => *body = JsonBody::parse(changed).map_err(RequestError::Invalid)?,
        Form::Multipart { bytes, .. } => *bytes = changed,
    }
    Ok(())
}

impl Guarding {
    /// Looks at an answer that is no stream. Returns it as it may go on.
    ///
    /// # Errors
    /// It must not.
    pub fn answer(&mut self, operation: Operation, body: Bytes) -> Result<Bytes, RequestError> {
        if self.output.is_empty() {
            return Ok(body);
        }
        let output = self.output.clone();
        let mut records = vec![Record::default(); output.len()];
        let seen = guardrail::answer(operation, &body, &output, &mut records);
        let seen = seen.map_err(|index| refused(&output, index, false));
        self.note("output", &output, records);
        Ok(seen?.unwrap_or(body))
    }

    /// A stream begins, of the answer to such an operation.
    pub fn begin_stream(&mut self, operation: Operation) {
        let shape = Shape::of(operation).filter(|_| !self.output.is_empty());
        self.stream = shape.map(|shape| StreamFilter::new(self.output.clone(), shape));
    }

    /// Whether the bytes of the stream must be passed on by [`Guarding::portion`].
    pub fn is_streaming(&self) -> bool {
        self.stream.is_some()
    }

    /// Passes bytes of the stream on: what is in `ready` from `begin` on is replaced by what may go on. `is_end`: no more
    /// will come.
    ///
    /// # Errors
    /// The stream must not go on; nothing of what came is in `ready`.
    pub fn portion(
        &mut self,
        ready: &mut bytes::BytesMut,
        begin: usize,
        is_end: bool,
    ) -> Result<(), RequestError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let bytes = ready.split_off(begin);
        let passed = stream.push(&bytes, ready);
        let passed = passed.and_then(|()| if is_end { stream.finish(ready) } else { Ok(()) });
        passed.map_err(|index| {
            ready.truncate(begin);
            refused(stream.report().0, index, false)
        })
    }

    /// What all of them have done. Nothing more is looked at.
    pub fn close(&mut self) -> &[Done] {
        if let Some(stream) = self.stream.take() {
            let (rules, records) = stream.report();
            self.note("output", rules, records.to_vec());
        }
        &self.done
    }

    /// What they have done until now, beside a stream in progress.
    pub fn done(&self) -> &[Done] {
        &self.done
    }

    fn note(&mut self, hook: &'static str, rules: &[Rc<Rule>], records: Vec<Record>) {
        let done = rules.iter().zip(records);
        self.done.extend(done.map(|(rule, record)| Done { rule: rule.clone(), hook, record }));
    }
}

fn of_both_sides(rules: Vec<Rc<Rule>>) -> (Vec<Rc<Rule>>, Vec<Rc<Rule>>) {
    let looking = || rules.iter().filter(|rule| rule.looks());
    let input = looking().filter(|rule| rule.on_input).cloned().collect();
    (input, looking().filter(|rule| rule.on_output).cloned().collect())
}

/// The ids of the models of a group: what guards one of them guards the group too, as any of them may answer.
fn members(tables: &Tables, found: &FoundModel) -> Vec<String> {
    let shared::resource::ModelKind::Routing(routing) = &found.model.kind else {
        return Vec::new();
    };
    let members = routing.targets.iter().filter_map(|target| tables.model(&target.model));
    members.map(|member| member.model.id.clone()).collect()
}

fn stopped(stop: Stop, rules: &[Rc<Rule>]) -> RequestError {
    match stop {
        Stop::Refused(index) => refused(rules, index, true),
        Stop::Unreadable(why) => RequestError::Invalid(format!(
            "this request is guarded by content policies, which cannot look at it: {why}"
        )),
    }
}

fn refused(rules: &[Rc<Rule>], index: usize, is_request: bool) -> RequestError {
    let guardrail = rules.get(index).map(|rule| rule.name.clone()).unwrap_or_default();
    RequestError::ContentFilter { is_request, guardrail }
}
