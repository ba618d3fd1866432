//! The destination table: everything that anybody of this gateway may connect to, derived from the configuration file and
//! the projection, for the egress worker. Pure.
//!
//! | key | leads to | named in |
//! |---|---|---|
//! | provider, by provider key id | the host of `api_base`, or the vendor's own | projection (or resources file) |
//! | manager | `managed.cp_base_url` | configuration |
//! | store, by authority | the Cloud's etcd, or each of `etcd.endpoints` | configuration |
//! | proxy | `managed.proxy_url`, in place of manager and store | configuration |
//! | redis, by authority | each node of `ratelimit.redis` and `cache.redis` | configuration |

use std::collections::BTreeMap;

use shared::egress::{Change, Entry, Key, Origin};
use shared::resource::{Endpoint, Kind, Resource};
use shared::update;

use crate::settings::{Redis, Source};

/// Every destination.
#[derive(Debug, Default)]
pub struct Destinations {
    configured: Vec<(Key, Entry)>,
    providers: BTreeMap<String, Entry>,
}

impl Destinations {
    /// What the configuration file leads to.
    pub fn new(source: &Source, redis: &Redis) -> Self {
        let mut configured = match source {
            Source::Managed(managed) => match &managed.proxy {
                Some(proxy) => vec![(Key::cloud_proxy(), configured(&proxy.host, proxy.port))],
                None => {
                    let manager = managed.manager.endpoint();
                    let manager = configured(&manager.host, manager.port);
                    vec![(Key::manager(), manager), store(&managed.etcd)]
                }
            },
            Source::Etcd(etcd) => etcd.endpoints.iter().map(store).collect(),
            Source::File(_) => Vec::new(),
        };
        let redis = redis
            .nodes()
            .map(|node| (Key::redis(&node.authority()), self::configured(&node.host, node.port)));
        configured.extend(redis);
        Self { configured, providers: BTreeMap::new() }
    }

    /// All of it.
    pub fn whole(&self) -> Vec<Change> {
        let configured = self.configured.iter().cloned();
        let providers = self.providers.iter().map(|(id, entry)| (Key::provider(id), entry.clone()));
        configured.chain(providers).map(|(key, entry)| Change::Put(key, entry)).collect()
    }

    /// Takes in a change of the projection. Returns what it changes here, and nothing else.
    pub fn apply(&mut self, whole: bool, changes: &[update::Change]) -> Vec<Change> {
        let mut gone = if whole { std::mem::take(&mut self.providers) } else { BTreeMap::new() };
        let mut told = Vec::new();
        for change in changes {
            let (id, entry) = match change {
                update::Change::Put(resource) => match &**resource {
                    Resource::ProviderKey(key) => (&key.id, key.endpoint.as_ref().map(projected)),
                    _ => continue,
                },
                update::Change::Delete(Kind::ProviderKey, id) => (id, None),
                update::Change::Delete(..) => continue,
            };
            let before = gone.remove(id).or_else(|| self.providers.remove(id));
            if let Some(entry) = &entry {
                self.providers.insert(id.clone(), entry.clone());
            }
            if before != entry {
                told.push(match entry {
                    Some(entry) => Change::Put(Key::provider(id), entry),
                    None => Change::Delete(Key::provider(id)),
                });
            }
        }
        told.extend(gone.keys().map(|id| Change::Delete(Key::provider(id))));
        told
    }
}

fn configured(host: &str, port: u16) -> Entry {
    Entry { host: host.to_owned(), port, origin: Origin::Configuration }
}

fn store(endpoint: &Endpoint) -> (Key, Entry) {
    (Key::store(&endpoint.authority()), configured(&endpoint.host, endpoint.port))
}

fn projected(endpoint: &Endpoint) -> Entry {
    Entry { host: endpoint.host.clone(), port: endpoint.port, origin: Origin::Projection }
}

#[cfg(test)]
mod tests {
    use shared::resource::ProviderKey;
    use shared::secret::Secret;
    use shared::worker_settings::{RedisNode, RedisSettings};

    use super::*;

    fn put(id: &str, api_base: Option<&str>) -> update::Change {
        update::Change::Put(Box::new(Resource::ProviderKey(ProviderKey {
            id: id.to_owned(),
            secret: Secret::new("s".to_owned()),
            endpoint: api_base.map(|url| url.parse().unwrap()),
            ..ProviderKey::default()
        })))
    }

    fn delete(id: &str) -> update::Change {
        update::Change::Delete(Kind::ProviderKey, id.to_owned())
    }

    fn words(changes: &[Change]) -> Vec<String> {
        let word = |change: &Change| match change {
            Change::Put(key, entry) => format!("{key} = {}:{}", entry.host, entry.port),
            Change::Delete(key) => format!("{key} gone"),
        };
        changes.iter().map(word).collect()
    }

    #[test]
    fn only_what_changes_is_told_and_the_whole_is_the_sum() {
        let mut table = Destinations::default();
        let first = [put("a", Some("https://a.example/v1")), put("b", Some("http://b.example"))];
        let told = table.apply(true, &first);
        assert_eq!(words(&told), ["provider a = a.example:443", "provider b = b.example:80"]);
        // Another path or secret leads to the same place.
        let told = table.apply(false, &[put("a", Some("https://a.example/v2")), delete("x")]);
        assert!(told.is_empty(), "{told:?}");
        let told = table.apply(false, &[put("a", Some("https://a.example:8443")), delete("b")]);
        assert_eq!(words(&told), ["provider a = a.example:8443", "provider b gone"]);
        assert_eq!(words(&table.whole()), ["provider a = a.example:8443"]);
        let told = table.apply(false, &[put("a", None)]);
        assert_eq!(words(&told), ["provider a gone"]);
    }

    #[test]
    fn a_whole_update_takes_away_what_it_does_not_name() {
        let mut table = Destinations::default();
        table.apply(
            true,
            &[put("a", Some("https://a.example")), put("b", Some("https://b.example"))],
        );
        let told = table.apply(true, &[put("b", Some("https://b.example"))]);
        assert_eq!(words(&told), ["provider a gone"]);
        assert_eq!(words(&table.whole()), ["provider b = b.example:443"]);
    }

    #[test]
    fn every_node_of_redis_is_a_destination_that_may_resolve_to_anything() {
        let node = |host: &str, port| RedisNode { host: host.to_owned(), port };
        let settings = |nodes| Some(RedisSettings { nodes, ..RedisSettings::default() });
        let redis = Redis {
            limits: settings(vec![node("a", 1), node("::1", 2)]),
            cache: settings(vec![node("b", 3)]),
            ..Redis::default()
        };
        let table = Destinations::new(&Source::File("x".into()), &redis);
        let told = ["redis a:1 = a:1", "redis [::1]:2 = ::1:2", "redis b:3 = b:3"];
        assert_eq!(words(&table.whole()), told);
    }

    #[test]
    fn every_etcd_is_a_destination_that_may_resolve_to_anything() {
        let endpoints = ["http://e1:2379", "https://e2"].map(|url| url.parse().unwrap());
        let configured: Vec<_> = endpoints.iter().map(store).collect();
        let table = Destinations { configured, providers: BTreeMap::new() };
        assert_eq!(words(&table.whole()), ["store e1:2379 = e1:2379", "store e2 = e2:443"]);
        for change in table.whole() {
            let Change::Put(_, entry) = change else { panic!("{change:?}") };
            assert_eq!(entry.origin, Origin::Configuration);
        }
    }
}
