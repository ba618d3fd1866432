//! The text of `/etc/hosts`: an address, then its names, a line each.

use std::collections::HashMap;
use std::net::IpAddr;

/// Addresses by name. A name that is here is asked of nobody else, in neither family.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    addresses: HashMap<String, Vec<IpAddr>>,
}

impl Hosts {
    /// What is malformed is passed over.
    pub(super) fn parse(text: &str) -> Self {
        let mut hosts = Self::default();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
            for name in words {
                hosts.addresses.entry(key(name)).or_default().push(address);
            }
        }
        hosts
    }

    /// The addresses of a name, or `None` if it is not here.
    pub(super) fn find(&self, name: &str) -> Option<&[IpAddr]> {
        self.addresses.get(&key(name)).map(Vec::as_slice)
    }
}

/// Names differ neither by case nor by the dot of the root.
fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_all_the_addresses_of_its_lines() {
        let text = "# by hand\n192.0.2.7 models Models.Internal # main\n\n2001:db8::7\tmodels\nnonsense x\n#192.0.2.8 y";
        let hosts = Hosts::parse(text);
        let found = |name| {
            hosts.find(name).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(found("MODELS."), Some(vec!["192.0.2.7".to_owned(), "2001:db8::7".to_owned()]));
        assert_eq!(found("models.internal"), Some(vec!["192.0.2.7".to_owned()]));
        assert_eq!([found("x"), found("y"), found("main")], [None, None, None]);
    }
}
