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

/// What makes points no path that an evaluation may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathFault {
    /// They are not [`PATH_POINTS`].
    Count,
    /// A `t` is not within 0 and 1.
    Place,
    /// A loss is not a finite number of a magnitude of at most [`MAX_LOSS`].
    Loss,
    /// An accuracy is not within 0 and 1.
    Accuracy,
    /// `t` does not grow from each to the next.
    Order,
}

/// The first thing that makes these points no path; nothing where they are one.
#[must_use]
pub fn path_fault(points: &[v1::PathPoint]) -> Option<PathFault> {
    let of_one = |point: &v1::PathPoint| {
        if !(0.0..=1.0).contains(&point.t) {
            Some(PathFault::Place)
        } else if !point.loss.is_finite() || point.loss.abs() > MAX_LOSS {
            Some(PathFault::Loss)
        } else if point.accuracy.is_some_and(|accuracy| !(0.0..=1.0).contains(&accuracy)) {
            Some(PathFault::Accuracy)
        } else {
            None
        }
    };
    if !PATH_POINTS.contains(&points.len()) {
        return Some(PathFault::Count);
    }
    let disorder = || points.windows(2).any(|pair| pair[0].t >= pair[1].t).then_some(PathFault::Order);
    points.iter().find_map(of_one).or_else(disorder)
}

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
