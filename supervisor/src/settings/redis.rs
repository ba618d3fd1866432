//! Settings of Redis, of which there are two alike: `ratelimit.redis` and `cache.redis`.
//!
//! Workers reach no other address than those that are written here, since egress makes no connection to any other: every node
//! of a cluster has to be listed by the address that the cluster announces, and a sentinel, which would tell an address at
//! run time, cannot be asked.

use std::time::Duration;

use shared::secret::Secret;
use shared::worker_settings::{RedisNode, RedisSettings, RedisTls};

use super::error::Problem;
use super::proxy_url::percent_decoded;
use super::raw::Raw;

const PORT: u16 = 6379;
const FORM: &str =
    "must have the form redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// for TLS";
const NO_SENTINEL: &str = "this build reaches Redis only at addresses that are written here, not at those that a \
     sentinel tells; use the mode single with an address that follows the master, or cluster";

/// What is kept in Redis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Redis {
    /// Where limits are counted together with other nodes; `None` = on this node alone.
    pub limits: Option<RedisSettings>,
    /// Where answers are kept that a policy wants to be kept there.
    pub cache: Option<RedisSettings>,
    /// How long a request that is in progress keeps its place in Redis, should nobody give it back.
    pub concurrency_ttl: Duration,
}

/// The keys of one of the two blocks.
struct Keys {
    backend: &'static str,
    mode: &'static str,
    url: &'static str,
    nodes: &'static str,
    sentinels: &'static str,
    master_name: &'static str,
    username: &'static str,
    password: &'static str,
    database: &'static str,
    ca_file: &'static str,
    cert_file: &'static str,
    key_file: &'static str,
    verify: &'static str,
}

macro_rules! keys {
    ($block:literal) => {
        Keys {
            backend: concat!($block, ".backend"),
            mode: concat!($block, ".redis.mode"),
            url: concat!($block, ".redis.url"),
            nodes: concat!($block, ".redis.nodes"),
            sentinels: concat!($block, ".redis.sentinels"),
            master_name: concat!($block, ".redis.master_name"),
            username: concat!($block, ".redis.username"),
            password: concat!($block, ".redis.password"),
            database: concat!($block, ".redis.database"),
            ca_file: concat!($block, ".redis.tls.ca_file"),
            cert_file: concat!($block, ".redis.tls.client_cert_file"),
            key_file: concat!($block, ".redis.tls.client_key_file"),
            verify: concat!($block, ".redis.tls.verify"),
        }
    };
}

const LIMITS: Keys = keys!("ratelimit");
const CACHE: Keys = keys!("cache");

impl Redis {
    pub(super) fn new(raw: &Raw) -> Result<Self, Problem> {
        const TTL: &str = "ratelimit.concurrency_ttl_secs";
        let limits = LIMITS.read(raw)?.filter(|_| raw.text(LIMITS.backend) == Some("redis"));
        let concurrency_ttl = raw.seconds(TTL);
        if limits.is_some() && concurrency_ttl.is_zero() {
            return Err(raw.problem(TTL, "must be at least 1 where limits are counted in Redis"));
        }
        Ok(Self { limits, cache: CACHE.read(raw)?, concurrency_ttl })
    }

    /// Every node that is written.
    pub fn nodes(&self) -> impl Iterator<Item = &RedisNode> {
        self.limits.iter().chain(&self.cache).flat_map(|redis| &redis.nodes)
    }
}

impl Keys {
    /// The block; `None` if it is not there.
    fn read(&self, raw: &Raw) -> Result<Option<RedisSettings>, Problem> {
        let is_written = |key: &str| raw.is_written(key);
        if raw.text(self.mode) == Some("sentinel")
            || is_written(self.sentinels)
            || is_written(self.master_name)
        {
            let key = if is_written(self.mode) { self.mode } else { self.sentinels };
            return Err(raw.problem(key, NO_SENTINEL));
        }
        let is_cluster = raw.text(self.mode) == Some("cluster");
        let written = if is_cluster {
            self.cluster(raw)?
        } else {
            raw.secret(self.url).map(|url| self.url(raw, self.url, url.expose())).transpose()?
        };
        let Some(url) = written else {
            return self.absent(raw, is_cluster).map_or(Ok(None), Err);
        };
        let identity = match (raw.file(self.cert_file)?, raw.file(self.key_file)?) {
            (Some(chain), Some(key)) => Some((chain, Secret::new(key))),
            (None, None) => None,
            _ => {
                let text = format!("{} and {} must be set together", self.cert_file, self.key_file);
                return Err(Problem::Together(text));
            }
        };
        let ca_pem = raw.file(self.ca_file)?;
        let is_tls =
            url.is_tls || ca_pem.is_some() || identity.is_some() || is_written(self.verify);
        let tls = is_tls.then(|| RedisTls {
            ca_pem,
            client_identity_pem: identity,
            verify: raw.flag(self.verify),
        });
        let database = match raw.integer(self.database) {
            Some(_) => Some(raw.bounded(self.database)?),
            None => url.database,
        };
        if is_cluster && database.unwrap_or(0) != 0 {
            return Err(raw.problem(self.database, "a cluster has no other database than 0"));
        }
        Ok(Some(RedisSettings {
            is_cluster,
            nodes: url.nodes,
            username: raw.text(self.username).map(str::to_owned).or(url.username),
            password: raw.secret(self.password).cloned().or(url.password),
            database: database.unwrap_or(0),
            tls,
        }))
    }

