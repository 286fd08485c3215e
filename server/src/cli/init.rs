//! `fedbasin-server init`.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    error::Result,
    init::{Made, Wish, init},
};

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The folder to make, or an empty one
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// A name or address by which sites and operators reach the server; may be given again. Without one the server is for this machine alone
    #[arg(long, value_name = "HOST", conflicts_with = "behind_proxy")]
    host: Vec<String>,
    /// A proxy ends TLS before this server: no authority and no certificate are made, and sites show tokens
    #[arg(long)]
    behind_proxy: bool,
    /// gRPC address, for sites [default: 0.0.0.0:50051 with --host, otherwise 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR")]
    grpc_listen: Option<SocketAddr>,
    /// HTTP address, for operators [default: 0.0.0.0:8080 with --host, otherwise 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http_listen: Option<SocketAddr>,
    /// File that holds the URL of a Postgres database, postgres://… [default: SQLite in the folder]
    #[arg(long, value_name = "FILE")]
    database_url_file: Option<PathBuf>,
}

impl InitArgs {
    /// Makes the folder and says how to go on; `program` is what this program was called by.
    pub(super) fn run(self, program: &OsStr) -> Result<()> {
        let made = init(&Wish {
            folder: self.folder,
            hosts: self.host,
            behind_proxy: self.behind_proxy,
            grpc_listen: self.grpc_listen,
            http_listen: self.http_listen,
            database_url_file: self.database_url_file,
        })?;
        print!("{}", next(&made, &Programs::called_by(program)));
        Ok(())
    }
}

/// How the two programs are called, from any folder.
struct Programs {
    server: PathBuf,
    client: PathBuf,
}

impl Programs {
    /// Where this one was found by the shell, by its name; otherwise by its place, and the other one beside it.
    fn called_by(program: &OsStr) -> Self {
        let called = Path::new(program);
        let has_folder = called.parent().is_some_and(|folder| !folder.as_os_str().is_empty());
        match std::path::absolute(called) {
            Ok(server) if has_folder => {
                let client = server.with_file_name("fedbasin");
                let client = if client.is_file() { client } else { "fedbasin".into() };
                Self { server, client }
            }
            _ => Self { server: called.to_owned(), client: "fedbasin".into() },
        }
    }
}

/// What is said once the folder is there.
fn next(made: &Made, programs: &Programs) -> String {
    let word = |path: &Path| shell_word(&path.display().to_string());
    let (server, client) = (word(&programs.server), word(&programs.client));
    let (settings, token) = (word(&made.settings), word(&made.admin_token));
    let trust = made.authority.as_deref().map(|ca| format!(" --ca {}", word(ca))).unwrap_or_default();
    let (http, site_token) = (&made.http, word(&made.folder.join("hospital-a.token")));
    let mut text = format!(
        "made {}\n\nstart the server; it stays in the foreground:\n\n    {server} serve --config {settings}\n\n\
         and, in another terminal, enrol a site, whose token goes into a new file:\n\n    \
         {client} admin --server {http}{trust} --token-file {token} enrol hospital-a -o {site_token}\n\n\
         the dashboard is at {http}/ and asks for the token in {}\n",
        made.folder.display(),
        made.admin_token.display(),
    );
    if made.authority.is_some() {
        text.push_str(
            "pki/authority.key makes whoever has it any site: keep it where few come, off the server's machine\n",
        );
    }
    text
}

/// A text as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
