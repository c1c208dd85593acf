//! Sorted lists of byte ranges.

use std::ops::Range;

/// What `ranges` leaves out of `0..size`.
pub fn gaps(ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain(std::iter::once(size));
    starts.zip(ends).map(|(start, end)| start..end).filter(|range| range.start < range.end).collect()
}

pub fn intersection(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut both = Vec::new();
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        let range = x.start.max(y.start)..x.end.min(y.end);
        if x.end < y.end {
            a.next()
        } else {
            b.next()
        };
        if range.start < range.end {
            both.push(range);
        }
    }
    both
}

/// Sorted, and what touches made one.
pub fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
    ranges
}

pub fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_intersected_complemented_and_merged() {
        let (used, data) = ([0..10, 20..30, 40..50], [5..25, 28..45]);
        assert_eq!(intersection(&used, &data), [5..10, 20..25, 28..30, 40..45]);
        assert_eq!(gaps(&data, 60), [0..5, 25..28, 45..60]);
        assert_eq!(merged(vec![20..30, 0..10, 10..20, 40..50, 45..47]), [0..30, 40..50]);
        assert_eq!(total(&used), 30);
    }
}
