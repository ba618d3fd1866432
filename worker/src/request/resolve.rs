//! What is asked for: the model by its name, whether this caller may have it, and what stands behind it.

use std::net::IpAddr;
use std::rc::Rc;

use shared::resource::{Adapter, ApiKey, DirectModel, Endpoint, Model, ModelKind, ProviderKey};

use super::RequestError;
use crate::guards::Guarded;
use crate::hooks;
use crate::provider::{self, Template};
use crate::tables::{FoundModel, Tables};
use crate::upstream::Place;

/// Where an attempt goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Vendor of the upstream, for metrics and logs.
    pub provider: String,
    /// The upstream's name of the model.
    pub upstream_model: String,
    /// How the provider is reached.
    pub provider_key: Rc<ProviderKey>,
    /// Where the provider is.
    pub endpoint: Endpoint,
    /// Where requests are sent, with its endpoint.
    pub place: Rc<Place>,
    /// What it speaks.
    pub adapter: Adapter,
    /// The model.
    pub model: Rc<Model>,
    /// What requests to it have in common.
    pub template: Template,
}

impl Target {
    /// The upstream's name of the model as it is configured, for metrics: what a wildcard stands for is the caller's.
    pub fn upstream_label(&self) -> &str {
        match &self.model.kind {
            ModelKind::Direct(direct) => &direct.model_name,
            _ => "",
        }
    }
}

/// The model of that name. It is looked up before any permission, so that the status tells whether the name exists.
pub fn model(tables: &Tables, name: &str) -> Result<FoundModel, RequestError> {
    tables.model(name).ok_or_else(|| RequestError::UnknownModel(shown(name)))
}

/// Whether this caller, from this address, may use the model.
pub fn permission(
    caller: &ApiKey,
    found: &FoundModel,
    name: &str,
    address: IpAddr,
) -> Result<(), RequestError> {
    if !caller.allows_model(name) {
        return Err(RequestError::ModelNotAllowed(shown(name)));
    }
    let blocks = &found.model.allowed_cidrs;
    if !blocks.is_empty() && !blocks.iter().any(|block| block.contains(address)) {
        return Err(RequestError::AddressNotAllowed);
    }
    Ok(())
}

/// Whether anything guards the request that cannot be enforced here: then it is not served.
pub fn unguarded(tables: &Tables, caller: &ApiKey, found: &FoundModel) -> Result<(), RequestError> {
    let request = Guarded { model: &found.model, caller };
    tables.guards().find(request).map_or(Ok(()), |guard| Err(RequestError::Guarded(guard)))
}

/// What stands behind the model.
pub fn target(tables: &Tables, found: &FoundModel) -> Result<Rc<Target>, RequestError> {
    hooks::serving(&found.model);
    if found.captured.is_some() {
        return Ok(Rc::new(new_target(tables, found)?));
    }
    tables.target(&found.model, || Ok(Rc::new(new_target(tables, found)?)))
}

fn new_target(tables: &Tables, found: &FoundModel) -> Result<Target, RequestError> {
    let model = &found.model;
    let ModelKind::Direct(direct) = &model.kind else {
        return Err(RequestError::ModelNotServed(model.display_name.clone()));
    };
    let unusable = |what: &str| {
        RequestError::Unusable(format!("model '{}' is not usable: {what}", model.display_name))
    };
    let provider_key = tables
        .provider_key(&direct.provider_key_id)
        .ok_or_else(|| unusable("its provider key does not exist"))?;
    let provider = match direct.provider.as_str() {
        "" => provider_key.provider.clone(),
        provider => provider.to_owned(),
    };
    let adapter = provider::adapter(direct, &provider_key);
    let place = tables.place(&provider_key).ok_or_else(|| {
        unusable("its provider key has no api_base, and the vendor's is not known")
    })?;
    let endpoint = place.endpoint.clone();
    let upstream_model = upstream_model(direct, found.captured.as_deref());
    let model = model.clone();
    let template = if found.captured.is_none() { Template::kept() } else { Template::default() };
    Ok(Target { provider, upstream_model, provider_key, endpoint, place, adapter, model, template })
}

fn upstream_model(direct: &DirectModel, captured: Option<&str>) -> String {
    match captured {
        Some(captured) => direct.model_name.replacen('*', captured, 1),
        None => direct.model_name.clone(),
    }
}

/// A caller's name of a model, fit for a message.
fn shown(name: &str) -> String {
    name.chars()
        .filter(|character| !character.is_control())
        .take(provider::TEXT_CHARS_MAX)
        .collect()
}
