//! Who a client certificate speaks for: one URI subject alternative name for the environment, one for the data plane.

use x509_parser::{extensions::GeneralName, prelude::FromDer};

const ENVIRONMENT: &str = "x-aisix://env/";
const DATA_PLANE: &str = "x-aisix://dp/";

/// The identity in a verified client certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The environment whose resources this client may read.
    pub env_id: String,
    /// The data plane; replicas that use one bundle share it.
    pub dp_id: String,
}

/// Why a certificate names nobody.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not an X.509 certificate, or with names that cannot be read.
    #[error("the client certificate cannot be read: {0}")]
    Unreadable(String),
    /// A name is missing, or is there twice.
    #[error("the client certificate must name exactly one {0}<id>")]
    NotOne(&'static str),
}

impl Identity {
    /// The identity in a leaf certificate (DER).
    pub fn from_leaf(der: &[u8]) -> Result<Self, IdentityError> {
        let unreadable = |error: String| IdentityError::Unreadable(error);
        let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(der)
            .map_err(|error| unreadable(error.to_string()))?;
        let names =
            leaf.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        Ok(Self { env_id: only(&uris, ENVIRONMENT)?, dp_id: only(&uris, DATA_PLANE)? })
    }

    /// The names for a certificate of this identity.
    pub fn uris(&self) -> [String; 2] {
        [format!("{ENVIRONMENT}{}", self.env_id), format!("{DATA_PLANE}{}", self.dp_id)]
    }
}

fn only(uris: &[&str], prefix: &'static str) -> Result<String, IdentityError> {
    let mut ids = uris.iter().filter_map(|uri| uri.strip_prefix(prefix));
    match (ids.next(), ids.next()) {
        (Some(id), None) if !id.is_empty() => Ok(id.to_owned()),
        _ => Err(IdentityError::NotOne(prefix)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_named_exactly_once() {
        assert_eq!(only(&["x-aisix://dp/d", "x-aisix://env/e"], ENVIRONMENT).unwrap(), "e");
        assert!(only(&["x-aisix://dp/d"], ENVIRONMENT).is_err());
        assert!(only(&["x-aisix://env/"], ENVIRONMENT).is_err());
        assert!(only(&["x-aisix://env/a", "x-aisix://env/b"], ENVIRONMENT).is_err());
    }
}
