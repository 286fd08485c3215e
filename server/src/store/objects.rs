//! Where bytes lie: a folder of this process's own, a folder that several share, or an S3-compatible bucket.

use std::{path::Path, sync::Arc};

use object_store::{
    ObjectStore, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem, prefix::PrefixStore,
};

use super::make_folder;
use crate::{
    config,
    error::{Code, Error, Result},
};

/// How long one request to a bucket is tried again before who asked is told to come back.
const RETRY_FOR: std::time::Duration = std::time::Duration::from_secs(20);

/// A store of immutable bytes.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The folder that it is, if it is one.
    pub(super) folder: Option<Arc<Path>>,
    /// Other processes read and write here too: what of an upload is acknowledged must lie here as well.
    pub(super) shared: bool,
}

impl Objects {
    /// Opens what the settings name.
    ///
    /// # Errors
    /// A sentence that names the setting, and what it may be.
    pub(super) fn open(settings: Option<&config::Objects>, data_dir: &Path) -> Result<Self> {
        let Some(settings) = settings else {
            return Self::in_folder(&data_dir.join("objects"), "data_dir", false);
        };
        match settings.url.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => {
                Self::in_folder(Path::new(path), "objects.url", true)
            }
            Some(("s3", place)) => Ok(Self { store: bucket(place, settings)?, folder: None, shared: true }),
            _ => Err(Error::invalid(format!(
                "objects.url: {:?} is neither s3://bucket/prefix nor file:///folder",
                settings.url
            ))),
        }
    }

    fn in_folder(path: &Path, setting: &str, shared: bool) -> Result<Self> {
        make_folder(path).map_err(|error| {
            Error::new(Code::Unavailable, format!("{setting}: cannot make {}: {error}", path.display()))
        })?;
        check_folder(path).map_err(|error| {
            Error::new(
                Code::Unavailable,
                format!(
                    "{setting}: {} cannot be written: {error}; let the server's user write there",
                    path.display()
                ),
            )
        })?;
        // Not its default: bytes are durable before a row tells of them.
        let store = LocalFileSystem::new_with_prefix(path)?.with_fsync(true);
        Ok(Self { store: Arc::new(store), folder: Some(path.into()), shared })
    }
}

/// Whether a folder is there, and this process may write in it.
pub(super) fn check_folder(path: &Path) -> std::io::Result<()> {
    use rustix::fs::{Access, access};
    access(path, Access::WRITE_OK | Access::EXEC_OK).map_err(Into::into)
}

fn bucket(place: &str, settings: &config::Objects) -> Result<Arc<dyn ObjectStore>> {
    let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
    let retry = RetryConfig { retry_timeout: RETRY_FOR, ..RetryConfig::default() };
    // Credentials, and what else is usual, by the environment.
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(name).with_retry(retry);
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    let bucket = builder.build().map_err(|error| Error::invalid(format!("objects: {error}")))?;
    Ok(match prefix {
        "" => Arc::new(bucket),
        prefix => Arc::new(PrefixStore::new(bucket, prefix)),
    })
}
