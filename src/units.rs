//! Sizes and durations as people write them: `256MiB`, `64k`, `1.5GB`; `30s`, `500ms`, `1h30m`.
//!
//! One grammar for flags, environment and files. Arithmetic is exact: a fraction that is no whole number of bytes or
//! nanoseconds is refused instead of rounded, and so is what does not fit. Formatting writes what parsing reads back to
//! the same value.

use std::fmt;
use std::time::Duration;

/// Nanoseconds in one second.
const NANOS_PER_SEC: u128 = 1_000_000_000;

/// What a size may look like, for messages.
pub const SIZE_EXPECTED: &str =
    "a size such as 256MiB, 64k or 1.5GB (k, M, G, T count in 1024s; kB, MB, GB, TB in 1000s)";

/// What a duration may look like, for messages.
pub const DURATION_EXPECTED: &str = "a duration such as 30s, 500ms or 1h30m (units: ns, us, ms, s, m, h, d)";

/// Why a text is no size or duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\": {problem}; expected {expected}")]
pub struct UnitError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it.
    pub problem: UnitProblem,
    /// What would have been right.
    pub expected: &'static str,
}

/// What is wrong with a size or duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitProblem {
    /// No digits where a number must stand.
    #[error("there is no number where one must stand")]
    NoNumber,
    /// More than twenty digits.
    #[error("the number has too many digits")]
    TooManyDigits,
    /// A number without a unit, where one is needed.
    #[error("the number has no unit")]
    NoUnit,
    /// A unit that is not in the list.
    #[error("there is no unit \"{0}\"")]
    UnknownUnit(String),
    /// A fraction of a byte or nanosecond.
    #[error("it is not a whole number of the smallest unit")]
    NotWhole,
    /// More than 64 bits of bytes or seconds.
    #[error("it is too large")]
    TooLarge,
}

/// Reads a size in bytes.
///
/// A bare number is bytes; `k`, `M`, `G`, `T` (any case, with or without `iB`) are powers of 1024, `kB`, `MB`… of 1000.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    bytes_of(text).map_err(|problem| UnitError { text: text.to_owned(), problem, expected: SIZE_EXPECTED })
}

/// Reads a duration: one or more numbers with units, added up. Only `0` may stand without a unit.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    duration_of(text).map_err(|problem| UnitError { text: text.to_owned(), problem, expected: DURATION_EXPECTED })
}

/// A size in the largest unit that shows it exactly: `256MiB`, `1536KiB`, `1000B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisplayBytes(pub u64);

impl fmt::Display for DisplayBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")];
        let exact = units.iter().find(|(unit_bytes, _)| self.0 != 0 && self.0.is_multiple_of(*unit_bytes));
        let (unit_bytes, unit) = exact.unwrap_or(&(1, "B"));
        write!(f, "{}{unit}", self.0 / unit_bytes)
    }
}

/// A size for reading at a glance, in the largest unit it fills, to a tenth: `2.7GiB`. It does not read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisplayRoughly(pub u64);

