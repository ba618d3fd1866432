//! aisix.yaml(5): every key, as a manual page.

use std::fmt::Write;

use super::super::key::{Effect, KEYS, Key};
use super::{about, value_of};

const HEAD: &str = r#".\" Made from the table of keys; do not edit.
.TH AISIX.YAML 5 "" aisix "File formats"
.SH NAME
aisix.yaml \- configuration of the aisix gateway
.SH SYNOPSIS
.I /etc/aisix/config.managed.yaml
.SH DESCRIPTION
Values come from the defaults, then from the file
.RB ( aisix " " \-\-config ,
.BR AISIX_CONFIG ,
.B AISIX_CONFIG_PATH
or
.IR /etc/aisix/config.managed.yaml ;
YAML, TOML or JSON by its ending), then from the environment:
.B proxy.addr
is
.BR AISIX_PROXY__ADDR .
An unknown key is an error that names the place and the nearest known key.
Lists are separated by commas in a variable, lists of objects are JSON.
.B RUST_LOG
goes before
.BR observability.log_level .
.PP
.B aisix validate
checks the result without starting;
.B aisix reload
takes most changes over without a failed request, and the log names keys that need a restart.
A key that is refused keeps its default: any other value ends the start with the place and the remedy.
.SH KEYS
"#;

const TAIL: &str = r#".SH SEE ALSO
.BR aisix (8),
.BR aisix-worker (8)
"#;

/// Text as roff takes it: neither an escape nor, at the start of a line, a request.
pub(super) fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('`', "");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for Key { name, kind, default, effect } in KEYS {
        let about = about(name).unwrap_or_default();
        writeln!(page, ".TP\n.B {}\n{}", roff(name), roff(about)).unwrap();
        let default = default.filter(|text| !text.is_empty());
        let default = default.map(|text| format!("; default {text}")).unwrap_or_default();
        let effect = match effect {
            Effect::InEffect => String::new(),
            Effect::ByDesign(reason) => format!(" Accepted without effect: {reason}."),
            Effect::Refused(reason) => format!(" Refused: {reason}."),
        };
        let told = format!("({}{default}){effect}", value_of(*kind));
        writeln!(page, "{}", roff(&told)).unwrap();
    }
    page + TAIL
}

/// Written anew with `UPDATE_REFERENCE=1 cargo test -p supervisor reference`.
#[test]
fn the_manual_page_of_the_configuration_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/man/aisix.yaml.5");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page(), "aisix.yaml(5) does not fit the table of keys any more");
}

#[test]
fn no_text_is_taken_for_a_request_or_an_escape() {
    assert_eq!(roff(".so /etc/passwd"), "\\&.so /etc/passwd");
    assert_eq!(roff("a\\b-c `d`"), "a\\eb\\-c d");
}
