use super::*;

const RULES: Rules = Rules { stale_max: 600_000, unknown_allowed: false };
const START: Moment = 1_800_000_000_000;

fn decision(allow: bool, fail_mode: FailMode) -> Decision {
    Decision { allow, fail_mode, ..Decision::default() }
}

fn answered(decision: Decision) -> Key {
    let mut key = Key::default();
    key.used(1, &RULES, Cloud::Well, START);
    key.asked(START);
    key.answered(decision, START);
    key
}

fn words(verdict: Option<Verdict>) -> String {
    match verdict {
        None => "wait".to_owned(),
        Some(Verdict::Allow) => "allow".to_owned(),
        Some(Verdict::Deny(denial)) => denial.message,
        Some(Verdict::Forget) => "forget".to_owned(),
    }
}

#[test]
fn a_decision_counts_until_the_stale_limit_and_then_its_fail_mode() {
    for (fail_mode, then) in
        [(FailMode::Open, "allow"), (FailMode::Closed, FAIL_CLOSED), (FailMode::Sticky, STALE)]
    {
        for (allow, before) in [(true, "allow"), (false, "budget exceeded")] {
            let mut key = answered(decision(allow, fail_mode));
            key.asked(START + 4_000);
            key.failed(START + 4_100, 1.0);
            let at = |age| words(key.verdict(&RULES, Cloud::Well, START + age));
            assert_eq!(at(4_100), before);
            assert_eq!(at(599_999), before);
            assert_eq!(at(600_000), then, "{fail_mode:?}");
        }
    }
}

#[test]
fn without_any_decision_a_request_waits_until_a_call_fails_or_nothing_has_come_of_one() {
    let allowing = Rules { unknown_allowed: true, ..RULES };
    let mut key = Key::default();
    assert_eq!(words(key.verdict(&RULES, Cloud::Well, START)), "wait");
    key.used(1, &RULES, Cloud::Well, START);
    assert_eq!(key.question(&RULES, START), Some((0, Class::Waiting)));
    assert_eq!(words(key.verdict(&RULES, Cloud::Well, START + DECIDED_WITHIN - 1)), "wait");
    assert_eq!(key.next_change(&RULES, START), Some(START + DECIDED_WITHIN));
    assert_eq!(words(key.verdict(&RULES, Cloud::Well, START + DECIDED_WITHIN)), NO_DECISION);
    assert_eq!(words(key.verdict(&allowing, Cloud::Well, START + DECIDED_WITHIN)), "allow");
    key.asked(START);
    key.failed(START + 10, 1.0);
    assert_eq!(words(key.verdict(&RULES, Cloud::Well, START + 10)), NO_DECISION);
    key.answered(decision(true, FailMode::Sticky), START + 20);
    assert_eq!(words(key.verdict(&RULES, Cloud::Well, START + 20)), "allow");
}

#[test]
fn a_stale_limit_below_five_seconds_shortens_only_what_the_cloud_does_not_confirm() {
    let rules = Rules { stale_max: 1_000, ..RULES };
    let mut key = answered(decision(true, FailMode::Sticky));
    assert_eq!(words(key.verdict(&rules, Cloud::Well, START + 4_900)), "allow");
    key.asked(START + 4_000);
    assert_eq!(words(key.verdict(&rules, Cloud::Well, START + 4_700)), "allow");
    key.failed(START + 4_900, 1.0);
    assert_eq!(words(key.verdict(&rules, Cloud::Well, START + 4_900)), STALE);
}

#[test]
fn an_old_no_is_given_out_at_once_and_asked_for_again_before_others() {
    let mut denied = answered(decision(false, FailMode::Sticky));
    let later = START + 60_000;
    for cloud in [Cloud::Well, Cloud::Doubtful, Cloud::Away] {
        assert_eq!(words(denied.verdict(&RULES, cloud, later)), "budget exceeded");
    }
    denied.used(1, &RULES, Cloud::Well, later);
    assert_eq!(denied.question(&RULES, later), Some((START, Class::Waiting)));
    let mut allowed = answered(decision(true, FailMode::Sticky));
    allowed.used(1, &RULES, Cloud::Well, later);
    assert_eq!(allowed.question(&RULES, later).unwrap().1, Class::InUse);
}

