//! The built-in detectors of personal data and secrets.
//!
//! An expression finds what has the form, a check on it (digits of a checksum, ranges, what stands before it) what is meant.
//! The first group is the find; what the expression wants behind it is not part of it.

use std::net::Ipv6Addr;

use shared::resource::PiiAction;

use super::pattern::{Confirm, Pattern};

const EMAIL: &str = r"([A-Za-z0-9][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24})";
const CHINA_MOBILE: &str = r"((?:\+?86[- ]?)?1[3-9][0-9][- ]?[0-9]{4}[- ]?[0-9]{4})(?:[^0-9]|\z)";
const CHINA_ID_CARD: &str = r"([1-9][0-9]{5}(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9Xx])(?:[^0-9]|\z)";
const BANK_CARD: &str = r"([2-6](?:[ -]?[0-9]){12,18})(?:[^0-9]|\z)";
const US_SSN: &str = r"([0-8][0-9]{2}[- ][0-9]{2}[- ][0-9]{4})(?:[^0-9]|\z)";
const IPV4: &str = r"((?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(?:\.(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3})(?:[^0-9]|\z)";
const IPV6: &str = r"((?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4})(?:[^0-9A-Za-z:]|\z)";
/// Of OpenAI, Anthropic and their like, AWS, Google, GitHub, GitLab, Slack, Stripe, Hugging Face, npm, Alibaba, Tencent and
/// SendGrid, by their published beginnings.
const API_KEY: &str = r"(sk-[A-Za-z0-9_-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{35}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|xox[abeprs]-[A-Za-z0-9-]{10,}|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|LTAI[A-Za-z0-9]{12,}|AKID[A-Za-z0-9]{16,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,})";
const JWT: &str = r"(eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*)";
/// Without its end it reaches to the end of the text.
const PRIVATE_KEY: &str = r"(-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?s:.)*?(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\z))";

/// What a detector looks for; `None` for one of a name that is not known.
pub fn patterns(name: &str, action: PiiAction) -> Option<Vec<Pattern>> {
    let patterns: &[(&str, Option<Confirm>)] = match name {
        "email" => &[(EMAIL, None)],
        "china_mobile" => &[(CHINA_MOBILE, Some(apart_from_digits))],
        "china_id_card" => &[(CHINA_ID_CARD, Some(china_id_card))],
        "bank_card" => &[(BANK_CARD, Some(bank_card))],
        "us_ssn" => &[(US_SSN, Some(us_ssn))],
        "ip_address" => &[(IPV4, Some(ipv4)), (IPV6, Some(ipv6))],
        "api_key" => &[(API_KEY, Some(apart_from_words))],
        "jwt" => &[(JWT, Some(apart_from_words))],
        "private_key" => &[(PRIVATE_KEY, None)],
        _ => return None,
    };
    let compiled = patterns.iter().map(|(expression, confirm)| {
        Some(Pattern::new(expression, name, action, None).ok()?.confirmed_by(*confirm))
    });
    compiled.collect()
}

fn before(text: &str, start: usize) -> Option<char> {
    text.get(..start)?.chars().next_back()
}

fn apart_from_digits(text: &str, start: usize, end: usize) -> Option<usize> {
    let is_digit = before(text, start).is_some_and(|before| before.is_ascii_digit());
    (!is_digit).then_some(end)
}

fn apart_from_words(text: &str, start: usize, end: usize) -> Option<usize> {
    let is_word = before(text, start).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    (!is_word).then_some(end)
}

/// GB 11643-1999: the last digit is a checksum modulo 11, ten of which is an X.
fn china_id_card(text: &str, start: usize, end: usize) -> Option<usize> {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    apart_from_digits(text, start, end)?;
    let id = text.get(start..end)?;
    let digits = id.chars().filter_map(|character| character.to_digit(10));
    let sum: u32 = WEIGHTS.iter().zip(digits).map(|(weight, digit)| weight * digit).sum();
    let expected = "10X98765432".chars().nth((sum % 11) as usize)?;
    id.chars().next_back()?.eq_ignore_ascii_case(&expected).then_some(end)
}

/// A number with a right Luhn checksum; of groups that follow each other, as many as make one.
fn bank_card(text: &str, start: usize, end: usize) -> Option<usize> {
    apart_from_digits(text, start, end)?;
    let card = text.get(start..end)?;
    let ends = card.char_indices().filter(|(_, c)| !c.is_ascii_digit()).map(|(at, _)| at);
    let mut ends: Vec<usize> = ends.chain([card.len()]).collect();
    ends.reverse();
    ends.into_iter()
        .find(|end| has_luhn(card.get(..*end).unwrap_or_default()))
        .map(|end| start + end)
}

fn has_luhn(number: &str) -> bool {
    let digits: Vec<u32> = number.chars().filter_map(|character| character.to_digit(10)).collect();
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, digit * 2) {
            (0, _) => *digit,
            (_, double) if double > 9 => double - 9,
            (_, double) => double,
        })
        .sum();
    (13..=19).contains(&digits.len()) && sum.is_multiple_of(10)
}

/// No area 000 or 666, no group 00, no serial 0000.
fn us_ssn(text: &str, start: usize, end: usize) -> Option<usize> {
    apart_from_digits(text, start, end)?;
    let number = text.get(start..end)?;
    let (area, group, serial) = (number.get(..3)?, number.get(4..6)?, number.get(7..)?);
    let is_given = !matches!(area, "000" | "666") && group != "00" && serial != "0000";
    is_given.then_some(end)
}

fn ipv4(text: &str, start: usize, end: usize) -> Option<usize> {
    let before = before(text, start);
    (!before.is_some_and(|before| before.is_ascii_digit() || before == '.')).then_some(end)
}

/// With three groups at least, or `::1`: `a::b` is more often a name in a program.
fn ipv6(text: &str, start: usize, end: usize) -> Option<usize> {
    let before = before(text, start);
    if before.is_some_and(|before| before.is_ascii_alphanumeric() || before == ':') {
        return None;
    }
    let address = text.get(start..end)?;
    let groups = address.split(':').filter(|group| !group.is_empty()).count();
    let is_address = address.parse::<Ipv6Addr>().is_ok();
    (is_address && (groups >= 3 || address == "::1")).then_some(end)
}
