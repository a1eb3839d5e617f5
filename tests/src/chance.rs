//! Chance that is the same each time.

/// A number from 0 to 1, by xorshift.
///
/// # Panics
/// Never; half of 64 bits are 32.
pub fn random(state: &mut u64) -> f64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    f64::from(u32::try_from(*state >> 32).unwrap()) / f64::from(u32::MAX)
}
