//! The cheapest way through the matches of a block.

use super::lzx::{
    ALIGNED_SYMBOLS, LENGTH_HEADERS, LENGTH_SYMBOLS, LITERALS, MAIN_SYMBOLS_MAX, MATCH_MIN, OFFSET_BIAS, SLOTS_MAX,
    slot_bits, slot_of,
};
use super::matches::common;

pub(super) const LENGTH_MAX: usize = 257;
/// A match of this length is taken as it is.
pub(super) const LENGTH_ENOUGH: usize = 48;
/// Costs are in this part of a bit.
const COST_BIT: f32 = 64.0;

/// All matches of a chunk, by place.
#[derive(Default)]
pub(super) struct Matches {
    /// `length << 23 | offset`
    found: Vec<u32>,
    /// Where the matches of a place end.
    ends: Vec<u32>,
}

impl Matches {
    pub(super) fn clear(&mut self) {
        self.found.clear();
        self.ends.clear();
        self.ends.push(0);
    }

    #[inline(always)]
    pub(super) fn add(&mut self, length: usize, offset: usize) {
        self.found.push((length as u32) << 23 | offset as u32);
    }

    #[inline(always)]
    pub(super) fn end_place(&mut self) {
        self.ends.push(self.found.len() as u32);
    }

    pub(super) fn end_places(&mut self, count: usize) {
        self.ends.resize(self.ends.len() + count, self.found.len() as u32);
    }

    #[inline(always)]
    fn at(&self, place: usize) -> &[u32] {
        &self.found[self.ends[place] as usize..self.ends[place + 1] as usize]
    }
}

/// A literal (length 1) or a match: `length << 22 | adjusted offset`, where 0 to 2 are the recent ones, else offset + 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token(pub(super) u32);

impl Token {
    const LITERAL: Token = Token(1 << 22);

    #[inline(always)]
    pub(super) fn length(self) -> usize {
        (self.0 >> 22) as usize
    }

    #[inline(always)]
    pub(super) fn adjusted(self) -> u32 {
        self.0 & 0x3f_ffff
    }
}

pub(super) struct Counts {
    pub(super) main: [u32; MAIN_SYMBOLS_MAX],
    pub(super) length: [u32; LENGTH_SYMBOLS],
    pub(super) aligned: [u32; ALIGNED_SYMBOLS],
}

impl Counts {
    fn new() -> Counts {
        Counts { main: [0; MAIN_SYMBOLS_MAX], length: [0; LENGTH_SYMBOLS], aligned: [0; ALIGNED_SYMBOLS] }
    }

    fn clear(&mut self) {
        self.main.fill(0);
        self.length.fill(0);
        self.aligned.fill(0);
    }

    fn add(&mut self, other: &Counts) {
        let add = |sums: &mut [u32], counts: &[u32]| sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        add(&mut self.main, &other.main);
        add(&mut self.length, &other.length);
        add(&mut self.aligned, &other.aligned);
    }

    #[inline(always)]
    fn literal(&mut self, byte: u8) {
        self.main[usize::from(byte)] += 1;
    }

    #[inline(always)]
    fn token(&mut self, token: Token) {
        let (slot, length) = (slot_of(token.adjusted()), token.length());
        self.main[main_symbol(slot, length)] += 1;
        if length >= MATCH_MIN + LENGTH_HEADERS - 1 {
            self.length[length - (MATCH_MIN + LENGTH_HEADERS - 1)] += 1;
        }
        if slot_bits(slot) >= 3 {
            self.aligned[(token.adjusted() & 7) as usize] += 1;
        }
    }
}

#[inline(always)]
pub(super) fn main_symbol(slot: usize, length: usize) -> usize {
    LITERALS + slot * LENGTH_HEADERS + (length - MATCH_MIN).min(LENGTH_HEADERS - 1)
}

pub(super) struct Costs {
    literal: [u32; LITERALS],
    /// By slot and length, with the extra bits but those that an aligned code may hold.
    matches: Vec<[u64; LENGTH_MAX + 1]>,
    aligned: [u32; ALIGNED_SYMBOLS],
}

impl Costs {
    fn new() -> Costs {
        Costs { literal: [0; LITERALS], matches: vec![[0; LENGTH_MAX + 1]; SLOTS_MAX], aligned: [0; ALIGNED_SYMBOLS] }
    }

