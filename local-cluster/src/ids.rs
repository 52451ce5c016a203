//! Random ids.

/// Returns random bytes in hexadecimal.
pub(crate) fn random_id(bytes: usize) -> String {
    let random: Vec<u8> = std::iter::repeat_with(rand::random).take(bytes).collect();
    hex::encode(random)
}
