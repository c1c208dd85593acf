//! One transfer, as a state machine: acknowledgements and time go in, blocks to send come out.
//!
//! ```text
//!            options asked for                      ACK 0
//!  request ─────────────────────▶ Offering options ───────▶ Sending ──ACK of the last block──▶ Done
//!      │ none                          │ silence               │ silence, error of the client
//!      └──────────────────────────────▶│──────▶ Failed ◀───────┘
//! ```
//!
//! Block numbers are counted in 64 bits and wrap to 0 on the wire, as all firmware does it (RFC 1350 says nothing).
//! A duplicate acknowledgement is not answered with a duplicate block (the Sorcerer's Apprentice, RFC 1123 section
//! 4.2.3.1), but for one a window: there it says that the window's first block was lost (RFC 7440 section 4).

use std::ops::Range;
use std::time::Duration;

use crate::pxe::local::Content;
use crate::pxe::tftp::packet::{Mode, ReadRequest, emit_data, emit_option_ack};
use crate::stdx::time::Timestamp;

/// What is sent at once at most; firmware that asks for more gets this (RFC 7440 lets the server answer with less).
const WINDOW_BLOCKS_MAX: u16 = 64;
/// RFC 1350: the block size without options.
const BLOCK_BYTES_DEFAULT: u16 = 512;
/// First wait for an answer, and the bounds between which it follows the measured round trip.
const WAIT_FIRST: Duration = Duration::from_millis(1000);
const WAIT_MIN: Duration = Duration::from_millis(150);
const WAIT_MAX: Duration = Duration::from_secs(4);
/// An address that has not answered once is not worth more packets: this is what a spoofed request costs its victim.
const UNPROVEN_RETRIES_MAX: u32 = 4;
/// A client that has answered before may be busy (flash, a person at a prompt): some forty seconds of silence.
const RETRIES_MAX: u32 = 13;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing to send; wait on.
    Wait,
    /// The option acknowledgement.
    SendOptions,
    /// These blocks, counted from 1.
    SendBlocks(Range<u64>),
    Done,
    /// The client went silent.
    GiveUp,
}

#[derive(Debug)]
pub struct Session {
    content: Content,
    options: Vec<(&'static str, u64)>,
    block_bytes: u16,
    window: u16,
    /// The client's own wish for the time between two attempts (RFC 2349).
    wait_wished: Option<Duration>,
    /// Blocks acknowledged so far.
    acknowledged: u64,
    /// Blocks sent at least once.
    sent: u64,
    /// Options are on their way and not acknowledged.
    offering: bool,
    proven: bool,
    retries: u32,
    repeats: u32,
    /// Whether this window was started again because of a duplicate acknowledgement.
    restarted: bool,
    round_trip: Option<Duration>,
    sent_at: Timestamp,
    deadline: Timestamp,
}

impl Session {
    /// A transfer of `content` and the first thing to send. `block_bytes_max` keeps blocks within the link's MTU: blocks
    /// in fragments are what firmware loses.
    pub fn open(now: Timestamp, request: &ReadRequest, content: Content, block_bytes_max: u16) -> (Session, Step) {
        let content = match request.mode {
            Mode::Octet => content,
            Mode::Netascii => netascii(&content),
        };
        let block_bytes = request.block_bytes.map_or(BLOCK_BYTES_DEFAULT, |asked| asked.min(block_bytes_max));
        let window = request.window_blocks.map_or(1, |asked| asked.min(WINDOW_BLOCKS_MAX));
        let mut options = Vec::new();
        if request.block_bytes.is_some() {
            options.push(("blksize", u64::from(block_bytes)));
        }
        if request.size {
            options.push(("tsize", content.len() as u64));
        }
        if let Some(seconds) = request.timeout_seconds {
            options.push(("timeout", u64::from(seconds)));
        }
        if request.window_blocks.is_some() {
            options.push(("windowsize", u64::from(window)));
        }
        let mut session = Session {
            content,
            offering: !options.is_empty(),
            options,
            block_bytes,
            window,
            wait_wished: request.timeout_seconds.map(|seconds| Duration::from_secs(u64::from(seconds))),
            acknowledged: 0,
            sent: 0,
            proven: false,
            retries: 0,
            repeats: 0,
            restarted: false,
            round_trip: None,
            sent_at: now,
            deadline: now,
        };
        let step = if session.offering { session.offer(now) } else { session.send_window(now) };
        (session, step)
    }

