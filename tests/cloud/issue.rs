//! `aisix-cloud issue`: a certificate bundle on disk, and the settings that put it to use.

use crate::{
    authority::{Authority, AuthorityError},
    cli::IssueArgs,
    cloud::timestamp,
    durable,
    identity::Identity,
};
use nix::unistd::getegid;
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use uuid::Uuid;
use zeroize::Zeroizing;

/// Why no bundle was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The authority could not be opened or could not sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A file of the bundle could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Issues the bundle and tells what was written.
pub fn run(args: &IssueArgs) -> Result<(), IssueError> {
    let authority = Authority::open_or_create(&args.data)?;
    let dp_id = args.dp.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let identity = Identity { env_id: args.env.clone(), dp_id };
    let issued = authority.issue(&identity, args.days)?;
    let key_pem = Zeroizing::new(issued.key.serialize_pem());

    let out = &args.out;
    durable::create_folder(out)
        .map_err(|source| IssueError::Write { path: out.clone(), source })?;
    let ca = write(out, "ca.crt", 0o644, authority.certificate_pem())?;
    // Root's group has nobody else in it, and is the one that containers of the gateway run in: what root has issued can be
    // mounted as it is.
    let for_containers = getegid().as_raw() == 0;
    let key = write(out, "client.key", if for_containers { 0o640 } else { 0o600 }, &key_pem)?;
    if for_containers {
        let opened = fs::set_permissions(out, Permissions::from_mode(0o750));
        opened.map_err(|source| IssueError::Write { path: out.clone(), source })?;
    }
    let certificate = write(out, "client.crt", 0o644, &issued.certificate.pem())?;

    println!("issued for environment {}, data plane {}", identity.env_id, identity.dp_id);
    println!("valid until {}", timestamp(issued.expires_at));
    println!("\n  {}\n  {}\n  {}", certificate.display(), key.display(), ca.display());
    println!("\nThe gateway's settings:\n");
    println!("  AISIX_MANAGED__CP_BASE_URL={}", args.manager);
    println!("  AISIX_MANAGED__CP_CERT_FILE={}", certificate.display());
    println!("  AISIX_MANAGED__CP_KEY_FILE={}", key.display());
    println!("  AISIX_MANAGED__CP_CA_FILE={}", ca.display());
    Ok(())
}

/// Writes one file of the bundle and returns its absolute path.
fn write(folder: &Path, name: &str, mode: u32, text: &str) -> Result<PathBuf, IssueError> {
    let path = folder.join(name);
    durable::replace(&path, mode, text.as_bytes())
        .and_then(|()| std::path::absolute(&path))
        .map_err(|source| IssueError::Write { path, source })
}
