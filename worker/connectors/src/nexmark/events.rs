//! The draws of events, many of one kind at a time: numbers into columns of their own, texts as places in the shared
//! data. What becomes of them is the next module's; here nothing is copied.

use super::random::{Draws, scale};
use super::shared::{CHANNELS, HOT_CHANNELS, Shared, TEXT_LEN};

/// Events are numbered in epochs of 50: one person, three auctions, 46 bids.
pub(super) const EPOCH: u64 = 50;
const AUCTIONS_AN_EPOCH: u64 = 3;
const FIRST_ID: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
/// Every hundredth auction or person is a hot one.
const HOT_EVERY: u64 = 100;
/// Only so many of the newest persons and auctions are drawn from.
const ACTIVE_PERSONS: u64 = 1000;
const ACTIVE_AUCTIONS: u64 = 100;
/// Ids that do not exist yet are drawn too.
const PERSON_LEAD: u64 = 10;
const AUCTION_LEAD: u64 = 10;
/// The first event's time: 2015-07-15 00:00:00 UTC.
const START_MS: u64 = 1_436_918_400_000;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Person = 0,
    Auction = 1,
    Bid = 2,
}

impl Kind {
    /// By the number of the event in its epoch.
    pub(super) const fn of_offset(offset: u64) -> Self {
        match offset {
            0 => Self::Person,
            1..=AUCTIONS_AN_EPOCH => Self::Auction,
            _ => Self::Bid,
        }
    }
}

/// Event time: so many events a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(pub(super) u64);

impl Rate {
    /// When event `n` happens, in milliseconds since the epoch.
    #[inline]
    pub(super) const fn time(self, n: u64) -> i64 {
        (START_MS + n * 1000 / self.0) as i64
    }
}

/// A piece of one of the shared texts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slice {
    pub(super) at: u32,
    pub(super) len: u32,
}

impl Slice {
    #[inline]
    fn draw(draws: &mut Draws, len: u64) -> Self {
        Self { at: draws.below(TEXT_LEN - len) as u32, len: len as u32 }
    }

    /// Text that fills an event of `have` bytes up to about `want`.
    #[inline]
    fn extra(draws: &mut Draws, have: u64, want: u64) -> Self {
        if have > want {
            return Self::default();
        }
        let miss = want - have;
        let spread = (miss + 2) / 5;
        let more = if spread == 0 { 0 } else { draws.below(2 * spread) };
        Self::draw(draws, miss - spread + more)
    }
}

const fn last_person(n: u64) -> u64 {
    n / EPOCH
}

/// A person among the newest that `random` stands for.
#[inline]
const fn any_person(last: u64, random: u64) -> u64 {
    let people = last + 1;
    let active = if people < ACTIVE_PERSONS { people } else { ACTIVE_PERSONS };
    people - active + scale(random, active + PERSON_LEAD)
}

/// Persons, a vector a field.
#[derive(Default)]
pub(super) struct Persons {
    pub(super) id: Vec<i64>,
    /// Indexes of the first and the last name.
    pub(super) name: Vec<(u8, u8)>,
    /// Both words of the address.
    pub(super) mail: Vec<(Slice, Slice)>,
    pub(super) card: Vec<[u16; 4]>,
    pub(super) city: Vec<u8>,
    pub(super) state: Vec<u8>,
    pub(super) time: Vec<i64>,
    pub(super) extra: Vec<Slice>,
}

impl Persons {
    pub(super) fn clear(&mut self) {
        self.id.clear();
        self.name.clear();
        self.mail.clear();
        self.card.clear();
        self.city.clear();
        self.state.clear();
        self.time.clear();
        self.extra.clear();
    }

    pub(super) fn draw(&mut self, n: u64, rate: Rate) {
        use super::shared::{CITIES, FIRST_NAMES, LAST_NAMES, STATES};
        let mut draws = Draws::of_event(n);
        let name = draws.below((FIRST_NAMES.len() * LAST_NAMES.len()) as u64) as usize;
        let (first, last) = (name / LAST_NAMES.len(), name % LAST_NAMES.len());
        let account = 3 + draws.below(4);
        let host = 3 + draws.below(2);
        let mail = (Slice::draw(&mut draws, account), Slice::draw(&mut draws, host));
        let card = [(); 4].map(|()| draws.below(10_000) as u16);
        let city = draws.below(CITIES.len() as u64) as usize;
        let state = draws.below(STATES.len() as u64) as usize;
        let name_len = FIRST_NAMES[first].len() + 1 + LAST_NAMES[last].len();
        // The blanks of the card are 3, the at sign and `.com` 5.
        let lengths =
            name_len as u64 + account + host + 5 + 19 + CITIES[city].len() as u64 + STATES[state].len() as u64;
        self.id.push((FIRST_ID + last_person(n)) as i64);
        self.name.push((first as u8, last as u8));
        self.mail.push(mail);
        self.card.push(card);
        self.city.push(city as u8);
        self.state.push(state as u8);
        self.time.push(rate.time(n));
        self.extra.push(Slice::extra(&mut draws, 8 + lengths, 200));
    }
}

/// Auctions, a vector a field.
#[derive(Default)]
pub(super) struct Auctions {
    pub(super) id: Vec<i64>,
    pub(super) name: Vec<Slice>,
    pub(super) description: Vec<Slice>,
    pub(super) initial_bid: Vec<i64>,
    pub(super) reserve: Vec<i64>,
    pub(super) time: Vec<i64>,
    pub(super) expires: Vec<i64>,
    pub(super) seller: Vec<i64>,
    pub(super) category: Vec<i64>,
    pub(super) extra: Vec<Slice>,
}

