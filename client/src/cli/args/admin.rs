//! What may be typed after `fedbasin admin`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::admin::types::KeepBest;

#[derive(Debug, Args)]
pub(in crate::cli) struct AdminArgs {
    /// The server's HTTP address, https://HOST:PORT; http:// only on this machine; by default what the variable FEDBASIN_ADMIN_SERVER
    /// says, then what the profile does, then http://127.0.0.1:8080
    #[arg(long, value_name = "URL", global = true, help_heading = "Server")]
    pub(in crate::cli) server: Option<String>,
    /// File that holds the admin token; by default the token is in the variable FEDBASIN_ADMIN_TOKEN, or in the file that the profile
    /// names, which is shown to the profile's server alone
    #[arg(long, value_name = "FILE", global = true, help_heading = "Server")]
    pub(in crate::cli) token_file: Option<PathBuf>,
    /// Authority that signed the server's certificate (PEM); by default the well-known ones
    #[arg(long, value_name = "FILE", global = true, help_heading = "Server")]
    pub(in crate::cli) ca: Option<PathBuf>,
    /// Allow clear text to another machine
    #[arg(long, global = true, help_heading = "Server")]
    pub(in crate::cli) insecure: bool,
    /// Take server, token file and authority from this profile (see `profile add`), before what the environment says; by default
    /// from the one that FEDBASIN_PROFILE names, or from the default one, after the environment
    #[arg(long, value_name = "NAME", global = true, help_heading = "Server")]
    pub(in crate::cli) profile: Option<String>,
    /// File that holds the profiles [default: ~/.config/fedbasin/config.toml]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Server")]
    pub(in crate::cli) config: Option<PathBuf>,
    /// Folder that keeps each server's keys and the last head of its audit log that was seen: another server, or a log that was
    /// rolled back, is refused [default: ~/.local/state/fedbasin]
    #[arg(
        long,
        value_name = "DIR",
        env = "FEDBASIN_STATE_DIR",
        hide_env_values = true,
        global = true,
        help_heading = "Server"
    )]
    pub(in crate::cli) state_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(in crate::cli) command: AdminCommand,
}

