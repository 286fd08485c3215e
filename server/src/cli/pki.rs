//! `fedbasin-server pki …`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use fedbasin_proof::PublicKeys;

use crate::{
    error::{Error, Result},
    pki::{self, Authority, Kit},
    tls,
};

#[derive(Debug, Subcommand)]
pub(super) enum PkiCommand {
    /// Make an authority, and a certificate for the server
    Init {
        /// Folder of the authority; its key signs whoever may call, so keep it where few come
        #[arg(long, value_name = "DIR", default_value = "pki")]
        dir: PathBuf,
        /// Name of the authority
        #[arg(long, value_name = "TEXT", default_value = "fedbasin authority")]
        name: String,
        #[command(flatten)]
        server: HostArgs,
    },
    /// Make a new certificate for the server, in the place of the one before; a running server takes it within seconds
    Server {
        /// Folder of the authority
        #[arg(long, value_name = "DIR", default_value = "pki")]
        dir: PathBuf,
        #[command(flatten)]
        server: HostArgs,
    },
    /// Make a folder for a site: certificate, key, authority, server; all that `fedbasin site run --kit FOLDER` needs
    Issue(IssueArgs),
}

#[derive(Debug, Args)]
pub(super) struct HostArgs {
    /// A name or address by which sites and operators reach the server; may be given again
    #[arg(long, value_name = "HOST", required = true)]
    host: Vec<String>,
    /// Days until the server's certificate expires
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(i64).range(1..=366))]
    days: i64,
}

#[derive(Debug, Args)]
pub(super) struct IssueArgs {
    /// The site's id; it must be enrolled, too
    #[arg(value_name = "SITE")]
    site: String,
    /// Folder of the authority
    #[arg(long, value_name = "DIR", default_value = "pki")]
    dir: PathBuf,
    /// The server's gRPC address, as the site reaches it: https://HOST:PORT
    #[arg(long, value_name = "URL")]
    server: String,
    /// The run that the site takes part in
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// Signing request of a key that the site made itself, so that no key travels (PEM, by `fedbasin site request`)
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// The server's public keys (PEM), for the site to know whom to believe: `fedbasin admin keys -o FILE` writes them
    #[arg(long, value_name = "PEM")]
    server_keys: Option<PathBuf>,
    /// Certificate of another authority (PEM) that the site is to trust, too, besides the folder's: the one before, while the server's
    /// own certificate is still of that one
    #[arg(long, value_name = "PEM")]
    also_trust: Option<PathBuf>,
    /// Days until the certificate expires
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(i64).range(1..=366))]
    days: i64,
    /// The folder to make
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

impl PkiCommand {
    pub(super) fn run(self) -> Result<()> {
        match self {
            Self::Init { dir, name, server } => {
                // Before anything is made that a second call would not make again.
                pki::names(&server.host)?;
                let authority = Authority::init(&dir, &name)?;
                let (cert, key) = authority.issue_server(&server.host, server.days)?;
                let ca = authority.certificate();
                println!(
                    "authority in {}; for the server's settings:\n\n[tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n\
                     client_ca_file = {ca:?}\n\noperators trust it by --ca {}; authority.key makes whoever has it any site: keep it off the server's machine",
                    dir.display(),
                    ca.display(),
                );
                Ok(())
            }
            Self::Server { dir, server } => {
                let (cert, _) = Authority::open(&dir)?.issue_server(&server.host, server.days)?;
                println!("{}", cert.display());
                Ok(())
            }
            Self::Issue(args) => {
                let authority = Authority::open(&args.dir)?;
                let request = args.request.map(|path| {
                    std::fs::read_to_string(&path).map_err(|error| {
                        Error::invalid(format!("--request: cannot read {}: {error}", path.display()))
                    })
                });
                let keys = args.server_keys.as_deref().map(read_keys).transpose()?;
                let trusted = args.also_trust.map(|path| tls::certificates("--also-trust", &path));
                let authorities = trusted.transpose()?.unwrap_or_default();
                let kit = Kit { server: args.server, run: args.run, keys, authorities };
                let request = request.transpose()?;
                let what = match request {
                    Some(_) => "needs beside its key; send it back",
                    None => "needs; give it to nobody else",
                };
                let fingerprint =
                    authority.issue_site(&args.site, &kit, request.as_deref(), args.days, &args.output)?;
                println!(
                    "{}: all that site {} {what}\ncertificate {fingerprint}, for {} days",
                    args.output.display(),
                    args.site,
                    args.days,
                );
                Ok(())
            }
        }
    }
}

fn read_keys(path: &Path) -> Result<PublicKeys> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::invalid(format!("--server-keys: cannot read {}: {error}", path.display())))?;
    PublicKeys::from_pem(&text)
        .map_err(|error| Error::invalid(format!("--server-keys: {}: {error}", path.display())))
}
