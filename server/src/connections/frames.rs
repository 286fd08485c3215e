//! What of a connection's bytes is content, and how many frames carry none, or next to none: HTTP/2's frame headers, read as they pass.

/// What an HTTP/2 client begins with (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length, type, flags, stream (RFC 9113, 4.1).
const HEAD: usize = 9;

/// A frame with less content than this, in bytes, costs as much as one with none.
const LITTLE: usize = 256;

/// A frame without content counts once more for each so many bytes: headers are unpacked.
const HEAVY: usize = 1 << 10;

/// The type of frames that carry content.
const DATA: u8 = 0;

/// One direction of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frames {
    /// So many bytes of the preface were seen.
    Begin(usize),
    /// Within a frame's head.
    Head {
        /// Its bytes so far.
        bytes: [u8; HEAD],
        /// How many.
        seen: usize,
    },
    /// Within what follows it.
    Payload {
        /// How much is still to come.
        left: usize,
        /// Whether it is content.
        is_data: bool,
    },
    /// Not HTTP/2: all is content.
    Plain,
}

/// What some bytes brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// Bytes of content.
    pub(super) data: u64,
    /// Frames that began and carry none, or little; a heavy one counts more.
    pub(super) others: u32,
}

impl Frames {
    /// Of a side that sends no preface: a server.
    pub(super) const FRAMES: Self = Self::Head { bytes: [0; HEAD], seen: 0 };

    /// Notes bytes that passed.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Passed {
        let mut passed = Passed::default();
        while let Some(&first) = bytes.first() {
            match self {
                Self::Begin(seen) => {
                    if PREFACE.get(*seen) != Some(&first) {
                        *self = Self::Plain;
                        continue;
                    }
                    *seen += 1;
                    if *seen == PREFACE.len() {
                        *self = Self::FRAMES;
                    }
                    bytes = &bytes[1..];
                }
                Self::Head { bytes: head, seen } => {
                    head[*seen] = first;
                    *seen += 1;
                    bytes = &bytes[1..];
                    if *seen == HEAD {
                        let left =
                            usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                        let is_data = head[3] == DATA;
                        passed.others += match is_data {
                            true => u32::from(left < LITTLE),
                            false => 1 + u32::try_from(left / HEAVY).unwrap_or(u32::MAX),
                        };
                        *self = if left == 0 { Self::FRAMES } else { Self::Payload { left, is_data } };
                    }
                }
                Self::Payload { left, is_data } => {
                    let count = bytes.len().min(*left);
                    *left -= count;
                    passed.data += if *is_data { count as u64 } else { 0 };
                    bytes = &bytes[count..];
                    if *left == 0 {
                        *self = Self::FRAMES;
                    }
                }
                Self::Plain => {
                    passed.data += bytes.len() as u64;
                    break;
                }
            }
        }
        passed
    }
}

#[cfg(test)]
mod tests;