/// Servers by name, each with its token's file and its authority, in one file.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ProfileCommand {
    /// List the profiles; the default one is marked
    List,
    /// Keep a server under a name: --server, --token-file and --ca as they are typed here; the first one becomes the default
    Add {
        /// The profile's name: letters, digits, - and _
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Make a profile the default one
    Use {
        /// The profile
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Remove a profile; the files that it names stay
    Remove {
        /// The profile
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Show a profile, by default the one that is taken
    Show {
        /// The profile
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
}

/// Why something is asked for.
#[derive(Debug, Args)]
pub(in crate::cli) struct Because {
    /// Why, in words of at most 500 characters: for the audit log
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AdminCommand {
    /// Enrol a site and print its token, which is shown this once
    Enrol {
        /// The site's id: a-z, 0-9 and hyphens
        #[arg(value_name = "SITE")]
        site: String,
        /// Where the token goes instead, a new file that only its owner may read
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Days until the token opens nothing, 1 to 366 [default: 90]
        #[arg(long, value_name = "N")]
        days: Option<u32>,
        #[command(flatten)]
        because: Because,
    },
    /// List the enrolled sites
    Sites {
        /// Only those in whose id this stands
        #[arg(long, value_name = "TEXT")]
        matching: Option<String>,
    },
    /// Make a token for a person, or a further one for a site, and print it; it is shown this once
    Token(TokenArgs),
    /// List all tokens, without what would open anything
    Tokens,
    /// Revoke a token: it opens nothing from now on, and a site's streams that it opened end within seconds
    Revoke {
        /// The token's id, from the list
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        because: Because,
    },
    /// List the certificates of the server and its sites, and the days that each has left
    Certificates,
    /// Revoke a site's certificate, whether it was ever seen or not
    RevokeCertificate {
        /// SHA-256 of its signed part, as `certificates` and `fedbasin-server pki issue` show it
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: String,
        #[command(flatten)]
        because: Because,
    },
    /// Store a checkpoint and print its digest
    Checkpoint {
        /// The checkpoint
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        because: Because,
    },
    /// Send a network's graph, have its spec derived and verified, and print its digest
    Graph {
        /// The graph, an ONNX file
        #[arg(value_name = "MODEL.onnx")]
        file: PathBuf,
        #[command(flatten)]
        because: Because,
    },
    /// Create a run; its first round opens within a second or so
    CreateRun(CreateRunArgs),
    /// List the runs
    Runs {
        /// Only those that stand so
        #[arg(long, value_name = "STATE", value_parser = ["open", "complete", "failed", "cancelled"])]
        state: Option<String>,
        /// Only those in which this site takes part
        #[arg(long, value_name = "SITE")]
        site: Option<String>,
    },
    /// Show a run
    Run {
        /// The run
        #[arg(value_name = "ID")]
        id: String,
    },
    /// List the rounds of a run
    Rounds {
        /// The run
        #[arg(value_name = "ID")]
        id: String,
        /// Only those that stand so
        #[arg(long, value_name = "STATE", value_parser = ["collecting", "merging", "published", "failed", "cancelled"])]
        state: Option<String>,
    },
    /// Show a round with every site of the cohort
    ///
    /// BEST PARTNER is, of the groups of units that a search matched, the least fraction of units that fit no other unit of the
    /// reference better than the one they have.
    Round {
        /// The run
        #[arg(value_name = "ID")]
        id: String,
        /// The round's number
        #[arg(value_name = "N")]
        number: u32,
        /// Show each group of each update, too, with the margins of its units over their second-best partners, as fractions of the
        /// mean gain: that which 5 % lie below, and the median
        #[arg(long)]
        groups: bool,
    },
    /// Show a run while it lasts: the round with every site of the cohort, then what it published, then the next one
    ///
    /// On a terminal the round is shown in place, with a bar for each update on its way; elsewhere each change is a line, with --json a
    /// line of JSON. A server that restarts is waited for. Exit codes: 0 when the run is complete (or as --once and --until say), 3
    /// when it failed, 4 when it was cancelled.
    Watch(WatchArgs),
    /// Pause a run: the round that is open goes on, no further one opens
    Pause {
        /// The run
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        because: Because,
    },
    /// Resume a paused run
    Resume {
        /// The run
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        because: Because,
    },
    /// Cancel a run
    Cancel {
        /// The run
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        because: Because,
    },
    /// Download the global model that a round published
    Model {
        /// The run
        #[arg(value_name = "ID")]
        id: String,
        /// The round's number
        #[arg(value_name = "N")]
        number: u32,
        /// Where it goes; its signature goes beside it, FILE.sig
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// The server's public keys (PEM): the signature must be by them [default: those that the server names now]
        #[arg(long, value_name = "PEM")]
        server_keys: Option<PathBuf>,
    },
    /// Merge a run's newest published round again, without the updates that their sites withdrew since; as a new round
    Remerge {
        /// The run
        #[arg(value_name = "ID")]
        id: String,
        /// The round's number
        #[arg(value_name = "N")]
        number: u32,
        #[command(flatten)]
        because: Because,
    },
    /// Keep servers under names, with their token's files
    Profile {
        #[command(subcommand)]
        command: ProfileCommand,
    },
    /// Print the public keys that receipts, models and the audit log are signed with
    Keys {
        /// Where they go instead
        #[arg(short, long, value_name = "PEM")]
        output: Option<PathBuf>,
    },
    /// List records of the audit log, the oldest first
    Audit {
        /// The place of the first one
        #[arg(long, value_name = "N", default_value_t = 0)]
        from: u64,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only those of this run
        #[arg(long, value_name = "ID")]
        run: Option<String>,
        /// Only those of this site
        #[arg(long, value_name = "SITE")]
        site: Option<String>,
        /// Only those of this action, such as round.published
        #[arg(long, value_name = "ACTION")]
        action: Option<String>,
    },
    /// Write the whole audit log to a file, which `fedbasin audit verify` checks
    AuditExport {
        /// Where it goes
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// See what webhooks were told, and tell them again
    #[command(subcommand)]
    Webhooks(WebhooksCommand),
    #[command(flatten)]
    Operate(super::operate::OperateCommand),
}

/// What is watched, and how long.
#[derive(Debug, Args)]
pub(in crate::cli) struct WatchArgs {
    /// The run
    #[arg(value_name = "ID")]
    pub(in crate::cli) id: String,
    /// Say how the run and its newest round stand now, and end
    #[arg(long, conflicts_with = "until")]
    pub(in crate::cli) once: bool,
    /// End, with exit code 0, as soon as the newest round is so
    #[arg(long, value_name = "STATE")]
    pub(in crate::cli) until: Option<Until>,
    /// How long to go on trying while a server that answered before is away
    #[arg(long, value_name = "N", default_value_t = 600)]
    pub(in crate::cli) patience_seconds: u64,
}

/// What ends a watch before the run's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Until {
    /// It published its model
    Published,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum WebhooksCommand {
    /// List notices to webhooks, the newest first
    List {
        /// Only those that stand so
        #[arg(long)]
        state: Option<NoticeState>,
        /// At most so many [default: 100]
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Send a notice again that was given up
    Retry {
        /// The notice's id, from the list
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        because: Because,
    },
    /// Send a webhook a notice that is only a test
    Test {
        /// The webhook's name in the server's settings
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        because: Because,
    },
}

/// Where a notice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum NoticeState {
    /// It is sent, or sent again, when its time comes
    Pending,
    /// The receiver took it
    Delivered,
    /// It was tried as often as is allowed, and given up
    Dead,
}

impl NoticeState {
    /// As the server calls it.
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

/// A token to be made.
#[derive(Debug, Args)]
pub(in crate::cli) struct TokenArgs {
    /// A further token for this site: two open at the same time, so that one takes the other's place without a pause
    #[arg(long, value_name = "SITE", conflicts_with = "role", required_unless_present = "role")]
    pub(in crate::cli) site: Option<String>,
    /// A token for a person who may do this
    #[arg(long)]
    pub(in crate::cli) role: Option<Role>,
    /// Whose it is, in words; shown in the list
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(in crate::cli) label: String,
    /// Days until it opens nothing, 1 to 366 [default: 90]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) days: Option<u32>,
    /// Where it goes instead, a new file that only its owner may read
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) because: Because,
}

/// What a person may do; each may what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Role {
    /// See how runs and sites stand
    Viewer,
    /// Create and end runs, send seeds and graphs, fetch models
    Operator,
    /// Enrol sites, make and revoke tokens
    Admin,
}

/// How a server merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Strategy {
    /// Align each update to the reference, then average
    Aligned,
    /// Average as they are
    Mean,
    /// Align each to the mean of the others
    MergeMany,
}

/// What becomes of an implausible update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Implausible {
    /// It is merged, and the round's record says what is odd
    Warn,
    /// It is rejected, and the others are merged without it
    Reject,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateRunArgs {
    /// Ids of the sites that take part
    #[arg(long, value_name = "SITE,SITE,...", value_delimiter = ',', required = true)]
    pub(in crate::cli) cohort: Vec<String>,
    /// How many rounds are to be published
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) rounds: u32,
    /// Fewest updates that may be merged
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) quorum: u32,
    /// How long a round collects
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) deadline_seconds: u64,
    /// Most updates that a round takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) max_updates: Option<u32>,
    /// How many rounds may fail before the run does
    #[arg(long, value_name = "N")]
    pub(in crate::cli) failed_rounds_allowed: Option<u32>,
    /// Once a round has been open for so long, its quorum is enough for it to close; by default it waits for all sites, until its
    /// deadline
    #[arg(long, value_name = "S")]
    pub(in crate::cli) min_open_seconds: Option<u64>,
    /// How many of the newest global models are kept [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) keep_models: Option<u32>,
    /// A global model that is kept beside the newest ones: that of the round whose sites reported the best mean of a metric
    #[arg(long, value_name = "METRIC:lowest|highest", requires = "keep_models", value_parser = keep_best)]
    pub(in crate::cli) keep_best: Option<KeepBest>,
    /// Of how many of the newest rounds that are over the updates are kept; receipts and alignments always are [default: all]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) keep_updates: Option<u32>,
    /// Let a global model's signature name the sites that it was made from, with digests, shares and what alignment did to each, instead of
    /// their number
    #[arg(long)]
    pub(in crate::cli) name_participants: bool,
    /// Make the mean of each round's updates as they came too, without alignment, for sites to try beside the global model (`site run
    /// --evaluate`)
    #[arg(long)]
    pub(in crate::cli) evaluate_naive: bool,
    /// Most magnitude of an update's values, as a multiple of the root mean square of the reference's same tensor; 0: any finite
    /// number [default: 10000]
    #[arg(long, value_name = "X")]
    pub(in crate::cli) max_magnitude_factor: Option<f64>,
    /// What becomes of an update that is implausible beside the others of its round [default: warn]
    #[arg(long)]
    pub(in crate::cli) implausible: Option<Implausible>,
    /// Most that an update's distance to the reference may be, as a multiple of the median of the others' [default: 8]
    #[arg(long, value_name = "X")]
    pub(in crate::cli) max_distance_ratio: Option<f64>,
    /// Least cosine between an update's difference to the reference and the mean of the others' [default: -0.1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(in crate::cli) min_cosine: Option<f64>,
    /// The spec; only `--strategy mean` goes without spec and graph
    #[arg(long, value_name = "SPEC.json", conflicts_with = "graph", required_unless_present_any = ["strategy", "graph"])]
    pub(in crate::cli) spec: Option<PathBuf>,
    /// Instead of a spec the network's graph, from which the server derives and verifies it: an ONNX file, or the digest of one
    /// sent before. Give --seed too if checkpoints hold counters beside the graph's tensors (BatchNorm)
    #[arg(long, value_name = "MODEL.onnx|DIGEST")]
    pub(in crate::cli) graph: Option<String>,
    /// Checkpoint to start from: a file, or the digest of a stored one; without it the first round founds the run
    #[arg(long, value_name = "FILE|DIGEST")]
    pub(in crate::cli) seed: Option<String>,
    /// How to merge [default: aligned]
    #[arg(long, value_name = "STRATEGY", hide_default_value = true)]
    pub(in crate::cli) strategy: Option<Strategy>,
    /// The run's id: a-z, 0-9 and hyphens; by default the server makes one
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) id: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) because: Because,
}

fn keep_best(text: &str) -> Result<KeepBest, String> {
    match text.rsplit_once(':') {
        Some((metric, goal @ ("lowest" | "highest"))) if !metric.is_empty() => {
            Ok(KeepBest { metric: metric.to_owned(), goal: goal.to_owned() })
        }
        _ => Err("a metric's name, a colon, and lowest or highest: loss:lowest".to_owned()),
    }
}
