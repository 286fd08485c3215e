//! One table of errors for both edges.

use std::{fmt, time::Duration};

use crate::round::InvalidTransition;

/// What kind of error, with a stable code string. Restricted on purpose: both edges map each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A field or argument is malformed.
    InvalidArgument,
    /// A checkpoint that is none, or not of the run's layout, or not finite.
    InvalidCheckpoint,
    /// A network's graph that is none, that no spec can be derived from, or whose spec does not hold.
    InvalidGraph,
    /// No such thing, or none that the caller may see.
    NotFound,
    /// Another one was there first.
    Conflict,
    /// A key for a call that is made once came with another call before.
    KeyReused,
    /// The call that came with this key is under way, or nobody knows what it was answered.
    KeyInUse,
    /// The round takes no more updates.
    RoundClosed,
    /// The round holds as many updates as it takes.
    RoundFull,
    /// The round has published no model.
    NotPublished,
    /// Bytes are still missing.
    Incomplete,
    /// The caller's offset is not the server's.
    OffsetMismatch,
    /// The place asked for is beyond the end.
    OutOfRange,
    /// Larger than the server takes.
    TooLarge,
    /// More calls than the limits let in, at once or within a minute; retry later.
    TooMany,
    /// The peer sends too few bytes in its time; retry.
    TooSlow,
    /// No token, or an unknown one.
    Unauthenticated,
    /// Known, but not allowed.
    Forbidden,
    /// Storage cannot answer now; retry.
    Unavailable,
    /// Stored bytes are gone, or not what they were.
    DataLoss,
    /// A defect here. Logged once, its text never sent.
    Internal,
}

