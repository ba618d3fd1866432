//! The command line of `aisix`.

pub mod ask;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

pub use self::ask::Question;
use crate::bundle_report;
use crate::control::Order;
use crate::doctor;
use crate::export;

/// Variables that name the configuration file where no flag does, the first one first.
const VARIABLES: [&str; 2] = ["AISIX_CONFIG", "AISIX_CONFIG_PATH"];
/// The configuration that a package installs; used where nothing else is named.
const INSTALLED: &str = "/etc/aisix/config.managed.yaml";

/// Version and commit of this build; see `build.rs`.
pub const FULL_VERSION: &str = env!("FULL_VERSION");
/// The commit alone.
pub const COMMIT: &str = env!("COMMIT");

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the gateway.
    Run {
        /// Configuration file; not known to exist.
        config: PathBuf,
    },
    /// Go on where the image before has stopped; see `handover`.
    Resume {
        /// Configuration file; not known to exist.
        config: PathBuf,
        /// The descriptor of its state.
        state: i32,
        /// Why the image that was to follow could not: this is the one before it.
        failed: Option<String>,
    },
    /// Say whether the state on standard input could be taken over, and leave.
    CheckHandover {
        /// Configuration file; not known to exist.
        config: PathBuf,
    },
    /// Check what is named, and leave.
    Validate {
        /// Configuration file, not known to exist, with the certificate bundle or the resources it leads to; `None` =
        /// resources alone.
        config: Option<PathBuf>,
        /// Resources file, not known to exist.
        resources: Option<PathBuf>,
    },
    /// Write what an etcd holds as a resources file.
    Export(export::Options),
    /// Ask the gateway that runs.
    Ask(Question),
    /// Look for what is wrong.
    Doctor(doctor::Options),
    /// Gather what a support case needs.
    BundleReport(bundle_report::Options),
}

/// A managed AI gateway: serves model traffic here, configured by AISIX Cloud
#[derive(Parser)]
#[command(name = "aisix", version = FULL_VERSION)]
struct Arguments {
    /// Configuration file (.yaml, .toml or .json); else AISIX_CONFIG, AISIX_CONFIG_PATH or
    /// /etc/aisix/config.managed.yaml
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Descriptor of a state to go on with; written by aisix itself, see `handover/exec.rs`
    #[arg(long, hide = true, value_name = "DESCRIPTOR")]
    handover: Option<i32>,
    /// Why the program that was to follow could not
    #[arg(long, hide = true, value_name = "REASON", requires = "handover")]
    handover_failed: Option<String>,
    /// Say whether the state on standard input could be taken over
    #[arg(long, hide = true)]
    check_handover: bool,
    #[command(subcommand)]
    subcommand: Option<Name>,
}

