//! Where the certificate bundle comes from: six optional values as written, one choice in the program.
//!
//! All three roles inline, or all three as files, or none. Anything else is an error, also where a bundle is persisted:
//! whoever sets a variable means it, and must not run on an old identity by mistake.

use std::path::{Component, Path, PathBuf};

use shared::secret::Secret;

/// The variable by which the service manager says where it has put credentials.
pub const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What there is to say of a bundle that came that way.
pub const AS_CREDENTIAL: &str =
    "supplied as a credential of the service manager: a new bundle needs a restart";

/// The roles, as the ends of their variables: certificate, private key, CA certificates.
const ROLES: [&str; 3] = ["CERT", "KEY", "CA"];

/// Where the certificate bundle comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum BundleSource {
    /// PEM text in the configuration.
    Inline {
        /// Leaf first, then its issuers.
        chain: String,
        /// Private key of the leaf.
        key: Secret<String>,
        /// Certificates of the Cloud's CA.
        roots: String,
    },
    /// PEM files.
    Files {
        /// Leaf first, then its issuers.
        chain: PathBuf,
        /// Private key of the leaf.
        key: PathBuf,
        /// Certificates of the Cloud's CA.
        roots: PathBuf,
    },
    /// None supplied: the one kept from an earlier start.
    Persisted,
}

/// The six values as written.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// `managed.cp_cert_pem`.
    pub cert_pem: Option<String>,
    /// `managed.cp_key_pem`.
    pub key_pem: Option<Secret<String>>,
    /// `managed.cp_ca_pem`.
    pub ca_pem: Option<String>,
    /// `managed.cp_cert_file`.
    pub cert_file: Option<PathBuf>,
    /// `managed.cp_key_file`.
    pub key_file: Option<PathBuf>,
    /// `managed.cp_ca_file`.
    pub ca_file: Option<PathBuf>,
}

/// Values that make no choice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A role in both forms.
    #[error(
        "{} and {} are both set: give this part of the certificate bundle inline or as a file, not both",
        inline(role),
        file(role)
    )]
    Both {
        /// `CERT`, `KEY` or `CA`.
        role: &'static str,
    },
    /// Some roles inline, others as files.
    #[error(
        "the certificate bundle is given partly inline ({inline}) and partly as files ({files}): use one form for all three parts"
    )]
    Mixed {
        /// Variables of the inline roles.
        inline: String,
        /// Variables of the roles as files.
        files: String,
    },
    /// Not all roles.
    #[error(
        "the certificate bundle is incomplete: {given} set, but not {missing}; give all three parts, or none to use the persisted bundle"
    )]
    Incomplete {
        /// Variables that are set.
        given: String,
        /// Variables that are not.
        missing: String,
    },
}

fn inline(role: &str) -> String {
    format!("AISIX_MANAGED__CP_{role}_PEM")
}

fn file(role: &str) -> String {
    format!("AISIX_MANAGED__CP_{role}_FILE")
}

impl BundleSource {
    /// Whether a part of it is a credential (`LoadCredential=`), with the folder that the service manager has put those in:
    /// they are copies, made when the unit was started, and nothing but a restart makes others.
    pub fn is_credential(&self, folder: Option<&Path>) -> bool {
        let (Self::Files { chain, key, roots }, Some(folder)) = (self, folder) else {
            return false;
        };
        [chain, key, roots].into_iter().any(|file| is_below(file, folder))
    }

    /// The choice that the values make.
    pub fn choose(written: Written) -> Result<Self, SourceError> {
        let inlined =
            [written.cert_pem.is_some(), written.key_pem.is_some(), written.ca_pem.is_some()];
        let filed =
            [written.cert_file.is_some(), written.key_file.is_some(), written.ca_file.is_some()];
        let both = ROLES
            .iter()
            .zip(inlined.iter().zip(filed))
            .find(|(_, (inline, file))| **inline && *file);
        if let Some((role, _)) = both {
            return Err(SourceError::Both { role });
        }
        let Written { cert_pem, key_pem, ca_pem, cert_file, key_file, ca_file } = written;
        match ((cert_pem, key_pem, ca_pem), (cert_file, key_file, ca_file)) {
            ((Some(chain), Some(key), Some(roots)), _) => Ok(Self::Inline { chain, key, roots }),
            (_, (Some(chain), Some(key), Some(roots))) => Ok(Self::Files { chain, key, roots }),
            _ if !inlined.contains(&true) && !filed.contains(&true) => Ok(Self::Persisted),
            _ if inlined.contains(&true) && filed.contains(&true) => Err(SourceError::Mixed {
                inline: names(inlined, true, inline),
                files: names(filed, true, file),
            }),
            _ if inlined.contains(&true) => Err(SourceError::Incomplete {
                given: names(inlined, true, inline),
                missing: names(inlined, false, inline),
            }),
            _ => Err(SourceError::Incomplete {
                given: names(filed, true, file),
                missing: names(filed, false, file),
            }),
        }
    }
}

