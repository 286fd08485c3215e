//! `fedbasin site ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::trust::TrustOptions;

/// A server's address.
#[derive(Debug, Args)]
pub(in crate::cli) struct AddressArgs {
    /// The server's gRPC address, https://HOST:PORT; http:// only on this machine
    #[arg(
        long,
        value_name = "URL",
        env = "FEDBASIN_SERVER",
        hide_env_values = true,
        required_unless_present = "kit",
        help_heading = "Server"
    )]
    pub(in crate::cli) server: Option<String>,
    /// Authority that signed the server's certificate (PEM); by default the well-known ones
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(in crate::cli) ca: Option<PathBuf>,
    /// Allow clear text to another machine
    #[arg(long, help_heading = "Server")]
    pub(in crate::cli) insecure: bool,
}

/// What every call of a site needs.
#[derive(Debug, Args)]
pub(in crate::cli) struct SiteServerArgs {
    #[command(flatten)]
    pub(in crate::cli) address: AddressArgs,
    /// Folder that the server's operator made for this site: certificate, key, authority, server and run; it goes before `--server`,
    /// `--ca` and their variables
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    pub(in crate::cli) kit: Option<PathBuf>,
    /// File that holds the site's token; without it and a kit the token is in the variable FEDBASIN_TOKEN
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(in crate::cli) token_file: Option<PathBuf>,
    /// How long to go on trying while the server is away
    #[arg(long, value_name = "N", default_value_t = 600, help_heading = "Server")]
    pub(in crate::cli) patience_seconds: u64,
    /// The server's public keys (PEM): no others are taken. Without them and a kit, the first that the server names are kept
    #[arg(long, value_name = "PEM", help_heading = "Server")]
    pub(in crate::cli) server_keys: Option<PathBuf>,
    /// Take receipts and models that are not signed, and a log that does not prove that it only grew
    #[arg(long, help_heading = "Server")]
    pub(in crate::cli) allow_unsigned: bool,
}

impl SiteServerArgs {
    /// How the server is trusted; what is typed goes before what the kit says.
    pub(in crate::cli) fn trust(&self, of_kit: Option<PathBuf>) -> TrustOptions {
        TrustOptions { keys: self.server_keys.clone().or(of_kit), unsigned: self.allow_unsigned }
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SiteCommand {
    /// Take part in a run until it ends: wait for a round, train, upload, again
    ///
    /// The trainer is any command. It finds in its environment: FEDBASIN_RUN and FEDBASIN_ROUND; FEDBASIN_REFERENCE, the
    /// checkpoint to start from (empty in a founding round); FEDBASIN_OUTPUT, where it must write a safetensors file;
    /// FEDBASIN_METRICS, where it may write JSON: {"num_examples": 1000, "metrics": {"loss": 0.5}}.
    ///
    /// With --evaluate another command tries the models of each published round and the server is told how good they are here. It
    /// finds: FEDBASIN_RUN and FEDBASIN_ROUND; FEDBASIN_MODEL, the file to try; FEDBASIN_KIND, which is global (what the round
    /// published), own (what this site sent in it) or naive (the mean of what all sent, as it came, if the run asks for it);
    /// FEDBASIN_METRICS, where it must write JSON: {"num_examples": 1000, "loss": 0.5, "accuracy": 0.9}, one of the two at least; and
    /// FEDBASIN_GLOBAL, where another one is tried the global model's file: the loss on the straight line from the model to that one may be
    /// written, too, at 2 to 33 places: "path": [{"t": 0, "loss": 0.9}, {"t": 1, "loss": 0.5}].
    Run(SiteRunArgs),
    /// Make a key here and a request for its certificate, so that no key travels
    Request {
        /// The site's id
        #[arg(value_name = "SITE")]
        site: String,
        /// Where both go; the kit's files belong there, too
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
    /// Show the runs that this site belongs to
    Status {
        #[command(flatten)]
        server: SiteServerArgs,
        /// Only this run
        #[arg(long, value_name = "ID", value_parser = run_id)]
        run: Option<String>,
    },
    /// Upload one checkpoint as this site's update, and print the receipt
    Upload(SiteUploadArgs),
    /// Take an update back: the server erases its bytes; the record that this site took part stays
    Withdraw {
        #[command(flatten)]
        server: SiteServerArgs,
        /// The update's id, as the receipt says it
        #[arg(value_name = "UPDATE")]
        update: String,
    },
    /// Download a run's newest global model, its reference, or a checkpoint by digest
    Download {
        #[command(flatten)]
        server: SiteServerArgs,
        /// The run
        #[arg(long, value_name = "ID", value_parser = run_id, required_unless_present_any = ["digest", "kit"])]
        run: Option<String>,
        /// The reference of the run's newest round instead of the global model
        #[arg(long, conflicts_with = "digest")]
        reference: bool,
        /// This checkpoint
        #[arg(long, value_name = "HEX")]
        digest: Option<String>,
        /// Where it goes
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SiteRunArgs {
    #[command(flatten)]
    pub(in crate::cli) server: SiteServerArgs,
    /// The run; may be left out where the kit names it
    #[arg(long, value_name = "ID", value_parser = run_id, required_unless_present = "kit")]
    pub(in crate::cli) run: Option<String>,
    /// The trainer, run by `sh -c`
    #[arg(long, value_name = "COMMAND")]
    pub(in crate::cli) train: String,
    /// What tries published models here, run by `sh -c`; when it fails the run goes on
    #[arg(long, value_name = "COMMAND")]
    pub(in crate::cli) evaluate: Option<String>,
    /// How long one call of it may take
    #[arg(long, value_name = "N", default_value_t = 3600, requires = "evaluate", value_parser = clap::value_parser!(u64).range(1..=31_622_400))]
    pub(in crate::cli) evaluate_seconds: u64,
    /// Where rounds are kept, so that nothing is trained twice [default: fedbasin-RUN]
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) work_dir: Option<PathBuf>,
    /// Number of training examples, if the trainer does not write it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(in crate::cli) num_examples: Option<u64>,
    /// Align what was trained to the reference here, before it is sent, by this spec; the server then finds nothing to move
    #[arg(long, value_name = "SPEC.json")]
    pub(in crate::cli) align_locally: Option<PathBuf>,
    /// How long to wait for a run that the server does not know yet
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(in crate::cli) wait_for_run_seconds: u64,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SiteUploadArgs {
    #[command(flatten)]
    pub(in crate::cli) server: SiteServerArgs,
    /// The run; may be left out where the kit names it
    #[arg(long, value_name = "ID", value_parser = run_id, required_unless_present = "kit")]
    pub(in crate::cli) run: Option<String>,
    /// The round; by default the newest
    #[arg(long, value_name = "N")]
    pub(in crate::cli) round: Option<u32>,
    /// Number of training examples
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(in crate::cli) num_examples: u64,
    /// A figure for the record; may be given often
    #[arg(long = "metric", value_name = "NAME=NUMBER", value_parser = metric)]
    pub(in crate::cli) metrics: Vec<(String, f64)>,
    /// The checkpoint
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
}

/// The server's rule for a run's id: what breaks it is no run, so there is nothing to wait for.
fn run_id(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        return Ok(text.to_owned());
    }
    Err("no run can have this id: it is 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit"
        .to_owned())
}

fn metric(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=NUMBER")?;
    let value: f64 = value.parse().map_err(|_| "write NAME=NUMBER")?;
    if name.is_empty() || name.chars().count() > 64 || !value.is_finite() {
        return Err("a name of 1 to 64 characters and a finite number are wanted".to_owned());
    }
    Ok((name.to_owned(), value))
}
