//! Work on files, with no server: derive and check specs, permute, align, merge. The same mathematics as the server's.

mod report;
mod scale;

use std::{
    io::Write,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Instant,
};

use rebasin::{
    AlignError, Aligned, Alignment, CheckedSpec, Checkpoint, Digest, FileSource, Input, MatchOptions,
    MergeError, Optimality, Source as _, Spec,
};
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    files::{
        BAD_CHECKPOINT, check_checkpoint, no_spec, open_checkpoint as open, read_spec_text, write_atomically,
        write_bytes, write_error, write_json,
    },
    graph::is_verified,
    progress::{Screen, SearchLine},
};
use report::{Seconds, Stopwatch, align_json, axes_text};

pub use scale::{ScaleJob, scale};

/// An alignment of one file to another.
#[derive(Debug, Clone)]
pub struct AlignJob {
    /// The spec's file.
    pub spec: PathBuf,
    /// The checkpoint to align to.
    pub reference: PathBuf,
    /// The checkpoint to align.
    pub input: PathBuf,
    /// Where the aligned checkpoint goes.
    pub output: PathBuf,
    /// Where the report goes.
    pub report: Option<PathBuf>,
    /// Seed of the matcher's order; `None`: derived from the two digests.
    pub seed: Option<u64>,
    /// How often to start anew; `None`: the matcher's default.
    pub starts: Option<usize>,
    /// Whether to bound how much better an alignment could be, and measure how surely units are matched.
    pub bound: bool,
}

/// How to merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Average as they are.
    Mean,
    /// Align each to the first, then average.
    Aligned,
    /// `MergeMany` (Git Re-Basin, Algorithm 3).
    MergeMany,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Aligned => "aligned",
            Self::MergeMany => "merge-many",
        }
    }
}

/// A merge of files into one.
#[derive(Debug, Clone)]
pub struct MergeJob {
    /// The spec's file; may be absent only for the mean.
    pub spec: Option<PathBuf>,
    /// How.
    pub method: Method,
    /// Examples behind each input; empty: all count the same.
    pub num_examples: Vec<u64>,
    /// The checkpoints, all of one layout.
    pub inputs: Vec<PathBuf>,
    /// Where the merged checkpoint goes.
    pub output: PathBuf,
    /// Where the report goes.
    pub report: Option<PathBuf>,
}

/// Derives the spec of a plain chain of linear layers and writes it.
///
/// # Errors
/// No such chain, or a file that cannot be read or written.
pub fn spec_mlp(checkpoint: &Path, output: &Path, screen: &Screen) -> Result<()> {
    let source = open(checkpoint)?;
    let spec = Spec::mlp(source.header().layout()).map_err(|error| {
        Error::failed(error, checkpoint.display(), "try `fedbasin spec conv`, or write the spec by hand")
    })?;
    write_spec(&spec, checkpoint, &source, output, screen)
}

/// Derives the spec of a plain convolutional network and writes it.
///
/// # Errors
/// No such network, or a file that cannot be read or written.
pub fn spec_conv(checkpoint: &Path, output: &Path, screen: &Screen) -> Result<()> {
    let source = open(checkpoint)?;
    let spec = Spec::conv_net(source.header().layout())
        .map_err(|error| Error::failed(error, checkpoint.display(), "write the spec by hand"))?;
    write_spec(&spec, checkpoint, &source, output, screen)
}

fn write_spec(
    spec: &Spec,
    checkpoint: &Path,
    source: &FileSource,
    output: &Path,
    screen: &Screen,
) -> Result<()> {
    let checked = spec
        .check(source.header().layout())
        .map_err(|error| Error::failed(error, checkpoint.display(), "this is a defect, report it"))?;
    save_spec(spec, output)?;
    screen.say(format_args!("{}: {}", output.display(), report::summary(&checked)));
    // Names and shapes do not show a sum or the order of a flatten; only running the network does.
    screen.say("derived from names and shapes: check it with `fedbasin permute` (see README)");
    Ok(())
}

/// Writes a spec's file.
pub(crate) fn save_spec(spec: &Spec, output: &Path) -> Result<()> {
    write_bytes(output, format!("{}\n", spec.to_json().trim_end()).as_bytes())
}

