//! The HTTP admin API, typed and blocking.

pub mod audit;
mod calls;
mod clock;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod held;
mod once;
pub mod operate;
mod problem;
pub mod types;
pub mod watch;

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rebasin::{Digest, Hasher};
use serde::{Serialize, de::DeserializeOwned};
use time::OffsetDateTime;
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::{
    connect::{Address, CONNECT_TIME, Token},
    error::{Error, Result},
    files::{read_error, refuse_torch_save, write_atomically, write_error},
    progress::Screen,
    proxy::Proxy,
};
use calls::{asking, segment};
use types::{
    Certificates, Checkpoint, Delivery, DeliveryList, EnrolledSite, Graph, MadeToken, NewRun, Round,
    RoundList, Run, RunList, Site, SiteCertificate, SiteList, TokenList, TokenRecord,
};

/// A client of one server's admin API.
#[derive(Debug, Clone)]
pub struct Admin {
    agent: Agent,
    address: Address,
    token: Token,
    /// Where address and token were taken from, for people.
    origin: Option<Arc<str>>,
    /// What it is called through.
    proxy: Option<Arc<Proxy>>,
    /// What time it is there.
    clock: Arc<clock::Clock>,
    /// What the server is held to before the first call.
    held: Option<Arc<held::Held>>,
    /// Why what is asked for from now on is asked for.
    reason: Option<String>,
}

impl Admin {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// An address that makes no sense, or an authority that cannot be read.
    pub fn new(address: Address, token: Token) -> Result<Self> {
        Self::connecting_within(CONNECT_TIME, address, token)
    }

    fn connecting_within(connecting: Duration, address: Address, token: Token) -> Result<Self> {
        let proxy = Proxy::of(&address.check()?)?;
        let roots = match address.authority()? {
            Some(pem) => {
                let certificates = ureq::tls::parse_pem(&pem)
                    .filter_map(|item| match item {
                        Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
                        _ => None,
                    })
                    .collect::<Vec<Certificate<'static>>>();
                RootCerts::new_with_certs(&certificates)
            }
            None => RootCerts::WebPki,
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("fedbasin/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(connecting))
            // Also none is said: by itself it would look for others than a site's calls do.
            .proxy(proxy.as_ref().map(Proxy::of_http).transpose()?)
            .timeout_recv_response(Some(Duration::from_secs(120)))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build()
            .new_agent();
        Ok(Self {
            agent,
            address,
            token,
            origin: None,
            proxy: proxy.map(Arc::new),
            clock: Arc::default(),
            held: None,
            reason: None,
        })
    }

    /// The same, whose errors say where its address and token were taken from, where nobody typed them.
    #[must_use]
    pub fn taken_from(self, origin: Option<String>) -> Self {
        Self { origin: origin.map(Into::into), ..self }
    }

    /// The time at the server, to about a second, as far as its answers told.
    #[must_use]
    pub fn server_time(&self) -> Option<OffsetDateTime> {
        self.clock.now()
    }

    /// The same, which says why with every call that changes something: at most 500 characters for the audit log, without control
    /// characters.
    #[must_use]
    pub fn because(self, reason: Option<String>) -> Self {
        Self { reason, ..self }
    }

    /// Enrols a site; the answer holds its token, which the server shows this once, and which opens nothing after so many days (90 if
    /// none are given).
    ///
    /// # Errors
    /// As the server says: a malformed id, a site of that name, a wrong token.
    pub fn enrol(&self, site: &str, days: Option<u32>) -> Result<EnrolledSite> {
        #[derive(Serialize)]
        struct NewSite<'a> {
            id: &'a str,
            token_expires_in_days: Option<u32>,
        }
        self.make("/v1/sites", &NewSite { id: site, token_expires_in_days: days })
    }

    /// Makes a token for a person of that role; shown this once.
    ///
    /// # Errors
    /// As the server says.
    pub fn create_token(&self, role: &str, label: &str, days: Option<u32>) -> Result<MadeToken> {
        #[derive(Serialize)]
        struct NewToken<'a> {
            role: &'a str,
            label: &'a str,
            expires_in_days: Option<u32>,
        }
        self.make("/v1/tokens", &NewToken { role, label, expires_in_days: days })
    }

