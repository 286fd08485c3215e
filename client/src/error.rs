//! The one kind of error that a person sees: a line that says what, where, and what to do.

use std::fmt;

use fedbasin_proto::CODE_METADATA_KEY;
use tonic::{Code, Status};

use crate::{certificate, connect::CONNECT_TIME, proxy::TunnelError, retry::Again};

/// The client's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who has to act: decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command was called in a way that makes no sense: exit code 2.
    Usage,
    /// The command was understood and did not succeed: exit code 1.
    Failed,
    /// The run that was watched failed: exit code 3.
    RunFailed,
    /// The run that was watched was cancelled: exit code 4.
    RunCancelled,
}

/// What to do about a certificate that does not verify.
pub(crate) const CERTIFICATE_REMEDY: &str =
    "name the authority that signed it with --ca, and the host as the certificate does";

/// What to do about a certificate whose time is not now. rustls says so in these words.
pub(crate) const CLOCK_REMEDY: &str = "compare this machine's clock with the server's; where both are right, that certificate is at its end: ask whoever runs the server for the next one";
const BEFORE_ITS_TIME: &str = "certificate not valid yet";
const AFTER_ITS_TIME: &str = "certificate expired";

/// What to do about a certificate, as rustls says what is wrong with it.
pub(crate) fn certificate_remedy(text: &str) -> &'static str {
    match [BEFORE_ITS_TIME, AFTER_ITS_TIME].iter().any(|sign| text.contains(sign)) {
        true => CLOCK_REMEDY,
        false => CERTIFICATE_REMEDY,
    }
}

/// An error for a person: what happened, where, what to do. Displays as one line, whatever it was made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", one_line(&[what, place, remedy]))]
pub struct Error {
    kind: Kind,
    what: String,
    place: String,
    remedy: String,
    code: Option<String>,
    again: Again,
}

impl From<rebasin::MergeError> for Error {
    fn from(error: rebasin::MergeError) -> Self {
        Self::failed(error, "merging", "check that all checkpoints come from one architecture")
    }
}

impl Error {
    /// A command that did not succeed. `what` happened at `place` (a file, an address, a round); `remedy` says what to do.
    pub fn failed(what: impl fmt::Display, place: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, what, place, remedy)
    }

    /// Wrong usage: exit code 2.
    pub fn usage(what: impl fmt::Display, place: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, what, place, remedy)
    }

    /// The end of a run that was watched, where that was not completed: `kind` says how.
    pub(crate) fn run_ended(
        kind: Kind,
        what: impl fmt::Display,
        place: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self::new(kind, what, place, remedy)
    }

    fn new(kind: Kind, what: impl fmt::Display, place: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self {
            kind,
            what: what.to_string(),
            place: place.to_string(),
            remedy: remedy.to_string(),
            code: None,
            again: Again::Never,
        }
    }

    /// The answer of a server to a gRPC call, at the end of all retries. `place` says which call, and where.
    pub fn from_status(status: &Status, place: impl fmt::Display) -> Self {
        let remedy = match status.code() {
            Code::Unauthenticated => {
                "check the token (--token-file or FEDBASIN_TOKEN), or the certificate of the kit"
            }
            Code::PermissionDenied => "this token may not do that; ask whoever runs the server",
            Code::NotFound => "check the name, and that this site is in the run's cohort",
            Code::InvalidArgument => "correct it and try again",
            Code::AlreadyExists => "what was accepted first stays; see `fedbasin site status`",
            Code::Unavailable | Code::DeadlineExceeded => {
                "check the address and that the server runs, then try again"
            }
            Code::ResourceExhausted => "see the server's limits",
            Code::Unimplemented => "is this address the server's gRPC port? (the HTTP port is another)",
            Code::Internal | Code::Unknown => "see the server's log",
            _ => "see the message before",
        };
        let (text, code) = (status_text(status), status_code_string(status));
        let transport = if code.is_none() { transport_remedy(status) } else { None };
        let remedy = transport.unwrap_or(remedy);
        let mut error = Self::failed(text, place, remedy);
        error.code = code;
        error
    }

    /// The same error, with the stable code string of the server that sent it.
    #[must_use]
    pub fn with_code(mut self, code: Option<String>) -> Self {
        self.code = code;
        self
    }

    /// A call that went on failing until patience was spent. `remedy` is what to do where the failure itself says no better.
    pub(crate) fn gave_up(status: &Status, place: impl fmt::Display, remedy: &str) -> Self {
        let text = format!("gave up: {}", status_text(status));
        Self::failed(text, place, transport_remedy(status).unwrap_or(remedy))
    }

    /// The same error, with the server's address behind its place.
    #[must_use]
    pub(crate) fn at(mut self, url: &str) -> Self {
        self.place = format!("{} at {url}", self.place);
        self
    }

    /// The same error, of which is known whether it passes by itself.
    #[must_use]
    pub(crate) fn passing(self, again: Again) -> Self {
        Self { again, ..self }
    }

    /// Whether the same may succeed later, without anybody doing anything.
    pub(crate) fn again(&self) -> Again {
        self.again
    }

    /// The same error, with where the address was taken from behind its place, if nobody typed it.
    #[must_use]
    pub(crate) fn coming_from(mut self, origin: Option<&str>) -> Self {
        if let Some(origin) = origin {
            self.place = format!("{} ({origin})", self.place);
        }
        self
    }

    /// The same error, with another way out.
    #[must_use]
    pub(crate) fn with_remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = remedy.to_string();
        self
    }

    /// The server's stable code string (`conflict`, `round-closed`, ...), when a server said one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Usage, failure, or how a run ended.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The process's exit code for this error: 2 for wrong usage, 3 and 4 for a run that was watched to another end than its completion,
    /// otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Failed => 1,
            Kind::RunFailed => 3,
            Kind::RunCancelled => 4,
        }
    }
}

