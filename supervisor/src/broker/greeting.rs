//! Whether a worker that says hello is understood: its protocol versions and its build. Pure.

use shared::message::Hello;
use shared::version::Protocols;

/// How much of a worker's own words goes into the log, in characters.
const VERSION_CHARS_MAX: usize = 100;

/// Of which builds a worker may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builds<'a> {
    /// Of this one: whom this supervisor has started.
    Same(&'a str),
    /// Of any that speaks a version in common: whom another supervisor has started, and who is replaced soon.
    Any,
}

/// The protocol version that a worker and this build, which speaks `ours`, talk in; or why they cannot, and what to do.
pub fn settle(hello: &Hello, ours: Protocols, builds: Builds<'_>) -> Result<u16, String> {
    let theirs: String = hello.version.chars().take(VERSION_CHARS_MAX).collect();
    let Some(version) = hello.protocols.common(ours) else {
        return Err(format!(
            "aisix-worker (build {theirs:?}) speaks protocol version {}, aisix speaks {ours}; install both from one package",
            hello.protocols
        ));
    };
    match builds {
        Builds::Same(build) if build != hello.version => Err(format!(
            "aisix-worker is version {theirs:?}, aisix is {build:?}; install both from one package"
        )),
        Builds::Same(_) | Builds::Any => Ok(version),
    }
}

#[cfg(test)]
mod tests {
    use shared::id::{Role, WorkerId};
    use shared::message::Confinement;

    use super::*;

    fn hello(oldest: u16, newest: u16, version: &str) -> Hello {
        Hello {
            worker: WorkerId(1),
            role: Role::Proxy,
            protocols: Protocols { oldest, newest },
            version: version.to_owned(),
            confinement: Confinement::default(),
        }
    }

    const OURS: Protocols = Protocols { oldest: 2, newest: 3 };

    #[test]
    fn a_neighbouring_version_is_understood_and_a_farther_one_is_refused_with_both_ranges() {
        for (oldest, newest, spoken) in [(1, 2, 2), (2, 3, 3), (3, 4, 3), (1, 9, 3)] {
            assert_eq!(settle(&hello(oldest, newest, "x"), OURS, Builds::Any), Ok(spoken));
        }
        for (oldest, newest) in [(1, 1), (4, 5), (0, 0), (9, 2)] {
            let refused = settle(&hello(oldest, newest, "x"), OURS, Builds::Any).unwrap_err();
            assert!(refused.contains("2 to 3") && refused.contains("one package"), "{refused}");
        }
    }

    #[test]
    fn another_build_is_refused_where_builds_must_be_the_same() {
        assert_eq!(settle(&hello(2, 3, "1.0"), OURS, Builds::Same("1.0")), Ok(3));
        let refused = settle(&hello(2, 3, "1.1"), OURS, Builds::Same("1.0")).unwrap_err();
        assert!(refused.contains("1.1") && refused.contains("1.0"), "{refused}");
    }

    #[test]
    fn a_build_of_sixty_thousand_characters_is_not_told_whole() {
        let long = hello(2, 3, &"x".repeat(60_000));
        assert!(settle(&long, OURS, Builds::Same("1.0")).unwrap_err().len() < 300);
    }
}
