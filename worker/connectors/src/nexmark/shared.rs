//! What all events draw from: text, words, addresses, channels and prices. Built once a process, some 4 MB.

use std::fmt::Write as _;
use std::sync::LazyLock;

use super::random::Draws;

/// Bytes in each of the two text buffers, as the generator's definition counts them.
pub(super) const TEXT_LEN: u64 = 1 << 20;
/// Bytes behind the end of a text buffer, never part of an event: slices can be copied in pieces of a fixed size.
const PADDING: usize = 128;
/// Addresses and channels: the hot ones, then those of the numbered channels.
pub(super) const HOT_CHANNELS: u64 = 4;
pub(super) const CHANNELS: u64 = 10_000;
/// No address is longer: host 24, three folders of 5, file 16, channel 12 and ten digits.
pub(super) const URL_WIDTH: usize = 80;
/// `channel-9999` has 12 bytes.
pub(super) const CHANNEL_WIDTH: usize = 16;

pub(super) const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
pub(super) const LAST_NAMES: [&str; 9] =
    ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
pub(super) const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
pub(super) const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const HOT_CHANNEL_NAMES: [&str; HOT_CHANNELS as usize] = ["Google", "Facebook", "Baidu", "Apple"];

/// Short texts at equal distances, so that the n-th is found without an index and copied in a piece of a fixed size.
pub(super) struct Strides<const WIDTH: usize> {
    bytes: Vec<[u8; WIDTH]>,
    lengths: Vec<u8>,
}

impl<const WIDTH: usize> Strides<WIDTH> {
    fn new() -> Self {
        Self { bytes: Vec::new(), lengths: Vec::new() }
    }

    fn push(&mut self, text: &str) {
        let mut padded = [0; WIDTH];
        padded[..text.len()].copy_from_slice(text.as_bytes());
        self.bytes.push(padded);
        self.lengths.push(text.len() as u8);
    }

    /// The n-th text with its padding, and its length.
    #[inline]
    pub(super) fn get(&self, n: usize) -> (&[u8; WIDTH], usize) {
        (&self.bytes[n], usize::from(self.lengths[n]))
    }
}

/// See the module.
pub(super) struct Shared {
    pub(super) text: Vec<u8>,
    pub(super) words: Vec<u8>,
    pub(super) urls: Strides<URL_WIDTH>,
    pub(super) channels: Strides<CHANNEL_WIDTH>,
    prices: [Vec<f64>; 3],
}

static SHARED: LazyLock<Shared> = LazyLock::new(Shared::build);

impl Shared {
    /// The process's own, built at the first call.
    pub(super) fn get() -> &'static Self {
        &SHARED
    }

    fn build() -> Self {
        let mut text = Draws::from_state(1);
        let mut words = Draws::from_state(2);
        let mut urls = Strides::new();
        let mut channels = Strides::new();
        let mut draws = Draws::from_state(3);
        for name in HOT_CHANNEL_NAMES {
            urls.push(&url(&mut draws));
            channels.push(name);
        }
        for i in 0..CHANNELS as u32 {
            let mut address = url(&mut draws);
            if draws.below(10) > 0 {
                let id = i.reverse_bits().cast_signed().unsigned_abs();
                let _ = write!(address, "&channel_id={id}");
            }
            urls.push(&address);
            channels.push(&format!("channel-{i}"));
        }
        Self {
            text: padded(|| letter(&mut text)),
            words: padded(|| letter_or(b' ', &mut words)),
            urls,
            channels,
            prices: prices(),
        }
    }

    /// The price that 64 random bits stand for: 10 to the power of a number even in 0..6, times 100, rounded.
    #[inline]
    pub(super) fn price(&self, random: u64) -> i64 {
        let u = (random >> 31) as usize;
        let [high, middle, low] = &self.prices;
        let price = high[u >> 22] * middle[(u >> 11) & 2047] * low[u & 2047] * 100.0 + 0.5;
        price as i64
    }
}

fn padded(byte: impl FnMut() -> u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = std::iter::repeat_with(byte).take(TEXT_LEN as usize).collect();
    bytes.resize(TEXT_LEN as usize + PADDING, b'a');
    bytes
}

fn letter(draws: &mut Draws) -> u8 {
    b'a' + draws.below(26) as u8
}

fn letter_or(other: u8, draws: &mut Draws) -> u8 {
    if draws.below(13) == 0 { other } else { letter(draws) }
}

fn url(draws: &mut Draws) -> String {
    let mut url = String::from("https://www.nexmark.com/");
    for _ in 0..3 {
        for _ in 0..3 + draws.below(2) {
            url.push(char::from(letter_or(b'_', draws)));
        }
        url.push('/');
    }
    url.push_str("item.htm?query=1");
    url
}

/// A million to the power of a 33-bit fraction, as the product of three table entries of 11 bits each. Only square roots
/// and products are used, which IEEE rounds the same everywhere.
fn prices() -> [Vec<f64>; 3] {
    let mut root = 1e6_f64;
    let mut roots = [0.0; 33];
    for slot in &mut roots {
        root = root.sqrt();
        *slot = root;
    }
    std::array::from_fn(|table| {
        let roots = &roots[11 * table..11 * (table + 1)];
        let entry =
            |v: usize| (0..11).filter(|bit| v >> (10 - bit) & 1 == 1).fold(1.0, |product, bit| product * roots[bit]);
        (0..2048).map(entry).collect()
    })
}
