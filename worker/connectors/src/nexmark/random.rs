//! The random numbers: `SplitMix64`, seeded by the number of the event.

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of `SplitMix64`.
#[inline]
pub(crate) const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `random` scaled down to `0..bound`.
#[inline]
pub(crate) const fn scale(random: u64, bound: u64) -> u64 {
    ((random >> 32).wrapping_mul(bound)) >> 32
}

/// A sequence of draws. Every draw is a function of the state and its place, so draws of one event do not wait for
/// another, and the processor makes several at a time.
#[derive(Clone, Copy)]
pub(crate) struct Draws {
    state: u64,
}

impl Draws {
    /// The draws from a fixed state: those of the shared data.
    pub(crate) const fn from_state(state: u64) -> Self {
        Self { state }
    }

    /// The draws of one event.
    #[inline]
    pub(crate) const fn of_event(number: u64) -> Self {
        Self { state: mix(number ^ 0x6E65_786D_6172_6B31) }
    }

    /// The next 64 bits.
    #[inline]
    pub(crate) const fn next(&mut self) -> u64 {
        self.skip(1);
        mix(self.state)
    }

    /// What `next` would give, `ahead` draws from here, without taking it.
    #[inline]
    pub(crate) const fn peek(self, ahead: u64) -> u64 {
        mix(self.state.wrapping_add(GAMMA.wrapping_mul(ahead + 1)))
    }

    /// Take `draws` draws without looking at them.
    #[inline]
    pub(crate) const fn skip(&mut self, draws: u64) {
        self.state = self.state.wrapping_add(GAMMA.wrapping_mul(draws));
    }

    /// A number in `0..bound`.
    #[inline]
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        scale(self.next(), bound)
    }
}
