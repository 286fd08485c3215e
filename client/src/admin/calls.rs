//! How a call is made: its address, what goes along, and what of an answer is taken.

use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::{Body, http};

use super::{
    Admin,
    problem::{again, is_of_the_way, problem_error, proxied_error, retry_after, transport_error},
};
use crate::error::{Error, Result};

/// An answer larger than this is none of ours; models are streamed to a file instead.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
/// How long a document may take from the call to its last byte. Models and the whole audit log may take longer.
const ANSWER_TIME: Duration = Duration::from_secs(300);

impl Admin {
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address.url.trim_end_matches('/'))
    }

    /// The URL of a call that is to be made now: before the first one the server is held to what it showed before.
    pub(super) fn begin(&self, path: &str) -> Result<String> {
        self.compare()?;
        Ok(self.url(path))
    }

    /// The same of a call that changes something.
    pub(super) fn begin_change(&self, path: &str) -> Result<String> {
        let url = self.begin(path)?;
        Ok(match &self.reason {
            Some(reason) => asking(&url, &[("reason", Some(reason.as_str()))]),
            None => url,
        })
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.fetch(&self.begin(path)?)
    }

    pub(super) fn fetch<T: DeserializeOwned>(&self, url: &str) -> Result<T> {
        let request = self.agent.get(url).header("authorization", self.token.bearer());
        let request = request.config().timeout_global(Some(ANSWER_TIME)).build();
        self.decode(url, request.call())
    }

    /// All entries of a list, whose path may have a query, page by page; `parts` takes one page apart.
    pub(super) fn pages<L: DeserializeOwned, T>(
        &self,
        path: &str,
        parts: impl Fn(L) -> (Vec<T>, Option<String>),
    ) -> Result<Vec<T>> {
        let (mut all, mut next) = parts(self.get(path)?);
        let mark = if path.contains('?') { '&' } else { '?' };
        while let Some(after) = next {
            let page = parts(self.get(&format!("{path}{mark}after={}", segment(&after)))?);
            all.extend(page.0);
            next = page.1;
        }
        Ok(all)
    }

    pub(super) fn decode<T: DeserializeOwned>(
        &self,
        url: &str,
        answer: Result<http::Response<Body>, ureq::Error>,
    ) -> Result<T> {
        // What a person said of why is not where something went wrong.
        let place = url.split_once('?').map_or(url, |(place, _)| place);
        Self::read(place, self.accept(place, answer)?)
    }

    pub(super) fn read<T: DeserializeOwned>(url: &str, response: http::Response<Body>) -> Result<T> {
        response.into_body().into_with_config().limit(MAX_ANSWER_BYTES).read_json().map_err(|error| {
            if is_of_the_way(&error) {
                return transport_error(&error, url);
            }
            Error::failed(
                format_args!("the answer is not what was expected: {error}"),
                url,
                "is this address the server's HTTP port, and of this version?",
            )
        })
    }

    /// Why no answer came, and what it was asked through.
    fn no_answer(&self, error: &ureq::Error, url: &str) -> Error {
        let error = match self.proxy.as_deref() {
            None => transport_error(error, url),
            Some(proxy) => proxied_error(error, url, proxy),
        };
        error.coming_from(self.origin.as_deref())
    }

    /// Turns everything but success into an error of one line.
    pub(super) fn accept(
        &self,
        url: &str,
        answer: Result<http::Response<Body>, ureq::Error>,
    ) -> Result<http::Response<Body>> {
        let response = answer.map_err(|error| self.no_answer(&error, url))?;
        self.clock.see(response.headers());
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, wait) = (response.status(), retry_after(response.headers()));
        // An answer that cannot be read is still an error of this status.
        let text =
            response.into_body().into_with_config().limit(1 << 16).read_to_string().unwrap_or_default();
        let error = problem_error(status.as_u16(), status.canonical_reason().unwrap_or("error"), &text, url);
        let again = again(status.as_u16(), wait);
        Err(error.passing(again).coming_from(self.origin.as_deref()))
    }
}

/// A path with a query of what was said.
pub(super) fn asking(path: &str, asked: &[(&str, Option<&str>)]) -> String {
    let mut out = path.to_owned();
    for (name, value) in asked {
        let Some(value) = value else { continue };
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str(&format!("{name}={}", segment(value)));
    }
    out
}

/// One segment of a path: whatever a person typed stays one segment.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