impl fmt::Display for DisplayRoughly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(unit_bytes, _)| self.0 >= *unit_bytes) {
            Some((unit_bytes, unit)) => {
                // Tenths by whole numbers, rounded down: a cap is never shown larger than it is.
                let tenths = u128::from(self.0) * 10 / u128::from(*unit_bytes);
                write!(f, "{}.{}{unit}", tenths / 10, tenths % 10)
            }
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A duration as its parts: `1h30m`, `500ms`, `0s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisplayDuration(pub Duration);

impl fmt::Display for DisplayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        let secs = self.0.as_secs();
        let parts = [
            (secs / 86_400, "d"),
            (secs / 3_600 % 24, "h"),
            (secs / 60 % 60, "m"),
            (secs % 60, "s"),
            (u64::from(nanos) / 1_000_000, "ms"),
            (u64::from(nanos) / 1_000 % 1_000, "us"),
            (u64::from(nanos) % 1_000, "ns"),
        ];
        if self.0.is_zero() {
            return write!(f, "0s");
        }
        for (count, unit) in parts {
            if count != 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

fn bytes_of(text: &str) -> Result<u64, UnitProblem> {
    let (number, rest) = Number::take(text)?;
    let unit_bytes = match rest.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(UnitProblem::UnknownUnit(rest.to_owned())),
    };
    u64::try_from(number.times(unit_bytes)?).map_err(|_| UnitProblem::TooLarge)
}

fn duration_of(text: &str) -> Result<Duration, UnitProblem> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total_nanos: u128 = 0;
    let mut remaining = text;
    loop {
        let (number, rest) = Number::take(remaining)?;
        let (unit, rest) = rest.split_at(rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len()));
        let unit_nanos = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS_PER_SEC,
            "m" | "min" => 60 * NANOS_PER_SEC,
            "h" => 3_600 * NANOS_PER_SEC,
            "d" => 86_400 * NANOS_PER_SEC,
            "" => return Err(UnitProblem::NoUnit),
            _ => return Err(UnitProblem::UnknownUnit(unit.to_owned())),
        };
        total_nanos = total_nanos.checked_add(number.times(unit_nanos)?).ok_or(UnitProblem::TooLarge)?;
        if rest.is_empty() {
            break;
        }
        remaining = rest;
    }
    let secs = u64::try_from(total_nanos / NANOS_PER_SEC).map_err(|_| UnitProblem::TooLarge)?;
    Ok(Duration::new(secs, (total_nanos % NANOS_PER_SEC) as u32))
}

/// A decimal number: `digits / 10^fraction_digits`.
struct Number {
    digits: u128,
    fraction_digits: u32,
}

impl Number {
    /// Digits one number may have; twenty write the largest `u64`. Keeps the arithmetic below inside a `u128`.
    const DIGITS_MAX: usize = 20;

    /// The number at the front of `text`, and the rest.
    fn take(text: &str) -> Result<(Self, &str), UnitProblem> {
        let (whole, after_whole) = take_digits(text);
        let (fraction, rest) = match after_whole.strip_prefix('.') {
            Some(after_point) => take_digits(after_point),
            None => ("0", after_whole),
        };
        if whole.is_empty() || fraction.is_empty() {
            return Err(UnitProblem::NoNumber);
        }
        let fraction = fraction.trim_end_matches('0');
        if whole.len() + fraction.len() > Self::DIGITS_MAX {
            return Err(UnitProblem::TooManyDigits);
        }
        let digits = whole.bytes().chain(fraction.bytes()).fold(0, |sum, digit| sum * 10 + u128::from(digit - b'0'));
        Ok((Self { digits, fraction_digits: fraction.len() as u32 }, rest))
    }

    /// The number times `unit`, if that is whole.
    fn times(&self, unit: u128) -> Result<u128, UnitProblem> {
        // Below 10^20 times at most a day in nanoseconds (below 10^14): far from 2^127.
        let product = self.digits * unit;
        let divisor = 10u128.pow(self.fraction_digits);
        if product.is_multiple_of(divisor) { Ok(product / divisor) } else { Err(UnitProblem::NotWhole) }
    }
}

fn take_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("64k", 64 << 10),
            ("64K", 64 << 10),
            ("64KiB", 64 << 10),
            ("64kB", 64_000),
            ("256MiB", 256 << 20),
            ("256m", 256 << 20),
            ("1.5GiB", 3 << 29),
            ("1.50000000000000000000000GiB", 3 << 29),
            ("1.5GB", 1_500_000_000),
            ("2t", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_size_are_refused() {
        for text in ["", "MiB", "-1", "+1", "1..5k", "1.k", ".5k", "12 MiB", "12MiBs", "1k1", "0.3", "1e9", "٣", "∞"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for (text, problem) in [
            ("18446744073709551616", UnitProblem::TooLarge),
            ("16777216T", UnitProblem::TooLarge),
            ("999999999999999999999", UnitProblem::TooManyDigits),
            ("0.0001k", UnitProblem::NotWhole),
        ] {
            assert_eq!(parse_bytes(text).map_err(|error| error.problem), Err(problem), "{text}");
        }
    }

    #[test]
    fn durations_as_people_write_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("250ns", 250),
            ("50us", 50_000),
            ("50µs", 50_000),
            ("500ms", 500_000_000),
            ("1.5s", 1_500_000_000),
            ("30s", 30_000_000_000),
            ("2m", 120_000_000_000),
            ("2min", 120_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1d", 86_400_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_duration_are_refused_whole() {
        for text in ["", "5", "s", "-5s", "5 s", "5x", "1h30", "1.5ns", "99999999999999999999d"] {
            let error = parse_duration(text).expect_err(text);
            assert_eq!(error.text, text);
        }
    }

    #[test]
    fn a_size_at_a_glance_is_never_shown_larger_than_it_is() {
        for (bytes, shown) in
            [(0, "0B"), (1023, "1023B"), (1024, "1.0KiB"), (2_956_847_199, "2.7GiB"), (u64::MAX, "16777215.9TiB")]
        {
            assert_eq!(DisplayRoughly(bytes).to_string(), shown);
        }
    }

    proptest! {
        #[test]
        fn a_formatted_size_reads_back(bytes: u64, shift in 0u32..50) {
            let bytes = bytes >> shift << (shift / 2);
            prop_assert_eq!(parse_bytes(&DisplayBytes(bytes).to_string()), Ok(bytes));
        }

        #[test]
        fn a_formatted_duration_reads_back(secs in 0u64..=u64::MAX >> 11, nanos in 0u32..1_000_000_000) {
            let duration = Duration::new(secs, nanos);
            prop_assert_eq!(parse_duration(&DisplayDuration(duration).to_string()), Ok(duration));
        }

        #[test]
        fn any_text_is_answered_without_a_panic(text in "[0-9a-zA-Zµ. +-]{0,40}|\\PC{0,12}") {
            let _ = parse_bytes(&text);
            let _ = parse_duration(&text);
        }
    }
}
