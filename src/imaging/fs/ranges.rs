//! Sorted byte ranges under construction, in bounded memory.

use std::ops::Range;

/// Ranges that are kept at most. A file system in more pieces than this has its smallest gaps taken along, which costs
/// some free blocks and keeps the list at 16 MiB.
const RANGES_MAX: usize = 1 << 20;

/// Collects ranges in any order, clips them to `0..end`, and merges what touches.
#[derive(Debug)]
pub struct Ranges {
    list: Vec<Range<u64>>,
    end: u64,
    /// Gaps up to this many bytes are taken along; 0 until the list grew too long.
    gap: u64,
    most: usize,
}

impl Ranges {
    pub fn new(end: u64) -> Ranges {
        Ranges { list: Vec::new(), end, gap: 0, most: RANGES_MAX }
    }

    /// Adds `len` bytes from `start`; what lies outside is cut off.
    pub fn add(&mut self, start: u64, len: u64) {
        let end = start.saturating_add(len).min(self.end);
        if start >= end {
            return;
        }
        match self.list.last_mut() {
            Some(last) if last.start <= start && start <= last.end.saturating_add(self.gap) => {
                last.end = last.end.max(end);
            }
            _ => self.list.push(start..end),
        }
        if self.list.len() > self.most {
            self.shrink();
        }
    }

    pub fn add_all(&mut self, offset: u64, ranges: &[Range<u64>]) {
        for range in ranges {
            self.add(offset.saturating_add(range.start), range.end - range.start);
        }
    }

    /// Takes gaps along, larger and larger ones, until the list is half as long as it may be.
    fn shrink(&mut self) {
        self.merge();
        while self.list.len() > self.most / 2 {
            self.gap = (self.gap * 2).max(4096);
            self.merge();
        }
    }

    fn merge(&mut self) {
        self.list.sort_unstable_by_key(|range| range.start);
        let gap = self.gap;
        self.list.dedup_by(|next, last| {
            let touches = next.start <= last.end.saturating_add(gap);
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
    }

    /// The ranges: sorted, none touching another.
    pub fn finish(mut self) -> Vec<Range<u64>> {
        self.merge();
        self.list
    }
}

/// Bytes in all ranges.
pub fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_that_grows_too_long_takes_small_gaps_along_and_loses_nothing() {
        let mut ranges = Ranges { list: Vec::new(), end: 1 << 40, gap: 0, most: 64 };
        (0..10_000u64).for_each(|block| ranges.add(block * 8192, 4096));
        let list = ranges.finish();
        assert!(list.len() <= 64, "{} ranges", list.len());
        assert!((0..10_000u64).all(|block| list.iter().any(|r| r.contains(&(block * 8192 + 4095)))));
    }

    proptest! {
        #[test]
        fn ranges_hold_exactly_the_bytes_that_were_added(pieces in prop::collection::vec((0u64..300, 0u64..40), 0..40)) {
            let mut ranges = Ranges::new(256);
            pieces.iter().for_each(|(start, len)| ranges.add(*start, *len));
            let list = ranges.finish();
            prop_assert!(list.windows(2).all(|pair| pair[0].end < pair[1].start));
            for byte in 0..320u64 {
                let wanted = byte < 256 && pieces.iter().any(|(start, len)| (*start..start + len).contains(&byte));
                prop_assert_eq!(list.iter().any(|range| range.contains(&byte)), wanted);
            }
        }
    }
}
