//! The compression formats of WIM: XPRESS and LZX both ways, LZMS to read.
//!
//! A chunk is compressed by itself, its plain length is known to the container, and the codecs keep their tables from chunk
//! to chunk: nothing is allocated for one. Input is hostile: whatever it holds, the answer is the plain bytes or
//! [`Damaged`], after an amount of work that is bounded by the plain length.

mod bits;
mod copy;
mod huffman;
mod lzms;
mod lzms_x86;
mod lzx;
mod lzx_compress;
mod lzx_parse;
mod lzx_split;
mod lzx_write;
mod matches;
mod xpress;
mod xpress_compress;

/// A chunk that is not what its format says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub &'static str);

fn damaged_unless(holds: bool, what: &'static str) -> Result<(), Damaged> {
    if holds { Ok(()) } else { Err(Damaged(what)) }
}

/// How the chunks of a resource are compressed. The numbers are those of solid resources.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Xpress,
    Lzx,
    Lzms,
}

impl Compression {
    /// The largest chunk that the format (or any writer) allows, in bytes. LZMS: wimlib and ESD files use up to 64 MiB.
    pub fn chunk_bytes_max(self) -> usize {
        match self {
            Compression::None => 1 << 26,
            Compression::Xpress => xpress::CHUNK_BYTES_MAX,
            Compression::Lzx => lzx::WINDOW_BYTES_MAX,
            Compression::Lzms => lzms::CHUNK_BYTES_MAX,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Xpress => "xpress",
            Compression::Lzx => "lzx",
            Compression::Lzms => "lzms",
        }
    }
}

/// Decompresses chunks of one format; make one for each thread.
pub enum Decompressor {
    None,
    Xpress(Box<xpress::Decompressor>),
    Lzx(Box<lzx::Decompressor>),
    Lzms(Box<lzms::Decompressor>),
}

impl Decompressor {
    /// `chunk_bytes`: the container's full chunk length, on which LZX's alphabet depends.
    pub fn new(compression: Compression, chunk_bytes: usize) -> Result<Decompressor, Damaged> {
        let fits = chunk_bytes <= compression.chunk_bytes_max();
        damaged_unless(fits, "chunks are larger than the compression format allows")?;
        Ok(match compression {
            Compression::None => Decompressor::None,
            Compression::Xpress => Decompressor::Xpress(Box::default()),
            Compression::Lzx => Decompressor::Lzx(Box::new(lzx::Decompressor::new(chunk_bytes)?)),
            Compression::Lzms => Decompressor::Lzms(Box::default()),
        })
    }

    /// Fills `output` from one compressed chunk. A chunk as long as its plain content is stored as it is.
    pub fn decompress(&mut self, input: &[u8], output: &mut [u8]) -> Result<(), Damaged> {
        if input.len() == output.len() {
            output.copy_from_slice(input);
            return Ok(());
        }
        damaged_unless(input.len() < output.len(), "a chunk is longer than its plain content")?;
        match self {
            Decompressor::None => Err(Damaged("an uncompressed chunk is shorter than its content")),
            Decompressor::Xpress(codec) => codec.decompress(input, output),
            Decompressor::Lzx(codec) => codec.decompress(input, output),
            Decompressor::Lzms(codec) => codec.decompress(input, output),
        }
    }
}

/// Compresses chunks to one format; make one for each thread.
pub enum Compressor {
    None,
    Xpress(Box<xpress_compress::Compressor>),
    Lzx(Box<lzx_compress::Compressor>),
}

impl Compressor {
    /// `chunk_bytes`: the container's full chunk length.
    pub fn new(compression: Compression, chunk_bytes: usize) -> Result<Compressor, Damaged> {
        Ok(match compression {
            Compression::Xpress => Compressor::Xpress(Box::default()),
            Compression::Lzx => Compressor::Lzx(Box::new(lzx_compress::Compressor::new(chunk_bytes)?)),
            Compression::None => Compressor::None,
            Compression::Lzms => return Err(Damaged("nothing here writes LZMS")),
        })
    }

    /// Appends the compressed chunk to `output`, or nothing and `false` when it would not be shorter.
    pub fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> bool {
        match self {
            Compressor::None => false,
            Compressor::Xpress(codec) => codec.compress(input, output),
            Compressor::Lzx(codec) => codec.compress(input, output),
        }
    }
}
