//! The forward proxy through which the Cloud is reached: `http://[USER:PASSWORD@]HOST[:PORT]`.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use shared::resource::Endpoint;
use shared::secret::Secret;

/// A forward proxy, and what to show it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyUrl {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<Secret<String>>,
}

/// The errors show nothing of the text: it may hold a password.
impl FromStr for ProxyUrl {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "must have the form http://[USER:PASSWORD@]HOST:PORT";
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err("must begin with http://: no other kind of proxy is supported"),
            None => url,
        };
        // A password may hold an @.
        let (credentials, host) = match rest.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, rest),
        };
        let endpoint: Endpoint = format!("http://{host}").parse().map_err(|_| FORM)?;
        if !endpoint.path.is_empty() {
            return Err(FORM);
        }
        let authorization = credentials.map(basic).transpose()?;
        Ok(Self { host: endpoint.host, port: endpoint.port, authorization })
    }
}

fn basic(credentials: &str) -> Result<Secret<String>, &'static str> {
    let mut bytes = percent_decoded(credentials)
        .ok_or("has a % in its credentials that is not followed by two hexadecimal digits")?;
    if !bytes.contains(&b':') {
        bytes.push(b':');
    }
    Ok(Secret::new(format!("Basic {}", STANDARD.encode(bytes))))
}

/// The bytes that a text of a URL stands for; `None` if a % is not followed by two hexadecimal digits.
pub(super) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next())? << 4 | hex(rest.next())?,
            byte => byte,
        });
    }
    Some(bytes)
}

fn hex(digit: Option<u8>) -> Option<u8> {
    char::from(digit?).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<(String, u16, Option<String>), &'static str> {
        let url: ProxyUrl = url.parse()?;
        let shown = format!("{url:?}");
        let authorization = url.authorization.map(|secret| secret.expose().clone());
        assert!(authorization.iter().all(|secret| !shown.contains(secret.as_str())), "{shown}");
        Ok((url.host, url.port, authorization))
    }

    #[test]
    fn a_proxy_has_a_host_a_port_and_perhaps_credentials() {
        let plain = |host: &str, port| Ok((host.to_owned(), port, None));
        assert_eq!(parse("http://proxy.test:3128"), plain("proxy.test", 3128));
        assert_eq!(parse("proxy.test:3128"), plain("proxy.test", 3128));
        assert_eq!(parse("HTTP://[::1]:8080/"), plain("::1", 8080));
        assert_eq!(parse("http://proxy.test"), plain("proxy.test", 80));
        let authorization = Some("Basic dTpwQDo=".to_owned());
        assert_eq!(parse("http://u:p%40:@h:1"), Ok(("h".to_owned(), 1, authorization.clone())));
        assert_eq!(parse("http://u:p@:@h:1"), Ok(("h".to_owned(), 1, authorization)));
    }

    #[test]
    fn what_is_no_http_proxy_is_refused_without_a_word_of_it() {
        for url in [
            "https://u:swordfish@h:1",
            "socks5://h:1",
            "http://",
            "http://u:swordfish@h:x",
            "http://u:swordfish%zz@h:1",
            "http://h:1/path",
        ] {
            let told = parse(url).unwrap_err();
            assert!(!told.contains("swordfish"), "{url}: {told}");
        }
    }
}
