//! Where a model is, below the `api_base`: whatever the operator left out of the path is added.

use crate::provider::outgoing::segment;
use crate::request::Target;

use super::credential::Account;

/// Where models of Google's are, if nothing says otherwise.
const LOCATION: &str = "global";
/// The host of Gemini behind an API key.
const GENERATIVE: &str = "generativelanguage.googleapis.com";
/// The host of Vertex, behind a location.
const VERTEX: &str = "aiplatform.googleapis.com";

/// The path of the model, without a method.
pub fn path(target: &Target, account: Option<&Account>) -> String {
    let endpoint = &target.endpoint;
    let model = target.upstream_model.as_str();
    let prefixes = ["publishers/google/models/", "models/", "google/"];
    let model = prefixes.iter().find_map(|prefix| model.strip_prefix(prefix)).unwrap_or(model);
    let base = models(&endpoint.path, &endpoint.host, account);
    format!("{base}/{}", segment(model))
}

/// The path of all models.
fn models(path: &str, host: &str, account: Option<&Account>) -> String {
    let google = "publishers/google/models";
    let mut parts = path.rsplit('/');
    let (last, before) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let project = account.map(|account| account.project.as_str()).filter(|it| !it.is_empty());
    match (before, last) {
        (_, "models") => path.to_owned(),
        ("publishers", _) => format!("{path}/models"),
        ("locations", _) => format!("{path}/{google}"),
        ("projects", _) => format!("{path}/locations/{}/{google}", location(host, account)),
        (_, "" | "v1" | "v1beta" | "v1beta1" | "v1alpha") => {
            let is_generative = host == GENERATIVE;
            let path = match path {
                "" if is_generative || (project.is_none() && !host.ends_with(VERTEX)) => "/v1beta",
                "" => "/v1",
                path => path,
            };
            match project {
                Some(project) if !is_generative => {
                    let (project, location) = (segment(project), location(host, account));
                    format!("{path}/projects/{project}/locations/{location}/{google}")
                }
                _ if host.ends_with(VERTEX) => format!("{path}/{google}"),
                _ => format!("{path}/models"),
            }
        }
        _ => format!("{path}/models"),
    }
}

/// The location: what the host says, what the account says, or the usual one.
fn location(host: &str, account: Option<&Account>) -> String {
    let of_host = host.strip_suffix(VERTEX).map(|rest| rest.trim_end_matches('-'));
    match (of_host, account.and_then(|account| account.location.as_deref())) {
        (Some(location), _) if !location.is_empty() => segment(location),
        (_, Some(location)) => segment(location),
        _ => LOCATION.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_base_leaves_out_is_added() {
        let account = Account { project: "p".to_owned(), ..Account::default() };
        let local = Account { location: Some("eu".to_owned()), ..account.clone() };
        let google = "publishers/google/models";
        for (base, host, account, expected) in [
            ("", GENERATIVE, None, "/v1beta/models".to_owned()),
            ("/v1beta", GENERATIVE, None, "/v1beta/models".to_owned()),
            ("/v1beta/models", GENERATIVE, Some(&account), "/v1beta/models".to_owned()),
            ("", "127.0.0.1", None, "/v1beta/models".to_owned()),
            ("", "aiplatform.googleapis.com", None, format!("/v1/{google}")),
            ("", "127.0.0.1", Some(&local), format!("/v1/projects/p/locations/eu/{google}")),
            (
                "",
                "europe-west4-aiplatform.googleapis.com",
                Some(&local),
                format!("/v1/projects/p/locations/europe-west4/{google}"),
            ),
            ("/v1/projects/q", "h", None, format!("/v1/projects/q/locations/global/{google}")),
            (
                "/v1/projects/q/locations/l",
                "h",
                Some(&account),
                format!("/v1/projects/q/locations/l/{google}"),
            ),
            (
                "/v1/projects/q/locations/l/publishers/google",
                "h",
                None,
                format!("/v1/projects/q/locations/l/{google}"),
            ),
            ("/proxy", "h", None, "/proxy/models".to_owned()),
        ] {
            assert_eq!(models(base, host, account), expected, "{base} at {host}");
        }
    }
}