/// Says whether a spec fits a checkpoint, and which axes are permutable and which pinned.
///
/// # Errors
/// They do not fit, or a file cannot be read.
pub fn spec_check(spec: &Path, checkpoint: &Path, screen: &Screen) -> Result<()> {
    let checked = read_spec(spec, &open(checkpoint)?, checkpoint, screen)?;
    for line in axes_text(&checked) {
        screen.say(line);
    }
    screen.say(format_args!(
        "{} fits {}: {}",
        spec.display(),
        checkpoint.display(),
        report::summary(&checked)
    ));
    Ok(())
}

/// Applies random permutations, drawn by `seed`; the network's function stays the same.
///
/// # Errors
/// The spec does not fit, the checkpoint is none or not finite, or a file cannot be read or written.
pub fn permute(spec: &Path, seed: u64, input: &Path, output: &Path, screen: &Screen) -> Result<()> {
    let source = open(input)?;
    let checked = read_spec(spec, &source, input, screen)?;
    check_checkpoint(input, None)?;
    let permuted = Alignment::random(&checked, seed)
        .apply(&checked, &load(&source, input)?)
        .map_err(|error| Error::failed(error, input.display(), BAD_CHECKPOINT))?;
    let digest = write_checkpoint(&permuted, output)?;
    screen.say(format_args!("{}: permuted by seed {seed}, digest {digest}", output.display()));
    Ok(())
}

/// Aligns a file to a reference.
///
/// # Errors
/// The spec does not fit, a checkpoint is none or not finite or of another layout, or a file cannot be read or written.
pub fn align(job: &AlignJob, screen: &Screen) -> Result<()> {
    let (reference_source, source) = (open(&job.reference)?, open(&job.input)?);
    let spec = read_spec(&job.spec, &reference_source, &job.reference, screen)?;
    same_layout(&reference_source, &job.reference, &source, &job.input)?;
    // One pass over each file: it must be finite, and the digests seed the matcher.
    let digests =
        [check_checkpoint(&job.reference, None)?.digest, check_checkpoint(&job.input, None)?.digest];
    let mut options = options(&digests);
    if let Some(seed) = job.seed {
        options.seed = seed;
    }
    if let Some(starts) = job.starts {
        options.starts = starts;
    }
    let (reference, update) = (load(&reference_source, &job.reference)?, load(&source, &job.input)?);
    let (aligned, seconds) =
        search(&spec, &reference, &update, &options, screen, "aligning").map_err(|error| {
            Error::failed(error, job.input.display(), "check that both come from one architecture")
        })?;
    let wrong = |error| Error::failed(error, job.input.display(), BAD_CHECKPOINT);
    let output = aligned.alignment.apply(&spec, &update).map_err(wrong)?;
    let agreement = rebasin::agreement(&spec, &reference, &output).map_err(wrong)?;
    let optimality = match job.bound {
        true => Some(bound(&spec, &reference, &output, screen).map_err(wrong)?),
        false => None,
    };
    let digest = write_checkpoint(&output, &job.output)?;
    if let Some(path) = &job.report {
        let mut value = align_json(&aligned.report, &seconds)?;
        report::add_agreement(&mut value, &agreement, &spec);
        if let Some(optimality) = &optimality {
            report::add_optimality(&mut value, optimality);
        }
        value["reference_digest"] = json!(digests[0].to_string());
        value["input_digest"] = json!(digests[1].to_string());
        value["output_digest"] = json!(digest.to_string());
        value["seed"] = json!(options.seed);
        write_json(path, &value)?;
    }
    screen.say(format_args!(
        "{}: {}",
        job.output.display(),
        report::align_text(&aligned.report, seconds.total)
    ));
    if let Some(optimality) = &optimality {
        screen.say(report::bound_text(optimality));
    }
    for line in report::warnings(&aligned.report, &agreement) {
        screen.say(line);
    }
    Ok(())
}

/// Aligns, shows the search while it runs, and says how long it took.
fn search(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: &Checkpoint,
    options: &MatchOptions,
    screen: &Screen,
    label: &str,
) -> std::result::Result<(Aligned, Seconds), AlignError> {
    let mut stopwatch = Stopwatch::start(spec.groups().len());
    let mut progress = SearchLine::new(screen, label);
    let aligned = rebasin::align(spec, reference, update, options, &mut |event| {
        progress.see(&event);
        stopwatch.see(&event)
    })?;
    Ok((aligned, stopwatch.stop()))
}

