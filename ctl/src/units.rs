//! Durations, sizes, counts and times, as people write and read them.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

/// Parses a duration such as `90s`, `5m`, `2h`, `1d`, `500ms` or `1h30m`.
///
/// # Errors
///
/// When a number has no unit, a unit is unknown, or nothing is there.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as 500ms, 90s, 5m, 2h or 1d");
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = number.checked_mul(unit_ms).ok_or_else(wrong)?;
        total_ms = total_ms.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Returns a duration in whole milliseconds, at most `u64::MAX`.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Formats milliseconds in at most two units: `41 ms`, `1.8s`, `38s`, `5m 12s`, `3d 4h`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 if ms % 1_000 >= 100 => format!("{seconds}.{}s", ms % 1_000 / 100),
        1_000..10_000 => format!("{seconds}s"),
        10_000..60_000 => format!("{seconds}s"),
        60_000..3_600_000 => two_units(seconds / 60, "m", seconds % 60, "s"),
        3_600_000..86_400_000 => two_units(seconds / 3_600, "h", seconds / 60 % 60, "m"),
        _ => two_units(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// Formats milliseconds in one unit, for ages and far ends: `38s`, `4m`, `6d`.
pub fn coarse(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn two_units(first: u64, first_unit: &str, second: u64, second_unit: &str) -> String {
    if second == 0 {
        format!("{first}{first_unit}")
    } else {
        format!("{first}{first_unit} {second}{second_unit}")
    }
}

/// Formats bytes with IEC units: `512 B`, `2.1 KiB`, `88 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, rounded; integers throughout, so that no size is too large.
    let mut scale = 1_024_u128;
    for unit in UNITS {
        let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
        if tenths < 100 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        if tenths < 10_240 || unit == "EiB" {
            return format!("{} {unit}", (tenths + 5) / 10);
        }
        scale *= 1_024;
    }
    format!("{bytes} B")
}

/// Formats a count with a comma every three digits.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a count with its noun: `1 record`, `2 records`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// Returns the milliseconds from `earlier` to `later`, or 0 when they are the other way round.
pub fn between_ms(earlier: Timestamp, later: Timestamp) -> u64 {
    u64::try_from(later.as_millisecond().saturating_sub(earlier.as_millisecond())).unwrap_or(0)
}

/// Formats a local time: with its date unless that is today.
pub fn local_time(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let at = at.to_zoned(zone.clone());
    let now = now.to_zoned(zone.clone());
    let format = if at.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    at.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse() {
        let parse = |text: &str| parse_duration(text).map(millis);
        assert_eq!(parse("90s"), Ok(90_000));
        assert_eq!(parse("5m"), Ok(300_000));
        assert_eq!(parse("2h"), Ok(7_200_000));
        assert_eq!(parse("1d"), Ok(86_400_000));
        assert_eq!(parse("250ms"), Ok(250));
        assert_eq!(parse("1h30m"), Ok(5_400_000));
        assert_eq!(parse("0s"), Ok(0));
        for text in ["", "5", "s", "5 m", "5x", "-5s", "1.5h", "99999999999999999999s", "é"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("18446744073709551615d").is_err());
    }

    #[test]
    fn durations_read_well() {
        let cases = [
            (0, "0 ms", "0s"),
            (41, "41 ms", "0s"),
            (1_849, "1.8s", "1s"),
            (5_000, "5s", "5s"),
            (38_999, "38s", "38s"),
            (60_000, "1m", "1m"),
            (312_000, "5m 12s", "5m"),
            (3_840_000, "1h 4m", "1h"),
            (273_600_000, "3d 4h", "3d"),
        ];
        for (ms, exact, rough) in cases {
            assert_eq!(duration(ms), exact);
            assert_eq!(coarse(ms), rough);
        }
    }

    #[test]
    fn sizes_read_well() {
        let cases = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (2_150, "2.1 KiB"),
            (10_239, "10 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_258_291, "1.2 MiB"),
            (92_274_688, "88 MiB"),
            (76_235_669_504, "71 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_204), "1,204");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "record"), "1 record");
        assert_eq!(counted(1_204, "record"), "1,204 records");
    }

    #[test]
    fn times_carry_a_date_only_when_it_is_not_today() {
        let now: Timestamp = "2026-11-20T10:35:34Z".parse().unwrap();
        let today: Timestamp = "2026-11-20T10:36:12Z".parse().unwrap();
        let tomorrow: Timestamp = "2026-11-21T08:00:00Z".parse().unwrap();
        assert_eq!(local_time(today, now, &TimeZone::UTC), "10:36:12");
        assert_eq!(local_time(tomorrow, now, &TimeZone::UTC), "2026-11-21 08:00");
    }
}
