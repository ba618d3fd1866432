//! Landlock: a ruleset without a single permission.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetError, Scope,
};

/// The newest ABI whose rights are asked for; older kernels give what they have.
const ABI_ASKED: ABI = ABI::V7;

/// Denies every file, every TCP port to bind, unless `connects` every one to connect to, and signals and abstract sockets
/// to processes outside. Returns the kernel's ABI, or why there is none.
pub fn deny_all(connects: bool) -> Result<u16, String> {
    let status = restrict(connects).map_err(|error| error.to_string())?;
    match status {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            let kernel_abi = kernel_abi.and_then(|abi| u16::try_from(abi).ok());
            Ok(kernel_abi.unwrap_or(effective_abi as u16))
        }
        LandlockStatus::NotEnabled => Err("in the kernel, but not enabled".to_owned()),
        LandlockStatus::NotImplemented => Err("not in this kernel".to_owned()),
    }
}

fn restrict(connects: bool) -> Result<LandlockStatus, RulesetError> {
    let ports = if connects { AccessNet::BindTcp.into() } else { AccessNet::from_all(ABI_ASKED) };
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI_ASKED))?
        .handle_access(ports)?
        .scope(Scope::from_all(ABI_ASKED))?
        .create()?
        .restrict_self()?;
    Ok(status.landlock)
}
