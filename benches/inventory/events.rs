//! Events whose ids and products look random.

/// How many products there are.
pub const PRODUCTS: u64 = 2_000;

/// A number that looks random, for ids and products.
fn scattered(number: u64) -> u64 {
    let word = (number ^ (number >> 30)).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
}

pub fn event_id(number: u64) -> String {
    let word = scattered(number);
    format!("{word:016x}-{number:019}")
}

pub fn product(number: u64) -> String {
    format!("sku-{:08}", scattered(number) % PRODUCTS)
}
