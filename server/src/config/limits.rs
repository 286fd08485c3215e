//! What the server takes at the most, and why these are the defaults.

use std::time::Duration;

use serde::Deserialize;

/// What the server takes at the most: the table `[limits]` of the settings. Each number is one process's, and each edge has its own
/// connections. Whoever meets a limit is told which, mostly by its name here; `tests/tests/limits/` provokes each of them.
///
/// Some numbers both sides must know, so they are constants of the contract (`fedbasin-proto`): a message has at most
/// `MAX_MESSAGE_BYTES`, of which a chunk is `MAX_CHUNK_BYTES`; an update claims at most `MAX_NUM_EXAMPLES` and brings at most
/// `MAX_METRICS` figures. Others belong to what a checkpoint is (`rebasin`): axes of a tensor (`MAX_RANK`), bytes of its name
/// (`MAX_NAME_BYTES`), 64 entries of metadata. One site may have two updates of one round under way, and tokens last 366 days at the
/// most: the record's own rules.
///
/// Behind a proxy all peers have one address, the proxy's: raise what is "from one address" to what it is for all.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    // Checkpoints.
    /// Largest checkpoint, in bytes. 16 GiB: four thousand million parameters in f32.
    pub max_checkpoint_bytes: u64,
    /// Largest header of a checkpoint, in bytes. 1 MiB: 16,384 tensors have less. An update's may never be larger than its run's layout
    /// makes it. It can be lowered, not raised.
    pub max_checkpoint_header_bytes: u64,
    /// Most tensors of a checkpoint. 16,384: the largest published networks have some thousand. It can be lowered, not raised.
    pub max_tensors: usize,
    /// Most units of one group of a spec: the width of an assignment, whose time grows with the cube and whose memory with the square.
    /// 32,768: wider than any layer whose network fits into the limits above.
    pub max_assignment_width: usize,
    /// Runs whose updates would need more memory to be aligned, by an estimate, are refused, in bytes.
    pub max_align_memory_bytes: u64,
    /// Most sites in one cohort. 1,024: each is a row of each round's record.
    pub max_cohort: usize,
    /// Largest graph (an ONNX file), in bytes. Specs need no trained weights and few units a layer.
    pub max_graph_bytes: u64,
    /// Memory of the process that derives and verifies a graph's spec, in bytes of address space.
    pub max_graph_memory_bytes: u64,
    /// How long that may take, in seconds.
    pub max_graph_seconds: u64,

    // Connections, of each edge.
    /// Connections at once. 8,192: each costs about 30 KiB and an open file. Further ones are closed at once.
    pub max_connections: usize,
    /// Connections at once from one address (of IPv6, from one /64). 2,048: a thousand sites behind one address, and as many again.
    pub max_connections_per_address: usize,
    /// Connections that one address may open within a minute; as many may be saved up. 6,000.
    pub max_new_connections_per_minute_per_address: u32,
    /// How long a TLS handshake may take, in seconds. 5: it is two messages.
    pub handshake_timeout_seconds: u64,
    /// A connection on which no call has begun for so long after the handshake is ended, in seconds; so long may an HTTP/1 request's
    /// headers take. 30: over the slowest line headers take less.
    pub first_call_timeout_seconds: u64,
    /// A connection without a call under way for so long is ended, in seconds. 300: clients connect again when they next call.
    pub idle_connection_seconds: u64,
    /// From this age on a connection takes no new calls, in seconds; its client opens another one. 3,600: so load spreads over replicas,
    /// and what a connection may have hoarded is given back.
    pub max_connection_age_seconds: u64,
    /// So long after that age calls under way are cut, in seconds, up to a tenth of both later (so that not all are cut at one moment).
    /// 600: an upload or a download goes on from where it was.
    pub connection_age_grace_seconds: u64,
    /// How often a peer is asked whether it is still there, in seconds, and how long it may take to answer. 30 and 10: a vanished one is
    /// noticed within 40 s.
    pub keepalive_interval_seconds: u64,
    /// See [`Limits::keepalive_interval_seconds`].
    pub keepalive_timeout_seconds: u64,

    // HTTP/2, of each edge.
    /// Streams at once on one connection. 64: a site's client has three.
    pub max_concurrent_streams: u32,
    /// Streams that a peer opened and reset before they were looked at (rapid reset, CVE-2023-44487); with one more the connection ends.
    pub max_pending_accept_reset_streams: usize,
    /// Streams that this side reset because the peer broke the protocol on them (`MadeYouReset`, CVE-2025-8671); with one more the
    /// connection ends.
    pub max_local_error_reset_streams: usize,
    /// Frames without content, or with less than 256 bytes, that one connection may send within a second, a tenth of them at once; those
    /// beyond wait. A frame
    /// counts once more for each KiB of headers. 5,000: a download of 100 MB/s whose reader has HTTP/2's smallest window needs less.
    pub max_control_frames_per_second: u32,
    /// Calls that one connection may begin within a second, a tenth of them at once; those beyond wait. 200: four times what one site may
    /// call.
    pub max_calls_per_second_per_connection: u32,
    /// Headers of one call, unpacked, in bytes. 16 KiB: a token has 53. A head of HTTP/1 has 64 KiB at the most, or this where it is more.
    pub max_header_list_bytes: u32,
    /// Largest frame taken, in bytes. 64 KiB: fewer, larger ones cost less.
    pub max_frame_bytes: u32,
    /// What a peer may send ahead on one stream, in bytes. 4 MiB: a line with 100 ms there and back then carries 40 MB/s.
    pub stream_window_bytes: u32,
    /// The same of a whole connection. 16 MiB.
    pub connection_window_bytes: u32,

    // Calls.
    /// Calls at once of one site, of one person, or, where they need no token, from one address. 32: a site's client has three.
    pub max_calls_per_caller: usize,
    /// Calls of one site within a minute; as many may be saved up. 3,000: its client makes one in seconds.
    pub max_calls_per_minute_per_site: u32,
    /// Calls of one person (one token) within a minute; as many may be saved up. 3,000: a page that asks ten things a second takes 600.
    pub max_calls_per_minute_per_person: u32,
    /// Calls from one address within a minute that need no token, or whose token or certificate opens nothing; as many may be saved up.
    /// With what opened something here before one is let in all the same. 3,000: each may cost a look into the database.
    pub max_calls_per_minute_per_address: u32,
    /// Uploads at once over all sites; further ones wait. 64: more would only wait for the disk.
    pub max_concurrent_uploads: usize,
    /// Uploads at once of one site; further ones wait. 16: a quarter, so that no site takes what others need.
    pub max_uploads_per_site: usize,
    /// Bytes that all calls together may hold between a peer and the disk, estimated by their windows and buffers. 4 GiB: a thousand
    /// sites upload at one moment. A call that would need more is refused, and tried again.
    pub max_bytes_in_flight: u64,
    /// A peer that owes bytes, or does not take those that it asked for, has so long for
    /// [`Limits::min_bytes_per_second`] times as many seconds, in seconds. 60.
    pub idle_timeout_seconds: u64,
    /// The least that a peer must send or take, in bytes a second, on average over [`Limits::idle_timeout_seconds`]. 512: a checkpoint
    /// of 1 MB in half an hour. Uploads and downloads that were ended go on from where they were.
    pub min_bytes_per_second: u64,

    // The HTTP API.
    /// Largest JSON body, in bytes. 8 MiB: a spec of 16,384 tensors has less.
    pub max_json_bytes: usize,
    /// How deep a JSON body may nest. 64: a spec nests nine deep.
    pub max_json_depth: usize,
    /// Most entries of one page of a list. 1,000.
    pub max_page_size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_checkpoint_bytes: 16 << 30,
            max_checkpoint_header_bytes: 1 << 20,
            max_tensors: 16_384,
            max_assignment_width: 32_768,
            max_align_memory_bytes: 8 << 30,
            max_cohort: 1024,
            max_graph_bytes: 256 << 20,
            max_graph_memory_bytes: 4 << 30,
            max_graph_seconds: 60,
            max_connections: 8192,
            max_connections_per_address: 2048,
            max_new_connections_per_minute_per_address: 6000,
            handshake_timeout_seconds: 5,
            first_call_timeout_seconds: 30,
            idle_connection_seconds: 300,
            max_connection_age_seconds: 3600,
            connection_age_grace_seconds: 600,
            keepalive_interval_seconds: 30,
            keepalive_timeout_seconds: 10,
            max_concurrent_streams: 64,
            max_pending_accept_reset_streams: 20,
            max_local_error_reset_streams: 128,
            max_control_frames_per_second: 5000,
            max_calls_per_second_per_connection: 200,
            max_header_list_bytes: 16 << 10,
            max_frame_bytes: 64 << 10,
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            max_calls_per_caller: 32,
            max_calls_per_minute_per_site: 3000,
            max_calls_per_minute_per_person: 3000,
            max_calls_per_minute_per_address: 3000,
            max_concurrent_uploads: 64,
            max_uploads_per_site: 16,
            max_bytes_in_flight: 4 << 30,
            idle_timeout_seconds: 60,
            min_bytes_per_second: 512,
            max_json_bytes: 8 << 20,
            max_json_depth: 64,
            max_page_size: 1000,
        }
    }
}