    fn set(&mut self, counts: &Counts, main_symbols: usize) {
        let main = code_costs(&counts.main[..main_symbols]);
        let length = code_costs(&counts.length);
        let aligned = code_costs(&counts.aligned);
        let bit = COST_BIT as u32;
        self.literal.copy_from_slice(&main[..LITERALS]);
        let total: u32 = counts.aligned.iter().sum();
        let with_aligned: u32 = counts.aligned.iter().zip(&aligned).map(|(n, cost)| n * cost).sum::<u32>() / bit;
        let aligned_pays = with_aligned + 24 < 3 * total;
        for (symbol, cost) in self.aligned.iter_mut().enumerate() {
            *cost = if aligned_pays { aligned[symbol] } else { 3 * bit };
        }
        for (slot, costs) in self.matches.iter_mut().enumerate().take((main_symbols - LITERALS) / LENGTH_HEADERS) {
            let extra = match slot_bits(slot) {
                bits @ 3.. => (bits - 3) * bit,
                bits => bits * bit,
            };
            let symbols = &main[LITERALS + slot * LENGTH_HEADERS..][..LENGTH_HEADERS];
            for (header, cost) in symbols[..LENGTH_HEADERS - 1].iter().enumerate() {
                costs[MATCH_MIN + header] = with_length(MATCH_MIN + header, cost + extra);
            }
            let long = symbols[LENGTH_HEADERS - 1] + extra;
            let longer = &mut costs[MATCH_MIN + LENGTH_HEADERS - 1..];
            let shortest = MATCH_MIN + LENGTH_HEADERS - 1;
            longer
                .iter_mut()
                .zip(&length)
                .enumerate()
                .for_each(|(n, (cost, more))| *cost = with_length(shortest + n, long + more));
        }
    }
}

/// The part of a node that a length makes up.
fn with_length(length: usize, cost: u32) -> u64 {
    u64::from(cost) << 32 | (length as u64) << 22
}

/// What each symbol of a code for these counts costs. One that was not seen is dear, not forbidden.
fn code_costs(counts: &[u32]) -> Vec<u32> {
    let total: u32 = counts.iter().sum();
    let whole = ((total + counts.len() as u32 / 4) as f32).log2();
    counts
        .iter()
        .map(|count| {
            let cost = if *count == 0 { whole + 1.0 } else { whole - (*count as f32).log2() };
            (cost.clamp(0.7, 16.0) * COST_BIT) as u32
        })
        .collect()
}

pub(super) struct Parser {
    pub(super) matches: Matches,
    /// What was guessed of each piece.
    pub(super) pieces: Vec<Counts>,
    /// The way of the last parse, first token first.
    pub(super) tokens: Vec<Token>,
    /// The counts of that way.
    pub(super) counts: Counts,
    costs: Costs,
    /// For each place of the block the cheapest way to it: cost above, the token that ends there below.
    nodes: Vec<u64>,
    /// The recent offsets at each place, three times 21 bits.
    queues: Vec<Recent>,
    main_symbols: usize,
}

/// Three recent offsets of 21 bits each, the latest lowest.
#[derive(Clone, Copy, Default)]
struct Recent(u64);

const RECENT_BITS: u32 = 21;
const RECENT_MASK: u64 = (1 << RECENT_BITS) - 1;
const RECENTS_MASK: u64 = (1 << (3 * RECENT_BITS)) - 1;

impl Recent {
    fn new(recent: [u32; 3]) -> Recent {
        Recent(u64::from(recent[0]) | u64::from(recent[1]) << RECENT_BITS | u64::from(recent[2]) << (2 * RECENT_BITS))
    }

    #[inline(always)]
    fn offset(self, place: usize) -> u32 {
        (self.0 >> (place as u32 * RECENT_BITS) & RECENT_MASK) as u32
    }

    fn offsets(self) -> [u32; 3] {
        [self.offset(0), self.offset(1), self.offset(2)]
    }

    #[inline(always)]
    fn after(self, token: Token) -> Recent {
        if token.length() == 1 {
            return self;
        }
        match token.adjusted() {
            place @ 0..3 => {
                // The two swap places: LZX does not move the others down.
                let shift = place * RECENT_BITS;
                let difference = (self.0 ^ self.0 >> shift) & RECENT_MASK;
                Recent(self.0 ^ difference ^ difference << shift)
            }
            explicit => Recent((self.0 << RECENT_BITS) & RECENTS_MASK | u64::from(explicit - OFFSET_BIAS)),
        }
    }
}

impl Parser {
    pub(super) fn new(window_bytes: usize) -> Parser {
        Parser {
            matches: Matches::default(),
            pieces: Vec::new(),
            tokens: Vec::new(),
            counts: Counts::new(),
            costs: Costs::new(),
            nodes: Vec::new(),
            queues: Vec::new(),
            main_symbols: LITERALS + super::lzx::slots(window_bytes) * LENGTH_HEADERS,
        }
    }

    /// A first way, for the first costs: the longest match at each place. Gives the counts of each piece.
    pub(super) fn guess(&mut self, data: &[u8], len: usize, piece_bytes: usize) {
        self.pieces.clear();
        let mut recent = Recent::new([1; 3]);
        let mut at = 0;
        while at < len {
            let end = (at + piece_bytes).min(len);
            let mut counts = Counts::new();
            while at < end {
                at += self.guess_one(data, at, end, &mut recent, &mut counts);
            }
            self.pieces.push(counts);
        }
    }

