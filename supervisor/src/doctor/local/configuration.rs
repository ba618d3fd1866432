//! The configuration: read as the start reads it, each thing that is wrong a finding of its own.

use std::io;
use std::path::Path;

use super::look::Look;
use super::{Fault, error, note, warning};
use crate::bundle::source::SourceError;
use crate::listener_tls::{ListenerTls, PairError};
use crate::resources::{self, ResourcesError};
use crate::settings::error::Origin;
use crate::settings::{Problem, Settings, SettingsError, Source, UrlFault};

const DOWN: &[&str] = &["daemon-down"];

static NONE: Fault = error(
    "config-none",
    "no configuration file is named, and none is installed",
    "Everything the gateway does follows from its configuration file.",
    "name one with --config FILE or AISIX_CONFIG, or install /etc/aisix/config.managed.yaml",
    DOWN,
);
static MISSING: Fault = error(
    "config-missing",
    "the configuration file does not exist",
    "The path may be mistyped, or the volume that holds the file is not mounted.",
    "correct the path that is given with --config, AISIX_CONFIG or AISIX_CONFIG_PATH, or put the file there",
    DOWN,
);
static UNREADABLE: Fault = error(
    "config-unreadable",
    "the configuration file cannot be read",
    "The gateway reads the file as the user that it runs as, at the start and at each reload.",
    "make it a regular file of text that the user who runs the gateway may read (chmod, chown; also the folders above it)",
    DOWN,
);
static FORMAT: Fault = error(
    "config-format-unknown",
    "the name of the configuration file does not tell its format",
    "YAML, TOML and JSON are told apart by the ending of the name.",
    "let its name end in .yaml, .yml, .toml or .json",
    DOWN,
);
static SYNTAX: Fault = error(
    "config-not-parsable",
    "the configuration file is not in the format of its name",
    "The parser stopped at the place that is named. What stands there is not shown, since it could be a secret.",
    "correct the place that is named: indentation, quotes and colons in YAML; aisix validate says whether it is right",
    DOWN,
);
static KEY_UNKNOWN: Fault = error(
    "config-key-unknown",
    "the configuration file has a key that there is not",
    "A key that nobody knows is refused, so that a mistyped one is not silently without effect.",
    "correct the key, or remove it; CONFIGURATION.md and aisix.yaml(5) list them all",
    DOWN,
);
static VARIABLE_UNKNOWN: Fault = error(
    "config-variable-unknown",
    "an environment variable that begins with AISIX_ is no key",
    "Every variable that begins with AISIX_ is configuration. One that is no key is refused, so that a mistyped one is not silently without effect.",
    "correct its name (levels of a key are joined by two underscores) or unset it",
    DOWN,
);
static KIND: Fault = error(
    "config-value-kind",
    "a value is of the wrong kind",
    "Each key has a kind, and its value is read as that.",
    "write what the key wants: a number, true or false, a text, a list",
    DOWN,
);
static UNSUPPORTED: Fault = error(
    "config-value-unsupported",
    "a value asks for something that this build does not do",
    "What is written is acted on or refused: nobody should rely on what does not happen.",
    "remove it, or set what the evidence says",
    DOWN,
);
static VALUE: Fault = error(
    "config-value-refused",
    "a value cannot be used",
    "The value is of the right kind, and out of its bounds or not in its form.",
    "set what the evidence says; CONFIGURATION.md has every key with its default",
    DOWN,
);
static MANAGER_MISSING: Fault = error(
    "config-manager-missing",
    "the address of the Cloud manager is not set",
    "In managed mode resources, budgets and certificates come from the Cloud manager, at one address.",
    "set managed.cp_base_url, or AISIX_MANAGED__CP_BASE_URL, to the manager URL that AISIX Cloud shows for this environment",
    DOWN,
);
static MANAGER_HTTP: Fault = error(
    "config-manager-not-https",
    "the address of the Cloud manager is not https",
    "The gateway shows its certificate to the manager, which only TLS can do.",
    "write it with https://, and with the port of the manager that AISIX Cloud shows",
    DOWN,
);
static MANAGER_URL: Fault = error(
    "config-manager-not-a-url",
    "the address of the Cloud manager is no URL",
    "The address has to name a host, and perhaps a port and a path, and nothing else.",
    "write it as https://HOST:PORT, as AISIX Cloud shows it for this environment",
    DOWN,
);
static KEY_MISSING: Fault = error(
    "config-key-missing",
    "a key without which nothing works is not set",
    "Some keys have no default that could be right.",
    "set it in the file or by the variable that the evidence names",
    DOWN,
);
static CONTRADICTION: Fault = error(
    "config-keys-contradict",
    "keys contradict each other",
    "Of two keys that exclude each other neither is preferred.",
    "keep the one that is meant, and remove the other",
    DOWN,
);
static FILE_MISSING: Fault = error(
    "config-file-missing",
    "a file that a key names does not exist",
    "Keys for issuers and client certificates name files, which are read at the start.",
    "put the file there, or correct the key",
    DOWN,
);
static FILE_UNREADABLE: Fault = error(
    "config-file-unreadable",
    "a file that a key names cannot be read",
    "Keys for issuers and client certificates name files, which are read at the start by the user that runs the gateway.",
    "make it a regular file of text that the user who runs the gateway may read",
    DOWN,
);
static PASSWORD_VARIABLE: Fault = error(
    "config-password-variable-missing",
    "the variable that is to hold the password of etcd is not set",
    "The password of etcd is not in the file but in a variable that the file names.",
    "set the variable that etcd.password_env names in the environment of the gateway",
    DOWN,
);
static RESOURCES_UNREADABLE: Fault = error(
    "config-resources-unreadable",
    "the resources file cannot be read",
    "With resources_file all resources come from that file.",
    "correct resources_file, or make the file readable for the user that runs the gateway",
    DOWN,
);
static RESOURCES: Fault = error(
    "config-resources-refused",
    "the resources file cannot be used",
    "The whole file is checked before any of it is used.",
    "correct what the evidence names; aisix validate --resources FILE says whether it is right",
    DOWN,
);
static LISTENER: Fault = error(
    "config-listener-certificate",
    "the certificate or the key of the listener of callers cannot be used",
    "Callers are answered over TLS with this certificate; its key stays in a process of its own.",
    "correct the files of proxy.tls as the evidence says",
    &["daemon-down", "gateway-listener-certificate"],
);
static ROLE_MISSING: Fault = error(
    "bundle-role-missing",
    "the certificate bundle is incomplete: one of certificate, key and CA is not given",
    "A bundle is a certificate, its key and the CA of the Cloud. Whoever sets one of them means them all.",
    "give all three, all inline or all as files; or none, to use the one that is kept in the state directory",
    DOWN,
);
static MIXED: Fault = error(
    "bundle-forms-mixed",
    "the certificate bundle is given partly inline and partly as files",
    "Parts of two bundles would be mixed up too easily.",
    "use one form for all three parts: the _PEM or the _FILE variables",
    DOWN,
);
static TWICE: Fault = error(
    "bundle-role-twice",
    "a part of the certificate bundle is given both inline and as a file",
    "Of two values neither is preferred.",
    "unset one of the two",
    DOWN,
);
static WITHOUT_EFFECT: Fault = note(
    "config-without-effect",
    "keys are set that change nothing here",
    "They are known for the sake of the published data plane, and there is nothing here that they could change.",
    "they can be removed",
);
static SANDBOX_OFF: Fault = warning(
    "config-sandbox-off",
    "workers are not to be confined: supervisor.sandbox is off",
    "Whoever takes over a worker then has what its user has.",
    "set supervisor.sandbox to best-effort, or to required",
    &["gateway-not-confined"],
);
static ENVIRONMENT_HIDDEN: Fault = note(
    "config-environment-hidden",
    "the configuration is not complete without the variables of the gateway, which cannot be seen here",
    "The gateway may be well: it has variables that this process does not have.",
    "run aisix doctor as root, or with the variables that the gateway is started with",
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] = &[
    &NONE,
    &MISSING,
    &UNREADABLE,
    &FORMAT,
    &SYNTAX,
    &KEY_UNKNOWN,
    &VARIABLE_UNKNOWN,
    &KIND,
    &UNSUPPORTED,
    &VALUE,
    &MANAGER_MISSING,
    &MANAGER_HTTP,
    &MANAGER_URL,
    &KEY_MISSING,
    &CONTRADICTION,
    &FILE_MISSING,
    &FILE_UNREADABLE,
    &PASSWORD_VARIABLE,
    &ROLE_MISSING,
    &MIXED,
    &TWICE,
    &RESOURCES_UNREADABLE,
    &RESOURCES,
    &LISTENER,
    &SANDBOX_OFF,
    &WITHOUT_EFFECT,
    &ENVIRONMENT_HIDDEN,
];