    pub fn on_ack(&mut self, now: Timestamp, block: u16) -> Step {
        if self.offering {
            return if block == 0 { self.options_accepted(now) } else { Step::Wait };
        }
        let ahead = u64::from(block.wrapping_sub(self.acknowledged as u16));
        if ahead > self.sent - self.acknowledged {
            return Step::Wait; // older than what is acknowledged, or of a block that was never sent
        }
        if ahead == 0 {
            return self.duplicate(now);
        }
        self.answered(now);
        self.acknowledged += ahead;
        if self.acknowledged == self.blocks() {
            return Step::Done;
        }
        self.restarted = false;
        self.send_window(now)
    }

    /// To be called when [`Session::deadline`] has passed.
    pub fn on_silence(&mut self, now: Timestamp) -> Step {
        if now < self.deadline {
            return Step::Wait;
        }
        self.retries += 1;
        self.repeats += 1;
        let most = if self.proven { RETRIES_MAX } else { UNPROVEN_RETRIES_MAX };
        if self.retries > most {
            return Step::GiveUp;
        }
        if self.offering { self.offer(now) } else { self.send_window(now) }
    }

    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// Whether the client has answered once, so that its address is really its own.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// Bytes the client has for certain.
    pub fn bytes_acknowledged(&self) -> u64 {
        (self.acknowledged * u64::from(self.block_bytes)).min(self.content.len() as u64)
    }

    pub fn bytes(&self) -> u64 {
        self.content.len() as u64
    }

    pub fn repeats(&self) -> u32 {
        self.repeats
    }

    pub fn emit_options(&self) -> Vec<u8> {
        emit_option_ack(&self.options)
    }

    /// Bytes of a data packet that is not the last.
    pub fn packet_bytes(&self) -> u16 {
        self.block_bytes + 4
    }

    /// The data packets of `blocks`, one after the other: each has [`Session::packet_bytes`], the file's last has less.
    pub fn emit_blocks(&self, blocks: Range<u64>, out: &mut Vec<u8>) {
        out.clear();
        for block in blocks {
            let start = ((block - 1) * u64::from(self.block_bytes)) as usize;
            let end = (start + usize::from(self.block_bytes)).min(self.content.len());
            emit_data(block as u16, &self.content[start..end], out);
        }
    }

    /// The last block is shorter than the others, and empty when the others fill the file (RFC 1350 section 6).
    fn blocks(&self) -> u64 {
        self.content.len() as u64 / u64::from(self.block_bytes) + 1
    }

    fn options_accepted(&mut self, now: Timestamp) -> Step {
        self.answered(now);
        self.offering = false;
        self.send_window(now)
    }

    fn duplicate(&mut self, now: Timestamp) -> Step {
        if self.window == 1 || self.restarted || self.sent == self.acknowledged {
            return Step::Wait;
        }
        self.restarted = true;
        self.repeats += 1;
        self.send_window(now)
    }

    fn answered(&mut self, now: Timestamp) {
        self.proven = true;
        if self.retries == 0 {
            // Karn: only what was sent once tells the round trip.
            let measured = Duration::from_millis(now.since(self.sent_at));
            self.round_trip = Some(self.round_trip.map_or(measured, |known| (known * 7 + measured) / 8));
        }
        self.retries = 0;
    }

    fn offer(&mut self, now: Timestamp) -> Step {
        self.arm(now);
        Step::SendOptions
    }

    fn send_window(&mut self, now: Timestamp) -> Step {
        self.arm(now);
        let last = (self.acknowledged + u64::from(self.window)).min(self.blocks());
        self.sent = self.sent.max(last);
        Step::SendBlocks(self.acknowledged + 1..last + 1)
    }

    fn arm(&mut self, now: Timestamp) {
        let measured = self.round_trip.map_or(WAIT_FIRST, |round_trip| (round_trip * 4).clamp(WAIT_MIN, WAIT_MAX));
        let first = self.wait_wished.unwrap_or(measured);
        let wait = first.saturating_mul(1 << self.retries.min(6)).min(WAIT_MAX.max(first));
        self.sent_at = now;
        self.deadline = Timestamp::from_milliseconds(now.milliseconds() + wait.as_millis() as i64);
    }
}

/// RFC 764's end of line: CR LF for a line feed, CR NUL for a carriage return.
fn netascii(content: &[u8]) -> Content {
    let mut out = Vec::with_capacity(content.len() + content.len() / 16);
    for byte in content {
        match byte {
            b'\n' => out.extend(b"\r\n"),
            b'\r' => out.extend(b"\r\0"),
            other => out.push(*other),
        }
    }
    out.into()
}

#[cfg(test)]
mod tests;
