//! Exact decimals as scaled integers: 128 bits, never a float.

/// Reads `-12.340` into units of 10^−scale. `None` when digits would be lost or the integer is too large.
pub(super) fn parse(text: &str, precision: u8, scale: u8) -> Option<i128> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let mut value: i128 = 0;
    let mut places: Option<u8> = None;
    let mut any = false;
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                any = true;
                let places_now = places.map(|count| count.saturating_add(1));
                if places_now.is_some_and(|count| count > scale) {
                    if *byte != b'0' {
                        return None;
                    }
                    continue;
                }
                places = places_now;
                value = value.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
            }
            b'.' if places.is_none() => places = Some(0),
            _ => return None,
        }
    }
    if !any {
        return None;
    }
    let missing = u32::from(scale - places.unwrap_or(0));
    let value = value.checked_mul(10i128.checked_pow(missing)?)?;
    fits(value, precision).then_some(if negative { -value } else { value })
}

/// Reads PostgreSQL's binary `numeric`: digits in base 10000, weight of the first, sign, display scale.
pub(super) fn from_binary(bytes: &[u8], precision: u8, scale: u8) -> Option<i128> {
    const POSITIVE: u16 = 0x0000;
    const NEGATIVE: u16 = 0x4000;
    let (header, digits) = bytes.split_first_chunk::<8>()?;
    let [count_a, count_b, weight_a, weight_b, sign_a, sign_b, _, _] = *header;
    let count = usize::from(u16::from_be_bytes([count_a, count_b]));
    let mut exponent = i32::from(i16::from_be_bytes([weight_a, weight_b])) * 4 + i32::from(scale);
    let sign = u16::from_be_bytes([sign_a, sign_b]);
    if (sign != POSITIVE && sign != NEGATIVE) || digits.len() != count * 2 {
        return None;
    }
    let mut value: i128 = 0;
    for pair in digits.as_chunks::<2>().0 {
        let digit = i128::from(u16::from_be_bytes(*pair));
        // `exponent` is the power of ten of this base-10000 digit in units of the scale.
        let part = match u32::try_from(exponent) {
            Ok(up) => digit.checked_mul(10i128.checked_pow(up)?)?,
            Err(_) => {
                let divisor = 10i128.checked_pow(exponent.unsigned_abs())?;
                if digit % divisor != 0 {
                    return None;
                }
                digit / divisor
            }
        };
        value = value.checked_add(part)?;
        exponent -= 4;
    }
    fits(value, precision).then_some(if sign == NEGATIVE { -value } else { value })
}

/// The text of a stored decimal: little-endian bytes of 32, 64 or 128 bits in units of 10^−scale.
pub(super) fn to_text(bytes: &[u8], scale: u8) -> Option<String> {
    let value = match bytes.len() {
        4 => i128::from(i32::from_le_bytes(bytes.try_into().ok()?)),
        8 => i128::from(i64::from_le_bytes(bytes.try_into().ok()?)),
        _ => i128::from_le_bytes(bytes.try_into().ok()?),
    };
    let (sign, scale) = (if value < 0 { "-" } else { "" }, usize::from(scale));
    let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at_checked(digits.len() - scale)?;
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

fn fits(value: i128, precision: u8) -> bool {
    10i128.checked_pow(u32::from(precision)).is_none_or(|limit| value < limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_exact_or_refused() {
        assert_eq!(parse("0.682", 4, 3), Some(682));
        assert_eq!(parse("-1", 4, 3), Some(-1000));
        assert_eq!(parse("1.2000000", 4, 3), Some(1200));
        for text in ["", "-", ".", "1.2345", "10", "NaN", "1e3", "1.2.3", " 1"] {
            assert_eq!(parse(text, 4, 3), None, "{text}");
        }
        for text in ["0.682", "-12.340", "0.000", "-0.001"] {
            let value = parse(text, 5, 3).expect("a decimal");
            assert_eq!(to_text(&value.to_le_bytes(), 3).as_deref(), Some(text));
            let narrow = i32::try_from(value).expect("small");
            assert_eq!(to_text(&narrow.to_le_bytes(), 3).as_deref(), Some(text));
        }
        let nines = "9".repeat(38);
        assert_eq!(parse(&nines, 38, 0), Some(10i128.pow(38) - 1));
    }

    #[test]
    fn binary_is_what_the_text_says() {
        // 12345.678 is 1 | 2345 | 6780 with weight 1.
        let bytes =
            [0u16, 3, 1, 0, 3, 1, 2345, 6780].into_iter().skip(1).flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        assert_eq!(from_binary(&bytes, 8, 3), Some(12_345_678));
        assert_eq!(from_binary(&bytes, 8, 2), None, "a digit would be lost");
        let nan = [0u16, 0, 0xC000, 0].into_iter().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        assert_eq!(from_binary(&nan, 8, 3), None);
        let zero = [0u16, 0, 0, 3].into_iter().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        assert_eq!(from_binary(&zero, 4, 3), Some(0));
        let tiny = [1u16, 0xFFFF, 0x4000, 3, 6820].into_iter().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        assert_eq!(from_binary(&tiny, 4, 3), Some(-682));
    }
}
