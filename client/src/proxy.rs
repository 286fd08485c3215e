//! The way to a server through an HTTP proxy, where a site lets out nothing else: CONNECT (RFC 9110, section 9.3.6), and TLS to the
//! server within it. The proxy learns the server's name and port, and nothing of what is said.
//!
//! The variables are those that other programs know: `HTTPS_PROXY`, else `ALL_PROXY`; hosts of `NO_PROXY` are called directly. Upper case
//! goes before lower case. This machine is always called directly, and so are `http://` addresses: they are of this machine, or of a network
//! that is protected itself.

mod bypass;
mod tunnel;

use std::fmt;

use tonic::transport::Uri;

use crate::{
    connect::is_loopback,
    error::{Error, Result},
};
use bypass::bypasses;
pub(crate) use tunnel::{TunnelError, tunnel};

/// Where a proxy's address may stand, in this order.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// Where hosts may stand that are called without it.
const BYPASS: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// That of an address that names none, as browsers have it.
const DEFAULT_PORT: u16 = 80;

/// A proxy and what it wants to know. Shows neither user nor password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Host and port, as they are called.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// User and password, decoded.
    credentials: Option<(String, String)>,
    /// The variable that named it.
    pub(crate) variable: &'static str,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy {}:{} ({})", self.host, self.port, self.variable)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Proxy {
    /// The proxy that the environment names for this address; none where it is to be called directly.
    ///
    /// # Errors
    /// What the environment names is no HTTP proxy.
    pub(crate) fn of(uri: &Uri) -> Result<Option<Self>> {
        Self::within(uri, environment)
    }

    fn within(uri: &Uri, environment: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let host = uri.host().unwrap_or_default();
        if uri.scheme_str() != Some("https") || is_loopback(host) {
            return Ok(None);
        }
        let first = |names: &[&'static str]| {
            names.iter().find_map(|&name| environment(name).map(|value| (name, value)))
        };
        let Some((variable, value)) = first(&VARIABLES) else { return Ok(None) };
        if first(&BYPASS).is_some_and(|(_, list)| bypasses(&list, host)) {
            return Ok(None);
        }
        Self::named(variable, &value).map(Some)
    }

    /// `[http://][USER[:PASSWORD]@]HOST[:PORT][/]`. The value is never shown: it may hold a password.
    pub(crate) fn named(variable: &'static str, value: &str) -> Result<Self> {
        let unusable = |what: &str| {
            Error::usage(
                what,
                format_args!("the variable {variable}"),
                "write http://HOST:PORT, with user and password http://USER:PASSWORD@HOST:PORT (%40 for @), or name the server's host in NO_PROXY",
            )
        };
        let value = value.trim();
        let rest = match value.split_once("://") {
            None => value,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(unusable("names a proxy that is called in another way than http://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (userinfo, authority) = match rest.rsplit_once('@') {
            Some((userinfo, authority)) => (Some(userinfo), authority),
            None => (None, rest),
        };
        let place: Uri =
            format!("http://{authority}/").parse().map_err(|_| unusable("is no address of a proxy"))?;
        let host = place.host().filter(|host| !host.is_empty());
        let parts = host.and_then(|host| Some((host, authority.strip_prefix(host)?)));
        let Some((host, port)) = parts.and_then(|(host, rest)| Some((host, port_behind(rest)?))) else {
            return Err(unusable("is no address of a proxy"));
        };
        let credentials = match userinfo {
            None => None,
            Some(userinfo) => {
                let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
                let both = decoded(user).zip(decoded(password));
                Some(both.ok_or_else(|| unusable("has a user or a password that cannot be read"))?)
            }
        };
        Ok(Self { host: host.to_owned(), port, credentials, variable })
    }

    /// The same for the HTTP API's client.
    ///
    /// # Errors
    /// It takes no such host.
    pub(crate) fn of_http(&self) -> Result<ureq::Proxy> {
        let mut builder = ureq::Proxy::builder(ureq::ProxyProtocol::Http).host(&self.host).port(self.port);
        if let Some((user, password)) = &self.credentials {
            builder = builder.username(user).password(password);
        }
        builder.build().map_err(|error| Error::usage(error, self, "write http://HOST:PORT"))
    }

    /// What it answered to CONNECT, in our words, and what to do about it.
    pub(crate) fn refusal(&self, to: &str, status: u16) -> TunnelError {
        TunnelError::Refused {
            proxy: self.to_string(),
            to: to.to_owned(),
            status,
            knew: self.credentials.is_some(),
        }
    }
}

/// What stands behind a host: nothing, or a port.
fn port_behind(rest: &str) -> Option<u16> {
    match rest.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|&port| port > 0),
        None => rest.is_empty().then_some(DEFAULT_PORT),
    }
}

/// `%40` and the like as what they stand for; nothing where that is no text.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[expect(clippy::disallowed_methods, reason = "variables that hold for all programs are no settings of ours")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

#[cfg(test)]
mod tests;