/// Bounds the alignment, and shows which group it is at.
fn bound(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    aligned: &Checkpoint,
    screen: &Screen,
) -> std::result::Result<Optimality, AlignError> {
    let mut progress = SearchLine::new(screen, "bounding");
    rebasin::optimality(spec, reference, aligned, &mut |event| {
        progress.see(&event);
        ControlFlow::Continue(())
    })
}

/// What merging needs to know of its inputs.
struct Inputs {
    sources: Vec<FileSource>,
    digests: Vec<Digest>,
    shares: Vec<f64>,
}

/// Merges files into one.
///
/// # Errors
/// Wrong usage, a spec that does not fit, a checkpoint that is none or not finite or of another layout, or a file that
/// cannot be read or written.
pub fn merge(job: &MergeJob, screen: &Screen) -> Result<()> {
    let begun = Instant::now();
    let inputs = open_inputs(job)?;
    let spec = match (&job.spec, job.method) {
        (Some(path), _) => Some(read_spec(path, &inputs.sources[0], &job.inputs[0], screen)?),
        (None, Method::Mean) => None,
        (None, _) => {
            return Err(Error::usage(
                "a spec is needed",
                format_args!("--method {}", job.method.name()),
                "give --spec",
            ));
        }
    };
    let mut extra = json!({});
    let alignments = match (job.method, &spec) {
        (Method::Aligned, Some(spec)) => Some(align_all(job, spec, &inputs, &mut extra, screen)?),
        (Method::MergeMany, Some(spec)) => Some(merge_many(job, spec, &inputs, &mut extra)?),
        _ => None,
    };
    let parts: Vec<Input<'_>> = inputs
        .sources
        .iter()
        .enumerate()
        .map(|(i, source)| Input {
            source,
            alignment: alignments.as_ref().map(|alignments| &alignments[i]),
            share: inputs.shares[i],
        })
        .collect();
    let bar = screen.bytes("merging", 0);
    let digest = write_atomically(&job.output, |mut out: &mut dyn Write| {
        rebasin::merge_to(spec.as_ref(), &parts, None, &mut out, &mut |done, total| {
            bar.set_total(total);
            bar.set(done);
        })
        .map_err(|error| Error::failed(error, job.output.display(), "see the message before"))
    })?;
    drop(bar);
    let seconds = begun.elapsed().as_secs_f64();
    if let Some(path) = &job.report {
        write_json(path, &merge_json(job, &inputs, digest, seconds, extra))?;
    }
    screen.say(format_args!(
        "{}: {} of {} checkpoints in {seconds:.2} s, digest {digest}",
        job.output.display(),
        job.method.name(),
        job.inputs.len()
    ));
    Ok(())
}

fn open_inputs(job: &MergeJob) -> Result<Inputs> {
    let count = job.inputs.len();
    if count == 0 {
        return Err(Error::usage("no checkpoint is given", "arguments", "name the checkpoints to merge"));
    }
    if !job.num_examples.is_empty() && job.num_examples.len() != count {
        return Err(Error::usage(
            format_args!("{} numbers for {count} checkpoints", job.num_examples.len()),
            "--num-examples",
            "give one number for each checkpoint, in the same order",
        ));
    }
    let num_examples = if job.num_examples.is_empty() { vec![1; count] } else { job.num_examples.clone() };
    let shares = rebasin::shares(&num_examples)
        .map_err(|error| Error::usage(error, "--num-examples", "give numbers from 1 to 10^12"))?;
    let sources = job.inputs.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
    for (source, path) in sources.iter().zip(&job.inputs).skip(1) {
        same_layout(&sources[0], &job.inputs[0], source, path)?;
    }
    // One pass over each file: it must be finite, and the digests seed the matcher.
    let digests = job
        .inputs
        .iter()
        .map(|path| check_checkpoint(path, None).map(|checked| checked.digest))
        .collect::<Result<Vec<_>>>()?;
    Ok(Inputs { sources, digests, shares })
}

