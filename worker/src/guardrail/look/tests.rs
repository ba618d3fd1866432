//! What is found, and that it does not depend on how a text comes.

use proptest::prelude::*;
use shared::resource::{PiiAction, PiiPattern};

use super::*;

const ALL: [&str; 9] = [
    "email",
    "china_mobile",
    "china_id_card",
    "bank_card",
    "us_ssn",
    "ip_address",
    "api_key",
    "jwt",
    "private_key",
];

fn looks(detectors: &[&str], action: PiiAction, patterns: Vec<PiiPattern>) -> Vec<Look> {
    let detectors = detectors.iter().map(|name| ((*name).to_owned(), action)).collect();
    let check = PiiCheck { detectors, patterns, buffer_bytes_max: 1 << 18, opens_when_full: false };
    compile(&Check::Pii(check)).unwrap().0
}

fn custom(regex: &str, replacement: Option<&str>) -> Vec<PiiPattern> {
    let replacement = replacement.map(str::to_owned);
    vec![PiiPattern {
        name: "own".to_owned(),
        regex: regex.to_owned(),
        action: PiiAction::Mask,
        replacement,
    }]
}

/// All of a text at once.
fn whole(looks: &[Look], text: &str, is_json: bool) -> Result<String, Refused> {
    let mut tally = Tally::default();
    let mut text = Cow::Borrowed(text);
    for look in looks {
        text = look.whole(text, is_json, &mut tally)?;
    }
    Ok(text.into_owned())
}

fn masked(detector: &str, text: &str) -> String {
    whole(&looks(&[detector], PiiAction::Mask, Vec::new()), text, false).unwrap()
}

/// A text in pieces: what was let go of, and whether it was refused.
fn streamed(looks: &[Look], pieces: &[String], is_json: bool) -> (String, bool) {
    let mut tally = Tally::default();
    let mut stages: Vec<_> = looks.iter().map(|look| Stage::new(look, is_json)).collect();
    let mut released = String::new();
    for (piece, is_last) in pieces.iter().map(|piece| (piece.as_str(), false)).chain([("", true)]) {
        let mut text = piece.to_owned();
        for (stage, look) in stages.iter_mut().zip(looks) {
            let mut out = String::new();
            let mut seen = stage.push(look, &text, &mut out, &mut tally);
            if is_last {
                seen = seen.and_then(|()| stage.flush(look, &mut out, &mut tally));
            }
            if seen.is_err() {
                return (released, true);
            }
            text = out;
        }
        released.push_str(&text);
    }
    (released, false)
}