    /// What is wrong with a block that names no Redis.
    fn absent(&self, raw: &Raw, is_cluster: bool) -> Option<Problem> {
        let place = if is_cluster { self.nodes } else { self.url };
        let settings = [self.username, self.password, self.database, self.ca_file, self.cert_file];
        let written = settings.into_iter().find(|key| raw.is_written(key));
        let cluster = is_cluster.then_some(self.mode);
        let backend = (raw.text(self.backend) == Some("redis")).then_some(self.backend);
        backend.or(cluster).or(written).map(|key| raw.problem(key, format!("needs {place}")))
    }

    fn cluster(&self, raw: &Raw) -> Result<Option<Url>, Problem> {
        let mut all: Option<Url> = None;
        for text in raw.texts(self.nodes) {
            let text = if text.contains("://") { text.clone() } else { format!("redis://{text}") };
            let one = self.url(raw, self.nodes, &text)?;
            match &mut all {
                Some(all) => all.nodes.extend(one.nodes),
                None => all = Some(one),
            }
        }
        Ok(all)
    }

    fn url(&self, raw: &Raw, key: &'static str, text: &str) -> Result<Url, Problem> {
        // Nothing of the text is told: it may hold a password.
        Url::parse(text).ok_or_else(|| raw.problem(key, FORM))
    }
}

/// What a URL of Redis says.
#[derive(Debug, PartialEq)]
struct Url {
    is_tls: bool,
    nodes: Vec<RedisNode>,
    username: Option<String>,
    password: Option<Secret<String>>,
    database: Option<u32>,
}

impl Url {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return None,
        };
        // A password may hold an @, a host and a database may not.
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials), rest),
            None => (None, rest),
        };
        let (place, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => None,
            number => Some(number.parse().ok()?),
        };
        let has_port = place.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let place = if has_port { place.to_owned() } else { format!("{place}:{PORT}") };
        let (host, port) = place.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_host) {
            return None;
        }
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let (username, password) =
            match credentials.map(|it| it.split_once(':').unwrap_or((it, ""))) {
                Some((username, password)) => (decoded(username)?, decoded(password)?),
                None => (None, None),
            };
        let nodes = vec![RedisNode { host: host.to_owned(), port }];
        Some(Self { is_tls, nodes, username, password: password.map(Secret::new), database })
    }
}

/// The text without percent signs; `Some(None)` if there is none.
fn decoded(text: &str) -> Option<Option<String>> {
    let text = String::from_utf8(percent_decoded(text)?).ok()?;
    Some(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Host, port, user, password and database.
    type Parsed = (String, u16, Option<String>, Option<String>, Option<u32>);

    fn parsed(url: &str) -> Option<Parsed> {
        let url = Url::parse(url)?;
        let node = url.nodes.into_iter().next()?;
        let password = url.password.map(|password| password.expose().clone());
        Some((node.host, node.port, url.username, password, url.database))
    }

    #[test]
    fn a_url_has_a_host_and_perhaps_port_credentials_and_database() {
        let text = |text: &str| Some(text.to_owned());
        let plain = |host: &str, port| Some((host.to_owned(), port, None, None, None));
        assert_eq!(parsed("redis://h"), plain("h", 6379));
        assert_eq!(parsed("redis://h:1/"), plain("h", 1));
        assert_eq!(parsed("redis://[::1]:7"), plain("::1", 7));
        assert_eq!(parsed("redis://[::1]"), plain("::1", 6379));
        let all = Some(("h".to_owned(), 6379, text("u"), text("p@:"), Some(3)));
        assert_eq!(parsed("redis://u:p%40:@h/3"), all);
        assert_eq!(parsed("redis://:p@h").unwrap().3, text("p"));
        assert!(Url::parse("rediss://h").unwrap().is_tls);
        for bad in [
            "h:1",
            "http://h",
            "redis://",
            "redis://h:x",
            "redis://h/x",
            "redis://a b",
            "redis://h:0",
        ] {
            assert_eq!(Url::parse(bad), None, "{bad}");
        }
    }
}
