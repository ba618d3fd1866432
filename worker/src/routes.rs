//! Passthrough routes, found by what a request carries: its host, or the beginning of its path.
//!
//! Of several routes that fit, the one with a literal host is found before one with a wildcard, then the one with the longest
//! path, then the one with the highest id. A look-up costs what the host and the path are long, however many routes there are.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use shared::resource::PassthroughRoute;

/// All routes in force.
#[derive(Debug, Default)]
pub struct Routes {
    by_id: HashMap<String, Rc<PassthroughRoute>>,
    /// By host as it is written, `*.` included.
    by_host: HashMap<String, BTreeMap<String, Rc<PassthroughRoute>>>,
    /// Those without a host, by path.
    by_path: HashMap<String, BTreeMap<String, Rc<PassthroughRoute>>>,
}

/// A route by which a request goes.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundRoute {
    /// The route.
    pub route: Rc<PassthroughRoute>,
    /// The host that the caller named, in lower case and without a port; `None` if the route was found by its path.
    pub host: Option<String>,
    /// How much of the path was the route's own.
    pub prefix_bytes: usize,
}

impl Routes {
    /// Whether there is nothing to be found.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// A route is there from now on.
    pub fn put(&mut self, route: PassthroughRoute) {
        self.delete(&route.id);
        let route = Rc::new(route);
        for (index, key) in keys(&route) {
            let rows = self.index(index).entry(key).or_default();
            rows.insert(route.id.clone(), route.clone());
        }
        self.by_id.insert(route.id.clone(), route);
    }

    /// There is no such route any more.
    pub fn delete(&mut self, id: &str) {
        let Some(route) = self.by_id.remove(id) else { return };
        for (index, key) in keys(&route) {
            let index = self.index(index);
            if let Some(rows) = index.get_mut(&key) {
                rows.remove(id);
                if rows.is_empty() {
                    index.remove(&key);
                }
            }
        }
    }

    /// The route for a host, which is in lower case and without a port.
    pub fn of_host(&self, host: &str, path: &str) -> Option<FoundRoute> {
        // A wildcard stands for exactly one label.
        let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        [Some(host), wildcard.as_deref()].into_iter().flatten().find_map(|key| {
            let rows = self.by_host.get(key)?.values();
            let fitting = rows.filter_map(|route| {
                let prefix_bytes = match &route.path_prefix {
                    None => 0,
                    Some(prefix) => stripped(prefix, path)?,
                };
                Some((prefix_bytes, route))
            });
            // Of equals the last is taken, which has the highest id.
            let (prefix_bytes, route) = fitting.max_by_key(|(bytes, _)| *bytes)?;
            Some(FoundRoute { route: route.clone(), host: Some(host.to_owned()), prefix_bytes })
        })
    }

    /// The route without a host that has the longest beginning of the path.
    pub fn of_path(&self, path: &str) -> Option<FoundRoute> {
        if self.by_path.is_empty() {
            return None;
        }
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let mut ends: Vec<usize> = ends.collect();
        ends.dedup();
        ends.into_iter().rev().find_map(|end| {
            let (_, route) = self.by_path.get(path.get(..end)?)?.last_key_value()?;
            Some(FoundRoute { route: route.clone(), host: None, prefix_bytes: end })
        })
    }

    fn index(
        &mut self,
        is_host: bool,
    ) -> &mut HashMap<String, BTreeMap<String, Rc<PassthroughRoute>>> {
        if is_host { &mut self.by_host } else { &mut self.by_path }
    }
}

/// By what a route is found: whether it is a host, and which.
fn keys(route: &PassthroughRoute) -> Vec<(bool, String)> {
    if route.hosts.is_empty() {
        let prefix = route.path_prefix.as_deref().unwrap_or_default();
        return vec![(false, prefix.trim_end_matches('/').to_owned())];
    }
    route.hosts.iter().map(|host| (true, host.clone())).collect()
}

/// How much of the path is the prefix, which ends where a segment does.
fn stripped(prefix: &str, path: &str) -> Option<usize> {
    let prefix = prefix.trim_end_matches('/');
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::resource::RouteAuth;

    use super::*;

    fn route(id: &str, path_prefix: Option<&str>, hosts: &[&str]) -> PassthroughRoute {
        PassthroughRoute {
            id: id.to_owned(),
            name: id.to_owned(),
            path_prefix: path_prefix.map(str::to_owned),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            target: None,
            auth: RouteAuth::GatewayKey,
            provider_key_id: None,
            identity_header: None,
            source_cidrs: Vec::new(),
            timeout_ms: None,
        }
    }

    fn found(found: Option<FoundRoute>) -> Option<(String, usize)> {
        found.map(|found| (found.route.id.clone(), found.prefix_bytes))
    }

    fn some(id: &str, bytes: usize) -> Option<(String, usize)> {
        Some((id.to_owned(), bytes))
    }

    #[test]
    fn the_longest_path_wins_and_ends_where_a_segment_does() {
        let mut routes = Routes::default();
        for (id, prefix) in [("a", "/p"), ("b", "/p/q/"), ("c", "/p/q")] {
            routes.put(route(id, Some(prefix), &[]));
        }
        assert_eq!(found(routes.of_path("/p/x")), some("a", 2));
        assert_eq!(found(routes.of_path("/p")), some("a", 2));
        assert_eq!(found(routes.of_path("/px")), None);
        assert_eq!(found(routes.of_path("/p/q/r")), some("c", 4));
        assert_eq!(found(routes.of_path("/p/qr")), some("a", 2));
        routes.delete("c");
        assert_eq!(found(routes.of_path("/p/q")), some("b", 4));
        routes.put(route("z", Some("/"), &[]));
        assert_eq!(found(routes.of_path("/elsewhere")), some("z", 0));
    }

    #[test]
    fn a_literal_host_goes_before_a_wildcard_which_stands_for_one_label() {
        let mut routes = Routes::default();
        routes.put(route("w", None, &["*.x.test"]));
        routes.put(route("l", Some("/v1"), &["api.x.test"]));
        assert_eq!(found(routes.of_host("api.x.test", "/v1/chat")), some("l", 3));
        assert_eq!(found(routes.of_host("api.x.test", "/v2")), some("w", 0));
        assert_eq!(found(routes.of_host("other.x.test", "/v1")), some("w", 0));
        assert_eq!(found(routes.of_host("x.test", "/")), None);
        assert_eq!(found(routes.of_host("a.b.x.test", "/")), None);
        assert_eq!(found(routes.of_path("/v1")), None);
        routes.put(route("w", None, &["y.test"]));
        assert_eq!(found(routes.of_host("other.x.test", "/")), None);
    }

    proptest! {
        #[test]
        fn no_host_and_no_path_can_panic_it(host in "[a.*]{0,6}", path in "[/a]{0,6}|.*") {
            let mut routes = Routes::default();
            routes.put(route("a", Some("/a"), &[]));
            routes.put(route("b", Some("/a/"), &["*.a"]));
            for found in [routes.of_host(&host, &path), routes.of_path(&path)].into_iter().flatten() {
                prop_assert!(path.get(found.prefix_bytes..).is_some());
            }
        }
    }
}
