//! A site's kit: the folder that `fedbasin-server pki issue` made, and the request for one whose key never travels.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    connect::Address,
    error::{Error, Result},
    files::{SecretFile, read_error, write_atomically, write_error},
};

/// What a kit says.
#[derive(Debug, Clone)]
pub struct Kit {
    /// The site's id.
    pub site: String,
    /// Where the server is, whom to trust there, and what to show.
    pub address: Address,
    /// The run, if one is named.
    pub run: Option<String>,
    /// The server's public keys, where the kit has them.
    pub server_keys: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    site: String,
    server: String,
    #[serde(default)]
    run: Option<String>,
}

impl Kit {
    /// Reads a kit's folder.
    ///
    /// # Errors
    /// A file of it is missing or malformed.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("kit.toml");
        let text = fs::read_to_string(&path).map_err(|error| read_error(&path, &error))?;
        let file: File = toml::from_str(&text).map_err(|error| {
            Error::failed(error.message(), path.display(), "ask whoever runs the server for another kit")
        })?;
        let there = |name: &str, advice: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            if path.is_file() { Ok(path) } else { Err(Error::failed("is not there", path.display(), advice)) }
        };
        let whole = "ask whoever runs the server for the whole kit";
        Ok(Self {
            site: file.site,
            run: file.run,
            server_keys: Some(folder.join("server-keys.pem")).filter(|path| path.is_file()),
            address: Address {
                url: file.server,
                ca: Some(there("authority.pem", whole)?),
                insecure: false,
                identity: Some((
                    there("site.pem", whole)?,
                    there("site.key", "put the key there that `fedbasin site request` made")?,
                )),
            },
        })
    }
}

/// Makes a key in a folder (`site.key`, for its owner alone) and a request for a certificate of it (`site.csr`). Whoever runs the
/// server answers with a kit; its files belong beside the key. Gives the request's path.
///
/// # Errors
/// The folder cannot be written, or a key is there already.
pub fn request(site: &str, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(|error| write_error(folder, &error))?;
    let defect =
        |error: rcgen::Error| Error::failed(error, "making a request", "this is a defect, report it");
    let key = rcgen::KeyPair::generate().map_err(defect)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, site);
    let text = params.serialize_request(&key).and_then(|request| request.pem()).map_err(defect)?;
    SecretFile::new(&folder.join("site.key"))?.write(key.serialize_pem().trim_end())?;
    let path = folder.join("site.csr");
    write_atomically(&path, |out| {
        out.write_all(text.as_bytes()).map_err(|error| write_error(&path, &error))
    })?;
    Ok(path)
}
