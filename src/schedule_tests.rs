//! Schedules in time zones whose clocks change, and one whose clock does not.

use proptest::prelude::*;

use super::*;

fn window(days: &str, from: &str, to: &str, zone: &str, count: u32) -> Window {
    Window {
        days: Days::parse(days).unwrap(),
        from: TimeOfDay::parse(from).unwrap(),
        to: TimeOfDay::parse(to).unwrap(),
        timezone: TimeZone::get(zone).unwrap(),
        count,
    }
}

fn at(text: &str) -> Timestamp {
    let instant: jiff::Timestamp = text.parse().unwrap();
    Timestamp::from_millis(instant.as_millisecond().try_into().unwrap())
}

/// Checks that a window of this count is open from each first moment to each second one, and that
/// nothing changes between them.
fn check_changes(windows: &[Window], spans: &[(&str, &str)]) {
    let mut now = at(spans[0].0) + std::time::Duration::from_millis(0);
    for (number, (begin, end)) in spans.iter().enumerate() {
        assert_eq!(now, at(begin), "number {number}");
        let (count, change) = wanted(0, windows, now);
        assert_eq!((count, change), (windows[0].count, Some(at(end))), "from {begin}");
        let (count, change) = wanted(0, windows, at(end));
        assert_eq!(count, 0, "at {end}");
        now = change.unwrap();
    }
}

#[test]
fn days_are_names_and_ranges() {
    let days = |text: &str| Days::parse(text);
    assert_eq!(days("Mon-Sun"), Some(Days::ALL));
    assert_eq!(days("mon-fri, Sun"), Some(Days(0b101_1111)));
    assert_eq!(days("Sat-Mon"), days("Sat,Sun,Mon"));
    assert_eq!(days("Wed-Wed"), days("Wed"));
    for bad in ["", "Mon-", "Monday", "Mon-Tue-Wed", "Mon,,Tue", "1-5"] {
        assert_eq!(days(bad), None, "{bad:?}");
    }
}

#[test]
fn times_are_two_numbers_of_two_digits() {
    assert_eq!(TimeOfDay::parse("07:30"), Some(TimeOfDay(450)));
    assert_eq!(TimeOfDay::parse("24:00"), Some(TimeOfDay(DAY)));
    for bad in ["7:30", "07:60", "24:01", "25:00", "+7:30", "0730", "07:30:00", ""] {
        assert_eq!(TimeOfDay::parse(bad), None, "{bad:?}");
    }
}

#[test]
fn a_window_follows_the_clock_of_its_zone() {
    // Berlin: UTC+1 until 29 March 2026, then UTC+2.
    check_changes(
        &[window("Fri-Mon", "07:00", "19:00", "Europe/Berlin", 3)],
        &[
            ("2026-03-27T06:00:00Z", "2026-03-27T18:00:00Z"),
            ("2026-03-28T06:00:00Z", "2026-03-28T18:00:00Z"),
            ("2026-03-29T05:00:00Z", "2026-03-29T17:00:00Z"),
            ("2026-03-30T05:00:00Z", "2026-03-30T17:00:00Z"),
            ("2026-04-03T05:00:00Z", "2026-04-03T17:00:00Z"),
        ],
    );
    // Kolkata: UTC+5:30 all year.
    check_changes(
        &[window("Sun", "00:00", "24:00", "Asia/Kolkata", 1)],
        &[
            ("2026-10-24T18:30:00Z", "2026-10-25T18:30:00Z"),
            ("2026-10-31T18:30:00Z", "2026-11-01T18:30:00Z"),
        ],
    );
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
    // New York: UTC-4 in summer.
    check_changes(
        &[window("Fri", "22:00", "06:00", "America/New_York", 2)],
        &[
            ("2026-07-04T02:00:00Z", "2026-07-04T10:00:00Z"),
            ("2026-07-11T02:00:00Z", "2026-07-11T10:00:00Z"),
        ],
    );
}

