//! The destination table: everything that anybody of this gateway may connect to, derived from the configuration file and
//! the projection, for the egress worker. Pure.
//!
//! | key | leads to | named in |
//! |---|---|---|
//! | provider, by provider key id | the host of `api_base`, or the vendor's own | projection (or resources file) |
//! | identity provider, by its id | the host of `jwks_uri`, or of the issuer | projection (or resources file) |
//! | token endpoint, by provider key id | where the account in its secret asks for tokens | projection (or resources file) |
//! | route, by route id (and host, where the caller names it) | the host of `target_url`, or each of `hosts`: a `*.` stands for one label | projection |
//! | manager | `managed.cp_base_url` | configuration |
//! | store, by authority | the Cloud's etcd, or each of `etcd.endpoints` | configuration |
//! | proxy | `managed.proxy_url`, in place of manager and store | configuration |
//! | exporter, by its id | the host of `endpoint` | projection (or resources file) |
//! | exporter, without an id | `observability.tracing.otlp.endpoint` | configuration |
//! | redis, by authority | each node of `ratelimit.redis` and `cache.redis` | configuration |

use std::collections::BTreeMap;

use shared::egress::{Change, Entry, Key, Origin};
use shared::resource::{Adapter, Endpoint, Kind, Resource};
use shared::update;

use crate::projection::document::cloud;
use crate::settings::{Otlp, Redis, Source};

/// Every destination.
#[derive(Debug, Default)]
pub struct Destinations {
    configured: Vec<(Key, Entry)>,
    projected: BTreeMap<Row, Vec<(Key, Entry)>>,
}

/// A resource that leads somewhere.
type Row = (Kind, String);

impl Destinations {
    /// What the configuration file leads to.
    pub fn new(source: &Source, redis: &Redis, otlp: Option<&Otlp>) -> Self {
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
        configured.extend(otlp.map(|otlp| {
            let place = &otlp.endpoint.endpoint;
            (Key::export(""), self::configured(&place.host, place.port))
        }));
        Self { configured, projected: BTreeMap::new() }
    }

    /// All of it.
    pub fn whole(&self) -> Vec<Change> {
        let projected = self.projected.values().flatten();
        let all = self.configured.iter().chain(projected);
        all.map(|(key, entry)| Change::Put(key.clone(), entry.clone())).collect()
    }

    /// Takes in a change of the projection. Returns what it changes here, and nothing else.
    pub fn apply(&mut self, whole: bool, changes: &[update::Change]) -> Vec<Change> {
        let mut gone = if whole { std::mem::take(&mut self.projected) } else { BTreeMap::new() };
        let mut told = Vec::new();
        for change in changes {
            let (row, entries) = match change {
                update::Change::Put(resource) => {
                    ((resource.kind(), resource.id().to_owned()), entries(resource))
                }
                update::Change::Delete(kind, id) => ((*kind, id.clone()), Vec::new()),
            };
            let before = gone.remove(&row).or_else(|| self.projected.remove(&row));
            let before = before.unwrap_or_default();
            let is_gone = |(key, _): &&(Key, Entry)| entries.iter().all(|(other, _)| other != key);
            told.extend(before.iter().filter(is_gone).map(|(key, _)| Change::Delete(key.clone())));
            let news = entries.iter().filter(|entry| !before.contains(entry));
            told.extend(news.map(|(key, entry)| Change::Put(key.clone(), entry.clone())));
            if !entries.is_empty() {
                self.projected.insert(row, entries);
            }
        }
        told.extend(gone.values().flatten().map(|(key, _)| Change::Delete(key.clone())));
        told
    }
}

/// Fills in where Bedrock is for the provider keys whose documents do not say it: where the configuration says, else in the
/// region of the key.
pub fn place_bedrock(changes: &mut [update::Change], configured: Option<&Endpoint>) {
    for change in changes {
        let update::Change::Put(resource) = change else { continue };
        let Resource::ProviderKey(key) = &mut **resource else { continue };
        let is_bedrock = cloud::adapter(key.adapter, &key.provider) == Some(Adapter::Bedrock);
        if is_bedrock && key.endpoint.is_none() {
            let of_region = || cloud::bedrock_endpoint(key.secret.expose());
            key.endpoint = configured.cloned().or_else(of_region);
        }
    }
}

