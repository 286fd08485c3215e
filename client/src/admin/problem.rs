//! Error answers of the HTTP edge, for people.

use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Uri, header::RETRY_AFTER};

use crate::{
    error::{
        CLEAR_TEXT, CLEAR_TEXT_REMEDY, Error, NOT_CONNECTED_REMEDY, certificate_remedy, not_connected,
        one_line,
    },
    proxy::{Proxy, TunnelError},
    retry::Again,
};

/// An error answer: the fields of RFC 9457 that we show, and the stable code.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    code: String,
    detail: String,
}

/// An error answer as one line: the server's words where it said some, otherwise the status.
pub(super) fn problem_error(status: u16, reason: &str, text: &str, url: &str) -> Error {
    let problem: Problem = serde_json::from_str(text).unwrap_or_default();
    let what = match (problem.detail.as_str(), problem.title.as_str()) {
        ("", "") => format!("{status} {reason}"),
        ("", title) => format!("{status} {title}"),
        (detail, _) => detail.to_owned(),
    };
    let remedy = match status {
        401 => "check the admin token (--token-file or FEDBASIN_ADMIN_TOKEN)",
        403 => "this token may not do that",
        404 => "check the name",
        409 if url.ends_with("/v1/sites") => "see what is there with `fedbasin admin sites`",
        409 => "see what is there with `fedbasin admin runs` or `fedbasin admin round`",
        413 => "see the server's limits",
        422 | 400 => "correct it and try again",
        503 => "try again in a moment",
        500..=599 => "see the server's log",
        _ => "is this address the server's HTTP port?",
    };
    let code = (!problem.code.is_empty()).then_some(problem.code);
    Error::failed(one_line(&[&what]), url, remedy).with_code(code)
}

/// How long the server asks to wait: whole seconds. A date, the other form of RFC 9110, is none of ours.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whether the same question may be answered later: where the server, or a proxy before it, is busy or away.
pub(super) fn again(status: u16, wait: Option<Duration>) -> Again {
    match (status, wait) {
        (408 | 429 | 502..=504, Some(wait)) => Again::After(wait),
        (408 | 429 | 502..=504, None) => Again::Soon,
        _ => Again::Never,
    }
}

/// Whether the way to the server broke, or took too long, instead of bringing something else than an answer of ours.
pub(super) fn is_of_the_way(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::InvalidData,
        // It broke while JSON was read from it.
        ureq::Error::Json(error) => error.is_io(),
        ureq::Error::Timeout(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
        _ => false,
    }
}

/// No answer, or none of HTTP/1.1.
pub(super) fn transport_error(error: &ureq::Error, url: &str) -> Error {
    if matches!(error, ureq::Error::Timeout(ureq::Timeout::Connect)) {
        return Error::failed(not_connected(), url, NOT_CONNECTED_REMEDY).passing(Again::Soon);
    }
    let text = error.to_string();
    let (remedy, passes) = if text.contains("certificate") {
        (certificate_remedy(&text), false)
    } else if text.contains(CLEAR_TEXT) {
        (CLEAR_TEXT_REMEDY, false)
    } else if matches!(error, ureq::Error::Protocol(_)) {
        // HTTP/2 where HTTP/1.1 is expected.
        (
            "is this the server's gRPC port? --server is its HTTP port (the server says both when it starts); where it speaks TLS, name https:// and --ca",
            false,
        )
    } else {
        ("check the address and that the server runs (--server is its HTTP port)", is_of_the_way(error))
    };
    Error::failed(text, url, remedy).passing(if passes { Again::Soon } else { Again::Never })
}

/// The same of a call through a proxy, which may be what refused it, or what is away.
pub(super) fn proxied_error(error: &ureq::Error, url: &str, proxy: &Proxy) -> Error {
    let ureq::Error::ConnectProxyFailed(text) = error else {
        return transport_error(error, url).coming_from(Some(&format!("through {proxy}")));
    };
    // `proxy server responded 407/407`
    let status = text.rsplit('/').next().and_then(|digits| digits.parse().ok());
    let refusal = match status {
        Some(status) => proxy.refusal(&place(url), status),
        None => TunnelError::Confused { proxy: proxy.to_string(), why: text.clone() },
    };
    let again = if refusal.passes() { Again::Soon } else { Again::Never };
    Error::failed(&refusal, url, refusal.remedy()).passing(again)
}

/// Host and port of a URL.
fn place(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let uri = uri.unwrap_or_default();
    format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(443))
}
