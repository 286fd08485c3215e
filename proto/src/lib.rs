#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

/// Version 1 of the contract: messages, the site's client, the server's trait.
#[expect(
    missing_docs,
    reason = "the generator copies the comments of the .proto; oneofs and modules it makes itself have none"
)]
#[allow(clippy::all, unreachable_pub, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("fedbasin.v1");

    /// The compiled contract, for the reflection service.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fedbasin_v1.bin"));
}

/// Largest chunk of a checkpoint in one message, in bytes, in both directions.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;

/// Largest message either side accepts: one chunk and its envelope.
pub const MAX_MESSAGE_BYTES: usize = MAX_CHUNK_BYTES + 4096;

/// Metadata key in which an error's stable code string travels.
pub const CODE_METADATA_KEY: &str = "fedbasin-code";

/// Metadata key in which an error that passes says after how many milliseconds to try again, as gRPC's own retries read it (gRFC A6).
pub const RETRY_METADATA_KEY: &str = "grpc-retry-pushback-ms";

/// The metadata key, and the HTTP header, in which the audit log's signed head travels.
pub const HEAD_METADATA_KEY: &str = "fedbasin-log-head";

/// From fewer days than these before a certificate ends, both sides say so.
pub const CERTIFICATE_WARNING_DAYS: i64 = 30;

/// Most examples that an update may claim.
pub const MAX_NUM_EXAMPLES: u64 = 1_000_000_000_000;

/// Most metrics of an update.
pub const MAX_METRICS: usize = 64;

/// Fewest and most points of a path that was measured.
pub const PATH_POINTS: std::ops::RangeInclusive<usize> = 2..=33;

/// No loss is of a larger magnitude: sums over all sites stay finite.
pub const MAX_LOSS: f64 = 1e30;

/// Longest name of a metric, in bytes.
pub const MAX_METRIC_NAME_BYTES: usize = 64;

/// Whether a metric may have that name: 1 to 64 bytes of printable ASCII, spaces included.
#[must_use]
pub fn is_metric_name(name: &str) -> bool {
    (1..=MAX_METRIC_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
