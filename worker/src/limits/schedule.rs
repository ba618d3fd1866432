//! When a policy is suspended: windows of wall-clock time in time zones, from tables that the program carries along.

use ::shared::resource::{Days, Schedule};
use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

/// The windows in which a policy is suspended.
#[derive(Debug, Default)]
pub(super) struct Suspensions(Vec<(Schedule, TimeZone)>);

impl Suspensions {
    /// Windows in a time zone that nobody knows suspend nothing.
    pub(super) fn new(schedules: &[Schedule]) -> Self {
        // Nothing of the system: no file can be opened here.
        let zones = TimeZoneDatabase::bundled();
        let known = schedules.iter().filter_map(|schedule| match zones.get(&schedule.timezone) {
            Ok(zone) => Some((schedule.clone(), zone)),
            Err(_) => {
                tracing::warn!(
                    timezone = schedule.timezone,
                    "a rate limit policy is never suspended by a schedule in a time zone that is not known"
                );
                None
            }
        });
        Self(known.collect())
    }

    /// Whether the policy is suspended at a moment, in seconds since 1970 UTC.
    pub(super) fn hold(&self, now: i64) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let Ok(now) = Timestamp::from_second(now) else { return false };
        self.0.iter().any(|(schedule, zone)| covers(schedule, &now.to_zoned(zone.clone())))
    }
}

fn covers(schedule: &Schedule, now: &Zoned) -> bool {
    let minute = u16::try_from(i32::from(now.hour()) * 60 + i32::from(now.minute()));
    let (minute, start, end) =
        (minute.unwrap_or_default(), schedule.start_minute, schedule.end_minute);
    let today = now.date();
    if start < end {
        return (start..end).contains(&minute) && begins_on(&schedule.days, today);
    }
    if start == end {
        return false;
    }
    // Over midnight: it belongs to the day on which it begins.
    let began_yesterday =
        || today.yesterday().is_ok_and(|yesterday| begins_on(&schedule.days, yesterday));
    (minute >= start && begins_on(&schedule.days, today)) || (minute < end && began_yesterday())
}

fn begins_on(days: &Days, date: Date) -> bool {
    match days {
        Days::Week(week) => {
            let day = usize::try_from(date.weekday().to_monday_zero_offset()).unwrap_or_default();
            week.get(day).copied().unwrap_or(false)
        }
        Days::Dates(dates) => {
            let date = date.to_string();
            dates.contains(&date)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn suspensions(days: Days, start_minute: u16, end_minute: u16, timezone: &str) -> Suspensions {
        let timezone = timezone.to_owned();
        Suspensions::new(&[Schedule { days, start_minute, end_minute, timezone }])
    }

    fn week(days: &[usize]) -> Days {
        Days::Week(std::array::from_fn(|day| days.contains(&day)))
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        // Fridays, 22:00 to 09:00. 2026-11-27 is a Friday.
        let fridays = suspensions(week(&[4]), 22 * 60, 9 * 60, "UTC");
        for (moment, holds) in [
            ("2026-11-27T21:59:59Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T08:59:59Z", true),
            ("2026-11-28T09:00:00Z", false),
            ("2026-11-27T08:00:00Z", false),
            ("2026-11-28T22:30:00Z", false),
        ] {
            assert_eq!(fridays.hold(at(moment)), holds, "{moment}");
        }
    }

    #[test]
    fn times_are_those_of_the_zone_also_when_its_clocks_have_changed() {
        let mornings = suspensions(week(&[0, 1, 2, 3, 4, 5, 6]), 9 * 60, 10 * 60, "Europe/Berlin");
        assert!(mornings.hold(at("2026-07-01T07:30:00Z")));
        assert!(!mornings.hold(at("2026-12-01T07:30:00Z")));
        assert!(mornings.hold(at("2026-12-01T08:30:00Z")));
        let shanghai =
            suspensions(Days::Dates(vec!["2026-10-01".to_owned()]), 0, 1440, "Asia/Shanghai");
        assert!(shanghai.hold(at("2026-09-30T16:00:00Z")));
        assert!(!shanghai.hold(at("2026-10-01T16:00:00Z")));
    }

    #[test]
    fn an_empty_window_and_one_in_no_zone_suspend_nothing() {
        let every_day = || week(&[0, 1, 2, 3, 4, 5, 6]);
        for nothing in [
            suspensions(every_day(), 60, 60, "UTC"),
            suspensions(every_day(), 0, 1440, "Mars/Olympus"),
            Suspensions::default(),
        ] {
            assert!(!nothing.hold(at("2026-11-27T01:00:00Z")));
            assert!(!nothing.hold(i64::MAX));
        }
    }
}
