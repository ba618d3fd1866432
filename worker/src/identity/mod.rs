//! Callers with tokens of an identity provider (OpenID Connect), in place of a gateway key.
//!
//! A token is verified in memory, with keys that were fetched before: no request waits for an identity provider, but for one
//! that comes before the first keys are there (a second at most). One worker of the node fetches for all; what it has found
//! goes to the others, and to those that start later, through the supervisor, as bytes.
//!
//! - A token is bound to the one provider whose issuer it names, byte for byte; what fails there is refused and never tried
//!   as a key, nor with another provider.
//! - Only signatures with public keys count, by an algorithm that the very key is for.
//! - A token stands for a caller key, whose rights, limits and budget apply as if the key had been presented.
//!
//! `token` reads a token · `jwks` the keys · `claims` what a token must say · `directory` whose key it stands for ·
//! `store` keys in force · `lease` who fetches · `fetch` how · `refresh` when.

mod claims;
mod directory;
mod fetch;
mod jwks;
mod lease;
mod refresh;
mod rejection;
mod store;
mod token;
mod verify;

pub use directory::Directory;
pub use refresh::run;
pub use rejection::Rejection;
pub use store::KeyStore;
pub use token::Token;
pub use verify::authenticate;

/// Who a token says that the caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Value of the provider's identity claim.
    pub subject: String,
    /// Name of the provider.
    pub provider: String,
    /// Name of the claim mapping that led to the caller key, if the key is not bound to the subject itself.
    pub mapping: Option<String>,
}

#[cfg(test)]
mod tests;
