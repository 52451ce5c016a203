//! Weekly schedules: how many tasks a pool keeps at a time, and when that changes next. No I/O, and
//! no clock: the time zone database is part of the program.
//!
//! A [`Window`] begins on its days at a time of the clock in its time zone. One that ends at or
//! before the time at which it begins goes on over midnight, and belongs to the day on which it
//! begins. If the clock skips a window's beginning or end, the change of the clock takes its place.
//! If the clock repeats the hour, the window begins the first time and ends the second time.

use std::{fmt, iter, time::Duration};

use jiff::{
    ToSpan as _,
    civil::{Date, Weekday},
    tz::{AmbiguousOffset, TimeZone},
};
use states::Timestamp;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Changes are looked for so many days ahead: two weeks, as a change of the clock can leave out a
/// window of one of them.
const AHEAD: i64 = 14;
/// A window that began so many days ago may still be open.
const BEHIND: i64 = 2;

/// Days of the week: a bit for each, from Monday.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Days(u8);

const NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

impl Days {
    /// All days.
    pub const ALL: Self = Self(0b111_1111);

    /// Reads days such as `Mon-Fri,Sun`. A range may go over the end of the week. `None` if the
    /// text is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let day = |name: &str| NAMES.iter().position(|day| day.eq_ignore_ascii_case(name.trim()));
        let mut days = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (day(first)?, day(last)?);
            let length = (last + 7 - first) % 7;
            (first..=first + length).for_each(|at| days |= 1 << (at % 7));
        }
        Some(Self(days))
    }

    fn contain(self, day: Weekday) -> bool {
        self.0 & (1 << day.to_monday_zero_offset()) != 0
    }
}

impl fmt::Debug for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = NAMES.iter().enumerate().filter(|(at, _)| self.0 & (1 << at) != 0);
        f.debug_set().entries(names.map(|(_, name)| name)).finish()
    }
}

/// A time of day, in minutes from midnight. `24:00` is the end of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// Reads `HH:MM`, up to `24:00`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (hours, minutes) = text.split_once(':')?;
        let number = |part: &str| {
            let is_number = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<u16>().ok().filter(|_| is_number)
        };
        let (hours, minutes) = (number(hours)?, number(minutes).filter(|m| *m < 60)?);
        Some(Self(hours * 60 + minutes)).filter(|time| time.0 <= DAY)
    }
}

/// A time in which a pool keeps another number of tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The days on which it begins.
    pub days: Days,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends.
    pub to: TimeOfDay,
    /// The time zone of both.
    pub timezone: TimeZone,
    /// The tasks that are wanted in it.
    pub count: u32,
}

/// A window on one day: it begins at the first moment, and is over at the second one.
#[derive(Debug, Clone, Copy)]
struct Span {
    begin: Timestamp,
    end: Timestamp,
    count: u32,
}

/// Which end of a window.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    Begin,
    End,
}

impl Window {
    /// Lists when it is open around this time.
    fn spans(&self, at: Timestamp) -> impl Iterator<Item = Span> {
        let today = self.timezone.to_datetime(instant(at)).date();
        let dates =
            (-BEHIND..=AHEAD + 1).filter_map(move |days| today.checked_add(days.days()).ok());
        dates.filter(|date| self.days.contain(date.weekday())).filter_map(|date| {
            let end = if self.to <= self.from { date.tomorrow().ok()? } else { date };
            let span = Span {
                begin: self.moment(date, self.from, Edge::Begin)?,
                end: self.moment(end, self.to, Edge::End)?,
                count: self.count,
            };
            (span.begin < span.end).then_some(span)
        })
    }

    /// Returns the moment at which the clock shows this time. `None` beyond the year 9999.
    fn moment(&self, date: Date, time: TimeOfDay, edge: Edge) -> Option<Timestamp> {
        let date = if time.0 == DAY { date.tomorrow().ok()? } else { date };
        let [hour, minute] = [time.0 / 60 % 24, time.0 % 60].map(|n| i8::try_from(n).ok());
        let shown = self.timezone.to_ambiguous_timestamp(date.at(hour?, minute?, 0, 0));
        let moment = match (shown.offset(), edge) {
            (AmbiguousOffset::Gap { .. }, _) => {
                let before = shown.earlier().ok()?;
                self.timezone.following(before).next()?.timestamp()
            }
            (_, Edge::Begin) => shown.earlier().ok()?,
            (_, Edge::End) => shown.later().ok()?,
        };
        Some(Timestamp::from_millis(u64::try_from(moment.as_millisecond()).ok()?))
    }
}

/// Returns the number of tasks that are wanted at a time: that of the open windows' which wants
/// most, or else `base`. With it comes the next time at which the number changes; `None` if it does
/// not change within two weeks.
#[must_use]
pub fn wanted(base: u32, windows: &[Window], at: Timestamp) -> (u32, Option<Timestamp>) {
    let spans: Vec<Span> = windows.iter().flat_map(|window| window.spans(at)).collect();
    let count = |at: Timestamp| {
        let open = spans.iter().filter(|span| span.begin <= at && at < span.end);
        open.map(|span| span.count).max().unwrap_or(base)
    };
    let now = count(at);
    let edges = spans.iter().flat_map(|span| iter::once(span.begin).chain([span.end]));
    // Windows of later days are not among the spans.
    let end = at + Duration::from_hours(24 * AHEAD.unsigned_abs());
    (now, edges.filter(|edge| at < *edge && *edge < end && count(*edge) != now).min())
}

fn instant(at: Timestamp) -> jiff::Timestamp {
    let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
