//! Chance that is the same each time.

/// A number from 0 to 1, by xorshift.
///
/// # Panics
/// Never; half of 64 bits are 32.
pub fn random(state: &mut u64) -> f64 {
    f64::from(next(state)) / f64::from(u32::MAX)
}

/// One of the numbers below `end`.
///
/// # Panics
/// When there is none.
pub fn below(state: &mut u64, end: usize) -> usize {
    usize::try_from(next(state)).unwrap() % end
}

fn next(state: &mut u64) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    u32::try_from(*state >> 32).unwrap()
}
