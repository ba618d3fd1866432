//! Landlock: a ruleset without a single permission.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetError, Scope,
};

/// The newest ABI whose rights are asked for; older kernels give what they have.
const ABI_ASKED: ABI = ABI::V7;

/// Denies every file, every TCP port to bind, and signals and abstract sockets to processes outside. Connecting is left
/// to the system call filter. Returns the kernel's ABI, or why there is none.
pub fn deny_all() -> Result<u16, String> {
    let status = restrict().map_err(|error| error.to_string())?;
    match status {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            let kernel_abi = kernel_abi.and_then(|abi| u16::try_from(abi).ok());
            Ok(kernel_abi.unwrap_or(effective_abi as u16))
        }
        LandlockStatus::NotEnabled => Err("in the kernel, but not enabled".to_owned()),
        LandlockStatus::NotImplemented => Err("not in this kernel".to_owned()),
    }
}

fn restrict() -> Result<LandlockStatus, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI_ASKED))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(ABI_ASKED))?
        .create()?
        .restrict_self()?;
    Ok(status.landlock)
}