/// Where a resource leads.
fn entries(resource: &Resource) -> Vec<(Key, Entry)> {
    match resource {
        Resource::ProviderKey(key) => {
            let places = [
                (Key::provider(&key.id), &key.endpoint),
                (Key::token(&key.id), &key.token_endpoint),
            ];
            let entry =
                |(key, place): (Key, &Option<Endpoint>)| Some((key, projected(place.as_ref()?)));
            places.into_iter().filter_map(entry).collect()
        }
        Resource::OidcProvider(provider) => {
            let place = provider.keys.endpoint().into_iter();
            place.map(|place| (Key::keys(&provider.id), projected(place))).collect()
        }
        Resource::Exporter(exporter) => {
            vec![(Key::export(&exporter.id), projected(&exporter.endpoint.endpoint))]
        }
        Resource::PassthroughRoute(route) => match &route.target {
            Some(target) => vec![(Key::route(&route.id), projected(target))],
            None => route
                .hosts
                .iter()
                .map(|host| {
                    let entry = Entry { host: host.clone(), port: 443, origin: Origin::Projection };
                    (Key::route_host(&route.id, host), entry)
                })
                .collect(),
        },
        _ => Vec::new(),
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
    use shared::resource::{
        Exporter, KeySource, OidcProvider, PassthroughRoute, ProviderKey, RouteAuth, WebUrl,
    };
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
        let table = Destinations::new(&Source::File("x".into()), &redis, None);
        let told = ["redis a:1 = a:1", "redis [::1]:2 = ::1:2", "redis b:3 = b:3"];
        assert_eq!(words(&table.whole()), told);
    }

    #[test]
    fn the_collector_of_the_file_may_resolve_to_anything_and_that_of_the_projection_may_not() {
        let endpoint: WebUrl = "http://otel-collector:4318/v1/traces".parse().unwrap();
        let otlp = Otlp { endpoint: endpoint.clone(), headers: Vec::new(), sample_ratio: 1.0 };
        let source = Source::File("x".into());
        let mut table = Destinations::new(&source, &Redis::default(), Some(&otlp));
        let exporter = Exporter {
            id: "o".to_owned(),
            name: "otel".to_owned(),
            endpoint,
            headers: Vec::new(),
            sample_rate: 1.0,
        };
        let put = update::Change::Put(Box::new(Resource::Exporter(exporter)));
        assert_eq!(words(&table.apply(false, &[put])), ["exporter o = otel-collector:4318"]);
        let origins = table.whole().into_iter().map(|change| match change {
            Change::Put(key, entry) => (key.id, entry.origin),
            Change::Delete(key) => panic!("{key}"),
        });
        let expected = [("", Origin::Configuration), ("o", Origin::Projection)];
        assert!(origins.eq(expected.map(|(id, origin)| (id.to_owned(), origin))));
    }

    #[test]
    fn an_identity_provider_leads_to_where_its_keys_are_and_shares_no_entry_with_a_provider_key() {
        let mut table = Destinations::default();
        let provider = |uri: Option<&str>| {
            update::Change::Put(Box::new(Resource::OidcProvider(OidcProvider {
                id: "a".to_owned(),
                keys: KeySource::of("https://id.example/r", uri),
                ..OidcProvider::default()
            })))
        };
        let told = table.apply(true, &[put("a", Some("https://a.example")), provider(None)]);
        assert_eq!(
            words(&told),
            ["provider a = a.example:443", "identity provider a = id.example:443"]
        );
        let told = table.apply(false, &[provider(Some("https://keys.example/jwks"))]);
        assert_eq!(words(&told), ["identity provider a = keys.example:443"]);
        let gone = update::Change::Delete(Kind::OidcProvider, "a".to_owned());
        assert_eq!(words(&table.apply(false, &[gone])), ["identity provider a gone"]);
        assert_eq!(words(&table.whole()), ["provider a = a.example:443"]);
    }

    #[test]
    fn where_tokens_are_handed_out_is_a_destination_of_its_own() {
        let key = |token: Option<&str>| {
            update::Change::Put(Box::new(Resource::ProviderKey(ProviderKey {
                id: "a".to_owned(),
                endpoint: Some("https://a.example".parse().unwrap()),
                token_endpoint: token.map(|url| url.parse().unwrap()),
                ..ProviderKey::default()
            })))
        };
        let mut table = Destinations::default();
        let told = table.apply(false, &[key(Some("https://t.example/token"))]);
        assert_eq!(
            words(&told),
            ["provider a = a.example:443", "token endpoint a = t.example:443"]
        );
        assert_eq!(words(&table.apply(false, &[key(None)])), ["token endpoint a gone"]);
        table.apply(false, &[key(Some("https://t.example/token"))]);
        assert_eq!(table.apply(false, &[delete("a")]).len(), 2);
    }

    #[test]
    fn bedrock_is_where_the_document_says_then_the_configuration_then_the_region() {
        let place = |api_base: Option<&str>, configured: Option<&str>| {
            let mut change = put("a", api_base);
            let update::Change::Put(resource) = &mut change else { panic!() };
            let Resource::ProviderKey(key) = &mut **resource else { panic!() };
            key.provider = "bedrock".to_owned();
            let configured = configured.map(|url| url.parse::<Endpoint>().unwrap());
            let mut changes = [change];
            place_bedrock(&mut changes, configured.as_ref());
            words(&Destinations::default().apply(false, &changes)).concat()
        };
        let own = Some("https://own.example");
        assert_eq!(place(own, Some("http://c.example")), "provider a = own.example:443");
        assert_eq!(place(None, Some("http://c.example")), "provider a = c.example:80");
        let region = "provider a = bedrock-runtime.us-east-1.amazonaws.com:443";
        assert_eq!(place(None, None), region);
    }

    #[test]
    fn a_route_leads_to_its_target_or_to_the_hosts_that_it_is_for() {
        let route = |target: Option<&str>, hosts: &[&str]| {
            update::Change::Put(Box::new(Resource::PassthroughRoute(PassthroughRoute {
                id: "r".to_owned(),
                name: "r".to_owned(),
                path_prefix: None,
                hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
                target: target.map(|url| url.parse().unwrap()),
                auth: RouteAuth::GatewayKey,
                provider_key_id: None,
                identity_header: None,
                source_cidrs: Vec::new(),
                timeout_ms: None,
            })))
        };
        let mut table = Destinations::default();
        let told = table.apply(false, &[route(Some("http://up.test:81/x"), &["a.test"])]);
        assert_eq!(words(&told), ["passthrough route r = up.test:81"]);
        let told = table.apply(false, &[route(None, &["a.test", "*.b.test"])]);
        let expected = [
            "passthrough route r gone",
            "passthrough route r a.test = a.test:443",
            "passthrough route r *.b.test = *.b.test:443",
        ];
        assert_eq!(words(&told), expected);
        let told = table.apply(false, &[route(None, &["*.b.test"])]);
        assert_eq!(words(&told), ["passthrough route r a.test gone"]);
        let told = table.apply(true, &[]);
        assert_eq!(words(&told), ["passthrough route r *.b.test gone"]);
    }

    #[test]
    fn every_etcd_is_a_destination_that_may_resolve_to_anything() {
        let endpoints = ["http://e1:2379", "https://e2"].map(|url| url.parse().unwrap());
        let configured: Vec<_> = endpoints.iter().map(store).collect();
        let table = Destinations { configured, projected: BTreeMap::new() };
        assert_eq!(words(&table.whole()), ["store e1:2379 = e1:2379", "store e2 = e2:443"]);
        for change in table.whole() {
            let Change::Put(_, entry) = change else { panic!("{change:?}") };
            assert_eq!(entry.origin, Origin::Configuration);
        }
    }
}
