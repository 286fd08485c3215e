//! The settings that a new folder begins with, as a person reads and changes them.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::Listen;
use crate::{
    config::Config,
    error::{Error, Result},
};

pub(super) struct Tls {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) authority: PathBuf,
}

/// What of them differs from one folder to the next.
pub(super) struct Settings<'a> {
    pub(super) data_dir: &'a Path,
    pub(super) admin_token: &'a Path,
    pub(super) signing_key: &'a Path,
    pub(super) database: Option<&'a Path>,
    pub(super) listen: &'a Listen,
    pub(super) tls: Option<&'a Tls>,
}

impl Settings<'_> {
    /// The file's text, which this program itself understands.
    ///
    /// # Errors
    /// A path that is no text.
    pub(super) fn to_toml(&self) -> Result<String> {
        let mut text = format!(
            "# Settings of fedbasin-server, made by `fedbasin-server init` of version {}. Every other setting has its default; docs/SETTINGS.md\n\
             # lists them all. Unknown keys are refused. No secret stands here: the files that are named hold them.\n\n\
             # Uploads under way, and what the server stores where nothing else is named: models, the embedded database.\n\
             data_dir = {}\n\n\
             # The operator's token. To replace it, write another one into the file and start the server again.\n\
             admin_token_file = {}\n\n\
             # What signs receipts, models and the audit log, and encrypts updates. Keep a copy elsewhere than the backups: nobody can make it anew.\n\
             signing_key_file = {}\n",
            env!("CARGO_PKG_VERSION"),
            quoted(self.data_dir)?,
            quoted(self.admin_token)?,
            quoted(self.signing_key)?,
        );
        match self.database {
            Some(path) => {
                let _ = write!(
                    text,
                    "\n# Holds the URL of the database, postgres://…\ndatabase_url_file = {}\n",
                    quoted(path)?
                );
            }
            None => text.push_str(
                "\n# Rows are kept by SQLite in the data folder, for one process. Several need Postgres; then this file holds its URL, postgres://…\n\
                 # database_url_file = \"/run/secrets/database-url\"\n",
            ),
        }
        let beyond = [self.listen.grpc, self.listen.http].iter().any(|at| !at.ip().is_loopback());
        if self.tls.is_none() && beyond {
            text.push_str(
                "\n# A proxy ends TLS before this server, and only that proxy may reach its two addresses: they speak clear text.\n\
                 allow_clear_text = true\n",
            );
        }
        text.push_str(
            "\n# Where models and updates lie, for several processes: a bucket, or a folder that all of them see. Without it: in the data folder.\n\
             # [objects]\n\
             # url = \"s3://bucket/prefix\"\n",
        );
        let _ = write!(
            text,
            "\n# For sites.\n[grpc]\nlisten = \"{}\"\n\n# For operators, and the dashboard.\n[http]\nlisten = \"{}\"\n",
            self.listen.grpc, self.listen.http
        );
        match self.tls {
            Some(tls) => {
                let _ = write!(
                    text,
                    "\n# TLS of both; read again when the files change. `fedbasin-server pki server` makes the next certificate, before this one ends.\n\
                     # A site shows a certificate of the authority (`fedbasin-server pki issue`), or a token.\n\
                     [tls]\ncert_file = {}\nkey_file = {}\nclient_ca_file = {}\n",
                    quoted(&tls.cert)?,
                    quoted(&tls.key)?,
                    quoted(&tls.authority)?,
                );
            }
            None => text.push_str(
                "\n# No [tls]: a proxy ends it before this server. All calls then come from one address, the proxy's: raise what is \"per address\".\n\
                 # [limits]\n\
                 # max_connections_per_address = 8192\n",
            ),
        }
        text.push_str(
            "\n# Log lines on standard error.\n[log]\nlevel = \"info\" # error, warn, info, debug, trace, or a filter like \"info,sqlx=warn\"\n\
             json = false   # one JSON object a line\n",
        );
        Config::from_toml(&text).map_err(Error::internal)?;
        Ok(text)
    }
}

/// A path as TOML writes it: basic strings are quoted as JSON's are.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| {
        Error::invalid(format!("{}: is no UTF-8, as settings must be; name another place", path.display()))
    })?;
    Ok(serde_json::Value::from(text).to_string())
}
