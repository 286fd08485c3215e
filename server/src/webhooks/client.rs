//! Posts to one address, and to no other: no redirects, no proxy, little patience, and, unless it is allowed, none but public addresses,
//! whatever its name leads to at that moment.

use std::{error::Error as _, io, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};

use crate::{
    addresses::is_public,
    authorities,
    config::Webhook,
    error::{Error, Result},
};

/// How long a connection may take to be there.
const CONNECT: Duration = Duration::from_secs(5);

pub(super) struct Client {
    client: reqwest::Client,
    url: Url,
}

impl Client {
    /// Calls nobody yet.
    pub(super) fn new(webhook: &Webhook, timeout: Duration) -> Result<Self> {
        let failed = |key: &str, what: &dyn std::fmt::Display| {
            Error::invalid(format!("webhooks.{key} of {:?}: {what}", webhook.name))
        };
        let url = webhook.address().map_err(Error::invalid)?;
        let mut client = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(CONNECT.min(timeout))
            .redirect(redirect::Policy::none())
            .no_proxy()
            // A connection is not kept until the next notice: its address is checked when it is made.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("fedbasin-server/", env!("CARGO_PKG_VERSION")));
        if !webhook.allow_private_addresses {
            client = client.dns_resolver(Arc::new(PublicAlone));
        }
        if let Some(path) = &webhook.ca_file {
            let found = authorities::read(path).map_err(|what| failed("ca_file", &what))?;
            client = client.tls_certs_only(found);
        } else if url.scheme() == "http" {
            // Nobody is vouched for, and a machine without a list of authorities will do.
            client = client.tls_certs_only([]);
        }
        let client = client.build();
        let client = client.map_err(|error| {
            failed("ca_file", &format!("no HTTPS client can be made: {}; name one", chain(&error)))
        })?;
        Ok(Self { client, url })
    }

    /// Posts a notice. What the receiver says is not read but for its status.
    ///
    /// # Errors
    /// Why it was not taken; the address is not in it.
    pub(super) async fn post(
        &self,
        headers: impl IntoIterator<Item = (&'static str, String)>,
        body: String,
    ) -> std::result::Result<(), String> {
        let mut request = self.client.post(self.url.clone()).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.body(body).send().await.map_err(|error| chain(&error.without_url()))?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(format!("the receiver answers {}", answer.status())),
        }
    }
}

/// Why a notice was not taken, at most, in characters.
const MOST_REASON: usize = 300;

/// Looks names up, and knows no addresses but public ones: what is checked is what is called.
struct PublicAlone;

impl Resolve for PublicAlone {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move { public(name.as_str()).await })
    }
}

async fn public(name: &str) -> std::result::Result<Addrs, Box<dyn std::error::Error + Send + Sync>> {
    let found = tokio::net::lookup_host((name, 0)).await?;
    let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
    if public.is_empty() {
        let what = "its name leads to private addresses alone, and allow_private_addresses is not set";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what).into());
    }
    Ok(Box::new(public.into_iter()))
}

/// An error with what caused it. What TLS says of a certificate names the receiver, and whatever the receiver likes: that is left out.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let within = within.and_then(|within| within.downcast_ref::<rustls::Error>());
        if error.is::<rustls::Error>() || within.is_some() {
            text.push_str(": TLS: its certificate or its protocol is not what is taken");
            break;
        }
        text = format!("{text}: {error}");
        source = error.source();
    }
    text.chars().take(MOST_REASON).collect()
}
