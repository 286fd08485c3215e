//! Settings: one TOML file, overridden by the command line and its environment variables.

mod limits;
mod oidc;
mod otlp;
mod webhooks;

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

pub use self::limits::Limits;
pub(crate) use self::oidc::allowed;
pub use self::oidc::{Claim, Oidc, RETURN, SignIn};
pub use self::otlp::Otlp;
pub use self::webhooks::{Notify, Webhook, WebhookEvent};

/// All settings, each with a default: an empty file is a working server for one machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder for checkpoints, uploads under way, the embedded database and the generated admin token.
    pub data_dir: PathBuf,
    /// `postgres://…`, or `sqlite://…`; absent: SQLite in the data folder.
    pub database_url: Option<Secret>,
    /// File that holds it, for secrets mounted as files.
    pub database_url_file: Option<PathBuf>,
    /// Where checkpoints lie; absent: in the data folder, of this process alone.
    pub objects: Option<Objects>,
    /// The gRPC edge, for sites.
    pub grpc: Edge,
    /// The HTTP edge, for operators.
    pub http: Edge,
    /// Certificate for both edges; absent: clear text.
    pub tls: Option<Tls>,
    /// Whether the edges may speak clear text beyond this machine: where a proxy ends TLS before them, or the network itself is protected.
    pub allow_clear_text: bool,
    /// File that holds the admin token; absent: one is generated in the data folder.
    pub admin_token_file: Option<PathBuf>,
    /// The admin token itself: from the environment only.
    #[serde(skip)]
    pub admin_token: Option<Secret>,
    /// The keys that receipts, models and the audit log's head are signed with, PEM; absent: made in the data folder. All processes of
    /// one database need the same.
    pub signing_key_file: Option<PathBuf>,
    /// An identity provider whose tokens open the HTTP edge to persons; absent: only tokens made here do.
    pub oidc: Option<Oidc>,
    /// What the server takes at the most.
    pub limits: Limits,
    /// How the worker goes about it.
    pub work: Work,
    /// Whom the server tells what happens; none: nobody.
    pub webhooks: Vec<Webhook>,
    /// What signs the notices of webhooks without a file of their own: from the environment only.
    #[serde(skip)]
    pub webhook_secret: Option<Secret>,
    /// When webhooks are told something.
    pub notify: Notify,
    /// A collector of traces; absent: none are made.
    pub otlp: Option<Otlp>,
    /// Log lines on standard error.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("fedbasin-data"),
            database_url: None,
            database_url_file: None,
            objects: None,
            grpc: Edge { listen: SocketAddr::from(([127, 0, 0, 1], 50051)) },
            http: Edge { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) },
            tls: None,
            allow_clear_text: false,
            admin_token_file: None,
            admin_token: None,
            signing_key_file: None,
            oidc: None,
            limits: Limits::default(),
            work: Work::default(),
            webhooks: Vec::new(),
            webhook_secret: None,
            notify: Notify::default(),
            otlp: None,
            log: Log::default(),
        }
    }
}

/// Where an edge listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// Storage that several processes share. Credentials come from the environment, by the names that S3's own tools use
/// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, …).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// `s3://bucket/prefix`, or `file:///folder` on a file system that all processes see.
    pub url: String,
    /// Address of an S3-compatible server; absent: Amazon's. `http://` is clear text.
    pub endpoint: Option<String>,
    /// Region; absent: that of the environment, or `us-east-1`.
    pub region: Option<String>,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain.
    pub cert_file: PathBuf,
    /// Private key.
    pub key_file: PathBuf,
    /// The authority that signs sites' certificates, PEM; absent: sites show tokens only.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// Whether a site must show one: `"accepted"`, one or a token; `"required"`, one always.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
}

/// What is asked of sites, where [`Tls::client_ca_file`] is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificates {
    /// A certificate or a token.
    #[default]
    Accepted,
    /// A certificate: without one there is no connection.
    Required,
}

/// How the worker goes about it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Work {
    /// How long one piece of work is a worker's own, in seconds: at least 1. Renewed every third of it while the work
    /// goes on, so after a crash others wait so long.
    pub lease_seconds: u64,
    /// How often the rows are read when nothing wakes the worker, in milliseconds.
    pub poll_ms: u64,
    /// Runs of weight matching from different orders; the best one counts.
    pub starts: usize,
    /// Whether `serve` works too; false: leave it to processes of `work`.
    pub in_serve: bool,
    /// Where a process of `work` tells its own figures at `/metrics`, without a token: an address of this machine alone. Absent: nowhere.
    pub metrics_listen: Option<SocketAddr>,
}

impl Default for Work {
    fn default() -> Self {
        Self { lease_seconds: 30, poll_ms: 1000, starts: 4, in_serve: true, metrics_listen: None }
    }
}

/// Longest lease: longer ones only leave work lying after a crash.
const MAX_LEASE_SECONDS: u64 = 24 * 3600;

impl Work {
    /// [`Work::lease_seconds`].
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// [`Work::poll_ms`].
    #[must_use]
    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms.max(10))
    }
}

/// Log lines on standard error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,sqlx=warn`.
    pub level: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), json: false }
    }
}

/// A value that never shows itself.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Config {
    /// Whether an edge speaks clear text beyond this machine.
    #[must_use]
    pub fn is_clear_text(&self) -> bool {
        let beyond = |edge: &Edge| !edge.listen.ip().is_loopback();
        self.tls.is_none() && (beyond(&self.grpc) || beyond(&self.http))
    }

    /// Reads a TOML text.
    ///
    /// # Errors
    /// A sentence that names the line and the key.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if config.database_url.is_some() && config.database_url_file.is_some() {
            return Err("database_url, database_url_file: both are given; say one of them".into());
        }
        let lease = config.work.lease_seconds;
        if lease == 0 || lease > MAX_LEASE_SECONDS {
            return Err(format!("work.lease_seconds: {lease} is not within 1 and {MAX_LEASE_SECONDS}"));
        }
        if let Some(listen) = config.work.metrics_listen.filter(|listen| !listen.ip().is_loopback()) {
            return Err(format!(
                "work.metrics_listen: {listen} is not of this machine alone, and it asks for no token; let a collector run beside the worker"
            ));
        }
        config.oidc.as_ref().map_or(Ok(()), Oidc::check)?;
        config.limits.check()?;
        config.otlp.as_ref().map_or(Ok(()), Otlp::check)?;
        config.notify.check(&config.webhooks)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