#[derive(Subcommand)]
enum Name {
    /// Check the configuration and the certificate bundle, or a resources file, without starting
    Validate {
        /// Resources file; without --config nothing else is checked
        #[arg(long, value_name = "FILE")]
        resources: Option<PathBuf>,
    },
    /// Tell how the gateway that runs is: status 0 if it is ready, 1 if none answers, 3 if it is not ready
    Status {
        /// As JSON, whose fields stay
        #[arg(long)]
        json: bool,
        /// Again every two seconds, or every so many, until interrupted
        #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
            value_parser = clap::value_parser!(u64).range(1..=3600))]
        watch: Option<u64>,
        /// Only one line, for health checks: status 0 if it is ready, 1 if not, within five seconds
        #[arg(long, conflicts_with_all = ["json", "watch"])]
        check: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Find what is wrong, and what to do about it, also while the gateway is down: status 0 if nothing is, 3 for
    /// warnings, 4 for errors
    Doctor {
        /// As JSON, whose fields stay
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Gather what a support case needs in one archive, without secrets
    BundleReport {
        /// File to write, for its owner only; else aisix-report-TIME.tar.gz in the current folder
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        socket: Socket,
    },
    /// Change what the gateway that runs logs, until the next reload or upgrade; without a filter, tell what it logs
    Log {
        /// Filter, such as debug or supervisor=debug,info
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
        #[command(flatten)]
        socket: Socket,
    },
    /// Have the gateway that runs do what SIGHUP has it do
    Reload(Socket),
    /// Have the gateway that runs ask the Cloud for a new certificate now
    Rotate(Socket),
    /// Have the gateway that runs hand over to the binaries that are installed now
    Upgrade(Socket),
    /// Write what an etcd holds as a resources file
    Export {
        /// URLs of the etcd, separated by commas
        #[arg(long, value_name = "URL", required = true, value_delimiter = ',')]
        etcd: Vec<String>,
        /// Prefix of the keys
        #[arg(long, default_value = "/aisix")]
        prefix: String,
        /// Write secrets as they are, instead of ${VARIABLE}
        #[arg(long)]
        reveal_secrets: bool,
        /// File to write, for its owner only; else standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Where the gateway that runs is asked.
#[derive(clap::Args)]
struct Socket {
    /// Control socket of the gateway; else the one that the configuration leads to, else /run/aisix/aisix.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
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
    let (handover, failed) = (arguments.handover, arguments.handover_failed);
    let check = arguments.check_handover;
    // A gateway may run without a configuration that we can find: then the usual socket is tried.
    let known =
        |flag: Option<PathBuf>| flag.or_else(|| named(&variable)).or_else(|| is_file(installed));
    let ask = |order, Socket { socket }, flag: Option<PathBuf>| Question {
        order,
        argument: None,
        json: false,
        watch: None,
        check: false,
        socket,
        config: known(flag),
    };
    match (arguments.subcommand, arguments.config) {
        (Some(Name::Status { json, watch, check, socket }), config) => {
            let watch = watch.map(Duration::from_secs);
            Ok(Command::Ask(Question { json, watch, check, ..ask(Order::Status, socket, config) }))
        }
        (Some(Name::Log { filter, socket }), config) => {
            Ok(Command::Ask(Question { argument: filter, ..ask(Order::Log, socket, config) }))
        }
        (Some(Name::Reload(socket)), config) => {
            Ok(Command::Ask(ask(Order::Reload, socket, config)))
        }
        (Some(Name::Rotate(socket)), config) => {
            Ok(Command::Ask(ask(Order::Rotate, socket, config)))
        }
        (Some(Name::Upgrade(socket)), config) => {
            Ok(Command::Ask(ask(Order::Upgrade, socket, config)))
        }
        (Some(Name::Doctor { json, socket: Socket { socket } }), config) => {
            Ok(Command::Doctor(doctor::Options { json, socket, config: known(config) }))
        }
        (Some(Name::BundleReport { output, socket: Socket { socket } }), config) => {
            let config = known(config);
            Ok(Command::BundleReport(bundle_report::Options { output, socket, config }))
        }
        (Some(Name::Export { etcd, prefix, reveal_secrets, output }), _) => {
            Ok(Command::Export(export::Options { etcd, prefix, reveal_secrets, output }))
        }
        (Some(Name::Validate { resources: resources @ Some(_) }), config) => {
            Ok(Command::Validate { config, resources })
        }
        (Some(Name::Validate { resources }), config) => {
            let config = Some(configuration(config, variable, installed)?);
            Ok(Command::Validate { config, resources })
        }
        (None, config) => {
            let config = configuration(config, variable, installed)?;
            Ok(match handover {
                _ if check => Command::CheckHandover { config },
                Some(state) => Command::Resume { config, state, failed },
                None => Command::Run { config },
            })
        }
    }
}

/// The configuration file: the flag's, else a variable's, else the installed one.
fn configuration(
    flag: Option<PathBuf>,
    variable: impl Fn(&str) -> Option<OsString>,
    installed: &Path,
) -> Result<PathBuf, clap::Error> {
    flag.or_else(|| named(&variable)).or_else(|| is_file(installed)).ok_or_else(|| {
        let told = format!(
            "no configuration file: give one with --config FILE or AISIX_CONFIG; {} does not exist",
            installed.display()
        );
        Arguments::command().error(ErrorKind::MissingRequiredArgument, told)
    })
}

/// The configuration file that a variable names.
fn named(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &&str| variable(name).filter(|path| !path.is_empty());
    VARIABLES.iter().find_map(set).map(PathBuf::from)
}

fn is_file(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.to_owned())
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
    fn what_is_about_a_handover_goes_with_the_arguments_of_a_start() {
        let resumed =
            parse(&["-c", "f", "--handover=82", "--handover-failed=--x: y"], &[], NOWHERE);
        let failed = Some("--x: y".to_owned());
        assert_eq!(resumed.unwrap(), Command::Resume { config: "f".into(), state: 82, failed });
        let check = parse(&["-c", "f", "--check-handover"], &[], NOWHERE);
        assert_eq!(check.unwrap(), Command::CheckHandover { config: "f".into() });
        assert!(parse(&["-c", "f", "--handover-failed=x"], &[], NOWHERE).is_err());
    }

    #[test]
    fn validate_takes_the_configuration_before_or_after() {
        let expected = Command::Validate { config: Some("f".into()), resources: None };
        for arguments in [&["validate", "--config", "f"][..], &["-c", "f", "validate"]] {
            assert_eq!(parse(arguments, &[], NOWHERE).unwrap(), expected);
        }
    }

    #[test]
    fn resources_are_validated_alone_unless_a_configuration_is_named_too() {
        let variables = [("AISIX_CONFIG", "config")];
        let resources = Some("r".into());
        let alone = Command::Validate { config: None, resources: resources.clone() };
        assert_eq!(parse(&["validate", "--resources", "r"], &variables, NOWHERE).unwrap(), alone);
        let both = Command::Validate { config: Some("f".into()), resources };
        let arguments = ["validate", "--resources", "r", "-c", "f"];
        assert_eq!(parse(&arguments, &[], NOWHERE).unwrap(), both);
    }

    #[test]
    fn a_question_goes_to_the_socket_that_is_named_or_that_the_configuration_leads_to() {
        let question = |order, json, socket: Option<&str>, config: Option<&str>| {
            let (socket, config) = (socket.map(Into::into), config.map(Into::into));
            let (argument, watch, check) = (None, None, false);
            Command::Ask(Question { order, argument, json, watch, check, socket, config })
        };
        let variables = [("AISIX_CONFIG", "config")];
        for (arguments, variables, expected) in [
            (&["status"][..], &[][..], question(Order::Status, false, None, None)),
            (
                &["status", "--json", "-c", "f"],
                &variables,
                question(Order::Status, true, None, Some("f")),
            ),
            (&["reload"], &variables, question(Order::Reload, false, None, Some("config"))),
            (&["rotate", "--socket", "s"], &[], question(Order::Rotate, false, Some("s"), None)),
            (&["--config", "f", "upgrade"], &[], question(Order::Upgrade, false, None, Some("f"))),
        ] {
            assert_eq!(parse(arguments, variables, NOWHERE).unwrap(), expected, "{arguments:?}");
        }
        assert_eq!(parse(&["reload", "--json"], &[], NOWHERE).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_health_check_has_no_other_form() {
        let Command::Ask(asked) = parse(&["status", "--check"], &[], NOWHERE).unwrap() else {
            panic!()
        };
        assert!(asked.check && !asked.json && asked.watch.is_none());
        for other in ["--json", "--watch"] {
            let refused = parse(&["status", "--check", other], &[], NOWHERE).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{other}");
        }
    }

    #[test]
    fn an_export_names_its_etcd_once_or_several_times() {
        let expected = |etcd: &[&str]| {
            Command::Export(export::Options {
                etcd: etcd.iter().map(|&url| url.to_owned()).collect(),
                prefix: "/aisix".to_owned(),
                reveal_secrets: false,
                output: None,
            })
        };
        for arguments in [
            &["export", "--etcd", "http://a:1,http://b:1"][..],
            &["export", "--etcd", "http://a:1", "--etcd", "http://b:1"],
        ] {
            let read = parse(arguments, &[], NOWHERE).unwrap();
            assert_eq!(read, expected(&["http://a:1", "http://b:1"]));
        }
        let all = ["export", "--etcd", "a", "--prefix", "/x", "--reveal-secrets", "-o", "f"];
        let Command::Export(options) = parse(&all, &[], NOWHERE).unwrap() else { panic!() };
        assert!(options.reveal_secrets && options.prefix == "/x" && options.output.is_some());
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

    /// Written anew with `UPDATE_REFERENCE=1`.
    #[test]
    fn the_completions_are_up_to_date() {
        use clap_complete::{Shell, generate};
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/completions");
        for (shell, name) in
            [(Shell::Bash, "aisix.bash"), (Shell::Zsh, "_aisix"), (Shell::Fish, "aisix.fish")]
        {
            let mut text = Vec::new();
            generate(shell, &mut Arguments::command(), "aisix", &mut text);
            let path = Path::new(folder).join(name);
            if env::var_os("UPDATE_REFERENCE").is_some() {
                std::fs::create_dir_all(folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let written = std::fs::read(&path).unwrap_or_default();
            assert!(written == text, "{name} does not fit the command line any more");
        }
    }

    #[test]
    fn the_manual_page_names_every_command_and_every_option() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/man/aisix.8");
        let page = std::fs::read_to_string(path).unwrap().replace('\\', "");
        let command = Arguments::command();
        let commands = std::iter::once(&command).chain(command.get_subcommands());
        for part in commands.filter(|it| !it.is_hide_set()) {
            assert!(page.contains(part.get_name()), "{}", part.get_name());
            for option in part.get_arguments().filter(|it| !it.is_hide_set()) {
                if let Some(long) = option.get_long() {
                    assert!(page.contains(&format!("--{long}")), "--{long}");
                }
            }
        }
    }
}
