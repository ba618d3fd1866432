//! The goals, and whether the figures meet them. N is the nginx relay.

use crate::figure::Figures;

/// How a figure is held against a goal.
#[derive(Clone, Copy, Debug)]
enum Against {
    /// Its median alone.
    Nothing,
    /// As a multiple of another subject's.
    Subject(&'static str),
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// One goal.
#[derive(Clone, Copy, Debug)]
struct Goal {
    text: &'static str,
    figure: &'static str,
    against: Against,
    bound: Bound,
}

const fn goal(text: &'static str, figure: &'static str, against: Against, bound: Bound) -> Goal {
    Goal { text, figure, against, bound }
}

const fn alone(text: &'static str, figure: &'static str, bound: Bound) -> Goal {
    goal(text, figure, Against::Nothing, bound)
}

/// Of the governed gateway.
const SUBJECT: &str = "aisix";
const NGINX: Against = Against::Subject("nginx");

const GOALS: &[Goal] = &[
    goal("CPU per request, of N's", "cpu_us_per_request", NGINX, Bound::AtMost(1.4)),
    goal(
        "CPU per request, of that with everything off",
        "cpu_us_per_request",
        Against::Subject("aisix-off"),
        Bound::AtMost(1.15),
    ),
    goal("added latency p50 at one connection, of N's", "added_p50_us", NGINX, Bound::AtMost(1.2)),
    goal("added latency p99 at one connection, of N's", "added_p99_us", NGINX, Bound::AtMost(1.4)),
    goal("requests/s at 64 connections, of N's", "requests_per_s", NGINX, Bound::AtLeast(0.7)),
    goal("CPU per relayed event, of N's", "cpu_us_per_event", NGINX, Bound::AtMost(1.3)),
    alone(
        "added gap between events, p99 of a quarter of a second at 500 streams, ms",
        "added_gap_windowed_p99_ms",
        Bound::AtMost(0.3),
    ),
    alone("idle memory of all processes, MiB", "memory_idle", Bound::AtMost(24.0)),
    alone("memory per idle connection, KiB", "memory_per_kept_connection", Bound::AtMost(4.0)),
    alone("exec to ready, from a file, ms", "ready_from_file, root", Bound::AtMost(50.0)),
    alone("exec to ready, managed, ms", "ready_from_snapshot, root", Bound::AtMost(50.0)),
    alone(
        "put to served p99 at 10,000 resources, ms",
        "put_to_served_p99_10000",
        Bound::AtMost(50.0),
    ),
    alone("two workers, of one", "two_workers_over_one", Bound::AtLeast(1.8)),
    alone("idle connections at once", "crowd_idle_connections", Bound::AtLeast(10_000.0)),
    alone("streams at once", "crowd_streams_at_once", Bound::AtLeast(5_000.0)),
    alone(
        "kept of what is served right before and after at four times the connections, %",
        "overload_closed_kept",
        Bound::AtLeast(95.0),
    ),
    alone(
        "kept of what is served right before and after at four times the requests, %",
        "overload_open_kept",
        Bound::AtLeast(95.0),
    ),
];

/// A goal and where it stands.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Standing {
    /// The goal in words, with its bound.
    pub goal: String,
    /// Where it stands; nothing if it was not measured.
    pub value: Option<f64>,
    /// Whether that is good enough.
    pub is_met: Option<bool>,
}

/// Where each goal stands.
pub fn standings(figures: &Figures) -> Vec<Standing> {
    GOALS.iter().map(|goal| goal.standing(figures)).collect()
}

impl Goal {
    fn standing(&self, figures: &Figures) -> Standing {
        let value = match self.against {
            Against::Nothing => figures.median(self.figure, SUBJECT),
            Against::Subject(other) => figures.ratio(self.figure, SUBJECT, other),
        };
        let (sign, bound) = match self.bound {
            Bound::AtMost(bound) => ("≤", bound),
            Bound::AtLeast(bound) => ("≥", bound),
        };
        let is_met = value.map(|value| match self.bound {
            Bound::AtMost(bound) => value <= bound,
            Bound::AtLeast(bound) => value >= bound,
        });
        Standing { goal: format!("{} {sign} {bound}", self.text), value, is_met }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(figures: &[(&str, &str, f64)], text: &str) -> Standing {
        let mut all = Figures::default();
        for (name, subject, value) in figures {
            all.add(name, subject, "", *value);
        }
        standings(&all).into_iter().find(|it| it.goal.starts_with(text)).unwrap()
    }

    #[test]
    fn a_ratio_meets_its_goal_at_the_bound_and_not_beyond() {
        let of = |own| {
            let figures = [("requests_per_s", "aisix", own), ("requests_per_s", "nginx", 1000.0)];
            standing(&figures, "requests/s")
        };
        assert_eq!((of(700.0).value, of(700.0).is_met), (Some(0.7), Some(true)));
        assert_eq!(of(699.0).is_met, Some(false));
        let figures =
            [("cpu_us_per_request", "aisix", 50.0), ("cpu_us_per_request", "nginx", 25.0)];
        assert_eq!(standing(&figures, "CPU per request, of N's").is_met, Some(false));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let alone = standing(&[("cpu_us_per_event", "aisix", 5.0)], "CPU per relayed event");
        assert_eq!((alone.value, alone.is_met), (None, None));
        let gap = standing(&[("added_gap_windowed_p99_ms", "aisix", 0.25)], "added gap");
        assert_eq!((gap.value, gap.is_met), (Some(0.25), Some(true)));
    }
}
