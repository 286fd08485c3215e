//! What may be typed. The doc comments are the help texts, kept in `tests/help/`.

mod admin;
mod operate;
mod site;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use admin::{
    AdminArgs, AdminCommand, CreateRunArgs, Implausible, NoticeState, ProfileCommand, Role, Strategy,
    TokenArgs, Until, WatchArgs, WebhooksCommand,
};
pub(super) use operate::{
    CloneFrom, ModelsCommand, OperateCommand, PolicyArgs, SiteCommand as AdminSiteCommand,
};
pub(super) use site::{SiteCommand, SiteRunArgs, SiteServerArgs, SiteUploadArgs};

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
