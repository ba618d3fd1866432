use proptest::prelude::*;

use super::*;
use crate::resource::WebUrl;
use crate::secret::Secret;

const TRACE: [u8; 16] = [7; 16];

fn id(low: u64) -> [u8; 16] {
    let mut id = TRACE;
    id[8..].copy_from_slice(&low.to_be_bytes());
    id
}

fn parent(is_sampled: bool) -> Option<Parent> {
    Some(Parent { span_id: [1; 8], is_sampled })
}

#[test]
fn nothing_is_told_at_rate_zero_and_everything_at_one_unless_the_caller_has_decided() {
    for low in [0, 1, u64::MAX / 2, u64::MAX] {
        assert!(!is_sampled(0.0, &id(low), None));
        assert!(!is_sampled(0.0, &id(low), parent(true)));
        assert!(!is_sampled(f64::NAN, &id(low), None));
        assert!(is_sampled(1.0, &id(low), None), "{low}");
        assert!(!is_sampled(1.0, &id(low), parent(false)));
        assert!(is_sampled(0.001, &id(low), parent(true)));
    }
}

#[test]
fn the_whole_list_is_read_as_it_is_written() {
    let exporter = Exporter {
        id: "o-1".to_owned(),
        name: "otel".to_owned(),
        endpoint: "https://otel.example/v1/traces".parse::<WebUrl>().unwrap(),
        headers: vec![("authorization".to_owned(), Secret::new("Bearer x".to_owned()))],
        sample_rate: 0.5,
    };
    let exporting = Exporting {
        instance_id: "i".to_owned(),
        env_id: "e".to_owned(),
        exporters: vec![Numbered { number: 3, exporter }],
    };
    assert_eq!(Exporting::read(exporting.seal().unwrap()).unwrap(), exporting);
}

#[test]
fn a_request_of_the_longest_texts_with_all_its_attempts_is_a_frame_or_is_not_sent() {
    let text = "x".repeat(TEXT_CHARS_MAX);
    let attempt = Attempt {
        provider: text.clone(),
        model: text.clone(),
        upstream_model: text.clone(),
        provider_key_id: text.clone(),
        host: text.clone(),
        response_id: text.clone(),
        response_model: text.clone(),
        finish_reason: text,
        ..Attempt::default()
    };
    let attempts = vec![attempt; ATTEMPTS_MAX / 2];
    let trace = ToExport::Trace(Box::new(Trace { attempts, ..Trace::default() }));
    let body = trace.encode().unwrap();
    assert!(body.len() <= BODY_BYTES_MAX, "{}", body.len());
    assert_eq!(ToExport::decode(1, &body).unwrap(), trace);
}

#[test]
fn the_role_says_nothing() {
    for kind in 0..20 {
        assert!(matches!(FromExport::decode(kind, &[]), Err(MessageError::UnknownKind(_))));
    }
}

proptest! {
    #[test]
    fn who_is_told_of_a_smaller_part_is_told_of_a_part_of_the_larger(
        low: u64,
        one in 0.0..1.0_f64,
        other in 0.0..1.0_f64,
    ) {
        let (small, large) = if one < other { (one, other) } else { (other, one) };
        prop_assert!(!is_sampled(small, &id(low), None) || is_sampled(large, &id(low), None));
    }

    #[test]
    fn the_part_is_as_large_as_the_rate(seed: u64) {
        const COUNT: u64 = 4_000;
        // Steps of the golden ratio fall evenly, wherever they begin.
        let ids = (0..COUNT).map(|n| id(seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        let told = ids.filter(|id| is_sampled(0.25, id, None)).count();
        prop_assert!((950..=1050).contains(&told), "{}", told);
    }
}
