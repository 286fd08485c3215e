//! `fedbasin-server audit …`.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use fedbasin_proof::{PublicKeys, SignedHead, export};

use super::{StorageArgs, run};
use crate::{
    config::Config,
    error::{Error, Result},
    signing::Signer,
    store::Store,
};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Compare every record with the tree that is kept over them and with the head, and each round and update with its record
    Verify(VerifyArgs),
    /// Write the whole log as JSON lines with a signed head, which `fedbasin audit verify` checks
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A signed head that was seen before (`log-head.txt` of a site's work folder): the log must go on from it
    #[arg(long, value_name = "FILE")]
    seen: Option<PathBuf>,
    #[command(flatten)]
    storage: StorageArgs,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    storage: StorageArgs,
}

impl AuditCommand {
    pub(super) fn run(self) -> Result<()> {
        match self {
            Self::Verify(args) => {
                let seen = args.seen;
                run(args.storage.into_config(), async |config| verify(&config, seen.as_deref()).await)
            }
            Self::Export(args) => {
                let output = args.output;
                run(args.storage.into_config(), async |config| write_export(&config, &output).await)
            }
        }
    }
}

async fn verify(config: &Config, seen: Option<&Path>) -> Result<()> {
    let store = Store::open_as_it_is(config).await?;
    let seen = match seen {
        Some(path) => Some(read_head(path, store.log_keys().await?)?),
        None => None,
    };
    let mut since = 0;
    let head = store
        .verify_log(seen.as_ref(), |record| {
            since += 1;
            if since % 100_000 == 0 {
                eprintln!("{} records read", record.seq + 1);
            }
        })
        .await?;
    println!("{}: {} records, whole", head.origin, head.size);
    Ok(())
}

fn read_head(path: &Path, keys: Option<PublicKeys>) -> Result<SignedHead> {
    let bad = |error: &dyn std::fmt::Display| Error::invalid(format!("--seen: {}: {error}", path.display()));
    let keys = keys.ok_or_else(|| bad(&"nothing has signed this database's log yet"))?;
    let note = std::fs::read_to_string(path).map_err(|error| bad(&error))?;
    SignedHead::open(&note, &keys).map_err(|error| bad(&error))
}

async fn write_export(config: &Config, output: &Path) -> Result<()> {
    let store = Store::open_as_it_is(config).await?;
    let signer = Signer::open_as_they_are(config, &store).await?;
    let head = signer.sign_head(store.log_head().await?);
    let cannot = |error: std::io::Error| {
        Error::invalid(format!("--output: cannot write {}: {error}", output.display()))
    };
    let mut file = std::io::BufWriter::new(std::fs::File::create(output).map_err(cannot)?);
    let first = export::First::line(&head.head.origin, &signer.public()).map_err(Error::internal)?;
    writeln!(file, "{first}").map_err(cannot)?;
    let mut from = 0;
    while from < head.head.size {
        let lines = store.log_page(from, head.head.size).await?;
        from += lines.len() as u64;
        for line in lines {
            writeln!(file, "{line}").map_err(cannot)?;
        }
    }
    writeln!(file, "{}", export::Last::line(&head).map_err(Error::internal)?).map_err(cannot)?;
    file.into_inner().map_err(|error| cannot(error.into_error()))?.sync_all().map_err(cannot)?;
    println!("{}: {} records in {}", head.head.origin, head.head.size, output.display());
    Ok(())
}