#[test]
fn an_edge_in_a_skipped_hour_is_the_change_of_the_clock() {
    // New York, 8 March 2026: 02:00 EST is 03:00 EDT, at 07:00 UTC.
    check_changes(
        &[window("Sun", "02:30", "05:00", "America/New_York", 2)],
        &[
            ("2026-03-08T07:00:00Z", "2026-03-08T09:00:00Z"),
            ("2026-03-15T06:30:00Z", "2026-03-15T09:00:00Z"),
        ],
    );
    check_changes(
        &[window("Sun", "00:00", "02:30", "America/New_York", 2)],
        &[("2026-03-08T05:00:00Z", "2026-03-08T07:00:00Z")],
    );
    // Lord Howe, 4 October 2026: 02:00 (UTC+10:30) is 02:30 (UTC+11), at 15:30 UTC the day before.
    // A window that is skipped altogether does not open.
    let skipped = [window("Sun", "02:05", "02:25", "Australia/Lord_Howe", 2)];
    let (count, change) = wanted(0, &skipped, at("2026-10-03T15:00:00Z"));
    assert_eq!((count, change), (0, Some(at("2026-10-10T15:05:00Z"))));
}

#[test]
fn a_window_in_a_repeated_hour_begins_the_first_time_and_ends_the_second() {
    // Berlin, 25 October 2026: 03:00 CEST is 02:00 CET, at 01:00 UTC.
    check_changes(
        &[window("Sun", "02:15", "02:45", "Europe/Berlin", 2)],
        &[
            ("2026-10-25T00:15:00Z", "2026-10-25T01:45:00Z"),
            ("2026-11-01T01:15:00Z", "2026-11-01T01:45:00Z"),
        ],
    );
    // Lord Howe, 5 April 2026: 02:00 (UTC+11) is 01:30 (UTC+10:30), at 15:00 UTC the day before.
    check_changes(
        &[window("Sun", "01:45", "03:00", "Australia/Lord_Howe", 2)],
        &[("2026-04-04T14:45:00Z", "2026-04-04T16:30:00Z")],
    );
}

#[test]
fn of_overlapping_windows_the_highest_count_applies_even_if_the_base_is_higher() {
    let windows = [
        window("Mon-Sun", "00:00", "24:00", "UTC", 1),
        window("Mon-Sun", "09:00", "17:00", "UTC", 5),
        window("Mon-Sun", "12:00", "13:00", "UTC", 2),
    ];
    let count = |time: &str| wanted(3, &windows, at(time));
    assert_eq!(count("2026-01-01T08:00:00Z"), (1, Some(at("2026-01-01T09:00:00Z"))));
    assert_eq!(count("2026-01-01T12:30:00Z"), (5, Some(at("2026-01-01T17:00:00Z"))));
    assert_eq!(wanted(3, &windows[1..], at("2026-01-01T18:00:00Z")).0, 3);
    assert_eq!(wanted(3, &[], at("2026-01-01T18:00:00Z")), (3, None));
    // A window that wants as many as the one before it is no change.
    assert_eq!(wanted(0, &windows[..1], at("2026-01-01T18:00:00Z")), (1, None));
}

fn any_window() -> impl Strategy<Value = Window> {
    let zones = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"];
    (1..128_u8, 0..DAY, 1..=DAY, prop::sample::select(zones.to_vec()), 0..4_u32)
        .prop_filter("not the same", |(_, from, to, ..)| from != to)
        .prop_map(|(days, from, to, zone, count)| Window {
            days: Days(days),
            from: TimeOfDay(from),
            to: TimeOfDay(to),
            timezone: TimeZone::get(zone).unwrap(),
            count,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_changes_between_the_reported_changes(
        windows in prop::collection::vec(any_window(), 0..4),
        // 2026 and 2027, in minutes.
        minute in 29_453_760_u64..30_504_960,
        parts in prop::collection::vec(0.0..1.0_f64, 8),
    ) {
        let now = Timestamp::from_millis(minute * 60_000);
        let (count, change) = wanted(1, &windows, now);
        let end = change.unwrap_or(now + std::time::Duration::from_hours(13 * 24));
        prop_assert!(end > now);
        let span = end.since(now).as_secs_f64();
        for part in parts {
            let between = now + std::time::Duration::from_secs_f64(span * part);
            if between < end {
                prop_assert_eq!(wanted(1, &windows, between).0, count, "{}", between);
                prop_assert_eq!(wanted(1, &windows, between).1.unwrap_or(end), end);
            }
        }
        if let Some(change) = change {
            prop_assert_ne!(wanted(1, &windows, change).0, count);
        }
    }
}
