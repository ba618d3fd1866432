//! Where a request through a passthrough route goes. Pure.
//!
//! A route leads to its own target, or to the host that the caller has named, which is one of the route's own. The secret of a
//! provider key goes to no other host than the key's own.

use std::rc::Rc;

use http::Uri;
use http::uri::PathAndQuery;
use shared::egress::Key;
use shared::resource::{Endpoint, ProviderKey, UpstreamTls};

use crate::request::RequestError;
use crate::routes::FoundRoute;
use crate::upstream::Place;

/// Where to connect to.
///
/// # Errors
/// [`RequestError::Unusable`] if route and provider key do not belong together.
pub fn place(
    found: &FoundRoute,
    provider_key: Option<&ProviderKey>,
) -> Result<Rc<Place>, RequestError> {
    let route = &found.route;
    let unusable = |what: &str| {
        RequestError::Unusable(format!("passthrough route '{}' is not usable: {what}", route.name))
    };
    let (key, endpoint) = match (&route.target, &found.host) {
        (Some(target), _) => (Key::route(&route.id), target.clone()),
        (None, Some(host)) => {
            let endpoint =
                Endpoint { tls: true, host: host.clone(), port: 443, path: String::new() };
            (Key::route_host(&route.id, host), endpoint)
        }
        (None, None) => return Err(unusable("it has no target")),
    };
    let own = provider_key.and_then(|provider_key| provider_key.endpoint.as_ref());
    let is_same = |own: &Endpoint| {
        own.tls == endpoint.tls
            && own.port == endpoint.port
            && own.host.eq_ignore_ascii_case(&endpoint.host)
    };
    if own.is_some_and(|own| !is_same(own)) {
        return Err(unusable("its provider key belongs to another host than it leads to"));
    }
    let tls = provider_key.map_or_else(UpstreamTls::default, |key| key.tls.clone());
    Ok(Rc::new(Place::new(key, endpoint, tls)))
}

/// Path and query at the target.
///
/// # Errors
/// [`RequestError::Invalid`] for a path that leads out of the target's, or that is none.
pub fn uri(found: &FoundRoute, place: &Place, uri: &Uri) -> Result<Uri, RequestError> {
    let path = uri.path();
    if path.split('/').any(is_step) {
        let reason = "the path must not have segments `.` or `..`";
        return Err(RequestError::Invalid(reason.to_owned()));
    }
    // A route that leads to the caller's host mirrors it: its path only chooses.
    let stripped = if found.route.target.is_some() { found.prefix_bytes } else { 0 };
    let rest = path.get(stripped..).unwrap_or_default();
    let mut target = format!("{}{rest}", place.endpoint.path);
    if !target.starts_with('/') {
        target.insert(0, '/');
    }
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let target = PathAndQuery::try_from(target)
        .map_err(|_| RequestError::Invalid("the path cannot be forwarded".to_owned()))?;
    Ok(Uri::from(target))
}

/// Whether a segment is a step to somewhere else, however it is written.
fn is_step(segment: &str) -> bool {
    let plain = segment.replace("%2e", ".").replace("%2E", ".");
    let plain = plain.split([';', '\\']).next().unwrap_or_default();
    matches!(plain, "." | "..") || segment.to_ascii_lowercase().contains("%2f..")
}

#[cfg(test)]
mod tests {
    use shared::resource::{PassthroughRoute, RouteAuth};

    use super::*;

    fn found(target: Option<&str>, host: Option<&str>, prefix_bytes: usize) -> FoundRoute {
        let route = PassthroughRoute {
            id: "r".to_owned(),
            name: "r".to_owned(),
            path_prefix: Some("/p".to_owned()),
            hosts: Vec::new(),
            target: target.map(|url| url.parse().unwrap()),
            auth: RouteAuth::GatewayKey,
            provider_key_id: None,
            identity_header: None,
            source_cidrs: Vec::new(),
            timeout_ms: None,
        };
        FoundRoute { route: Rc::new(route), host: host.map(str::to_owned), prefix_bytes }
    }

    fn asked(found: &FoundRoute, path: &str) -> Result<String, String> {
        let place = place(found, None).unwrap();
        uri(found, &place, &path.parse().unwrap())
            .map(|uri| uri.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_target_is_mounted_at_the_prefix_and_a_preserved_host_mirrors_the_path() {
        let mounted = found(Some("https://up.test/base/"), None, 2);
        assert_eq!(asked(&mounted, "/p/v1/x?a=%20b").unwrap(), "/base/v1/x?a=%20b");
        assert_eq!(asked(&mounted, "/p").unwrap(), "/base");
        assert_eq!(asked(&found(Some("https://up.test"), None, 2), "/p?q").unwrap(), "/?q");
        let mirrored = found(None, Some("api.test"), 2);
        assert_eq!(asked(&mirrored, "/p/x").unwrap(), "/p/x");
        let place = place(&mirrored, None).unwrap();
        assert_eq!(place.endpoint.to_string(), "https://api.test");
        assert_eq!(place.key.id, "r api.test");
    }

    #[test]
    fn no_path_leads_out_of_the_target_s() {
        let mounted = found(Some("https://up.test/base"), None, 2);
        for path in ["/p/../x", "/p/%2e%2E/x", "/p/a/..", "/p/./x", "/p/..;a/x", "/p/a%2F../b"] {
            assert!(asked(&mounted, path).is_err(), "{path}");
        }
        assert!(asked(&mounted, "/p/..a/b..").is_ok());
    }

    #[test]
    fn a_secret_goes_to_no_other_host_than_the_provider_key_s_own() {
        let mounted = found(Some("https://up.test/base"), None, 2);
        let of = |base: Option<&str>| ProviderKey {
            endpoint: base.map(|base| base.parse().unwrap()),
            ..ProviderKey::default()
        };
        assert!(place(&mounted, Some(&of(Some("https://UP.test/v1")))).is_ok());
        assert!(place(&mounted, Some(&of(None))).is_ok());
        for other in ["https://other.test", "http://up.test:443", "https://up.test:8443"] {
            assert!(place(&mounted, Some(&of(Some(other)))).is_err(), "{other}");
        }
    }
}