    #[inline(always)]
    fn guess_one(&self, data: &[u8], at: usize, end: usize, recent: &mut Recent, counts: &mut Counts) -> usize {
        let best = self.matches.at(at).last().map_or((0, 0), |found| ((found >> 23) as usize, found & 0x7f_ffff));
        let offset = recent.offset(0) as usize;
        let repeat = if offset <= at { common(data, at - offset, at, (end - at).min(LENGTH_MAX)) } else { 0 };
        let length = best.0.min(end - at);
        let token = if repeat >= MATCH_MIN && repeat + 1 >= length {
            Token((repeat as u32) << 22)
        } else if length > 3 || length == 3 && best.1 < 4096 {
            Token((length as u32) << 22 | (best.1 + OFFSET_BIAS))
        } else {
            counts.literal(data[at]);
            return 1;
        };
        counts.token(token);
        *recent = recent.after(token);
        token.length()
    }

    /// Takes what was guessed of `pieces` together for the first costs.
    pub(super) fn take_guess(&mut self, pieces: std::ops::Range<usize>) {
        self.counts.clear();
        for piece in &self.pieces[pieces] {
            self.counts.add(piece);
        }
    }

    /// The cheapest way by the costs of the last one's counts. Returns the recent offsets at its end.
    pub(super) fn parse(&mut self, data: &[u8], from: usize, end: usize, recent: [u32; 3]) -> [u32; 3] {
        self.costs.set(&self.counts, self.main_symbols);
        let len = end - from;
        self.nodes.clear();
        self.nodes.resize(len + 1, u64::MAX);
        self.nodes[0] = 0;
        self.queues.resize(len + 1, Recent::default());
        let mut at = 0;
        while at < len {
            let node = self.nodes[at];
            let token = Token(node as u32);
            let queue = if at == 0 { Recent::new(recent) } else { self.queues[at - token.length()].after(token) };
            self.queues[at] = queue;
            at += self.step(data, from, at, len, node >> 32, queue);
        }
        let token = Token(self.nodes[len] as u32);
        let after = self.queues[len - token.length()].after(token);
        self.collect(data, from, len);
        after.offsets()
    }

    /// All tokens that begin at `from + at`. Returns how far to go on: beyond a match that is long enough.
    #[inline(always)]
    fn step(&mut self, data: &[u8], from: usize, at: usize, len: usize, cost: u64, queue: Recent) -> usize {
        let place = from + at;
        let literal = cost + u64::from(self.costs.literal[usize::from(data[place])]);
        let ahead = &mut self.nodes[at + 1];
        *ahead = (*ahead).min(literal << 32 | u64::from(Token::LITERAL.0));
        let length_max = (len - at).min(LENGTH_MAX);
        if length_max < MATCH_MIN {
            return 1;
        }
        for repeat in 0..3 {
            let offset = queue.offset(repeat) as usize;
            if offset > place || data[place - offset] != data[place] || data[place + 1 - offset] != data[place + 1] {
                continue;
            }
            let length = common(data, place - offset, place, length_max);
            if length >= LENGTH_ENOUGH {
                offer(&mut self.nodes[at..], &self.costs.matches[repeat], cost, length, length, repeat as u32);
                return length;
            }
            if length >= MATCH_MIN {
                offer(&mut self.nodes[at..], &self.costs.matches[repeat], cost, MATCH_MIN, length, repeat as u32);
            }
        }
        let mut shortest = MATCH_MIN;
        for found in self.matches.at(place) {
            let (length, adjusted) = ((found >> 23) as usize, (found & 0x7f_ffff) + OFFSET_BIAS);
            let length = length.min(length_max);
            let slot = slot_of(adjusted);
            let low = if slot >= 8 { u64::from(self.costs.aligned[(adjusted & 7) as usize]) } else { 0 };
            if length >= LENGTH_ENOUGH {
                offer(&mut self.nodes[at..], &self.costs.matches[slot], cost + low, length, length, adjusted);
                return length;
            }
            if length >= shortest {
                offer(&mut self.nodes[at..], &self.costs.matches[slot], cost + low, shortest, length, adjusted);
                shortest = length + 1;
            }
        }
        1
    }

    fn collect(&mut self, data: &[u8], from: usize, len: usize) {
        self.tokens.clear();
        self.counts.clear();
        let mut at = len;
        while at > 0 {
            let token = Token(self.nodes[at] as u32);
            at -= token.length();
            match token.length() {
                1 => self.counts.literal(data[from + at]),
                _ => self.counts.token(token),
            }
            self.tokens.push(token);
        }
        self.tokens.reverse();
    }
}

/// Offers a match in all its lengths from `shortest` to `longest`.
#[inline(always)]
fn offer(nodes: &mut [u64], costs: &[u64; LENGTH_MAX + 1], cost: u64, shortest: usize, longest: usize, adjusted: u32) {
    let token = u64::from(adjusted) | cost << 32;
    let nodes = &mut nodes[shortest..=longest];
    for (node, add) in nodes.iter_mut().zip(&costs[shortest..=longest]) {
        *node = (*node).min(token + add);
    }
}
