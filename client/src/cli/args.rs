//! What may be typed. The doc comments are the help texts, kept in `tests/help/`.

mod admin;
mod operate;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::trust::TrustOptions;
pub(super) use admin::{
    AdminArgs, AdminCommand, CreateRunArgs, Implausible, NoticeState, ProfileCommand, Role, Strategy,
    TokenArgs, Until, WatchArgs, WebhooksCommand,
};
pub(super) use operate::{
    CloneFrom, ModelsCommand, OperateCommand, PolicyArgs, SiteCommand as AdminSiteCommand,
};

/// Federated learning for models that never shared a starting point.
#[derive(Debug, Parser)]
#[command(
    name = "fedbasin",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(super) struct Cli {
    /// Answer in JSON on standard output; all else goes to standard error
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take part in runs as a site
    Site {
        #[command(subcommand)]
        command: SiteCommand,
    },
    /// Administer a server: enrol sites, create and follow runs
    Admin(AdminArgs),
    /// Derive and check specs: which axes of which tensors move together
    Spec {
        #[command(subcommand)]
        command: SpecCommand,
    },
    /// Reorder units at random, as the spec allows; the network's function stays the same
    Permute {
        /// The spec
        #[arg(long, value_name = "SPEC.json")]
        spec: PathBuf,
        /// Seed of the random permutations
        #[arg(long, value_name = "N")]
        seed: u64,
        /// The checkpoint
        #[arg(value_name = "IN")]
        input: PathBuf,
        /// Where the permuted checkpoint goes
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
    },
    /// Balance each unit's incoming and outgoing weights, where the spec says so; the network's function stays the same
    ///
    /// Networks that differ only by positive factors on units with ReLU or its kind become one. Scale every checkpoint before you
    /// align or merge them if sites may have scaled their units differently.
    Scale {
        /// The spec, derived from the network's graph
        #[arg(long, value_name = "SPEC.json")]
        spec: PathBuf,
        /// The checkpoint
        #[arg(value_name = "IN")]
        input: PathBuf,
        /// Where the balanced checkpoint goes
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
    },
    /// Align a checkpoint to a reference
    Align(AlignArgs),
    /// Merge checkpoints into one
    Merge(MergeArgs),
    /// Evaluate the loss on the straight path from one checkpoint to another, as it is and aligned
    ///
    /// The network's first output is taken: logits, one a class, where DATA has `labels` (whole numbers, one an example), and the loss
    /// is the mean cross-entropy; or any numbers, where DATA has `targets` (floats of the output's shape), and the loss is the mean
    /// squared error. DATA's other tensors are the graph's inputs, by name; their first axis counts examples.
    Barrier(BarrierArgs),
    /// Check an audit log that was exported; needs no server
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Print a script that lets a shell complete this program's commands and options
    ///
    /// bash: `fedbasin completions bash > ~/.local/share/bash-completion/completions/fedbasin`. zsh: into a folder of $fpath, as
    /// `_fedbasin`. fish: `fedbasin completions fish > ~/.config/fish/completions/fedbasin.fish`.
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write manual pages of this program and all its commands into a folder
    Man {
        /// The folder, for instance ~/.local/share/man/man1; it is made if it is not there
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Check a downloaded model's signature, and show what the model was made from; needs no server
    VerifyModel {
        /// The model
        #[arg(value_name = "MODEL")]
        model: PathBuf,
        /// Its signature [default: MODEL.sig]
        #[arg(long, value_name = "FILE")]
        signature: Option<PathBuf>,
        /// The server's public keys (PEM): from the kit, the work folder, or `fedbasin admin keys`
        #[arg(long = "server-keys", value_name = "PEM")]
        keys: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check every record, from the first to the signed head
    Verify {
        /// The log, as `fedbasin admin audit-export` wrote it
        #[arg(value_name = "EXPORT")]
        export: PathBuf,
        /// The server's public keys (PEM); without them the export's own, which shows only that it is whole
        #[arg(long = "server-keys", value_name = "PEM")]
        keys: Option<PathBuf>,
        /// A head that was seen before (`log-head.txt` of a site's work folder): the log must go on from it
        #[arg(long, value_name = "FILE", requires = "keys")]
        seen: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum SpecCommand {
    /// Derive the spec of a plain chain of linear layers from names and shapes
    Mlp {
        /// The checkpoint
        #[arg(value_name = "CHECKPOINT")]
        checkpoint: PathBuf,
        /// Where the spec goes
        #[arg(short, long, value_name = "SPEC.json")]
        output: PathBuf,
    },
    /// Derive the spec of a plain convolutional network (convolutions, BatchNorm, flatten, linear layers)
    Conv {
        /// The checkpoint
        #[arg(value_name = "CHECKPOINT")]
        checkpoint: PathBuf,
        /// Where the spec goes
        #[arg(short, long, value_name = "SPEC.json")]
        output: PathBuf,
    },
    /// Derive the spec of any network from its ONNX graph; what no rule covers is pinned, never guessed
    ///
    /// From PyTorch: torch.onnx.export(model.eval(), inputs, "model.onnx", dynamo=True, optimize=False,
    /// external_data=False), which keeps the parameters' names.
    Derive {
        /// The graph
        #[arg(value_name = "MODEL.onnx")]
        model: PathBuf,
        /// A checkpoint of the network, if it has tensors that the graph has not (counters, tied copies)
        #[arg(long, value_name = "CHECKPOINT")]
        checkpoint: Option<PathBuf>,
        /// A float tensor of the checkpoint that the graph does not use and that stays as it is; may be given again
        #[arg(long, value_name = "NAME")]
        pin: Vec<String>,
        /// Where the spec goes
        #[arg(short, long, value_name = "SPEC.json")]
        output: PathBuf,
    },
    /// Verify a spec by running its network before and after random moves of every group
    Verify {
        /// The spec; the certificate is written beside it
        #[arg(value_name = "SPEC.json")]
        spec: PathBuf,
        /// The graph
        #[arg(value_name = "MODEL.onnx")]
        model: PathBuf,
        /// Seed of the elements and inputs
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
    },
    /// Say whether a spec fits a checkpoint, and which axes are permutable and which pinned
    Check {
        /// The spec
        #[arg(value_name = "SPEC.json")]
        spec: PathBuf,
        /// The checkpoint
        #[arg(value_name = "CHECKPOINT")]
        checkpoint: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct AlignArgs {
    /// The spec
    #[arg(long, value_name = "SPEC.json")]
    pub(super) spec: PathBuf,
    /// The checkpoint to align to
    #[arg(long, value_name = "REF")]
    pub(super) reference: PathBuf,
    /// The checkpoint to align
    #[arg(value_name = "IN")]
    pub(super) input: PathBuf,
    /// Where the aligned checkpoint goes
    #[arg(short, long, value_name = "OUT")]
    pub(super) output: PathBuf,
    /// Where a report goes: objective and distance before and after, what moved, how long it took
    #[arg(long, value_name = "R.json")]
    pub(super) report: Option<PathBuf>,
    /// Seed of the matcher's order; by default derived from the two checkpoints
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// How often to start anew; the best is kept
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) starts: Option<u16>,
    /// Leave out of the report how much better an alignment could be, and how surely units are matched
    #[arg(long)]
    pub(super) no_bound: bool,
}

impl From<AlignArgs> for crate::offline::AlignJob {
    fn from(args: AlignArgs) -> Self {
        Self {
            spec: args.spec,
            reference: args.reference,
            input: args.input,
            output: args.output,
            report: args.report,
            seed: args.seed,
            starts: args.starts.map(usize::from),
            bound: !args.no_bound,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct BarrierArgs {
    /// The spec
    #[arg(long, value_name = "SPEC.json")]
    pub(super) spec: PathBuf,
    /// The network's graph
    #[arg(long, value_name = "MODEL.onnx")]
    pub(super) onnx: PathBuf,
    /// Examples: the graph's inputs by name, and `labels` or `targets`
    #[arg(long, value_name = "DATA.safetensors")]
    pub(super) data: PathBuf,
    /// Points on the path, end points included
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u16).range(2..=1001))]
    pub(super) points: u16,
    /// One end of the path, and what the other is aligned to
    #[arg(value_name = "A")]
    pub(super) a: PathBuf,
    /// The other end
    #[arg(value_name = "B")]
    pub(super) b: PathBuf,
    /// Where a plot of both curves goes
    #[arg(short, long, value_name = "PLOT.svg")]
    pub(super) output: Option<PathBuf>,
    /// Where a report goes: all losses, and the barriers
    #[arg(long, value_name = "R.json")]
    pub(super) report: Option<PathBuf>,
}

impl From<BarrierArgs> for crate::offline::BarrierJob {
    fn from(args: BarrierArgs) -> Self {
        Self {
            spec: args.spec,
            onnx: args.onnx,
            data: args.data,
            points: args.points,
            a: args.a,
            b: args.b,
            plot: args.output,
            report: args.report,
        }
    }
}

/// How to merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Method {
    /// Average as they are
    Mean,
    /// Align each to the first, then average
    Aligned,
    /// Align each to the mean of the others until nothing moves (Git Re-Basin, Algorithm 3)
    MergeMany,
}

#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// The spec; only `--method mean` goes without
    #[arg(long, value_name = "SPEC.json", required_if_eq_any = [("method", "aligned"), ("method", "merge-many")])]
    pub(super) spec: Option<PathBuf>,
    /// How to merge
    #[arg(long, value_name = "METHOD")]
    pub(super) method: Method,
    /// Training examples behind each checkpoint, in the same order; by default all count the same
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    pub(super) num_examples: Vec<u64>,
    /// The checkpoints; the first is the reference of `--method aligned`
    #[arg(value_name = "IN", required = true, num_args = 1..)]
    pub(super) inputs: Vec<PathBuf>,
    /// Where the merged checkpoint goes
    #[arg(short, long, value_name = "OUT")]
    pub(super) output: PathBuf,
    /// Where a report goes: shares, and what aligning each did
    #[arg(long, value_name = "R.json")]
    pub(super) report: Option<PathBuf>,
}

impl From<MergeArgs> for crate::offline::MergeJob {
    fn from(args: MergeArgs) -> Self {
        Self {
            spec: args.spec,
            method: match args.method {
                Method::Mean => crate::offline::Method::Mean,
                Method::Aligned => crate::offline::Method::Aligned,
                Method::MergeMany => crate::offline::Method::MergeMany,
            },
            num_examples: args.num_examples,
            inputs: args.inputs,
            output: args.output,
            report: args.report,
        }
    }
}

/// A server's address.
#[derive(Debug, Args)]
pub(super) struct AddressArgs {
    /// The server's gRPC address, https://HOST:PORT; http:// only on this machine
    #[arg(
        long,
        value_name = "URL",
        env = "FEDBASIN_SERVER",
        hide_env_values = true,
        required_unless_present = "kit",
        help_heading = "Server"
    )]
    pub(super) server: Option<String>,
    /// Authority that signed the server's certificate (PEM); by default the well-known ones
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(super) ca: Option<PathBuf>,
    /// Allow clear text to another machine
    #[arg(long, help_heading = "Server")]
    pub(super) insecure: bool,
}

/// What every call of a site needs.
#[derive(Debug, Args)]
pub(super) struct SiteServerArgs {
    #[command(flatten)]
    pub(super) address: AddressArgs,
    /// Folder that the server's operator made for this site: certificate, key, authority, server and run; it goes before `--server`,
    /// `--ca` and their variables
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    pub(super) kit: Option<PathBuf>,
    /// File that holds the site's token; without it and a kit the token is in the variable FEDBASIN_TOKEN
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(super) token_file: Option<PathBuf>,
    /// How long to go on trying while the server is away
    #[arg(long, value_name = "N", default_value_t = 600, help_heading = "Server")]
    pub(super) patience_seconds: u64,
    /// The server's public keys (PEM): no others are taken. Without them and a kit, the first that the server names are kept
    #[arg(long, value_name = "PEM", help_heading = "Server")]
    pub(super) server_keys: Option<PathBuf>,
    /// Take receipts and models that are not signed, and a log that does not prove that it only grew
    #[arg(long, help_heading = "Server")]
    pub(super) allow_unsigned: bool,
}

impl SiteServerArgs {
    /// How the server is trusted; what is typed goes before what the kit says.
    pub(super) fn trust(&self, of_kit: Option<PathBuf>) -> TrustOptions {
        TrustOptions { keys: self.server_keys.clone().or(of_kit), unsigned: self.allow_unsigned }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum SiteCommand {
    /// Take part in a run until it ends: wait for a round, train, upload, again
    ///
    /// The trainer is any command. It finds in its environment: FEDBASIN_RUN and FEDBASIN_ROUND; FEDBASIN_REFERENCE, the
    /// checkpoint to start from (empty in a founding round); FEDBASIN_OUTPUT, where it must write a safetensors file;
    /// FEDBASIN_METRICS, where it may write JSON: {"num_examples": 1000, "metrics": {"loss": 0.5}}.
    ///
    /// With --evaluate another command tries the models of each published round and the server is told how good they are here. It
    /// finds: FEDBASIN_RUN and FEDBASIN_ROUND; FEDBASIN_MODEL, the file to try; FEDBASIN_KIND, which is global (what the round
    /// published), own (what this site sent in it) or naive (the mean of what all sent, as it came, if the run asks for it);
    /// FEDBASIN_METRICS, where it must write JSON: {"num_examples": 1000, "loss": 0.5, "accuracy": 0.9}, one of the two at least.
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
pub(super) struct SiteRunArgs {
    #[command(flatten)]
    pub(super) server: SiteServerArgs,
    /// The run; may be left out where the kit names it
    #[arg(long, value_name = "ID", value_parser = run_id, required_unless_present = "kit")]
    pub(super) run: Option<String>,
    /// The trainer, run by `sh -c`
    #[arg(long, value_name = "COMMAND")]
    pub(super) train: String,
    /// What tries published models here, run by `sh -c`; when it fails the run goes on
    #[arg(long, value_name = "COMMAND")]
    pub(super) evaluate: Option<String>,
    /// How long one call of it may take
    #[arg(long, value_name = "N", default_value_t = 3600, requires = "evaluate", value_parser = clap::value_parser!(u64).range(1..=31_622_400))]
    pub(super) evaluate_seconds: u64,
    /// Where rounds are kept, so that nothing is trained twice [default: fedbasin-RUN]
    #[arg(long, value_name = "DIR")]
    pub(super) work_dir: Option<PathBuf>,
    /// Number of training examples, if the trainer does not write it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(super) num_examples: Option<u64>,
    /// Align what was trained to the reference here, before it is sent, by this spec; the server then finds nothing to move
    #[arg(long, value_name = "SPEC.json")]
    pub(super) align_locally: Option<PathBuf>,
    /// How long to wait for a run that the server does not know yet
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(super) wait_for_run_seconds: u64,
}

#[derive(Debug, Args)]
pub(super) struct SiteUploadArgs {
    #[command(flatten)]
    pub(super) server: SiteServerArgs,
    /// The run; may be left out where the kit names it
    #[arg(long, value_name = "ID", value_parser = run_id, required_unless_present = "kit")]
    pub(super) run: Option<String>,
    /// The round; by default the newest
    #[arg(long, value_name = "N")]
    pub(super) round: Option<u32>,
    /// Number of training examples
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(super) num_examples: u64,
    /// A figure for the record; may be given often
    #[arg(long = "metric", value_name = "NAME=NUMBER", value_parser = metric)]
    pub(super) metrics: Vec<(String, f64)>,
    /// The checkpoint
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
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
