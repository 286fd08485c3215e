//! One table of errors for both edges.

use std::fmt;

use crate::round::InvalidTransition;

/// What kind of error, with a stable code string. Restricted on purpose: both edges map each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A field or argument is malformed.
    InvalidArgument,
    /// A checkpoint that is none, or not of the run's layout, or not finite.
    InvalidCheckpoint,
    /// No such thing, or none that the caller may see.
    NotFound,
    /// Another one was there first.
    Conflict,
    /// The round takes no more updates.
    RoundClosed,
    /// The round holds as many updates as it takes.
    RoundFull,
    /// Bytes are still missing.
    Incomplete,
    /// The caller's offset is not the server's.
    OffsetMismatch,
    /// Larger than the server takes.
    TooLarge,
    /// No token, or an unknown one.
    Unauthenticated,
    /// Known, but not allowed.
    Forbidden,
    /// Storage cannot answer now; retry.
    Unavailable,
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
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::RoundClosed => "round-closed",
            Self::RoundFull => "round-full",
            Self::Incomplete => "incomplete",
            Self::OffsetMismatch => "offset-mismatch",
            Self::TooLarge => "too-large",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The gRPC code.
    #[must_use]
    pub fn grpc(self) -> tonic::Code {
        match self {
            Self::InvalidArgument | Self::InvalidCheckpoint => tonic::Code::InvalidArgument,
            Self::NotFound => tonic::Code::NotFound,
            Self::Conflict => tonic::Code::AlreadyExists,
            Self::RoundClosed | Self::Incomplete => tonic::Code::FailedPrecondition,
            Self::RoundFull | Self::OffsetMismatch => tonic::Code::Aborted,
            Self::TooLarge => tonic::Code::ResourceExhausted,
            Self::Unauthenticated => tonic::Code::Unauthenticated,
            Self::Forbidden => tonic::Code::PermissionDenied,
            Self::Unavailable => tonic::Code::Unavailable,
            Self::Internal => tonic::Code::Internal,
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn http(self) -> http::StatusCode {
        use http::StatusCode as S;
        match self {
            Self::InvalidArgument | Self::InvalidCheckpoint => S::UNPROCESSABLE_ENTITY,
            Self::NotFound => S::NOT_FOUND,
            Self::Conflict
            | Self::RoundClosed
            | Self::RoundFull
            | Self::Incomplete
            | Self::OffsetMismatch => S::CONFLICT,
            Self::TooLarge => S::PAYLOAD_TOO_LARGE,
            Self::Unauthenticated => S::UNAUTHORIZED,
            Self::Forbidden => S::FORBIDDEN,
            Self::Unavailable => S::SERVICE_UNAVAILABLE,
            Self::Internal => S::INTERNAL_SERVER_ERROR,
        }
    }
}

/// An error of the server: its kind, and a message that says what was wrong, with what, and what to do.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
}

/// The server's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of that kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A defect or a broken row: `message` goes to the log, never to a caller.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(Code::Internal, message.to_string())
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

    /// The message for the log and the record.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The message for a caller: that of an internal error is only logged, here and once.
    #[must_use]
    pub fn public_message(&self) -> &str {
        match self.code {
            Code::Internal => {
                tracing::error!(error.message = %self.message, "internal error");
                "the server met an unexpected condition and logged it; try again, then ask its operator"
            }
            Code::Unavailable => {
                tracing::warn!(error.message = %self.message, "storage unavailable");
                "the server's storage cannot answer now; try again in a few seconds"
            }
            _ => &self.message,
        }
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
        Self::new(Code::InvalidCheckpoint, error.to_string())
    }
}

impl From<rebasin::MergeError> for Error {
    fn from(error: rebasin::MergeError) -> Self {
        Self::internal(error)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Tls(_) => Self::new(Code::Unavailable, format!("database: {error}")),
            // 57P01..57P03: the server shuts down or starts; 53xxx: out of resources; 5 and 6: SQLite is busy.
            sqlx::Error::Database(database)
                if database.code().is_some_and(|code| {
                    code.starts_with("57P") || code.starts_with("53") || code == "5" || code == "6"
                }) =>
            {
                Self::new(Code::Unavailable, format!("database: {error}"))
            }
            _ => Self::internal(format_args!("database: {error}")),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(Code::Unavailable, format!("disk: {error}"))
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => {
                Self::internal(format_args!("object store: {path} is gone"))
            }
            error => Self::new(Code::Unavailable, format!("object store: {error}")),
        }
    }
}