#[test]
fn each_detector_masks_what_it_is_for_and_nothing_that_only_looks_like_it() {
    for (detector, text, expected) in [
        ("email", "mail a.b+c@x-y.co.uk, now", "mail [EMAIL_REDACTED], now"),
        ("email", "a @ b.com, @handle, a@b", "a @ b.com, @handle, a@b"),
        (
            "china_mobile",
            "打13812345678吧 +86 138-1234-5678",
            "打[CHINA_MOBILE_REDACTED]吧 [CHINA_MOBILE_REDACTED]",
        ),
        ("china_mobile", "order 9913812345678 12812345678", "order 9913812345678 12812345678"),
        ("china_id_card", "id 11010519491231002X.", "id [CHINA_ID_CARD_REDACTED]."),
        ("china_id_card", "id 110105194912310021.", "id 110105194912310021."),
        (
            "bank_card",
            "4111 1111 1111 1111 and 5500-0000-0000-0004",
            "[BANK_CARD_REDACTED] and [BANK_CARD_REDACTED]",
        ),
        ("bank_card", "4111111111111111 123", "[BANK_CARD_REDACTED] 123"),
        ("bank_card", "4111111111111112 1700000000000", "4111111111111112 1700000000000"),
        ("us_ssn", "ssn 123-45-6789!", "ssn [US_SSN_REDACTED]!"),
        (
            "us_ssn",
            "000-12-3456 666-12-3456 123-00-4567 123-45-0000 123-45-67890",
            "000-12-3456 666-12-3456 123-00-4567 123-45-0000 123-45-67890",
        ),
        (
            "ip_address",
            "at 192.168.0.1, 2001:db8::8a2e:370:7334 or ::1",
            "at [IP_ADDRESS_REDACTED], [IP_ADDRESS_REDACTED] or [IP_ADDRESS_REDACTED]",
        ),
        (
            "ip_address",
            "1.2.3 and 256.1.1.1 and std::net and 12:30:45",
            "1.2.3 and 256.1.1.1 and std::net and 12:30:45",
        ),
        (
            "api_key",
            "sk-abcdefghijklmnop1234 AKIAIOSFODNN7EXAMPLE",
            "[API_KEY_REDACTED] [API_KEY_REDACTED]",
        ),
        ("api_key", "risk-abcdefghijklmnop1234", "risk-abcdefghijklmnop1234"),
        ("jwt", "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", "Bearer [JWT_REDACTED]"),
        (
            "private_key",
            "x -----BEGIN RSA PRIVATE KEY-----\nAA\n-----END RSA PRIVATE KEY----- y",
            "x [PRIVATE_KEY_REDACTED] y",
        ),
        ("private_key", "x -----BEGIN PRIVATE KEY-----\nAA", "x [PRIVATE_KEY_REDACTED]"),
        ("private_key", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----"),
    ] {
        assert_eq!(masked(detector, text), expected, "{detector}");
    }
    assert!(detector::patterns("palm_lines", PiiAction::Mask).is_none());
}

#[test]
fn a_pattern_with_a_group_masks_only_the_group() {
    let looks = looks(&[], PiiAction::Mask, custom(r#""version"\s*:\s*"([^"]*)""#, Some("***")));
    let text = r#"{"version": "1.2", "other": "1.2", "version":""}"#;
    let expected = r#"{"version": "***", "other": "1.2", "version":"***"}"#;
    assert_eq!(whole(&looks, text, false).unwrap(), expected);
}

#[test]
fn a_find_behind_an_escape_leaves_json_whole() {
    let looks = looks(&["email"], PiiAction::Mask, Vec::new());
    let text = r#"{"a":"x\nfoo@x.com \\bar@x.com"}"#;
    let seen = whole(&looks, text, true).unwrap();
    assert_eq!(seen, r#"{"a":"x\n[EMAIL_REDACTED] \\[EMAIL_REDACTED]"}"#);
    serde_json::from_str::<serde_json::Value>(&seen).unwrap();
}

#[test]
fn an_expression_that_is_none_or_too_large_cannot_be_enforced() {
    for regex in ["(", r"(?:\w{1000}){1000}"] {
        let check = Check::Keyword(vec![KeywordPattern::Regex(regex.to_owned())]);
        assert!(compile(&check).is_none(), "{regex}");
    }
    assert!(compile(&Check::NotEnforceable).is_none());
}

#[test]
fn a_long_match_is_not_let_go_of_before_it_is_decided() {
    let looks = looks(&["private_key"], PiiAction::Mask, Vec::new());
    let mut stage = Stage::new(&looks[0], false);
    let mut push = |piece: &str| {
        let mut out = String::new();
        stage.push(&looks[0], piece, &mut out, &mut Tally::default()).unwrap();
        (out, stage.held())
    };
    assert_eq!(push("so: --").0, "so: ");
    assert_eq!(push("---BEGIN PRIVATE KEY-----").0, "");
    let (out, held) = push(&"A".repeat(10_000));
    assert_eq!((out.as_str(), held > 10_000), ("", true));
    assert_eq!(push("-----END PRIVATE KEY----- it").0, "[PRIVATE_KEY_REDACTED] it");
}

fn pieces() -> impl Strategy<Value = Vec<String>> {
    // Texts that are full of what is looked for, whole and in part, cut at every length.
    let word = prop_oneof![
        "[a-c@. ]{0,6}",
        "[0-9 -]{0,9}",
        "a@b\\.(com|de)",
        "4111 1111 1111 1111",
        "192\\.168\\.0\\.[0-9]{1,4}",
        "123-45-6789",
        "13812345678",
        "BEGIN|END|x\n|é|secret",
        "sk-[a-z0-9]{10,20}",
        "-----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY-----",
    ];
    (proptest::collection::vec(word, 0..8), proptest::collection::vec(1_usize..9, 1..6)).prop_map(
        |(words, lengths)| {
            let characters: Vec<char> = words.concat().chars().collect();
            let (mut pieces, mut rest) = (Vec::new(), characters.as_slice());
            for length in lengths.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(length.min(rest.len()));
                pieces.push(piece.iter().collect());
                rest = after;
            }
            pieces
        },
    )
}

proptest! {
    #[test]
    fn however_a_text_is_cut_it_is_masked_the_same(pieces in pieces()) {
        let own = r"(?s)BEGIN.*?END|\bsecret\b|x$";
        let looks = looks(&ALL, PiiAction::Mask, custom(own, None));
        let expected = whole(&looks, &pieces.concat(), false).unwrap();
        prop_assert_eq!(streamed(&looks, &pieces, false), (expected, false));
    }

    #[test]
    fn what_would_be_refused_whole_is_refused_in_pieces_and_nothing_of_it_comes(pieces in pieces()) {
        let text = pieces.concat();
        let patterns = ["a@b", r"(?i)\bSecret\b", r"[0-9]+\.[0-9]+x?$"];
        for pattern in patterns {
            let check = Check::Keyword(vec![KeywordPattern::Regex(pattern.to_owned())]);
            let looks = compile(&check).unwrap().0;
            let (released, is_refused) = streamed(&looks, &pieces, false);
            prop_assert!(text.starts_with(&released));
            match regex::Regex::new(pattern).unwrap().find(&text) {
                Some(found) => {
                    prop_assert!(is_refused, "{pattern} in {text:?}");
                    prop_assert!(released.len() <= found.start(), "{released:?} of {text:?}");
                }
                None => prop_assert_eq!((released, is_refused), (text.clone(), false)),
            }
        }
    }

    #[test]
    fn a_detector_that_blocks_refuses_the_same_however_a_text_is_cut(pieces in pieces()) {
        let looks = looks(&ALL, PiiAction::Block, Vec::new());
        let (released, is_refused) = streamed(&looks, &pieces, false);
        prop_assert_eq!(is_refused, whole(&looks, &pieces.concat(), false).is_err());
        prop_assert!(whole(&looks, &released, false).is_ok() || !is_refused);
    }
}
