//! A folder with all that a server needs to begin with: settings, keys, certificates, the operator's token. Made once and never
//! changed; nothing here is read but by whom the settings are given to.

mod settings;

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use crate::{
    auth,
    error::{Error, Result},
    files::{Readers, write_new},
    pki::{self, Authority},
    signing,
};

/// The server's certificate is valid for so long, in days; `pki server` makes the next one.
const CERTIFICATE_DAYS: i64 = 90;
const AUTHORITY: &str = "fedbasin authority";

const SETTINGS: &str = "fedbasin.toml";
const ADMIN_TOKEN: &str = "admin-token";
const SIGNING_KEY: &str = "signing-key.pem";
const PKI: &str = "pki";

/// What is wanted.
#[derive(Debug)]
pub(crate) struct Wish {
    /// The folder to make, or an empty one.
    pub(crate) folder: PathBuf,
    /// Names and addresses by which others reach the server; none: it is for this machine alone.
    pub(crate) hosts: Vec<String>,
    /// A proxy ends TLS before the server.
    pub(crate) behind_proxy: bool,
    pub(crate) grpc_listen: Option<SocketAddr>,
    pub(crate) http_listen: Option<SocketAddr>,
    /// File that holds the database's URL; none: SQLite in the folder.
    pub(crate) database_url_file: Option<PathBuf>,
}

/// What was made; all paths are absolute.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) folder: PathBuf,
    pub(crate) settings: PathBuf,
    pub(crate) admin_token: PathBuf,
    /// The authority's certificate; none behind a proxy.
    pub(crate) authority: Option<PathBuf>,
    /// The HTTP edge, as this machine reaches it.
    pub(crate) http: String,
}

/// Where the edges are to listen.
struct Listen {
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Listen {
    /// Beyond this machine only where others know a name to call it by, and TLS is between.
    fn of(wish: &Wish) -> Result<Self> {
        let beyond = !wish.behind_proxy && !wish.hosts.is_empty();
        let ip = if beyond { [0, 0, 0, 0] } else { [127, 0, 0, 1] };
        let listen = Self {
            grpc: wish.grpc_listen.unwrap_or(SocketAddr::from((ip, 50051))),
            http: wish.http_listen.unwrap_or(SocketAddr::from((ip, 8080))),
        };
        for (option, at) in [("--grpc-listen", listen.grpc), ("--http-listen", listen.http)] {
            if at.port() == 0 {
                return Err(Error::invalid(format!(
                    "{option}: {at} is another port at each start; name the one that others are to call"
                )));
            }
        }
        Ok(listen)
    }

    /// How this machine itself calls an edge that listens there.
    fn url(at: SocketAddr, secure: bool) -> String {
        match (secure, at.ip()) {
            (true, ip) if ip.is_unspecified() => format!("https://localhost:{}", at.port()),
            (false, ip) if ip.is_unspecified() => format!("http://127.0.0.1:{}", at.port()),
            (true, _) => format!("https://{at}"),
            (false, _) => format!("http://{at}"),
        }
    }

    /// Names and addresses of the server's certificate: those that were asked for, and those by which this machine calls it.
    fn names(&self, hosts: &[String]) -> Vec<String> {
        let mut names: Vec<String> = hosts.to_vec();
        names.extend(["localhost", "127.0.0.1", "::1"].map(String::from));
        let bound = [self.grpc.ip(), self.http.ip()];
        names.extend(bound.iter().filter(|ip| !ip.is_unspecified()).map(IpAddr::to_string));
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

/// Makes the folder.
///
/// # Errors
/// What of the wish cannot be, or the folder holds something already; then nothing was made, and nothing changed.
pub(crate) fn init(wish: &Wish) -> Result<Made> {
    let listen = Listen::of(wish)?;
    let names = listen.names(&wish.hosts);
    pki::names(&names)?;
    let database = wish.database_url_file.as_deref().map(readable).transpose()?;
    let folder = empty_folder(&wish.folder)?;
    let made = fill(&folder, wish, &listen, &names, database.as_deref());
    if made.is_err() {
        // The folder was empty before; what is half made would be refused the next time.
        for name in [SETTINGS, ADMIN_TOKEN, SIGNING_KEY] {
            let _ = fs::remove_file(folder.join(name));
        }
        let _ = fs::remove_dir_all(folder.join(PKI));
    }
    made
}

fn fill(
    folder: &Path,
    wish: &Wish,
    listen: &Listen,
    names: &[String],
    database: Option<&Path>,
) -> Result<Made> {
    let (admin_token, signing_key) = (folder.join(ADMIN_TOKEN), folder.join(SIGNING_KEY));
    let token = auth::new_token(auth::ADMIN_PREFIX)?;
    write_new(&admin_token, &format!("{}\n", token.expose()), Readers::Owner)?;
    signing::make(&signing_key)?;
    let tls = if wish.behind_proxy {
        None
    } else {
        let authority = Authority::init(&folder.join(PKI), AUTHORITY)?;
        let (cert, key) = authority.issue_server(names, CERTIFICATE_DAYS)?;
        Some(settings::Tls { cert, key, authority: authority.certificate() })
    };
    let text = settings::Settings {
        data_dir: &folder.join("data"),
        admin_token: &admin_token,
        signing_key: &signing_key,
        database,
        listen,
        tls: tls.as_ref(),
    }
    .to_toml()?;
    let settings = folder.join(SETTINGS);
    write_new(&settings, &text, Readers::All)?;
    Ok(Made {
        folder: folder.to_owned(),
        settings,
        admin_token,
        http: Listen::url(listen.http, tls.is_some()),
        authority: tls.map(|tls| tls.authority),
    })
}

/// A folder that is there, and in which nothing is.
fn empty_folder(folder: &Path) -> Result<PathBuf> {
    let unusable = |error: std::io::Error| {
        Error::invalid(format!("DIR: {}: cannot be used: {error}; name another folder", folder.display()))
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
    if let Some(entry) = fs::read_dir(folder).map_err(unusable)?.next() {
        let entry = entry.map_err(unusable)?;
        return Err(Error::invalid(format!(
            "DIR: {} holds {:?} already, and nothing is overwritten; name a folder that is not there, or an empty one",
            folder.display(),
            entry.file_name()
        )));
    }
    folder.canonicalize().map_err(unusable)
}

/// The absolute path of a file that can be read.
fn readable(path: &Path) -> Result<PathBuf> {
    fs::File::open(path).and_then(|_| path.canonicalize()).map_err(|error| {
        Error::invalid(format!("--database-url-file: cannot read {}: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests;
