//! Which worker is replaced next while all of them are. Pure.
//!
//! One slot after the other: a successor is started beside the holder; when it serves it takes the seat, and the former
//! holder is told to finish and leave. So there are never fewer workers that accept connections than before. Whoever is of
//! the generation asked for is left alone, which is why a second request while a first is carried out only raises the
//! number: nobody is replaced twice for it but those that were replaced before it came.

/// Who holds a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The slot should have a worker.
    pub wanted: bool,
    /// The generation of the worker that holds it; `None` while there is none, or one that is about to be started.
    pub holder: Option<u64>,
    /// Whether a worker that is to take it over serves already; `None` if there is no such worker.
    pub successor: Option<bool>,
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start a successor for this slot.
    Start(usize),
    /// The successor takes this slot over, and the holder, if there is one, leaves.
    HandOver(usize),
    /// A successor is on its way.
    Wait,
    /// Every worker is of the generation asked for.
    Done,
}

/// The next step towards workers that are all of `generation`.
pub fn next(seats: &[Seat], generation: u64) -> Step {
    let at = |wanted: &dyn Fn(&Seat) -> bool| seats.iter().position(wanted);
    // A successor whose holder has died meanwhile is all that the slot has.
    let takes_over = |seat: &Seat| {
        seat.successor == Some(true) || (seat.successor.is_some() && seat.holder.is_none())
    };
    if let Some(slot) = at(&takes_over) {
        return Step::HandOver(slot);
    }
    if at(&|seat| seat.successor.is_some()).is_some() {
        return Step::Wait;
    }
    let is_old = |seat: &Seat| seat.wanted && seat.holder.is_some_and(|held| held < generation);
    at(&is_old).map_or(Step::Done, Step::Start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(generation: u64) -> Seat {
        Seat { wanted: true, holder: Some(generation), successor: None }
    }

    #[test]
    fn a_successor_serves_before_its_holder_leaves_and_slots_go_one_after_the_other() {
        let mut seats = [held(0), held(0)];
        assert_eq!(next(&seats, 1), Step::Start(0));
        seats[0].successor = Some(false);
        assert_eq!(next(&seats, 1), Step::Wait);
        seats[0].successor = Some(true);
        assert_eq!(next(&seats, 1), Step::HandOver(0));
        seats[0] = held(1);
        assert_eq!(next(&seats, 1), Step::Start(1));
        seats[1] = held(1);
        assert_eq!(next(&seats, 1), Step::Done);
    }

    #[test]
    fn a_holder_that_dies_leaves_its_seat_to_the_successor_that_is_on_its_way() {
        let seats = [Seat { wanted: true, holder: None, successor: Some(false) }];
        assert_eq!(next(&seats, 1), Step::HandOver(0));
    }

    #[test]
    fn a_slot_without_a_worker_and_one_that_is_not_wanted_are_passed_over() {
        let empty = Seat { wanted: true, holder: None, successor: None };
        let closed = Seat { wanted: false, ..held(0) };
        assert_eq!(next(&[empty, closed, held(0)], 1), Step::Start(2));
    }

    proptest! {
        /// Whatever dies in between, and however often more is asked for.
        #[test]
        fn every_roll_ends_with_all_replaced_and_never_has_fewer_that_serve(
            slots in 1..6usize,
            disturbances in prop::collection::vec((0..3u8, any::<usize>()), 0..20),
        ) {
            let mut seats = vec![held(0); slots];
            let (mut generation, mut disturbances) = (1, disturbances.into_iter());
            for step in 0..1000 {
                let capacity = seats.iter().filter(|seat| seat.holder.is_some()).count();
                match next(&seats, generation) {
                    Step::Start(slot) => seats[slot].successor = Some(false),
                    Step::HandOver(slot) => seats[slot] = held(generation),
                    Step::Wait => {
                        let waits = seats.iter_mut().find(|seat| seat.successor.is_some());
                        waits.unwrap().successor = Some(true);
                    }
                    Step::Done => {
                        let is_new = |seat: &Seat| seat.holder.is_none_or(|held| held == generation);
                        prop_assert!(seats.iter().all(is_new));
                        prop_assert!(step <= 3 * slots * (generation as usize + 1) + 20);
                        return Ok(());
                    }
                }
                let after = seats.iter().filter(|seat| seat.holder.is_some()).count();
                prop_assert!(after >= capacity);
                match disturbances.next() {
                    Some((0, slot)) => seats[slot % slots].holder = None,
                    Some((1, _)) => generation += 1,
                    _ => {}
                }
            }
            prop_assert!(false, "it does not end");
        }
    }
}