#[test]
fn a_known_key_waits_only_to_be_spared_a_refusal_for_age_while_the_cloud_is_well() {
    let later = START + RULES.stale_max;
    for (fail_mode, then) in
        [(FailMode::Open, "allow"), (FailMode::Closed, FAIL_CLOSED), (FailMode::Sticky, STALE)]
    {
        let key = answered(decision(true, fail_mode));
        for cloud in [Cloud::Doubtful, Cloud::Away] {
            assert_eq!(words(key.verdict(&RULES, cloud, later)), then);
        }
        let spared = if fail_mode == FailMode::Open { "allow" } else { "wait" };
        assert_eq!(words(key.verdict(&RULES, Cloud::Well, later)), spared);
    }
}

#[test]
fn a_decision_that_nobody_uses_is_asked_for_anew_before_it_is_too_old() {
    let key = answered(decision(true, FailMode::Sticky));
    for (stale_max, asked_at) in [(600_000, 540_000), (60_000, 30_000), (1_000, 4_000)] {
        let rules = Rules { stale_max, ..RULES };
        let expected = (START + asked_at, Class::Idle);
        assert_eq!(key.question(&rules, START + USE_LASTS), Some(expected));
    }
}

#[test]
fn a_key_without_a_decision_does_not_wait_for_a_cloud_that_is_known_to_be_away() {
    assert_eq!(words(Key::default().verdict(&RULES, Cloud::Away, START)), NO_DECISION);
    assert_eq!(words(Key::default().verdict(&RULES, Cloud::Doubtful, START)), "wait");
}

#[test]
fn a_key_in_use_is_asked_for_again_before_its_decision_is_five_seconds_old() {
    let mut key = answered(decision(true, FailMode::Sticky));
    assert_eq!(key.question(&RULES, START), Some((START + REFRESH_AT, Class::InUse)));
    key.asked(START + 4_000);
    assert_eq!(key.question(&RULES, START + 4_000), None, "one question at a time");
}

#[test]
fn what_was_spent_ends_the_allowance_and_no_new_decision_counts_it_twice() {
    let with = |remaining| {
        let budget =
            super::super::decision::Amounts { remaining: Some(remaining), ..Default::default() };
        Decision { budget, ..decision(true, FailMode::Sticky) }
    };
    let mut key = answered(with(1.0));
    key.spent(0.6);
    assert_eq!(words(key.verdict(&RULES, Cloud::Well, START)), "allow");
    key.spent(0.4);
    assert!(words(key.verdict(&RULES, Cloud::Well, START)).contains("$1.00"));
    assert_eq!(key.question(&RULES, START), Some((START, Class::Waiting)), "asked at once");
    // Delivered before the next question: the next answer knows of it.
    key.delivered(0.6, START + 10);
    assert_eq!(key.spend.total(), 1.0);
    key.asked(START + 20);
    key.delivered(0.4, START + 30);
    key.answered(with(0.4), START + 40);
    assert_eq!(key.spend.total(), 0.4, "told after the question was asked");
    assert!(key.is_used_up());
    key.asked(START + 50);
    key.answered(with(0.4), START + 60);
    assert_eq!((key.spend.total(), key.is_used_up()), (0.0, false));
}

#[test]
fn in_an_outage_no_key_waits_that_has_been_asked_for_in_vain() {
    let mut key = Key::default();
    key.asked(START);
    key.failed(START + 10_000, 1.0);
    let later = START + 100_000;
    key.settle(true, later);
    assert_eq!(words(key.verdict(&RULES, Cloud::Well, later)), NO_DECISION);
    assert!(key.next_change(&RULES, later).is_some(), "it is looked at again");
    key.settle(false, later);
    assert_eq!(words(key.verdict(&RULES, Cloud::Well, later)), "wait");
}