/// The settings, if they can be used.
pub fn check(look: &mut Look<'_>) -> Option<Box<Settings>> {
    let Some(path) = look.config else {
        // A gateway that runs has one, wherever it is.
        if look.gateway.is_none() {
            look.found(&NONE, "neither --config nor AISIX_CONFIG nor AISIX_CONFIG_PATH is given");
        }
        return None;
    };
    match Settings::load(path, look.environment.variables.clone()) {
        Ok(loaded) => {
            let keys: Vec<_> = loaded.without_effect.iter().map(|(key, _)| *key).collect();
            if !keys.is_empty() {
                look.found(&WITHOUT_EFFECT, keys.join(", "));
            }
            if loaded.settings.workers.sandbox == crate::fleet::Sandbox::Off {
                look.found(&SANDBOX_OFF, format!("supervisor.sandbox in {}", path.display()));
            }
            beside(&loaded.settings, look);
            Some(Box::new(loaded.settings))
        }
        Err(error) => {
            refused(path, &error, look);
            None
        }
    }
}

/// What a start reads beside the settings.
fn beside(settings: &Settings, look: &mut Look<'_>) {
    if let Source::File(path) = &settings.source
        && let Err(error) = resources::load(path, &|name| variable(look, name))
    {
        resources_refused(path, &error, look);
    }
    let tls = settings.proxy.tls.as_ref();
    if let Some(Err(error)) = tls.map(|tls| ListenerTls::open(tls, look.now)) {
        listener_refused(&error, look);
    }
}

