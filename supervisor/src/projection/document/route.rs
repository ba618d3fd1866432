//! `passthrough_routes`: routes past the gateway's own endpoints. What a document may say is in `surface`.

use serde_json::{Map, Value};
use shared::cidr::Cidr;
use shared::resource::{Endpoint, PassthroughRoute, Resource, RouteAuth};

use super::shape::{is_enabled, text};
use super::{Refusal, parse_failed, surface};

/// What a route must have beside what its table says.
pub fn extra(members: &Map<String, Value>) -> Result<(), Refusal> {
    surface::route_extra(members)?;
    let value = |name: &str| members.get(name);
    for (index, block) in texts(value("source_cidrs")).iter().enumerate() {
        if block.parse::<Cidr>().is_err() {
            let expectation = "expected an IP address or a block such as 10.0.0.0/8";
            return Err(parse_failed(&format!("/source_cidrs/{index}"), expectation));
        }
    }
    let target = value("target_url").and_then(Value::as_str);
    match target.map(str::parse::<Endpoint>) {
        Some(Err(error)) => {
            Err(parse_failed("/target_url", &format!("expected a URL that {error}")))
        }
        _ => Ok(()),
    }
}

/// The route, if it is switched on.
pub fn read(id: &str, value: &Value) -> Option<Resource> {
    let of = |name| text(value, name).map(str::to_owned);
    let auth = match text(value, "auth_mode") {
        Some("header_key") => RouteAuth::Header(of("auth_header_name")?),
        Some("anonymous") => RouteAuth::Anonymous(of("anonymous_key_id")?),
        _ => RouteAuth::GatewayKey,
    };
    let source_cidrs = texts(value.get("source_cidrs"));
    let route = PassthroughRoute {
        id: id.to_owned(),
        name: of("name").or_else(|| of("display_name"))?,
        path_prefix: of("path_prefix"),
        hosts: texts(value.get("hosts")).iter().map(|host| host.to_ascii_lowercase()).collect(),
        target: text(value, "target_url").and_then(|url| url.parse().ok()),
        auth,
        provider_key_id: of("provider_key_id"),
        identity_header: of("identity_header"),
        source_cidrs: source_cidrs.iter().filter_map(|block| block.parse().ok()).collect(),
        timeout_ms: value.get("timeout_ms").and_then(Value::as_u64),
    };
    is_enabled(value).then_some(Resource::PassthroughRoute(route))
}

fn texts(list: Option<&Value>) -> Vec<&str> {
    let items = list.and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_route_is_read_as_it_is_written() {
        let document = json!({"name": "copilot", "hosts": ["*.GitHub.test"], "preserve_host": true,
            "auth_mode": "anonymous", "anonymous_key_id": "k", "source_cidrs": ["10.0.0.0/8"],
            "credential_mode": "forward_client", "timeout_ms": 5, "identity_header": "x-user"});
        extra(document.as_object().unwrap()).unwrap();
        let Some(Resource::PassthroughRoute(route)) = read("r", &document) else { panic!() };
        assert_eq!((route.name.as_str(), route.hosts[0].as_str()), ("copilot", "*.github.test"));
        assert_eq!(route.auth, RouteAuth::Anonymous("k".to_owned()));
        assert_eq!((route.target, route.timeout_ms, route.source_cidrs.len()), (None, Some(5), 1));
        assert_eq!(read("r", &json!({"name": "x", "enabled": false})), None);
    }

    #[test]
    fn what_would_open_a_route_further_than_meant_is_refused() {
        let base = json!({"name": "r", "path_prefix": "/r", "target_url": "https://up.test",
            "credential_mode": "forward_client"});
        for (name, value) in
            [("source_cidrs", json!(["10.0.0.0/8", "10/8"])), ("target_url", json!("https://u?x"))]
        {
            let mut document = base.clone();
            document[name] = value;
            let refusal = extra(document.as_object().unwrap()).unwrap_err();
            assert!(refusal.error.contains(name), "{refusal}");
        }
        extra(base.as_object().unwrap()).unwrap();
    }
}