    /// Makes a further token for a site; shown this once.
    ///
    /// # Errors
    /// As the server says: two of the site's open something already.
    pub fn create_site_token(&self, site: &str, label: &str, days: Option<u32>) -> Result<MadeToken> {
        #[derive(Serialize)]
        struct NewToken<'a> {
            label: &'a str,
            expires_in_days: Option<u32>,
        }
        let place = format!("/v1/sites/{}/tokens", segment(site));
        self.make(&place, &NewToken { label, expires_in_days: days })
    }

    /// All tokens, the newest first.
    ///
    /// # Errors
    /// As the server says.
    pub fn tokens(&self) -> Result<Vec<TokenRecord>> {
        self.pages("/v1/tokens", |list: TokenList| (list.tokens, list.next))
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// As the server says.
    pub fn revoke_token(&self, id: &str) -> Result<TokenRecord> {
        self.order(&format!("/v1/tokens/{}/revoke", segment(id)))
    }

    /// The certificates of the server and its sites.
    ///
    /// # Errors
    /// As the server says.
    pub fn certificates(&self) -> Result<Certificates> {
        let mut all: Certificates = self.get("/v1/certificates")?;
        while let Some(after) = all.next.take() {
            let more: Certificates = self.get(&format!("/v1/certificates?after={}", segment(&after)))?;
            all.certificates.extend(more.certificates);
            all.next = more.next;
        }
        Ok(all)
    }

    /// Revokes a site's certificate, whether it was ever seen or not.
    ///
    /// # Errors
    /// As the server says.
    pub fn revoke_certificate(&self, fingerprint: &str) -> Result<SiteCertificate> {
        self.order(&format!("/v1/certificates/{}/revoke", segment(fingerprint)))
    }

    /// Notices to webhooks, the newest first: those that stand so, and as many, as are asked for.
    ///
    /// # Errors
    /// As the server says.
    pub fn deliveries(&self, state: Option<&str>, limit: Option<u32>) -> Result<DeliveryList> {
        let limit = limit.map(|limit| limit.to_string());
        self.get(&asking("/v1/webhooks/deliveries", &[("state", state), ("limit", limit.as_deref())]))
    }

    /// Has a notice sent again that was given up.
    ///
    /// # Errors
    /// As the server says: no such notice, or one that was not given up.
    pub fn retry_delivery(&self, id: &str) -> Result<Delivery> {
        self.order(&format!("/v1/webhooks/deliveries/{}/retry", segment(id)))
    }

    /// Has a webhook told that this is a test.
    ///
    /// # Errors
    /// As the server says: no such webhook.
    pub fn test_webhook(&self, name: &str) -> Result<Delivery> {
        self.order(&format!("/v1/webhooks/{}/test", segment(name)))
    }

    /// All enrolled sites, or those in whose id something stands.
    ///
    /// # Errors
    /// As the server says.
    pub fn sites(&self, part: Option<&str>) -> Result<Vec<Site>> {
        self.pages(&asking("/v1/sites", &[("q", part)]), |list: SiteList| (list.sites, list.next))
    }

    /// Stores a checkpoint file, for instance a run's seed.
    ///
    /// # Errors
    /// Not readable, or not a checkpoint that the server takes.
    pub fn put_checkpoint(&self, path: &Path) -> Result<Checkpoint> {
        refuse_torch_save(path)?;
        self.post_file("/v1/checkpoints", path)
    }

    /// Sends a network's graph, an ONNX file: the server derives its spec and verifies it.
    ///
    /// # Errors
    /// Not readable, or refused, with the reason.
    pub fn put_graph(&self, path: &Path) -> Result<Graph> {
        self.post_file("/v1/graphs", path)
    }

    fn post_file<T: DeserializeOwned>(&self, place: &str, path: &Path) -> Result<T> {
        let file = File::open(path).map_err(|error| read_error(path, &error))?;
        let url = self.begin_change(place)?;
        let request = self.agent.post(&url).header("authorization", self.token.bearer());
        // So that a server that does not want the file says so before it travels.
        let request = request.header("expect", "100-continue").content_type("application/octet-stream");
        self.decode(&url, request.send(&file))
    }

    /// Creates a run; its first round opens within a second or so.
    ///
    /// # Errors
    /// As the server says: an unknown site or seed, a spec that does not fit, a run of that name.
    pub fn create_run(&self, run: &NewRun) -> Result<Run> {
        self.make("/v1/runs", run)
    }

    /// All runs, or those of a state, or of a site.
    ///
    /// # Errors
    /// As the server says.
    pub fn runs(&self, state: Option<&str>, site: Option<&str>) -> Result<Vec<Run>> {
        self.pages(&asking("/v1/runs", &[("state", state), ("site", site)]), |list: RunList| {
            (list.runs, list.next)
        })
    }

    /// One run.
    ///
    /// # Errors
    /// As the server says.
    pub fn run(&self, run: &str) -> Result<Run> {
        self.get(&format!("/v1/runs/{}", segment(run)))
    }

    /// All rounds of a run, or those of a state.
    ///
    /// # Errors
    /// As the server says.
    pub fn rounds(&self, run: &str, state: Option<&str>) -> Result<Vec<Round>> {
        let path = asking(&format!("/v1/runs/{}/rounds", segment(run)), &[("state", state)]);
        self.pages(&path, |list: RoundList| (list.rounds, list.next))
    }

    /// One round of a run, with every site of the cohort.
    ///
    /// # Errors
    /// As the server says.
    pub fn round(&self, run: &str, number: u32) -> Result<Round> {
        self.get(&format!("/v1/runs/{}/rounds/{number}", segment(run)))
    }

    /// Merges a run's newest published round again, without what was withdrawn of it. Gives the new round.
    ///
    /// # Errors
    /// As the server says.
    pub fn remerge(&self, run: &str, number: u32) -> Result<Round> {
        self.order(&format!("/v1/runs/{}/rounds/{number}/remerge", segment(run)))
    }

    /// Cancels a run.
    ///
    /// # Errors
    /// As the server says.
    pub fn cancel(&self, run: &str) -> Result<Run> {
        self.order(&format!("/v1/runs/{}/cancel", segment(run)))
    }

    /// Lets no further round of a run open; the one that is open goes on.
    ///
    /// # Errors
    /// As the server says.
    pub fn pause(&self, run: &str) -> Result<Run> {
        self.order(&format!("/v1/runs/{}/pause", segment(run)))
    }

    /// Lets rounds of a paused run open again.
    ///
    /// # Errors
    /// As the server says.
    pub fn resume(&self, run: &str) -> Result<Run> {
        self.order(&format!("/v1/runs/{}/resume", segment(run)))
    }

    /// A POST that says all by its path.
    fn order<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let url = self.begin_change(path)?;
        let request = self.agent.post(&url).header("authorization", self.token.bearer());
        self.decode(&url, request.send_empty())
    }

    /// Downloads a round's global model to `path`, verified against the digest that the server names. Returns digest and
    /// size in bytes.
    ///
    /// # Errors
    /// The round has no model, the transfer broke, other bytes came, or the file cannot be written; then `path` is as it was.
    pub fn model(&self, run: &str, number: u32, path: &Path, screen: &Screen) -> Result<(Digest, u64)> {
        self.download(&format!("/v1/runs/{}/rounds/{number}/model", segment(run)), None, path, screen)
    }

    /// Downloads a model, whichever round published it, verified against its digest. Returns its size in bytes.
    ///
    /// # Errors
    /// There is none or it is no longer kept, the transfer broke, other bytes came, or the file cannot be written; then `path` is as it
    /// was.
    pub fn model_content(&self, digest: Digest, path: &Path, screen: &Screen) -> Result<u64> {
        let place = format!("/v1/models/{digest}/content");
        self.download(&place, Some(digest), path, screen).map(|(_, size)| size)
    }

    /// The bytes that are at `place`, of this digest or else of the one that the server names.
    fn download(
        &self,
        place: &str,
        digest: Option<Digest>,
        path: &Path,
        screen: &Screen,
    ) -> Result<(Digest, u64)> {
        let url = self.begin(place)?;
        let request = self.agent.get(&url).header("authorization", self.token.bearer());
        let response = self.accept(&url, request.call())?;
        let promised = response.headers().get("etag").and_then(|tag| tag.to_str().ok());
        let named: Option<Digest> = promised.and_then(|tag| tag.trim_matches('"').parse().ok());
        let promised = digest.or(named);
        let total = response.body().content_length();
        let mut reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        let bar = screen.bytes("receiving", total.unwrap_or(0));
        write_atomically(path, |out| {
            let (digest, size) = copy(&mut reader, out, &url, path, |done| bar.set(done))?;
            if promised.is_some_and(|promised| promised != digest) || total.is_some_and(|total| total != size)
            {
                return Err(Error::failed(
                    format_args!(
                        "received {size} bytes with digest {digest}, which is not what was promised"
                    ),
                    &url,
                    "start the same command again",
                ));
            }
            Ok((digest, size))
        })
    }
}

fn copy(
    reader: &mut impl Read,
    out: &mut dyn Write,
    url: &str,
    path: &Path,
    mut done: impl FnMut(u64),
) -> Result<(Digest, u64)> {
    let mut hasher = Hasher::new();
    let mut block = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        match reader.read(&mut block) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Ok(count) => {
                hasher.update(&block[..count]);
                out.write_all(&block[..count]).map_err(|error| write_error(path, &error))?;
                size += count as u64;
                done(size);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Error::failed(
                    format_args!("the transfer broke: {error}"),
                    url,
                    "start the same command again",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests;