/// Aligns every input but the first to the first. Holds two checkpoints at a time.
fn align_all(
    job: &MergeJob,
    spec: &CheckedSpec,
    inputs: &Inputs,
    extra: &mut Value,
    screen: &Screen,
) -> Result<Vec<Alignment>> {
    let reference = load(&inputs.sources[0], &job.inputs[0])?;
    let mut alignments = vec![Alignment::identity(spec)];
    let mut reports = vec![Value::Null];
    for (i, path) in job.inputs.iter().enumerate().skip(1) {
        let update = load(&inputs.sources[i], path)?;
        let options = options(&[inputs.digests[0], inputs.digests[i]]);
        let label = format!("aligning {}", path.display());
        let found = search(spec, &reference, &update, &options, screen, &label);
        let (aligned, seconds) = found.map_err(|error| {
            Error::failed(error, path.display(), "check that all come from one architecture")
        })?;
        reports.push(align_json(&aligned.report, &seconds)?);
        alignments.push(aligned.alignment);
    }
    extra["alignments"] = Value::Array(reports);
    Ok(alignments)
}

/// Why `MergeMany` ended early.
enum Trouble {
    Ours(Error),
    Merge(MergeError),
}

impl From<MergeError> for Trouble {
    fn from(error: MergeError) -> Self {
        Self::Merge(error)
    }
}

/// `MergeMany`: memory does not grow with the number of inputs, each is read again when its turn comes.
fn merge_many(
    job: &MergeJob,
    spec: &CheckedSpec,
    inputs: &Inputs,
    extra: &mut Value,
) -> Result<Vec<Alignment>> {
    let mut read = |i: usize| load(&inputs.sources[i], &job.inputs[i]).map_err(Trouble::Ours);
    let options = options(&inputs.digests);
    let merged = rebasin::merge_many(
        spec,
        inputs.sources.len(),
        &mut read,
        &inputs.shares,
        &options,
        &mut rebasin::quietly,
    )
    .map_err(|trouble| match trouble {
        Trouble::Ours(error) => error,
        Trouble::Merge(error) => {
            Error::failed(error, "merge-many", "check that all come from one architecture")
        }
    })?;
    extra["iterations"] = json!(merged.iterations);
    extra["improvements"] = json!(merged.improvements);
    Ok(merged.alignments)
}

fn merge_json(job: &MergeJob, inputs: &Inputs, digest: Digest, seconds: f64, extra: Value) -> Value {
    let parts: Vec<Value> = (0..inputs.sources.len())
        .map(|i| {
            json!({
                "file": job.inputs[i],
                "digest": inputs.digests[i].to_string(),
                "num_examples": job.num_examples.get(i),
                "share": inputs.shares[i],
            })
        })
        .collect();
    let mut value = json!({
        "method": job.method.name(),
        "inputs": parts,
        "output_digest": digest.to_string(),
        "seconds": seconds,
    });
    if let (Value::Object(value), Value::Object(extra)) = (&mut value, extra) {
        value.extend(extra);
    }
    value
}

fn options(digests: &[Digest]) -> MatchOptions {
    MatchOptions { seed: rebasin::seed_from_digests(digests), ..MatchOptions::default() }
}

/// Reads a whole checkpoint.
fn load(source: &FileSource, path: &Path) -> Result<Checkpoint> {
    rebasin::read_checkpoint(source).map_err(|error| Error::failed(error, path.display(), BAD_CHECKPOINT))
}

fn read_spec(path: &Path, source: &FileSource, checkpoint: &Path, screen: &Screen) -> Result<CheckedSpec> {
    let spec = Spec::from_json(&read_spec_text(path)?).map_err(|error| no_spec(path, error))?;
    if !is_verified(path, &spec) {
        screen.say(format_args!(
            "{}: this spec was not verified; `fedbasin spec verify` runs its network to show that it is right",
            path.display()
        ));
    }
    spec.check(source.header().layout()).map_err(|error| {
        Error::failed(
            error,
            format_args!("{} against {}", path.display(), checkpoint.display()),
            "use the spec of this architecture",
        )
    })
}

fn same_layout(first: &FileSource, first_path: &Path, other: &FileSource, other_path: &Path) -> Result<()> {
    let (a, b) = (first.header().layout(), other.header().layout());
    if a == b {
        return Ok(());
    }
    let difference = report::layout_difference(a, b);
    Err(Error::failed(
        format_args!("another layout than {}: {difference}", first_path.display()),
        other_path.display(),
        "give checkpoints of one architecture and dtype",
    ))
}

fn write_checkpoint(checkpoint: &Checkpoint, path: &Path) -> Result<Digest> {
    let bytes = checkpoint.to_bytes();
    write_atomically(path, |out| out.write_all(&bytes).map_err(|error| write_error(path, &error)))?;
    Ok(Digest::of(&bytes))
}