impl Code {
    /// The stable string, the same on both edges.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid-argument",
            Self::InvalidCheckpoint => "invalid-checkpoint",
            Self::InvalidGraph => "invalid-graph",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::KeyReused => "idempotency-key-reused",
            Self::KeyInUse => "idempotency-key-in-use",
            Self::RoundClosed => "round-closed",
            Self::RoundFull => "round-full",
            Self::NotPublished => "not-published",
            Self::Incomplete => "incomplete",
            Self::OffsetMismatch => "offset-mismatch",
            Self::OutOfRange => "out-of-range",
            Self::TooLarge => "too-large",
            Self::TooMany => "too-many",
            Self::TooSlow => "too-slow",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data-loss",
            Self::Internal => "internal",
        }
    }

    /// The gRPC code.
    #[must_use]
    pub fn grpc(self) -> tonic::Code {
        match self {
            Self::InvalidArgument | Self::InvalidCheckpoint | Self::InvalidGraph | Self::KeyReused => {
                tonic::Code::InvalidArgument
            }
            Self::NotFound => tonic::Code::NotFound,
            Self::Conflict => tonic::Code::AlreadyExists,
            Self::RoundClosed | Self::NotPublished | Self::Incomplete => tonic::Code::FailedPrecondition,
            Self::RoundFull | Self::OffsetMismatch | Self::KeyInUse => tonic::Code::Aborted,
            Self::OutOfRange => tonic::Code::OutOfRange,
            Self::TooLarge | Self::TooMany => tonic::Code::ResourceExhausted,
            Self::Unauthenticated => tonic::Code::Unauthenticated,
            Self::Forbidden => tonic::Code::PermissionDenied,
            Self::Unavailable | Self::TooSlow => tonic::Code::Unavailable,
            Self::DataLoss => tonic::Code::DataLoss,
            Self::Internal => tonic::Code::Internal,
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn http(self) -> http::StatusCode {
        use http::StatusCode as S;
        match self {
            Self::InvalidArgument | Self::InvalidCheckpoint | Self::InvalidGraph | Self::KeyReused => {
                S::UNPROCESSABLE_ENTITY
            }
            Self::NotFound => S::NOT_FOUND,
            Self::Conflict
            | Self::KeyInUse
            | Self::RoundClosed
            | Self::RoundFull
            | Self::NotPublished
            | Self::Incomplete
            | Self::OffsetMismatch => S::CONFLICT,
            Self::OutOfRange => S::RANGE_NOT_SATISFIABLE,
            Self::TooLarge => S::PAYLOAD_TOO_LARGE,
            Self::TooMany => S::TOO_MANY_REQUESTS,
            Self::TooSlow => S::REQUEST_TIMEOUT,
            Self::Unauthenticated => S::UNAUTHORIZED,
            Self::Forbidden => S::FORBIDDEN,
            Self::Unavailable => S::SERVICE_UNAVAILABLE,
            Self::DataLoss | Self::Internal => S::INTERNAL_SERVER_ERROR,
        }
    }
}

/// When to ask again after [`Code::Unavailable`], as both edges say it.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

/// An error of the server: its kind, and a message that says what was wrong, with what, and what to do.
#[derive(Debug, Clone)]
pub struct Error {
    code: Code,
    message: String,
    /// The text may name hosts, paths or statements: for the log only.
    hidden: bool,
    /// When to ask again, where that is known.
    retry_after: Option<Duration>,
}

/// The server's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of that kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let retry_after = matches!(code, Code::Unavailable | Code::TooSlow).then_some(RETRY_AFTER);
        Self { code, message: message.into(), hidden: code == Code::Internal, retry_after }
    }

    /// What the database, the disk or the object store said of a passing trouble: for the log only.
    fn storage(message: impl fmt::Display) -> Self {
        Self { hidden: true, ..Self::new(Code::Unavailable, message.to_string()) }
    }

    /// More calls than a limit lets in: which, and from when on it would let this one in.
    pub fn too_many(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(Code::TooMany, message) }
    }

    /// A defect or a broken row: `message` goes to the log, never to a caller.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(Code::Internal, message.to_string())
    }

    /// What became of the stored bytes of which name.
    pub fn data_loss(what: impl fmt::Display) -> Self {
        let message = format!(
            "the stored bytes of {what}; whoever runs the server restores them from a backup (`fedbasin-server fsck` names \
             all that is wrong)"
        );
        Self::new(Code::DataLoss, message)
    }

    /// A missing or malformed argument.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// No such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// Its kind.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// When the same call may succeed, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The message for the log.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The message for others, and for the record that others read.
    #[must_use]
    pub fn public_text(&self) -> &str {
        match self.code {
            Code::Internal => {
                "the server met an unexpected condition and logged it; try again, then ask its operator"
            }
            _ if self.hidden => "the server's storage cannot answer now; try again in a few seconds",
            _ => &self.message,
        }
    }

    /// The message for a caller. One that is not sent is logged instead, here and once.
    #[must_use]
    pub fn public_message(&self) -> &str {
        match self.code {
            Code::Internal => tracing::error!(error.message = %self.message, "internal error"),
            Code::DataLoss => tracing::error!(error.message = %self.message, "stored bytes are lost"),
            _ if self.hidden => tracing::warn!(error.message = %self.message, "storage unavailable"),
            _ => {}
        }
        self.public_text()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for Error {}

impl From<InvalidTransition> for Error {
    fn from(error: InvalidTransition) -> Self {
        let code = match error {
            InvalidTransition::Closed { .. } => Code::RoundClosed,
            InvalidTransition::Full { .. } => Code::RoundFull,
            InvalidTransition::OutOfPlace { .. } => Code::Conflict,
        };
        Self::new(code, error.to_string())
    }
}

impl From<rebasin::CheckpointError> for Error {
    fn from(error: rebasin::CheckpointError) -> Self {
        match error {
            // Not the checkpoint's fault, and what the disk says is not for its site.
            rebasin::CheckpointError::Io(error) => error.into(),
            error => Self::new(Code::InvalidCheckpoint, error.to_string()),
        }
    }
}

impl From<rebasin::MergeError> for Error {
    fn from(error: rebasin::MergeError) -> Self {
        Self::internal(error)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let message = format!("database: {error}");
        let passes = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Tls(_) => true,
            sqlx::Error::Database(database) => database.code().is_some_and(|code| code_passes(&code)),
            _ => false,
        };
        if passes { Self::storage(message) } else { Self::internal(message) }
    }
}

/// Whether a database's error code tells of a trouble that passes, so that the same statement may succeed later.
fn code_passes(code: &str) -> bool {
    // SQLite: a decimal number whose low byte is the kind, 5 busy, 6 locked and 13 a full disk; Postgres: always five characters.
    if code.len() < 5 {
        return code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 13));
    }
    // The connection broke, resources are short, the server shuts down or starts; a deadlock, a serialisation failure,
    // a lock or a statement that timed out, a transaction that this process slept in.
    ["08", "53", "57P"].iter().any(|class| code.starts_with(class))
        || matches!(code, "25P03" | "40001" | "40P01" | "55P03" | "57014")
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::storage(format_args!("disk: {error}"))
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => {
                Self::internal(format_args!("object store: {path} is gone"))
            }
            error => Self::storage(format_args!("object store: {error}")),
        }
    }
}

#[cfg(test)]
mod tests;
