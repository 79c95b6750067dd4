//! Owns quantities as people write them: `64MiB`, `10MiB/s`, `500ms`, and back.
//! Must never know which setting a quantity is for.

use std::ops::RangeInclusive;

use super::problem::Complaint;
use crate::units::Nanos;

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const TIMES: [(&str, u64); 4] =
    [("ms", 1_000_000), ("s", 1_000_000_000), ("min", 60_000_000_000), ("h", 3_600_000_000_000)];

/// Parses a size such as `64MiB`.
///
/// # Errors
/// Says in words what is wrong with it.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    parse(text, &SIZES, "a size such as \"64MiB\" (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)")
}

/// Parses a rate such as `10MiB/s`, in bytes a second.
///
/// # Errors
/// Says in words what is wrong with it.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let wanted = "a rate such as \"10MiB/s\" (B/s, KiB/s, MiB/s, GiB/s)";
    let size = text.strip_suffix("/s").ok_or_else(|| format!("{text:?} is not {wanted}"))?;
    parse(size, &SIZES, wanted)
}

/// Parses a time such as `500ms`.
///
/// # Errors
/// Says in words what is wrong with it.
pub fn parse_time(text: &str) -> Result<Nanos, String> {
    parse(text, &TIMES, "a time such as \"500ms\" (ms, s, min, h)").map(Nanos)
}

fn parse(text: &str, units: &[(&str, u64)], wanted: &str) -> Result<u64, String> {
    let refuse = || format!("{text:?} is not {wanted}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
    let unit = text[digits..].trim_start_matches(' ');
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
    number.checked_mul(*factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// A size in the largest unit that shows three digits of it.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let step = (bytes.max(1).ilog2() / 10) as usize;
    if step == 0 {
        return format!("{bytes} B");
    }
    let tenths = u128::from(bytes) * 10 / (1_u128 << (10 * step));
    match tenths.is_multiple_of(10) || tenths >= 1000 {
        true => format!("{} {}", tenths / 10, units[step]),
        false => format!("{}.{} {}", tenths / 10, tenths % 10, units[step]),
    }
}

/// A time in the largest unit that is exact enough to plan with: `1 h 5 min`, `42 s`, `500 ms`.
#[must_use]
pub fn show_time(time: Nanos) -> String {
    let (millis, seconds) = (time.as_millis(), time.as_millis() / 1000);
    match seconds {
        0 => format!("{millis} ms"),
        1..=9 if millis % 1000 != 0 => format!("{}.{} s", seconds, millis % 1000 / 100),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Refuses a value outside of what the setting allows, shown by `show`.
pub(super) fn within<T: PartialOrd + Copy>(
    value: T,
    allowed: &RangeInclusive<T>,
    show: impl Fn(T) -> String,
) -> Result<T, Complaint> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (show(*allowed.start()), show(*allowed.end()));
    Err(Complaint::new(
        format!("{} is out of range", show(value)),
        format!("choose a value from {least} to {most}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_carry_their_unit() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("1 GB"), Ok(1_000_000_000));
        assert_eq!(parse_rate("10MiB/s"), Ok(10 << 20));
        assert_eq!(parse_time("500ms"), Ok(Nanos::from_millis(500)));
        assert_eq!(parse_time("2min"), Ok(Nanos::from_millis(120_000)));
        for bad in ["", "64", "MiB", "-1MiB", "1.5MiB", "64mib", "64MiB/s", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert!(parse_rate("10MiB").is_err());
        assert!(parse_time("10").is_err());
    }

    #[test]
    fn quantities_are_shown_as_people_read_them() {
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(4096), "4 KiB");
        assert_eq!(show_bytes(1_610_612_736), "1.5 GiB");
        assert_eq!(show_bytes(u64::MAX), "15.9 EiB");
        assert_eq!(show_time(Nanos::from_millis(1500)), "1.5 s");
        assert_eq!(show_time(Nanos::from_millis(90_000)), "90 s");
        assert_eq!(show_time(Nanos::from_millis(9_000_000)), "2 h 30 min");
    }
}
