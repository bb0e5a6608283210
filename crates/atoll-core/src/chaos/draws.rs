//! A generator without state: the n-th draw of a stream is computed from the stream's key and n.
//!
//! `SplitMix64` (Steele, Lea and Flood, 2014) is exactly that; its state after n steps is `key + n * GAMMA`. Keys come from
//! the seed and names by the same mixing. What these functions return for given arguments is a promise: seeds in bug reports
//! depend on it.

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// `SplitMix64`'s output for `state`: each bit of the result depends on each bit of the state.
fn mix(state: u64) -> u64 {
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The key of the stream that `seed` and the names give. Names are told apart by their lengths, too: `ab, c` is not `a, bc`.
pub(super) fn key<const N: usize>(seed: u64, names: [&str; N]) -> u64 {
    let mut key = mix(seed.wrapping_add(GAMMA));
    let mut absorb = |word: u64| key = mix((key ^ word).wrapping_add(GAMMA));
    for name in names {
        absorb(name.len() as u64);
        for chunk in name.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            absorb(u64::from_le_bytes(word));
        }
    }
    key
}

/// The `n`-th draw of the stream `key`, from zero on: any 64 bits.
pub(super) fn nth(key: u64, n: u64) -> u64 {
    mix(key.wrapping_add(GAMMA.wrapping_mul(n.wrapping_add(1))))
}

/// A draw as a number from 0 to `max`, both included, each as likely as the others to within 2⁻⁶⁴ of `max`.
pub(super) fn up_to(draw: u64, max: u64) -> u64 {
    ((u128::from(draw) * (u128::from(max) + 1)) >> 64) as u64
}

/// Whether a draw is one of the share `probability` of all draws: never at 0, always at 1.
pub(super) fn is_within(draw: u64, probability: f64) -> bool {
    // The upper 53 bits are all that an f64 holds, and keep the quotient below 1.
    ((draw >> 11) as f64) / ((1_u64 << 53) as f64) < probability
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draws_are_those_of_splitmix64() {
        // The reference implementation's first outputs for the seed 1234567.
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        for (n, draw) in (0..).zip(expected) {
            assert_eq!(nth(1_234_567, n), draw);
        }
    }

    #[test]
    fn a_range_is_drawn_from_end_to_end() {
        assert_eq!(up_to(0, 100), 0);
        assert_eq!(up_to(u64::MAX, 100), 100);
        assert_eq!(up_to(u64::MAX, 0), 0);
        assert_eq!(up_to(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_probability_of_zero_is_never_and_of_one_is_always() {
        for draw in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!is_within(draw, 0.0));
            assert!(is_within(draw, 1.0));
        }
        assert!(is_within(u64::MAX / 4 - (1 << 20), 0.25));
        assert!(!is_within(u64::MAX / 4 + (1 << 20), 0.25));
    }

    #[test]
    fn names_with_the_same_letters_have_different_keys() {
        let keys = [
            key(1, ["ab", "c"]),
            key(1, ["a", "bc"]),
            key(1, ["", "abc"]),
            key(1, ["abc", ""]),
            key(1, ["abc\0", ""]),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(one));
        }
    }
}
