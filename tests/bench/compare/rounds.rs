//! Rounds: in each, every subject has its turn, and another one is first. A turn with an error is void, and repeated.

use std::collections::BTreeMap;

use crate::figure::Figures;
use crate::peers::Peer;

/// Turns of one subject in one round.
const TURNS_MAX: usize = 3;

/// What a turn has come to: name, unit, value.
pub type Values = Vec<(&'static str, &'static str, f64)>;

/// Turns that did not count, and why.
#[derive(Clone, Debug)]
pub struct Void {
    /// What was measured.
    pub part: &'static str,
    /// The subject.
    pub subject: String,
    /// The error.
    pub reason: String,
}

/// Measures in so many rounds. `derive` makes of the values of all subjects in a round what they are together.
pub fn rounds(
    part: &'static str,
    count: usize,
    peers: &[Peer],
    figures: &mut Figures,
    voids: &mut Vec<Void>,
    mut turn: impl FnMut(&Peer) -> Result<Values, String>,
    derive: impl Fn(&mut BTreeMap<String, Values>),
) {
    for round in 0..count {
        let mut values = BTreeMap::new();
        for place in 0..peers.len() {
            let Some(peer) = peers.get(in_turn(round, place, peers.len())) else { continue };
            eprintln!("{part}: round {} of {count}: {}", round + 1, peer.name);
            for _ in 0..TURNS_MAX {
                match turn(peer) {
                    Ok(its) => {
                        values.insert(peer.name.clone(), its);
                        break;
                    }
                    Err(reason) => {
                        eprintln!("{part}: void: {}: {reason}", peer.name);
                        voids.push(Void { part, subject: peer.name.clone(), reason });
                    }
                }
            }
        }
        derive(&mut values);
        for peer in peers {
            for (name, unit, value) in values.remove(&peer.name).unwrap_or_default() {
                figures.add(name, &peer.name, unit, value);
            }
        }
    }
}

/// Who is at that place of a round: each is first once in as many rounds as there are subjects.
fn in_turn(round: usize, place: usize, subjects: usize) -> usize {
    (round + place) % subjects.max(1)
}

/// Adds to each subject by how much its value is above that of `direct`, where both are there.
pub fn above_direct(values: &mut BTreeMap<String, Values>, names: &[(&'static str, &'static str)]) {
    let find = |values: &Values, name| values.iter().find(|it| it.0 == name).copied();
    let Some(direct) = values.get("direct").cloned() else { return };
    for (subject, its) in values.iter_mut() {
        if subject == "direct" {
            continue;
        }
        for (name, added) in names {
            if let (Some((_, unit, whole)), Some((.., bare))) =
                (find(its, *name), find(&direct, *name))
            {
                its.push((added, unit, whole - bare));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_first_once_and_has_one_turn_in_each_round() {
        let first: Vec<_> = (0..4).map(|round| in_turn(round, 0, 4)).collect();
        assert_eq!(first, [0, 1, 2, 3]);
        let mut round: Vec<_> = (0..4).map(|place| in_turn(3, place, 4)).collect();
        round.sort_unstable();
        assert_eq!(round, [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_added_is_what_is_above_direct_in_the_same_round() {
        let mut values = BTreeMap::from([
            ("direct".to_owned(), vec![("p50", "us", 30.0)]),
            ("nginx".to_owned(), vec![("p50", "us", 75.0), ("other", "us", 1.0)]),
        ]);
        above_direct(&mut values, &[("p50", "added_p50"), ("p99", "added_p99")]);
        assert_eq!(values["nginx"][2], ("added_p50", "us", 45.0));
        assert_eq!((values["nginx"].len(), values["direct"].len()), (3, 1));
    }
}
