//! What may be typed after `fedbasin admin` of runs, models and sites beside rounds.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use rebasin::Digest;

use super::admin::Because;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum OperateCommand {
    /// Extend a run that is open or paused, by rounds, by time, or both
    Extend {
        /// The run
        #[arg(value_name = "ID")]
        id: String,
        /// So many rounds more are to be published
        #[arg(long, value_name = "N", required_unless_present = "deadline_seconds", value_parser = clap::value_parser!(u32).range(1..))]
        rounds: Option<u32>,
        /// So many seconds later is the deadline of the round that collects
        #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
        deadline_seconds: Option<u64>,
        #[command(flatten)]
        because: Because,
    },
    /// Create a run with the settings of another
    Clone {
        /// The run whose settings are taken
        #[arg(value_name = "ID")]
        id: String,
        /// The new run's id [default: the server makes one]
        #[arg(long = "as", value_name = "ID")]
        new_id: Option<String>,
        /// Ids of the sites that take part [default: those of the run]
        #[arg(long, value_name = "SITE,SITE,...", value_delimiter = ',')]
        cohort: Option<Vec<String>>,
        /// Which checkpoint of the run it starts from [default: seed]
        #[arg(long, conflicts_with = "seed")]
        from: Option<CloneFrom>,
        /// Digest of a stored checkpoint to start from instead
        #[arg(long, value_name = "DIGEST")]
        seed: Option<String>,
        #[command(flatten)]
        policy: PolicyArgs,
        #[command(flatten)]
        because: Because,
    },
    /// List what sites sent for a run, the newest first
    Updates {
        /// The run
        #[arg(value_name = "ID")]
        id: String,
        /// Only those for this round
        #[arg(long, value_name = "N")]
        round: Option<u32>,
        /// Only those of this site
        #[arg(long, value_name = "SITE")]
        site: Option<String>,
        /// Only those that stand so
        #[arg(long, value_name = "STATE", value_parser = ["receiving", "accepted", "aligned", "rejected", "declined"])]
        state: Option<String>,
    },
    /// List, show, promote and tag the models that rounds published
    Models {
        #[command(subcommand)]
        command: ModelsCommand,
    },
    /// Show a site, give it another token, or shut it out
    Site {
        #[command(subcommand)]
        command: SiteCommand,
    },
    /// Print what happens, as it happens, until interrupted
    Events {
        /// Only what happens to this run
        #[arg(long, value_name = "ID")]
        run: Option<String>,
        /// Begin after the event of this id [default: with what comes]
        #[arg(long, value_name = "N")]
        after: Option<u64>,
    },
}

/// What of a clone's policy is not as the run's.
#[derive(Debug, Args)]
pub(in crate::cli) struct PolicyArgs {
    /// How many rounds are to be published [default, as of all these: as the run has it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) rounds: Option<u32>,
    /// Fewest updates that may be merged
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) quorum: Option<u32>,
    /// How long a round collects
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) deadline_seconds: Option<u64>,
    /// Most updates that a round takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) max_updates: Option<u32>,
    /// How many rounds may fail before the run does
    #[arg(long, value_name = "N")]
    pub(in crate::cli) failed_rounds_allowed: Option<u32>,
    /// Once a round has been open for so long, its quorum is enough for it to close
    #[arg(long, value_name = "S")]
    pub(in crate::cli) min_open_seconds: Option<u64>,
    /// How many of the newest global models are kept
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) keep_models: Option<u32>,
    /// Of how many of the newest rounds that are over the updates are kept
    #[arg(long, value_name = "N")]
    pub(in crate::cli) keep_updates: Option<u32>,
}

/// Where a clone starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum CloneFrom {
    /// Where the run started
    Seed,
    /// At the newest model that the run published
    Newest,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ModelsCommand {
    /// List the models, the newest first
    List {
        /// Only those that this run published
        #[arg(long, value_name = "ID")]
        run: Option<String>,
        /// Only those with this tag
        #[arg(long, value_name = "TAG")]
        tag: Option<String>,
    },
    /// Show a model
    Show {
        /// SHA-256 of its bytes, hex
        #[arg(value_name = "DIGEST")]
        digest: String,
    },
    /// Download a model, whichever round published it, verified by its digest
    Download {
        /// SHA-256 of its bytes, hex
        #[arg(value_name = "DIGEST")]
        digest: Digest,
        /// Where it goes
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Mark a model as the one of its run that is in use, in the place of any other; it is kept from then on
    Promote {
        /// SHA-256 of its bytes, hex
        #[arg(value_name = "DIGEST")]
        digest: String,
        /// Of which run, where several published it
        #[arg(long, value_name = "ID")]
        run: Option<String>,
        #[command(flatten)]
        because: Because,
    },
    /// Give a model a tag; it is kept from then on
    Tag {
        /// SHA-256 of its bytes, hex
        #[arg(value_name = "DIGEST")]
        digest: String,
        /// 1 to 64 of a-z, 0-9, '.', '_' and '-'
        #[arg(value_name = "TAG")]
        tag: String,
        #[command(flatten)]
        because: Because,
    },
    /// Take a tag from a model
    Untag {
        /// SHA-256 of its bytes, hex
        #[arg(value_name = "DIGEST")]
        digest: String,
        /// The tag
        #[arg(value_name = "TAG")]
        tag: String,
        #[command(flatten)]
        because: Because,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SiteCommand {
    /// Show a site: when it was last here, what it sends, what it holds and until when
    Show {
        /// The site
        #[arg(value_name = "SITE")]
        site: String,
    },
    /// Make another token for a site and print it, shown this once; those that it has open nothing after a while
    Rotate {
        /// The site
        #[arg(value_name = "SITE")]
        site: String,
        /// In words; shown in the list
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
        /// Days until it opens nothing, 1 to 366 [default: 90]
        #[arg(long, value_name = "N")]
        days: Option<u32>,
        /// Seconds until the tokens of before open nothing; 0: from now on [default: 86400]
        #[arg(long, value_name = "S")]
        old_tokens_seconds: Option<u32>,
        /// Where it goes instead, a new file that only its owner may read
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        because: Because,
    },
    /// Shut a site out: all its tokens, and its certificates as far as they were seen, open nothing from now on
    Revoke {
        /// The site
        #[arg(value_name = "SITE")]
        site: String,
        #[command(flatten)]
        because: Because,
    },
}
