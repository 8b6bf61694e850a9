//! Decimal numbers in text protocols, written and read without allocation.

/// Longest value any of the servers takes (Redis, 512 MiB).
const VALUE_BYTES_MAX: u64 = 512 << 20;

/// Appends `number` in decimal.
#[inline]
pub(super) fn push(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    let mut rest = number;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Reads all of `text` as a number.
#[inline]
pub(super) fn parse(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// Reads all of `text` as the length of a value; a longer one than any server takes is noise.
#[inline]
pub(super) fn parse_length(text: &[u8]) -> Option<usize> {
    parse(text).filter(|&length| length <= VALUE_BYTES_MAX).map(|length| length as usize)
}

/// Reads all of `text` as a number that may be negative.
#[inline]
pub(super) fn parse_signed(text: &[u8]) -> Option<i64> {
    match text.split_first() {
        Some((b'-', digits)) => parse(digits).and_then(|number| 0i64.checked_sub_unsigned(number)),
        _ => parse(text).and_then(|number| i64::try_from(number).ok()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number: u64) {
            let mut text = Vec::new();
            push(number, &mut text);
            prop_assert_eq!(&text, &number.to_string().into_bytes());
            prop_assert_eq!(parse(&text), Some(number));
        }

        #[test]
        fn signed_numbers_are_read(number: i64) {
            prop_assert_eq!(parse_signed(number.to_string().as_bytes()), Some(number));
        }

        #[test]
        fn what_is_no_number_is_none(text in "[0-9]{0,3}[^0-9][0-9]{0,3}") {
            prop_assert_eq!(parse(text.as_bytes()), None);
        }
    }

    #[test]
    fn what_does_not_fit_is_none() {
        assert_eq!(parse(b"18446744073709551616"), None);
        assert_eq!(parse_signed(b"-9223372036854775809"), None);
        assert_eq!(parse(b""), None);
    }
}