impl Auctions {
    pub(super) fn clear(&mut self) {
        self.id.clear();
        self.name.clear();
        self.description.clear();
        self.initial_bid.clear();
        self.reserve.clear();
        self.time.clear();
        self.expires.clear();
        self.seller.clear();
        self.category.clear();
        self.extra.clear();
    }

    pub(super) fn draw(&mut self, n: u64, rate: Rate, shared: &Shared) {
        /// An auction lasts until about so many events later.
        const LASTS_EVENTS: u64 = 1666;
        let mut draws = Draws::of_event(n);
        let last = last_person(n);
        let seller = if draws.below(4) > 0 { last / HOT_EVERY * HOT_EVERY } else { any_person(last, draws.next()) };
        let category = FIRST_CATEGORY + draws.below(5);
        let initial_bid = shared.price(draws.next());
        let time = rate.time(n);
        let horizon = 2 * (rate.time(n + LASTS_EVENTS) - time);
        let expires = time + 1 + draws.below(horizon.max(1) as u64) as i64;
        let name_len = 3 + draws.below(17);
        let description_len = 3 + draws.below(97);
        let name = Slice::draw(&mut draws, name_len);
        let description = Slice::draw(&mut draws, description_len);
        let reserve = initial_bid + shared.price(draws.next());
        self.id.push((FIRST_ID + n / EPOCH * AUCTIONS_AN_EPOCH + n % EPOCH - 1) as i64);
        self.name.push(name);
        self.description.push(description);
        self.initial_bid.push(initial_bid);
        self.reserve.push(reserve);
        self.time.push(time);
        self.expires.push(expires);
        self.seller.push((FIRST_ID + seller) as i64);
        self.category.push(category as i64);
        self.extra.push(Slice::extra(&mut draws, 48 + name_len + description_len, 500));
    }
}

/// One bid, before it is taken apart into columns.
#[derive(Clone, Copy, Default)]
pub(super) struct Bid {
    auction: i64,
    bidder: i64,
    price: i64,
    time: i64,
    channel: u32,
    extra: Slice,
}

/// Bids, a vector a field.
#[derive(Default)]
pub(super) struct Bids {
    pub(super) auction: Vec<i64>,
    pub(super) bidder: Vec<i64>,
    pub(super) price: Vec<i64>,
    pub(super) time: Vec<i64>,
    /// Index of the channel and of its address.
    pub(super) channel: Vec<u32>,
    pub(super) extra: Vec<Slice>,
}

impl Bids {
    /// Draw the bids of these events.
    pub(super) fn draw(&mut self, numbers: &[u64], rate: Rate, shared: &Shared) {
        let rows = numbers.len();
        self.auction.resize(rows, 0);
        self.bidder.resize(rows, 0);
        self.price.resize(rows, 0);
        self.time.resize(rows, 0);
        self.channel.resize(rows, 0);
        self.extra.resize(rows, Slice::default());
        let columns = self
            .auction
            .iter_mut()
            .zip(&mut self.bidder)
            .zip(&mut self.price)
            .zip(&mut self.time)
            .zip(&mut self.channel)
            .zip(&mut self.extra);
        for (&n, (((((auction, bidder), price), time), channel), extra)) in numbers.iter().zip(columns) {
            let bid = Bid::draw(n, rate, shared);
            *auction = bid.auction;
            *bidder = bid.bidder;
            *price = bid.price;
            *time = bid.time;
            *channel = bid.channel;
            *extra = bid.extra;
        }
    }
}

impl Bid {
    /// Without branches on what was drawn: half of them would be predicted wrong. Where a draw is only taken in one case
    /// it is looked at in both.
    #[inline]
    fn draw(n: u64, rate: Rate, shared: &Shared) -> Self {
        const HAVE: u64 = 32;
        const WANT: u64 = 100;
        let mut draws = Draws::of_event(n);

        let last_auction = n / EPOCH * AUCTIONS_AN_EPOCH + AUCTIONS_AN_EPOCH - 1;
        let hot = draws.below(2) > 0;
        let oldest = last_auction.saturating_sub(ACTIVE_AUCTIONS);
        let cold_auction = oldest + scale(draws.peek(0), last_auction - oldest + 1 + AUCTION_LEAD);
        let auction = if hot { last_auction / HOT_EVERY * HOT_EVERY } else { cold_auction };
        draws.skip(u64::from(!hot));

        let last_person = last_person(n);
        let hot = draws.below(4) > 0;
        let cold_bidder = any_person(last_person, draws.peek(0));
        let bidder = if hot { last_person / HOT_EVERY * HOT_EVERY + 1 } else { cold_bidder };
        draws.skip(u64::from(!hot));

        let price = shared.price(draws.next());
        let hot = draws.below(2) > 0;
        let (first, channels) = if hot { (0, HOT_CHANNELS) } else { (HOT_CHANNELS, CHANNELS) };
        let channel = first + draws.below(channels);
        Self {
            auction: (FIRST_ID + auction) as i64,
            bidder: (FIRST_ID + bidder) as i64,
            price,
            time: rate.time(n),
            channel: channel as u32,
            extra: Slice::extra(&mut draws, HAVE, WANT),
        }
    }
}