/// Whether a file is below a folder, as far as their names say.
fn is_below(file: &Path, folder: &Path) -> bool {
    let goes_up = || file.components().any(|part| part == Component::ParentDir);
    folder.is_absolute() && file != folder && file.starts_with(folder) && !goes_up()
}

/// The variables of those roles of which `set` is said.
fn names(roles: [bool; 3], set: bool, name: fn(&str) -> String) -> String {
    let chosen = ROLES.iter().zip(roles).filter(|(_, is_set)| *is_set == set);
    chosen.map(|(role, _)| name(role)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets the roles whose letters (c, k, a) are in `inline` and in `files`.
    fn choose(inline: &str, files: &str) -> Result<BundleSource, SourceError> {
        let text = |role| inline.contains(role).then(|| "pem".to_owned());
        let path = |role| files.contains(role).then(|| PathBuf::from("/file"));
        BundleSource::choose(Written {
            cert_pem: text('c'),
            key_pem: text('k').map(Secret::new),
            ca_pem: text('a'),
            cert_file: path('c'),
            key_file: path('k'),
            ca_file: path('a'),
        })
    }

    #[test]
    fn three_inline_three_files_or_nothing_is_a_choice() {
        assert!(matches!(choose("cka", ""), Ok(BundleSource::Inline { .. })));
        assert!(matches!(choose("", "cka"), Ok(BundleSource::Files { .. })));
        assert_eq!(choose("", ""), Ok(BundleSource::Persisted));
    }

    #[test]
    fn a_bundle_is_a_credential_if_a_part_of_it_is_in_the_folder_of_credentials() {
        let folder = Path::new("/run/credentials/aisix.service");
        let with_key = |key: &str| BundleSource::Files {
            chain: "/etc/aisix/mtls/client.crt".into(),
            key: key.into(),
            roots: "/etc/aisix/mtls/ca.crt".into(),
        };
        let credential = with_key("/run/credentials/aisix.service/client.key");
        assert!(credential.is_credential(Some(folder)));
        assert!(!credential.is_credential(None));
        assert!(!credential.is_credential(Some(Path::new(""))), "an empty variable names nothing");
        for elsewhere in [
            "/etc/aisix/mtls/client.key",
            "/run/credentials/aisix.service",
            "/run/credentials/aisix.service2/client.key",
            "/run/credentials/aisix.service/../other/client.key",
        ] {
            assert!(!with_key(elsewhere).is_credential(Some(folder)), "{elsewhere}");
        }
        assert!(!BundleSource::Persisted.is_credential(Some(folder)));
    }

    #[test]
    fn everything_else_is_an_error_that_names_the_variables() {
        for roles in ["", "c", "k", "a", "ck", "ca", "ka", "cka"] {
            for files in ["", "c", "k", "a", "ck", "ca", "ka", "cka"] {
                let fits = matches!((roles, files), ("" | "cka", "") | ("", "cka"));
                assert_eq!(choose(roles, files).is_ok(), fits, "{roles} {files}");
            }
        }
        let told = |roles, files| choose(roles, files).unwrap_err().to_string();
        assert!(
            told("cka", "k").contains("AISIX_MANAGED__CP_KEY_PEM and AISIX_MANAGED__CP_KEY_FILE")
        );
        let mixed = told("c", "ka");
        assert!(mixed.contains("inline (AISIX_MANAGED__CP_CERT_PEM)"), "{mixed}");
        assert!(
            mixed.contains("files (AISIX_MANAGED__CP_KEY_FILE, AISIX_MANAGED__CP_CA_FILE)"),
            "{mixed}"
        );
        let partial = told("", "ca");
        assert!(partial.contains("but not AISIX_MANAGED__CP_KEY_FILE"), "{partial}");
    }
}