/// Longest time of any limit here, in seconds: 31 days.
const LONGEST: u64 = 31 * 24 * 3600;

impl Limits {
    /// Refuses numbers that no server can work with.
    ///
    /// # Errors
    /// A sentence that names the limit, its value and what it may be.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u64, least: u64, most: u64| {
            let fits = (least..=most).contains(&value);
            if fits {
                Ok(())
            } else {
                Err(format!("limits.{name}: {value} is not within {least} and {most}"))
            }
        };
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        // The most that the 31 bits of HTTP/2's windows and the 24 bits of its frames can say.
        let (window, frame) = ((1 << 31) - 1, (1 << 24) - 1);
        let million = 1_000_000;
        // Those who read stored checkpoints read no larger header.
        let header = rebasin::Limits::default();
        for (name, value, least, most) in [
            ("max_checkpoint_bytes", self.max_checkpoint_bytes, 9, 1 << 50),
            ("max_checkpoint_header_bytes", self.max_checkpoint_header_bytes, 2, header.max_header_bytes),
            ("max_tensors", count(self.max_tensors), 1, count(header.max_tensors)),
            ("max_assignment_width", count(self.max_assignment_width), 1, 1 << 31),
            ("max_align_memory_bytes", self.max_align_memory_bytes, 1, 1 << 50),
            ("max_cohort", count(self.max_cohort), 1, million),
            ("max_graph_bytes", self.max_graph_bytes, 1, 1 << 40),
            ("max_graph_memory_bytes", self.max_graph_memory_bytes, 1 << 20, 1 << 50),
            ("max_graph_seconds", self.max_graph_seconds, 1, LONGEST),
            ("max_connections", count(self.max_connections), 1, million),
            ("max_connections_per_address", count(self.max_connections_per_address), 1, million),
            (
                "max_new_connections_per_minute_per_address",
                self.max_new_connections_per_minute_per_address.into(),
                1,
                100 * million,
            ),
            ("handshake_timeout_seconds", self.handshake_timeout_seconds, 1, LONGEST),
            ("first_call_timeout_seconds", self.first_call_timeout_seconds, 1, LONGEST),
            ("idle_connection_seconds", self.idle_connection_seconds, 1, LONGEST),
            ("max_connection_age_seconds", self.max_connection_age_seconds, 1, LONGEST),
            ("connection_age_grace_seconds", self.connection_age_grace_seconds, 1, LONGEST),
            ("keepalive_interval_seconds", self.keepalive_interval_seconds, 1, LONGEST),
            ("keepalive_timeout_seconds", self.keepalive_timeout_seconds, 1, LONGEST),
            ("max_concurrent_streams", self.max_concurrent_streams.into(), 1, million),
            ("max_pending_accept_reset_streams", count(self.max_pending_accept_reset_streams), 1, million),
            ("max_local_error_reset_streams", count(self.max_local_error_reset_streams), 1, million),
            ("max_control_frames_per_second", self.max_control_frames_per_second.into(), 100, 100 * million),
            (
                "max_calls_per_second_per_connection",
                self.max_calls_per_second_per_connection.into(),
                1,
                million,
            ),
            // Less than that holds no certificate's or proxy's headers.
            ("max_header_list_bytes", self.max_header_list_bytes.into(), 8 << 10, 16 << 20),
            ("max_frame_bytes", self.max_frame_bytes.into(), 16 << 10, frame),
            ("stream_window_bytes", self.stream_window_bytes.into(), 65_535, window),
            ("connection_window_bytes", self.connection_window_bytes.into(), 65_535, window),
            ("max_calls_per_caller", count(self.max_calls_per_caller), 1, million),
            ("max_calls_per_minute_per_site", self.max_calls_per_minute_per_site.into(), 1, 100 * million),
            (
                "max_calls_per_minute_per_person",
                self.max_calls_per_minute_per_person.into(),
                1,
                100 * million,
            ),
            (
                "max_calls_per_minute_per_address",
                self.max_calls_per_minute_per_address.into(),
                1,
                100 * million,
            ),
            ("max_concurrent_uploads", count(self.max_concurrent_uploads), 1, million),
            ("max_uploads_per_site", count(self.max_uploads_per_site), 1, million),
            ("max_bytes_in_flight", self.max_bytes_in_flight, 1, 1 << 50),
            ("idle_timeout_seconds", self.idle_timeout_seconds, 1, LONGEST),
            ("min_bytes_per_second", self.min_bytes_per_second, 0, 1 << 40),
            ("max_json_bytes", count(self.max_json_bytes), 2, 1 << 40),
            ("max_json_depth", count(self.max_json_depth), 1, MOST_JSON_DEPTH),
            ("max_page_size", count(self.max_page_size), 1, million),
        ] {
            within(name, value, least, most)?;
        }
        self.check_pairs()
    }

    /// Refuses numbers that do not go together.
    fn check_pairs(&self) -> Result<(), String> {
        let needed = self.bytes_of_upload().max(self.bytes_of_download()).max(self.bytes_of_request());
        let most = |smaller: &str, is: u64, larger: &str, limit: u64| {
            if is <= limit {
                return Ok(());
            }
            Err(format!(
                "limits.{smaller}: {is} is more than the {limit} of limits.{larger}; change one of them"
            ))
        };
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        most(
            "max_connections_per_address",
            count(self.max_connections_per_address),
            "max_connections",
            count(self.max_connections),
        )?;
        most(
            "max_uploads_per_site",
            count(self.max_uploads_per_site),
            "max_concurrent_uploads",
            count(self.max_concurrent_uploads),
        )?;
        most(
            "stream_window_bytes",
            self.stream_window_bytes.into(),
            "connection_window_bytes",
            self.connection_window_bytes.into(),
        )?;
        if needed > self.max_bytes_in_flight {
            return Err(format!(
                "limits.max_bytes_in_flight: {} bytes are too few: one call takes up to {needed}, by stream_window_bytes and \
                 max_json_bytes",
                self.max_bytes_in_flight
            ));
        }
        Ok(())
    }

    /// What an upload may hold: what its peer sends ahead.
    pub(crate) fn bytes_of_upload(&self) -> u64 {
        self.stream_window_bytes.into()
    }

    /// What a download may hold: the chunk that is sent and those that are read meanwhile.
    pub(crate) fn bytes_of_download(&self) -> u64 {
        4 * fedbasin_proto::MAX_CHUNK_BYTES as u64
    }

    /// What a request of the HTTP edge may hold.
    pub(crate) fn bytes_of_request(&self) -> u64 {
        u64::from(self.stream_window_bytes).max(self.max_json_bytes as u64)
    }

    /// [`Limits::idle_timeout_seconds`].
    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    /// What a peer must send or take within [`Limits::idle_timeout_seconds`]: at least a byte.
    pub(crate) fn least_bytes(&self) -> u64 {
        self.min_bytes_per_second.saturating_mul(self.idle_timeout_seconds).max(1)
    }

    /// [`Limits::first_call_timeout_seconds`].
    pub(crate) fn first_call_timeout(&self) -> Duration {
        Duration::from_secs(self.first_call_timeout_seconds)
    }

    /// [`Limits::max_connection_age_seconds`].
    pub(crate) fn connection_age(&self) -> Duration {
        Duration::from_secs(self.max_connection_age_seconds)
    }

    /// What a checkpoint's header may say.
    pub(crate) fn of_header(&self) -> rebasin::Limits {
        rebasin::Limits {
            max_header_bytes: self.max_checkpoint_header_bytes,
            max_tensors: self.max_tensors,
            ..rebasin::Limits::default()
        }
    }
}

/// Deeper than this the reader of JSON does not go, whatever the settings say.
const MOST_JSON_DEPTH: u64 = 127;

#[cfg(test)]
mod tests;
