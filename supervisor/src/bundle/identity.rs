//! Who a certificate says the gateway is: an environment and a data plane, as URI names.

use super::check::Fault;

const ENVIRONMENT: &str = "x-aisix://env/";
const DATA_PLANE: &str = "x-aisix://dp/";
/// Between the two ids where one name carries both.
const COMBINED: &str = "/dp/";

/// An environment and, in every bundle that the Cloud issues, a data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Scope of the projection.
    pub env_id: String,
    /// The credential; replicas that use one bundle share it.
    pub dp_id: Option<String>,
}

impl Identity {
    /// The identity in a leaf's URI names: one for each id, or one for both, `x-aisix://env/<env_id>/dp/<dp_id>`. Other
    /// names mean nothing here. Two different ids of one kind are refused: whoever reads the certificate in another order
    /// would take the gateway for somebody else.
    pub fn from_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, Fault> {
        let (mut env_id, mut dp_id) = (None, None);
        let note = |id: &mut Option<String>, found: &str, name: &str| {
            let found = well_formed(found, name)?;
            match id {
                Some(noted) if *noted != found => Err(Fault::TwoNames(noted.clone(), found)),
                _ => {
                    *id = Some(found);
                    Ok(())
                }
            }
        };
        for name in names {
            if let Some(id) = name.strip_prefix(ENVIRONMENT) {
                let (env, dp) = match id.split_once(COMBINED) {
                    Some((env, dp)) => (env, Some(dp)),
                    None => (id, None),
                };
                note(&mut env_id, env, name)?;
                if let Some(dp) = dp {
                    note(&mut dp_id, dp, name)?;
                }
            } else if let Some(id) = name.strip_prefix(DATA_PLANE) {
                note(&mut dp_id, id, name)?;
            }
        }
        Ok(Self { env_id: env_id.ok_or(Fault::NoEnvironment)?, dp_id })
    }
}

/// Ids become part of keys and of file contents: nothing but letters, digits, `.`, `_` and `-`, and not only of the latter.
/// Usually UUIDs.
pub fn is_id(text: &str) -> bool {
    let of_id = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.bytes().all(of_id) && text.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

fn well_formed(id: &str, name: &str) -> Result<String, Fault> {
    if is_id(id) { Ok(id.to_owned()) } else { Err(Fault::BadName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(names: &[&str]) -> Result<(String, Option<String>), String> {
        Identity::from_names(names.iter().copied())
            .map(|identity| (identity.env_id, identity.dp_id))
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn both_forms_of_names_are_understood() {
        let expected = Ok(("e-1".to_owned(), Some("d.2".to_owned())));
        assert_eq!(identity(&["https://x", "x-aisix://env/e-1", "x-aisix://dp/d.2"]), expected);
        assert_eq!(identity(&["x-aisix://dp/d.2", "x-aisix://env/e-1"]), expected);
        assert_eq!(identity(&["x-aisix://env/e-1/dp/d.2"]), expected);
        let twice = ["x-aisix://env/e-1", "x-aisix://dp/d.2", "x-aisix://env/e-1/dp/d.2"];
        assert_eq!(identity(&twice), expected);
        assert_eq!(identity(&["x-aisix://env/e-1"]), Ok(("e-1".to_owned(), None)));
    }

    #[test]
    fn a_missing_or_malformed_id_is_told() {
        for (names, told) in [
            (&["x-aisix://dp/d"][..], "no environment"),
            (&["x-aisix://env/", "x-aisix://dp/d"], "x-aisix://env/"),
            (&["x-aisix://env/a/b", "x-aisix://dp/d"], "a/b"),
            (&["x-aisix://env/e/dp/"], "x-aisix://env/e/dp/"),
            (&["x-aisix://env/e", "x-aisix://dp/d d"], "d d"),
            (&["x-aisix://env/..", "x-aisix://dp/d"], "does not end in an id"),
            (&["x-aisix://env/e", "x-aisix://env/f", "x-aisix://dp/d"], "both e and f"),
            (&["x-aisix://env/e", "x-aisix://dp/a", "x-aisix://dp/b"], "both a and b"),
        ] {
            let error = identity(names).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