fn variable(look: &Look<'_>, name: &str) -> Option<String> {
    let mut all = look.environment.variables.iter();
    let (_, value) = all.find(|(known, _)| known == name)?;
    value.to_str().map(str::to_owned)
}

fn resources_refused(path: &Path, error: &ResourcesError, look: &mut Look<'_>) {
    match std::fs::File::open(path) {
        Err(cause) if look.is_hidden(path, cause.kind()) => {}
        Err(cause) => look.found(&RESOURCES_UNREADABLE, format!("{}: {cause}", path.display())),
        Ok(_) => look.found(&RESOURCES, error.to_string()),
    }
}

fn listener_refused(error: &PairError, look: &mut Look<'_>) {
    if !error.unreadable().is_some_and(|(path, kind)| look.is_hidden(path, kind)) {
        look.found(&LISTENER, error.to_string());
    }
}

fn refused(path: &Path, error: &SettingsError, look: &mut Look<'_>) {
    let evidence = error.to_string();
    match error {
        SettingsError::Read { source, .. } => match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                look.found(&MISSING, format!("{evidence}{}", named_by(look, path)));
            }
            kind if look.is_hidden(path, kind) => {}
            _ => look.found(&UNREADABLE, evidence),
        },
        SettingsError::Extension(_) => look.found(&FORMAT, evidence),
        SettingsError::Parse { .. } => look.found(&SYNTAX, evidence),
        SettingsError::Invalid(problems) => {
            for problem in problems {
                self::problem(problem, look);
            }
        }
    }
}

/// Which variable names the file, if one does.
fn named_by(look: &Look<'_>, path: &Path) -> String {
    let names = ["AISIX_CONFIG", "AISIX_CONFIG_PATH"];
    let ours =
        names.iter().find(|name| variable(look, name).as_deref().map(Path::new) == Some(path));
    ours.map(|name| format!(" ({name} names it)")).unwrap_or_default()
}

fn problem(problem: &Problem, look: &mut Look<'_>) {
    let fault = match problem {
        Problem::UnknownKey { origin: Origin::Variable(_), .. } => &VARIABLE_UNKNOWN,
        Problem::UnknownKey { .. } => &KEY_UNKNOWN,
        Problem::Kind { .. } => &KIND,
        Problem::Refused { .. } => &UNSUPPORTED,
        Problem::Value { key, .. } if key == "etcd.password_env" => &PASSWORD_VARIABLE,
        Problem::Value { .. } => &VALUE,
        Problem::Url { fault: UrlFault::PlainHttp | UrlFault::Scheme, .. } => &MANAGER_HTTP,
        Problem::Url { fault: UrlFault::Form(_), .. } => &MANAGER_URL,
        Problem::File { path, kind, .. } => match kind {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => &FILE_MISSING,
            kind if look.is_hidden(path, *kind) => return,
            _ => &FILE_UNREADABLE,
        },
        Problem::Bundle(SourceError::Both { .. }) => &TWICE,
        Problem::Bundle(SourceError::Mixed { .. }) => &MIXED,
        Problem::Bundle(SourceError::Incomplete { .. }) => &ROLE_MISSING,
        Problem::Missing { key: "managed.cp_base_url", .. } => &MANAGER_MISSING,
        Problem::Missing { .. } => &KEY_MISSING,
        Problem::Together(_) => &CONTRADICTION,
    };
    let evidence = problem.to_string();
    // A variable that we do not see may be what is missing.
    let may_be_there = matches!(
        problem,
        Problem::Missing { .. } | Problem::Bundle(SourceError::Incomplete { .. })
    ) || std::ptr::eq(fault, &PASSWORD_VARIABLE);
    match &look.environment.uncertain {
        Some(why) if may_be_there => {
            let evidence = format!("{evidence} ({why})");
            look.found(&ENVIRONMENT_HIDDEN, evidence);
        }
        _ => look.found(fault, evidence),
    }
}
