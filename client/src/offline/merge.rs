//! Checkpoints merged into one.

use std::{ops::ControlFlow, path::PathBuf, time::Instant};

use rebasin::{Alignment, CheckedSpec, Digest, FileSource, Input, MergeError};
use serde_json::{Value, json};

use super::{align::search, load, open, options, read_spec, report::align_json, same_layout};
use crate::{
    error::{Error, Result},
    files::{check_checkpoint, write_atomically, write_json},
    progress::{Screen, SearchLine},
};

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
    let (spec, verified) = match (&job.spec, job.method) {
        (Some(path), _) => {
            let (spec, verified) = read_spec(path, &inputs.sources[0], &job.inputs[0], screen)?;
            (Some(spec), Some(verified))
        }
        (None, Method::Mean) => (None, None),
        (None, _) => {
            return Err(Error::usage(
                "a spec is needed",
                format_args!("--method {}", job.method.name()),
                "give --spec",
            ));
        }
    };
    let mut extra = json!({ "spec_verified": verified });
    let alignments = match (job.method, &spec) {
        (Method::Aligned, Some(spec)) => Some(align_all(job, spec, &inputs, &mut extra, screen)?),
        (Method::MergeMany, Some(spec)) => Some(merge_many(job, spec, &inputs, &mut extra, screen)?),
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
    let digest = write_atomically(&job.output, |out| {
        let mut out = rebasin::HashingWriter::new(out);
        rebasin::merge_to(spec.as_ref(), &parts, None, &mut out, &mut |done, total| {
            bar.set_total(total);
            bar.set(done);
        })
        .map_err(|error| Error::failed(error, job.output.display(), "see the message before"))?;
        Ok(out.finish())
    })?;
    drop(bar);
    let seconds = begun.elapsed().as_secs_f64();
    let value = merge_json(job, &inputs, digest, seconds, extra);
    if let Some(path) = &job.report {
        write_json(path, &value)?;
    }
    screen.answer(&value, || {
        format!(
            "{}: {} of {} checkpoints in {seconds:.2} s, digest {digest}",
            job.output.display(),
            job.method.name(),
            job.inputs.len()
        )
    })
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
        reports.push(align_json(&aligned.report, seconds)?);
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
    screen: &Screen,
) -> Result<Vec<Alignment>> {
    let mut progress = SearchLine::new(screen, "merging many");
    let mut read = |i: usize| load(&inputs.sources[i], &job.inputs[i]).map_err(Trouble::Ours);
    let options = options(&inputs.digests);
    let merged =
        rebasin::merge_many(spec, inputs.sources.len(), &mut read, &inputs.shares, &options, &mut |event| {
            progress.see_merge(&event, inputs.sources.len());
            ControlFlow::Continue(())
        })
        .map_err(|trouble| match trouble {
            Trouble::Ours(error) => error,
            Trouble::Merge(error) => {
                Error::failed(error, "merge-many", "check that all come from one architecture")
            }
        })?;
    extra["objective_before"] = json!(merged.objective_before);
    extra["objective_after"] = json!(merged.objective());
    extra["improvements"] = json!(merged.improvements());
    extra["iterations"] = json!(merged.iterations);
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
