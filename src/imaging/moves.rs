//! What is on the target already, but elsewhere: in which order it can be moved without being overwritten first.
//!
//! A piece reads its source and later writes its destination. The only danger is a destination that is the source of a
//! piece not yet read, so pieces are ordered by that; where they wait for each other in a circle, some are fetched instead.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use crate::imaging::chunk::ChunkId;
use crate::imaging::manifest::Extent;

/// No piece is larger: it is read in one go, and a circle costs no more than this to break.
pub const PIECE_BYTES_MAX: u64 = 4 << 20;

/// Neighbouring extents whose content lies together elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Extents of the manifest.
    pub extents: Range<usize>,
    pub from: Range<u64>,
    pub to: Range<u64>,
}

/// Which of `missing` (extents of the manifest, in order) are moved, in the order in which they are to be read.
pub fn moves(extents: &[Extent], missing: &[usize], elsewhere: &HashMap<ChunkId, u64>, end: u64) -> Vec<Piece> {
    let pieces = pieces(extents, missing, elsewhere, end);
    let order = Order::of(&pieces);
    order.run().into_iter().map(|number| pieces[number].clone()).collect()
}

fn pieces(extents: &[Extent], missing: &[usize], elsewhere: &HashMap<ChunkId, u64>, end: u64) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for number in missing {
        let extent = &extents[*number];
        let len = u64::from(extent.len);
        let Some(from) = elsewhere.get(&extent.chunk).copied() else { continue };
        if from == extent.offset || from.saturating_add(len) > end {
            continue;
        }
        match pieces.last_mut() {
            Some(last)
                if last.extents.end == *number
                    && last.to.end == extent.offset
                    && last.from.end == from
                    && last.to.end - last.to.start + len <= PIECE_BYTES_MAX =>
            {
                last.extents.end += 1;
                last.from.end += len;
                last.to.end += len;
            }
            _ => pieces.push(Piece {
                extents: *number..number + 1,
                from: from..from + len,
                to: extent.offset..extent.end(),
            }),
        }
    }
    pieces
}

/// Pieces that wait for pieces.
struct Order<'a> {
    /// Sorted by destination; destinations do not overlap.
    pieces: &'a [Piece],
    /// For each piece, those whose source it writes over: they are read first.
    waits_for: Vec<Vec<usize>>,
    /// How many of them are still to be read.
    left: Vec<usize>,
    state: Vec<State>,
    ready: BinaryHeap<Reverse<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Ready,
    Done,
    /// To be fetched instead.
    GivenUp,
}

impl<'a> Order<'a> {
    fn of(pieces: &'a [Piece]) -> Order<'a> {
        let mut waits_for = vec![Vec::new(); pieces.len()];
        for number in 0..pieces.len() {
            overwriting(pieces, number).for_each(|other| waits_for[other].push(number));
        }
        let left = waits_for.iter().map(Vec::len).collect();
        let state = vec![State::Waiting; pieces.len()];
        let mut order = Order { pieces, waits_for, left, state, ready: BinaryHeap::new() };
        (0..pieces.len()).for_each(|number| order.look(number));
        order
    }

    fn run(mut self) -> Vec<usize> {
        let mut done = Vec::with_capacity(self.pieces.len());
        let mut oldest = 0;
        loop {
            while let Some(Reverse(number)) = self.ready.pop() {
                self.state[number] = State::Done;
                done.push(number);
                self.release(number);
            }
            while self.state.get(oldest).is_some_and(|state| *state != State::Waiting) {
                oldest += 1;
            }
            if oldest == self.pieces.len() {
                return done;
            }
            let given_up = self.smallest_of_circle(oldest);
            self.state[given_up] = State::GivenUp;
            self.release(given_up);
        }
    }

    /// `number` no longer needs its source.
    fn release(&mut self, number: usize) {
        for other in overwriting(self.pieces, number) {
            self.left[other] -= 1;
            self.look(other);
        }
    }

    fn look(&mut self, number: usize) {
        if self.state[number] == State::Waiting && self.left[number] == 0 {
            self.state[number] = State::Ready;
            self.ready.push(Reverse(number));
        }
    }

    /// Follows who waits for whom from `start` until it comes round; everything that waits then waits in a circle or for one.
    fn smallest_of_circle(&self, start: usize) -> usize {
        let mut path = vec![start];
        let mut place = HashMap::from([(start, 0)]);
        loop {
            let last = path[path.len() - 1];
            let waits_for = &self.waits_for[last];
            let Some(next) = waits_for.iter().copied().find(|other| self.state[*other] == State::Waiting) else {
                return last;
            };
            if let Some(at) = place.insert(next, path.len()) {
                let circle = path[at..].iter().copied();
                return circle.min_by_key(|number| self.pieces[*number].extents.len()).unwrap_or(last);
            }
            path.push(next);
        }
    }
}

/// The other pieces that write over the source of `number`.
fn overwriting(pieces: &[Piece], number: usize) -> impl Iterator<Item = usize> + use<> {
    let from = &pieces[number].from;
    let first = pieces.partition_point(|piece| piece.to.end <= from.start);
    let last = pieces.partition_point(|piece| piece.to.start < from.end);
    (first..last).filter(move |other| *other != number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: u64 = 100;

    fn extents(chunks: &[u8]) -> Vec<Extent> {
        let extent = |(at, chunk): (usize, &u8)| Extent {
            offset: at as u64 * LEN,
            len: LEN as u32,
            chunk: ChunkId::of(&[*chunk]),
        };
        chunks.iter().enumerate().map(extent).collect()
    }

    /// Plans `old` -> `new`, carries the moves out one after the other, and returns how many extents they made right.
    fn moved(old: &[u8], new: &[u8]) -> usize {
        let wanted = extents(new);
        let missing: Vec<usize> = (0..new.len()).filter(|at| old.get(*at) != Some(&new[*at])).collect();
        let elsewhere = extents(old).iter().map(|extent| (extent.chunk, extent.offset)).collect();
        let mut disk: Vec<u8> = old.to_vec();
        disk.resize(old.len().max(new.len()), 0);
        let mut count = 0;
        for piece in moves(&wanted, &missing, &elsewhere, old.len() as u64 * LEN) {
            let from = (piece.from.start / LEN) as usize..(piece.from.end / LEN) as usize;
            let content = disk[from].to_vec();
            assert_eq!(content, new[piece.extents.clone()], "the source was overwritten before it was read");
            count += content.len();
            disk[piece.extents].copy_from_slice(&content);
        }
        count
    }

    #[test]
    fn a_shift_in_either_direction_is_moved_whole() {
        let old: Vec<u8> = (0..200).collect();
        let right: Vec<u8> = (200..210).chain(0..200).collect();
        assert_eq!(moved(&old, &right), 200);
        assert_eq!(moved(&old, &old[10..]), 190);
    }

    #[test]
    fn a_swap_costs_one_of_the_two() {
        assert_eq!(moved(&[1, 2], &[2, 1]), 1);
        assert_eq!(moved(&[1, 2, 3, 4], &[2, 3, 4, 1]), 3);
    }

    proptest! {
        #[test]
        fn no_source_is_overwritten_before_it_is_read(old in proptest::collection::vec(0u8..40, 0..60), new in proptest::collection::vec(0u8..40, 0..60)) {
            moved(&old, &new);
        }
    }
}
