//! Where a chunk is cut into blocks, each with codes of its own.

use super::lzx_parse::Counts;

/// Blocks are whole numbers of these.
pub(super) const PIECE_BYTES: usize = 4096;
/// A block is at most this many pieces: more are not compared.
const PIECES_MAX: usize = 8;
/// Bits that the codes of a block take, and more for each symbol in them.
const HEADER_BITS: f32 = 150.0;
const HEADER_SYMBOL_BITS: f32 = 7.0;

/// The ends of the blocks, as numbers of pieces: the cheapest of all ways, by what each piece's symbols would cost.
pub(super) fn blocks(pieces: &[Counts], ends: &mut Vec<usize>) {
    ends.clear();
    let logarithms = Logarithms::get();
    // For each end the cheapest way to it and where its last block begins.
    let mut ways = vec![(f32::INFINITY, 0); pieces.len() + 1];
    ways[0].0 = 0.0;
    for from in 0..pieces.len() {
        let mut sum = [0; super::lzx::MAIN_SYMBOLS_MAX];
        for (place, piece) in pieces.iter().enumerate().skip(from).take(PIECES_MAX) {
            sum.iter_mut().zip(&piece.main).for_each(|(sum, count)| *sum += count);
            let cost = ways[from].0 + cost_bits(&sum, logarithms);
            if cost < ways[place + 1].0 {
                ways[place + 1] = (cost, from);
            }
        }
    }
    let mut end = pieces.len();
    while end > 0 {
        ends.push(end);
        end = ways[end].1;
    }
    ends.reverse();
}

fn cost_bits(counts: &[u32], logarithms: &Logarithms) -> f32 {
    let (mut total, mut used, mut sum) = (0, 0, 0.0);
    for count in counts {
        total += count;
        used += u32::from(*count != 0);
        sum += logarithms.times(*count);
    }
    logarithms.times(total) - sum + HEADER_BITS + HEADER_SYMBOL_BITS * used as f32
}

/// n times its logarithm, for what a block can count.
struct Logarithms(Vec<f32>);

impl Logarithms {
    fn get() -> &'static Logarithms {
        static TABLE: std::sync::OnceLock<Logarithms> = std::sync::OnceLock::new();
        TABLE.get_or_init(|| {
            let times = |n: usize| if n == 0 { 0.0 } else { n as f32 * (n as f32).log2() };
            Logarithms((0..=PIECES_MAX * PIECE_BYTES).map(times).collect())
        })
    }

    fn times(&self, n: u32) -> f32 {
        self.0.get(n as usize).copied().unwrap_or_default()
    }
}