/// The server's stable code string, if the status carries one: then it comes from the server, not from the transport.
pub(crate) fn status_code_string(status: &Status) -> Option<String> {
    status.metadata().get(CODE_METADATA_KEY).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// What a person reads while a call that failed is tried again.
pub(crate) fn does_not_answer(url: &str, status: &Status) -> String {
    let text = status_text(status);
    // What a server that speaks TLS does where it is spoken to in clear text.
    let hint = match url.starts_with("http://") && text.contains("connection closed") {
        true => " (does it speak TLS: https://?)",
        false => "",
    };
    format!("the server at {url} does not answer, trying again: {text}{hint}")
}

/// What to do about an answer that shows that the address is not the right one; `None` where it shows no such thing.
fn transport_remedy(status: &Status) -> Option<&'static str> {
    if let Some(error) = tunnel_error(status) {
        return Some(error.remedy());
    }
    let text = status_text(status);
    if text == not_connected() {
        return Some(NOT_CONNECTED_REMEDY);
    }
    let remedies = [
        (OWN_CERTIFICATE_ENDED, certificate::REMEDY),
        ("certificate", certificate_remedy(&text)),
        (CLEAR_TEXT, CLEAR_TEXT_REMEDY),
        // An answer of HTTP where a message of gRPC should be.
        (
            "invalid compression flag",
            "this looks like an HTTP port: is this the gRPC port? (the server says both when it starts)",
        ),
    ];
    remedies.into_iter().find(|(sign, _)| text.contains(sign)).map(|(_, remedy)| remedy)
}

/// Why a proxy let no connection through, where that is what a status tells.
pub(crate) fn tunnel_error(status: &Status) -> Option<&TunnelError> {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// What rustls says when the server found this site's certificate to have ended: while a site runs, or by another clock.
pub(crate) const OWN_CERTIFICATE_ENDED: &str = "alert: CertificateExpired";

/// What rustls says when clear text comes where a handshake should. rustls is not a dependency of ours to compare types with.
pub(crate) const CLEAR_TEXT: &str = "corrupt message of type InvalidContentType";

/// What to do about it.
pub(crate) const CLEAR_TEXT_REMEDY: &str =
    "this port speaks clear text and https:// was asked: write http://, or name the port that has TLS";

/// What tokio says when the time for connecting is over.
const TIME_IS_OVER: &str = "deadline has elapsed";

/// What is said then.
pub(crate) fn not_connected() -> String {
    format!("no connection came about within {} s, TLS included", CONNECT_TIME.as_secs())
}

/// What to do about it.
pub(crate) const NOT_CONNECTED_REMEDY: &str = "check the address, and that the server runs and nothing between swallows connections: a proxy, a firewall, another program at this port";

/// A status in words: its message, or for a broken connection the innermost cause, which says more.
pub(crate) fn status_text(status: &Status) -> String {
    let mut text = if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    };
    let mut cause = std::error::Error::source(status);
    let mut innermost = None;
    while let Some(error) = cause {
        innermost = Some(error.to_string());
        cause = error.source();
    }
    if innermost.as_deref() == Some(TIME_IS_OVER) {
        return not_connected();
    }
    if let Some(innermost) = innermost
        && !text.contains(&innermost)
    {
        text.push_str(": ");
        text.push_str(&innermost);
    }
    text
}

/// Joins the parts with `: `, leaves out empty ones, and escapes what would break the line or move the cursor.
pub(crate) fn one_line(parts: &[&str]) -> String {
    let mut line = String::new();
    for part in parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()) {
        if !line.is_empty() {
            line.push_str(": ");
        }
        let mut gap = false;
        for character in part.chars() {
            match character {
                '\n' | '\r' | '\t' | ' ' => gap = true,
                _ => {
                    if gap {
                        line.push(' ');
                        gap = false;
                    }
                    if character.is_control() {
                        line.extend(character.escape_default());
                    } else {
                        line.push(character);
                    }
                }
            }
        }
    }
    line
}

#[cfg(test)]
mod tests;
