//! The command line of `aisix`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use shared::version::VERSION;

/// Variables that name the configuration file where no flag does, the first one first.
const VARIABLES: [&str; 2] = ["AISIX_CONFIG", "AISIX_CONFIG_PATH"];
/// The configuration that a package installs; used where nothing else is named.
const INSTALLED: &str = "/etc/aisix/config.managed.yaml";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the gateway.
    Run {
        /// Configuration file; not known to exist.
        config: PathBuf,
    },
    /// Check the configuration, and the certificate bundle it leads to, and leave.
    Validate {
        /// Configuration file; not known to exist.
        config: PathBuf,
    },
}

/// A managed AI gateway: serves model traffic here, configured by AISIX Cloud
#[derive(Parser)]
#[command(name = "aisix", version = VERSION)]
struct Arguments {
    /// Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or
    /// /etc/aisix/config.managed.yaml
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    subcommand: Option<Name>,
}

#[derive(Subcommand)]
enum Name {
    /// Check the configuration and the certificate bundle without starting
    Validate,
}

/// Reads the arguments of this process. Leaves it with status 0 for help and version, with 2 for a usage error.
pub fn parse() -> Command {
    read(env::args_os(), |name| env::var_os(name), Path::new(INSTALLED))
        .unwrap_or_else(|error| error.exit())
}

/// `arguments` begin with the program's name; `variable` looks up the environment.
fn read(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
    installed: &Path,
) -> Result<Command, clap::Error> {
    let arguments = Arguments::try_parse_from(arguments)?;
    let named = || VARIABLES.iter().find_map(|name| variable(name).filter(|path| !path.is_empty()));
    let config = arguments
        .config
        .or_else(|| named().map(PathBuf::from))
        .or_else(|| installed.is_file().then(|| installed.to_owned()))
        .ok_or_else(|| {
            let told = format!(
                "no configuration file: give one with --config FILE or AISIX_CONFIG; {} does not exist",
                installed.display()
            );
            Arguments::command().error(ErrorKind::MissingRequiredArgument, told)
        })?;
    Ok(match arguments.subcommand {
        None => Command::Run { config },
        Some(Name::Validate) => Command::Validate { config },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: &str = "/nowhere/config.yaml";

    /// Parses with these variables, where nothing is installed unless `installed` exists.
    fn parse(
        arguments: &[&str],
        variables: &[(&str, &str)],
        installed: &str,
    ) -> Result<Command, clap::Error> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let arguments = ["aisix"].iter().chain(arguments).map(OsString::from);
        read(arguments, variable, Path::new(installed))
    }

    #[test]
    fn the_flag_counts_before_the_variables_and_they_before_the_installed_file() {
        let both = [("AISIX_CONFIG_PATH", "path"), ("AISIX_CONFIG", "config")];
        let installed = file!().replace("supervisor/", "");
        let run = |path: &str| Command::Run { config: path.into() };
        for flag in [&["-c", "flag"][..], &["--config", "flag"], &["--config=flag"]] {
            assert_eq!(parse(flag, &both, &installed).unwrap(), run("flag"));
        }
        assert_eq!(parse(&[], &both, &installed).unwrap(), run("config"));
        assert_eq!(parse(&[], &both[..1], &installed).unwrap(), run("path"));
        assert_eq!(parse(&[], &[("AISIX_CONFIG", "")], &installed).unwrap(), run(&installed));
        assert_eq!(parse(&["-c", "flag"], &[], NOWHERE).unwrap(), run("flag"));
    }

    #[test]
    fn validate_takes_the_configuration_before_or_after() {
        let expected = Command::Validate { config: "f".into() };
        for arguments in [&["validate", "--config", "f"][..], &["-c", "f", "validate"]] {
            assert_eq!(parse(arguments, &[], NOWHERE).unwrap(), expected);
        }
    }

    #[test]
    fn a_usage_error_has_status_two_and_help_has_none() {
        for wrong in [&[][..], &["--confg", "f"], &["export"], &["-c"]] {
            assert_eq!(parse(wrong, &[], NOWHERE).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
        for fine in [&["--help"][..], &["--version"], &["validate", "--help"]] {
            assert_eq!(parse(fine, &[], NOWHERE).unwrap_err().exit_code(), 0, "{fine:?}");
        }
        let told = parse(&[], &[], NOWHERE).unwrap_err().to_string();
        assert!(told.contains("--config FILE") && told.contains(NOWHERE), "{told}");
    }
}
