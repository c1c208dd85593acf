//! A machine whose clock battery is dead believes in no certificate: its clock is set by the appliance's, roughly.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use super::terminal::Terminal;
use crate::link::client::server_date;
use crate::stdx::time::{Clock, SystemClock, Timestamp};

/// A clock that is off by less is left alone: certificates are valid a day before they are issued.
const TOLERANCE_SECONDS: i64 = 12 * 3600;

/// Sets the clock when it is far off what the appliance's plain HTTP says. That answer proves nothing: whoever sits on the
/// wire can choose the day on which certificates are judged, and still needs one of this site's.
pub fn correct(terminal: &Terminal, url: &str) {
    let Some(there) = server_date(url).ok().flatten().and_then(|text| parse_http_date(&text)) else { return };
    let here = SystemClock.now();
    let off_seconds = (there.milliseconds() - here.milliseconds()) / 1000;
    if off_seconds.abs() < TOLERANCE_SECONDS {
        return;
    }
    let now = TimeSpec::new(there.milliseconds() / 1000, 0);
    match clock_settime(ClockId::CLOCK_REALTIME, now) {
        Ok(()) => terminal.log(format!("the clock was off by {} days and is set", off_seconds / 86_400)),
        Err(error) => terminal.log(format!("the clock is off by {} days: {error}", off_seconds / 86_400)),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 5.6.7, the only form that is sent today).
fn parse_http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let (day, year): (i64, i64) = (day.parse().ok()?, year.parse().ok()?);
    let month = MONTHS.iter().position(|name| name == month)? as i64 + 1;
    let clock: Vec<i64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock.as_slice() else { return None };
    let plausible = (1970..=9999).contains(&year)
        && (1..=31).contains(&day)
        && (0..24).contains(hour)
        && (0..60).contains(minute)
        && (0..=60).contains(second);
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    plausible.then(|| Timestamp::from_milliseconds(seconds * 1000))
}

/// Days in the proleptic Gregorian calendar, counted in years that begin in March, so that the leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    const DAYS_FROM_0000_03_01: i64 = 719_468;
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - DAYS_FROM_0000_03_01
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_appliances_date_is_understood_and_nonsense_is_not() {
        let seconds = |text: &str| parse_http_date(text).map(|at| at.milliseconds() / 1000);
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        for bad in
            ["", "now", "Sun, 06 Nov 1994 08:49:37", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 8:49 GMT"]
        {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
