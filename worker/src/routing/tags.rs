//! Which targets a request may go to at all, by its tags.

use http::HeaderMap;
use shared::resource::RoutingTarget;

/// The header with a request's tags, separated by commas.
const HEADER: &str = "x-aisix-routing-tags";
/// The tag of targets that take what nothing else does.
const DEFAULT: &str = "default";

/// The tags that a request asks for.
pub fn asked(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(HEADER).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|tag| !tag.is_empty()).collect()
}

/// The positions of the targets that are eligible. Where no target has tags all are. Else those with a tag that was asked
/// for; where there is none, those tagged `default` and those without any tags.
pub fn eligible(targets: &[RoutingTarget], asked: &[&str]) -> Vec<usize> {
    let those = |is_one: &dyn Fn(&RoutingTarget) -> bool| -> Vec<usize> {
        let numbered = targets.iter().enumerate();
        numbered.filter(|(_, target)| is_one(target)).map(|(position, _)| position).collect()
    };
    if targets.iter().all(|target| target.tags.is_empty()) {
        return those(&|_| true);
    }
    let matching = those(&|target| target.tags.iter().any(|tag| asked.contains(&tag.as_str())));
    if !matching.is_empty() {
        return matching;
    }
    those(&|target| target.tags.is_empty() || target.tags.iter().any(|tag| tag == DEFAULT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(tags: &[&[&str]]) -> Vec<RoutingTarget> {
        let target = |tags: &&[&str]| RoutingTarget {
            tags: tags.iter().map(ToString::to_string).collect(),
            ..RoutingTarget::default()
        };
        tags.iter().map(target).collect()
    }

    #[test]
    fn without_any_tags_at_the_targets_those_of_the_request_say_nothing() {
        assert_eq!(eligible(&targets(&[&[], &[]]), &["eu"]), [0, 1]);
    }

    #[test]
    fn a_tag_that_was_asked_for_decides_and_else_the_default_takes_it() {
        let tagged = targets(&[&["eu", "fast"], &["us"], &["default", "us"], &[]]);
        assert_eq!(eligible(&tagged, &["eu"]), [0]);
        assert_eq!(eligible(&tagged, &["us", "eu"]), [0, 1, 2]);
        assert_eq!(eligible(&tagged, &["asia"]), [2, 3]);
        assert_eq!(eligible(&tagged, &[]), [2, 3]);
        assert_eq!(eligible(&targets(&[&["eu"]]), &["us"]), [0; 0]);
    }

    #[test]
    fn tags_come_in_a_list_in_any_number_of_headers() {
        let mut headers = HeaderMap::new();
        headers.append(HEADER, "eu, fast,,".parse().unwrap());
        headers.append(HEADER, " us".parse().unwrap());
        assert_eq!(asked(&headers), ["eu", "fast", "us"]);
        assert!(asked(&HeaderMap::new()).is_empty());
    }
}
