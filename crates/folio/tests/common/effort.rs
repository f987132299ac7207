//! How much of each long test runs.

/// Percent of a long test that runs by default.
const DEFAULT: u64 = 10;

/// Whether all of each proof runs: `FOLIO_THOROUGH=1`.
pub(crate) fn is_thorough() -> bool {
    std::env::var_os("FOLIO_THOROUGH").is_some_and(|value| value == "1")
}

/// So many steps, rounds or kills of the `full` number as `FOLIO_EFFORT` says in percent; 100 by
/// default with `FOLIO_THOROUGH=1`, else 10. At least one.
pub(crate) fn scaled(full: u64) -> u64 {
    let percent = number("FOLIO_EFFORT").unwrap_or(if is_thorough() { 100 } else { DEFAULT });
    (u128::from(full) * u128::from(percent) / 100).clamp(1, u64::MAX.into()) as u64
}

/// The number in an environment variable.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")))
}
