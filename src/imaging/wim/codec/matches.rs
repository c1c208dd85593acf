//! Earlier occurrences of what stands at a place of a chunk, by hash chains.

/// Bytes that must follow the data in a buffer that is searched: comparisons take eight at a time.
pub(super) const PADDING_BYTES: usize = 16;

const HASH4_BITS: u32 = 15;
const HASH3_BITS: u32 = 12;
const NONE: u32 = u32::MAX;

/// How hard to search.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// Earlier places that are compared at one place.
    pub(super) depth: usize,
    /// A match of this length ends the search.
    pub(super) enough: usize,
}

/// Where each string of three and of four bytes was seen last, and before that.
pub(super) struct Finder {
    heads3: Box<[u32; 1 << HASH3_BITS]>,
    heads4: Box<[u32; 1 << HASH4_BITS]>,
    previous: Vec<u32>,
}

impl Finder {
    pub(super) fn new(chunk_bytes: usize) -> Finder {
        let previous = vec![NONE; chunk_bytes];
        Finder { heads3: Box::new([NONE; 1 << HASH3_BITS]), heads4: Box::new([NONE; 1 << HASH4_BITS]), previous }
    }

    pub(super) fn restart(&mut self) {
        self.heads3.fill(NONE);
        self.heads4.fill(NONE);
    }

    /// Takes places in without searching, and only for matches of four bytes and more.
    #[inline(always)]
    pub(super) fn skip(&mut self, data: &[u8], places: std::ops::Range<usize>) {
        let data = &data[places.start..places.end + 3];
        let previous = &mut self.previous[places.clone()];
        for ((next, previous), at) in data.windows(4).zip(previous).zip(places) {
            let next = u32::from_le_bytes(*next.first_chunk().expect("windows of 4 bytes"));
            *previous = std::mem::replace(&mut self.heads4[hash(next, HASH4_BITS)], at as u32);
        }
    }

    /// Takes `at` in and gives each match that is longer than `shortest` and those nearer by as (length, offset), the nearest
    /// first. `length_max` does not reach beyond the data. Returns the greatest length.
    #[inline(always)]
    pub(super) fn search(
        &mut self,
        data: &[u8],
        at: usize,
        length_max: usize,
        shortest: usize,
        effort: Effort,
        mut found: impl FnMut(usize, usize),
    ) -> usize {
        let next = load32(data, at);
        let near = std::mem::replace(&mut self.heads3[hash(next << 8, HASH3_BITS)], at as u32);
        let mut candidate = std::mem::replace(&mut self.heads4[hash(next, HASH4_BITS)], at as u32);
        self.previous[at] = candidate;
        let mut best = shortest;
        if length_max <= shortest.max(3) {
            return best;
        }
        if best < 3 && near != NONE && load32(data, near as usize) << 8 == next << 8 && near != candidate {
            best = 3;
            found(3, at - near as usize);
        }
        let mut depth = effort.depth;
        while candidate != NONE && depth > 0 {
            let from = candidate as usize;
            let tail = best.max(3) - 3;
            if load32(data, from + tail) == load32(data, at + tail) && load32(data, from) == next {
                let length = common(data, from, at, length_max);
                if length > best {
                    best = length;
                    found(length, at - from);
                    if length >= effort.enough || length == length_max {
                        break;
                    }
                }
            }
            candidate = self.previous[from];
            depth -= 1;
        }
        best
    }
}

#[inline(always)]
fn hash(value: u32, bits: u32) -> usize {
    (value.wrapping_mul(0x9e37_79b1) >> (32 - bits)) as usize
}

#[inline(always)]
pub(super) fn load32(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*data[at..].first_chunk().expect("the data is padded"))
}

#[inline(always)]
fn load64(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*data[at..].first_chunk().expect("the data is padded"))
}

/// How many bytes from `from` on are those from `at` on, at most `length_max`.
#[inline(always)]
pub(super) fn common(data: &[u8], from: usize, at: usize, length_max: usize) -> usize {
    let mut length = 0;
    while length < length_max {
        let difference = load64(data, from + length) ^ load64(data, at + length);
        if difference != 0 {
            return length_max.min(length + (difference.trailing_zeros() / 8) as usize);
        }
        length += 8;
    }
    length_max
}
