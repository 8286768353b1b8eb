//! A quantity of Kubernetes, as far as it counts bytes.

/// Digits that are exact with every suffix in 128 bits.
const MOST_DIGITS: usize = 18;

/// Bytes, rounded up, at most what 63 bits hold; `None` for what is no quantity: `64Mi`, `1.5G`, `1e6`, `100m`.
///
/// See [Quantity](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/).
pub(super) fn bytes(text: &str) -> Option<i64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{part}");
    if digits.is_empty() || digits.len() > MOST_DIGITS || part.contains('.') {
        return None;
    }
    let (binary, decimal) = scale(suffix)?;
    let decimal = decimal - part.len() as i32;
    // At most 60 bits of each: what is multiplied fits, and a divisor of more than all digits leaves nothing.
    let scaled = digits.parse::<u128>().ok()? << binary;
    let power = 10u128.checked_pow(decimal.unsigned_abs())?;
    let amount = if decimal < 0 { scaled.div_ceil(power) } else { scaled.saturating_mul(power) };
    let amount = i64::try_from(amount).unwrap_or(i64::MAX);
    Some(if negative { -amount } else { amount })
}

/// Powers of two and of ten.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !matches!(*rest, "" | "i")) {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let exponent: i32 = exponent.parse().ok().filter(|_| plain)?;
        return (exponent.unsigned_abs() <= MOST_DIGITS as u32).then_some((0, exponent));
    }
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities() {
        for (text, amount) in [
            ("0", Some(0)),
            ("64Mi", Some(64 << 20)),
            ("1.5Gi", Some(3 << 29)),
            ("500M", Some(500_000_000)),
            ("1e3", Some(1000)),
            ("1.5E3", Some(1500)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("2500e-3", Some(3)),
            ("100m", Some(1)),
            (".5k", Some(500)),
            ("5.", Some(5)),
            ("+1Ki", Some(1024)),
            ("-1Ki", Some(-1024)),
            ("100Ei", Some(i64::MAX)),
            ("1.000000000000000001Ei", None),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("1 Gi", None),
            ("1gi", None),
            ("1K", None),
            ("e3", None),
            ("1e", None),
            ("1e+", None),
            ("1e99", None),
            ("0x10", None),
        ] {
            assert_eq!(bytes(text), amount, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_quantity_or_none(text in "[-+0-9.eEkKMGTPimnu]{0,24}|\\PC{0,20}") {
            bytes(&text);
        }

        /// A binary suffix is a shift, a decimal one so many noughts.
        #[test]
        fn suffixes_multiply(n in 0u32.., (suffix, shift) in prop::sample::select(vec![("Ki", 10), ("Mi", 20), ("Gi", 30)])) {
            prop_assert_eq!(bytes(&format!("{n}{suffix}")), Some(i64::from(n) << shift));
            prop_assert_eq!(bytes(&format!("{n}k")), bytes(&format!("{n}000")));
            prop_assert_eq!(bytes(&format!("{n}e3")), bytes(&format!("{n}k")));
            prop_assert_eq!(bytes(&format!("{n}.000")), Some(i64::from(n)));
        }
    }
}
