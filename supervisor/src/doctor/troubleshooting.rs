//! The page of remedies, `TROUBLESHOOTING.md`: made from the catalogue, so that every finding is on it.

use std::fmt::Write;

use super::causes::sentence;
use super::{Fault, Severity, catalogue};

const HEAD: &str = "# Troubleshooting

What `aisix doctor` finds, why it happens, and what to do about it; from the catalogue that the program uses
(`supervisor/src/doctor/`). Ask it first: it finds the cause and sets aside what merely follows from it.

```console
$ aisix doctor          # also while the gateway is down; --json for programs
$ aisix status          # how the gateway is: the five checks of the managed guide, in their order
$ aisix bundle-report   # everything that a support case needs, without secrets
```

The five checks fail in their order: a gateway that does not start sends no heartbeat; without a heartbeat look at the groups
`dns`, `route`, `proxy`, `tls` and `cloud` below; with a heartbeat but without resources at `etcd`; with resources but with
failing requests at the access log, whose `attempts` name each target; without usage at `cloud` and at the spool in `aisix status`.

Exit status: 0 nothing or notes, 3 warnings, 4 errors, 1 could not examine.
";

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn group(code: &str) -> &str {
    code.split_once('-').map_or(code, |(group, _)| group)
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    let faults = catalogue();
    let mut groups: Vec<&str> = Vec::new();
    for fault in &faults {
        if !groups.contains(&group(fault.code)) {
            groups.push(group(fault.code));
        }
    }
    for name in groups {
        writeln!(page, "\n## {name}").unwrap();
        for fault in faults.iter().filter(|fault| group(fault.code) == name) {
            let Fault { code, severity: how, title, why, remedy, explains } = fault;
            writeln!(page, "\n### {code}\n\n{} ({}).", sentence(title), severity(*how)).unwrap();
            if !why.is_empty() {
                writeln!(page, "\n{why}").unwrap();
            }
            writeln!(page, "\n**What to do:** {remedy}.").unwrap();
            if !explains.is_empty() {
                let explained: Vec<_> = explains
                    .iter()
                    .map(|it| match it.strip_suffix('-') {
                        Some(group) => format!("everything of `{group}`"),
                        None => format!("`{it}`"),
                    })
                    .collect();
                writeln!(page, "\nSets aside: {}.", explained.join(", ")).unwrap();
            }
        }
    }
    page
}

/// Written anew with `UPDATE_REFERENCE=1 cargo test -p supervisor troubleshooting`.
#[test]
fn the_page_of_remedies_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../TROUBLESHOOTING.md");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page(), "TROUBLESHOOTING.md does not fit the catalogue any more");
}

#[test]
fn every_fault_has_a_name_of_its_own_and_says_what_to_do() {
    let faults = catalogue();
    assert!(faults.len() >= 40, "{}", faults.len());
    let mut codes: Vec<_> = faults.iter().map(|fault| fault.code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), faults.len(), "a code stands twice");
    for fault in faults {
        assert!(!fault.title.is_empty() && !fault.title.ends_with('.'), "{}", fault.code);
        assert!(!fault.remedy.is_empty(), "{}", fault.code);
        for explained in fault.explains {
            let known = codes.iter().any(|code| {
                code == explained || (explained.ends_with('-') && code.starts_with(explained))
            });
            assert!(known, "{} explains {explained}, which is no fault", fault.code);
        }
    }
}
