//! Sizes as people write them: 4096, 4K, 4KiB, 1.5M, 0x1000.

/// Parses a number of bytes. K, M, G, T, P and E are powers of 1024.
///
/// # Errors
///
/// A sentence that names the error, for text that is not a number of bytes, or more than fits into
/// 64 bits.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    if text.starts_with('-') {
        return Err("a number of bytes cannot be negative".into());
    }
    let too_large = || "more than 64 bits can count".to_owned();
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err("after 0x come hexadecimal digits only, and no unit".into());
        }
        return u64::from_str_radix(digits, 16).map_err(|_| too_large());
    }
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let scale = scale(unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err("not a number; write it like 4096, 4K, 1.5M or 0x1000".into());
    }
    let whole = whole
        .parse::<u64>()
        .ok()
        .and_then(|whole| whole.checked_mul(scale))
        .ok_or_else(too_large)?;
    whole.checked_add(part(fraction, scale)?).ok_or_else(too_large)
}

/// How many bytes a unit is.
fn scale(unit: &str) -> Result<u64, String> {
    let mut letters = unit.chars();
    let Some(letter) = letters.next() else { return Ok(1) };
    let Some(power) = "KMGTPE".find(letter.to_ascii_uppercase()) else {
        return Err(format!(
            "unknown unit `{unit}`; the units are K, M, G, T, P and E (powers of 1024)"
        ));
    };
    match letters.as_str() {
        "" | "iB" | "ib" | "i" => Ok(1 << (10 * (power + 1))),
        // Elsewhere KB is 1000, or 1024: a guess prints the wrong bytes.
        "B" | "b" => {
            let letter = letter.to_ascii_uppercase();
            Err(format!(
                "`{unit}` is 1000 to some and 1024 to others; write {letter} or {letter}iB (1024)"
            ))
        }
        _ => Err(format!(
            "unknown unit `{unit}`; the units are K, M, G, T, P and E (powers of 1024)"
        )),
    }
}

/// The bytes behind the point. They must be whole ones.
fn part(fraction: &str, scale: u64) -> Result<u64, String> {
    let digits = fraction.trim_end_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    let not_whole = || "not a whole number of bytes".to_owned();
    // 2^60 has 60 factors of two, but a part this long is a slip of the hand.
    if digits.len() > 18 {
        return Err(not_whole());
    }
    let numerator = digits.parse::<u128>().map_err(|_| not_whole())? * u128::from(scale);
    let denominator = 10_u128.pow(digits.len() as u32);
    if numerator % denominator != 0 {
        return Err(not_whole());
    }
    u64::try_from(numerator / denominator).map_err(|_| not_whole())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn every_notation() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("010", 10),
            ("4K", 4096),
            ("4k", 4096),
            ("4Ki", 4096),
            ("4KiB", 4096),
            ("0x1000", 4096),
            ("0XfF", 255),
            ("1.5K", 1536),
            ("1.5M", 1_572_864),
            ("2.0", 2),
            ("0.5KiB", 512),
            ("3M", 3 << 20),
            ("3G", 3 << 30),
            ("3TiB", 3 << 40),
            ("3P", 3 << 50),
            ("15.5E", 31 << 59),
            ("18446744073709551615", u64::MAX),
            ("0xffffffffffffffff", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_says_so() {
        for text in [
            "18446744073709551616",
            "16E",
            "17179869184G",
            "0x10000000000000000",
            "99999999999999999999K",
        ] {
            assert!(parse(text).unwrap_err().contains("64 bits"), "{text}");
        }
    }

    #[test]
    fn nonsense_is_an_error_that_says_why() {
        for (text, why) in [
            ("", "not a number"),
            ("K", "not a number"),
            (".5K", "not a number"),
            ("5.K", "not a number"),
            ("1.2.3", "not a number"),
            ("abc", "unknown unit"),
            ("4X", "unknown unit"),
            ("4KiBs", "unknown unit"),
            ("4 K", "unknown unit"),
            ("+4", "unknown unit"),
            ("٤", "unknown unit"),
            ("4KB", "write K or KiB"),
            ("4mb", "write M or MiB"),
            ("-1", "negative"),
            ("0x", "hexadecimal"),
            ("0x+1", "hexadecimal"),
            ("0x10K", "hexadecimal"),
            ("1.5", "whole number of bytes"),
            ("0.3K", "whole number of bytes"),
            ("0.0000000000000000001E", "whole number of bytes"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
