//! Maintenance windows: when a machine may be changed. Times are UTC, so that a fleet means the same hour.

use serde::{Deserialize, Serialize};

use crate::stdx::time::Timestamp;

const DAY_MINUTES: i64 = 24 * 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

const DAYS: [Day; 7] = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];

/// From one time of day to another, on the days on which it begins. One that ends before it begins goes past midnight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Every day without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// `22:00`
    pub from: String,
    /// `05:00`; the same as `from` is a whole day.
    pub to: String,
}

impl Window {
    pub fn fault(&self) -> Option<String> {
        let bad = [&self.from, &self.to].into_iter().find(|text| minutes(text).is_none())?;
        Some(format!("`{bad}` is no time of day; write it as 22:00"))
    }

    pub fn holds(&self, now: Timestamp) -> bool {
        let (Some(from), Some(to)) = (minutes(&self.from), minutes(&self.to)) else { return false };
        let since_epoch = now.milliseconds().div_euclid(60_000);
        let (today, minute) = (since_epoch.div_euclid(DAY_MINUTES), since_epoch.rem_euclid(DAY_MINUTES));
        let begins_on = |day: i64| {
            // 1970-01-01 was a Thursday.
            let name = DAYS[(day + 3).rem_euclid(7) as usize];
            self.days.is_empty() || self.days.contains(&name)
        };
        let length = if to > from { to - from } else { to + DAY_MINUTES - from };
        let began_today = minute >= from && minute < from + length && begins_on(today);
        let began_yesterday = minute + DAY_MINUTES < from + length && begins_on(today - 1);
        began_today || began_yesterday
    }

    /// `sat sun 22:00-05:00 UTC`
    pub fn words(&self) -> String {
        let names = self.days.iter().map(|day| format!("{day:?} ").to_lowercase());
        format!("{}{}-{} UTC", names.collect::<String>(), self.from, self.to)
    }
}

fn minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    ((0..24).contains(&hours) && (0..60).contains(&minutes) && text.len() == 5).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_within_its_hours_on_its_days_and_past_midnight() {
        let window =
            |days: &[Day], from: &str, to: &str| Window { days: days.to_vec(), from: from.into(), to: to.into() };
        // 2026-11-27 is a Friday; 1_795_737_600 is its midnight.
        let at =
            |hour: i64, minute: i64| Timestamp::from_milliseconds((1_795_737_600 + hour * 3600 + minute * 60) * 1000);
        let night = window(&[Day::Fri], "22:00", "05:00");
        for (hour, minute, expect) in [(21, 59, false), (22, 0, true), (28, 59, true), (29, 0, false), (4, 0, false)] {
            assert_eq!(night.holds(at(hour, minute)), expect, "{hour}:{minute}");
        }
        let noon = window(&[], "12:00", "13:00");
        assert!(noon.holds(at(12, 30)) && noon.holds(at(36, 30)) && !noon.holds(at(13, 0)));
        assert!(window(&[Day::Fri], "00:00", "00:00").holds(at(23, 59)));
        assert!(!window(&[Day::Fri], "00:00", "00:00").holds(at(24, 0)));
        assert_eq!(night.words(), "fri 22:00-05:00 UTC");
        assert!(window(&[], "25:00", "1:00").fault().unwrap().contains("25:00"));
        assert!(!window(&[], "x", "y").holds(at(0, 0)));
    }
}
