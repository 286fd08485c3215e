//! What a call is known by: an id of ours, which its answer, its log lines and its records in the audit log all have, and the trace that
//! it is a part of.

use std::fmt;

use http::{HeaderMap, HeaderName};
use tracing::Span;
use uuid::Uuid;

/// The header of an answer that holds the id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C's header for traces.
const TRACEPARENT: &str = "traceparent";

/// A call. The id is never a caller's: it goes into records.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    id: Uuid,
    trace: Trace,
}

/// A place in a trace: the trace, and the span within it that what happens next is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) id: [u8; 16],
    /// None where the trace begins here.
    pub(crate) parent: Option<[u8; 8]>,
    /// Whether who began it wants it kept.
    pub(crate) sampled: bool,
}

impl Request {
    /// One that begins now.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let id = Uuid::now_v7();
        let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(Trace::parse);
        // A trace that begins here has the call's own id.
        let trace = given.unwrap_or(Trace { id: id.into_bytes(), parent: None, sampled: true });
        Self { id, trace }
    }

    pub(crate) fn id(&self) -> String {
        self.id.to_string()
    }

    pub(crate) fn trace(&self) -> Trace {
        self.trace
    }

    /// What its log lines are within. Of the highest level, so that none goes without it.
    pub(crate) fn span(&self, edge: &'static str) -> Span {
        tracing::error_span!("request", request.id = %self.id, trace.id = hex::encode(self.trace.id), edge)
    }
}

impl fmt::Display for Trace {
    /// As [`Trace::parse`] reads it. One that begins here names no place yet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, parent) = (hex::encode(self.id), hex::encode(self.parent.unwrap_or_default()));
        write!(f, "00-{id}-{parent}-{:02x}", u8::from(self.sampled))
    }
}

impl Trace {
    /// Reads a `traceparent` (W3C Trace Context, section 3.2); nothing where it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        // Later versions may add parts; the first has four.
        if !is_hex(version, 2)
            || version == "ff"
            || version == "00" && parts.next().is_some()
            || !is_hex(flags, 2)
        {
            return None;
        }
        let id: [u8; 16] = hex::decode(id).ok().filter(|_| is_hex(id, 32))?.try_into().ok()?;
        let parent: [u8; 8] = hex::decode(parent).ok().filter(|_| is_hex(parent, 16))?.try_into().ok()?;
        let sampled = hex::decode(flags).ok()?.first()? & 1 == 1;
        (id != [0; 16] && parent != [0; 8]).then_some(Self { id, parent: Some(parent), sampled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_its_standard_says_and_nothing_else_is() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace::parse(text).expect("the standard's example");
        assert_eq!(hex::encode(trace.id), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace.parent.map(hex::encode).as_deref(), Some("b7ad6b7169203331"));
        assert_eq!(trace.to_string(), text);
        assert!(trace.sampled && !Trace::parse(&text.replace("-01", "-00")).expect("one").sampled);
        assert_eq!(Trace::parse(&format!("01{}-what-comes", &text[2..])), Some(trace));
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\u{e9}",
        ] {
            assert_eq!(Trace::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_call_without_a_trace_begins_one() {
        let (one, other) = (Request::of(&HeaderMap::new()), Request::of(&HeaderMap::new()));
        assert_ne!(one.trace().id, other.trace().id);
        assert_eq!(one.trace().parent, None);
        assert_eq!(one.id().replace('-', ""), hex::encode(one.trace().id));
    }
}
