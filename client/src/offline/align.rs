//! One checkpoint aligned to another.

use std::{ops::ControlFlow, path::PathBuf, time::Instant};

use rebasin::{AlignError, Aligned, CheckedSpec, Checkpoint, MatchOptions, Optimality};
use serde_json::json;

use super::{
    load, open, options, read_spec,
    report::{self, align_json},
    same_layout, write_checkpoint,
};
use crate::{
    error::{Error, Result},
    files::{BAD_CHECKPOINT, check_checkpoint, write_json},
    progress::{Screen, SearchLine},
};

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

/// Aligns a file to a reference.
///
/// # Errors
/// The spec does not fit, a checkpoint is none or not finite or of another layout, or a file cannot be read or written.
pub fn align(job: &AlignJob, screen: &Screen) -> Result<()> {
    let (reference_source, source) = (open(&job.reference)?, open(&job.input)?);
    let (spec, verified) = read_spec(&job.spec, &reference_source, &job.reference, screen)?;
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
    let mut value = align_json(&aligned.report, seconds)?;
    report::add_agreement(&mut value, &agreement, &spec);
    if let Some(optimality) = &optimality {
        report::add_optimality(&mut value, optimality);
    }
    value["reference_digest"] = json!(digests[0].to_string());
    value["input_digest"] = json!(digests[1].to_string());
    value["output_digest"] = json!(digest.to_string());
    value["seed"] = json!(options.seed);
    value["spec_verified"] = json!(verified);
    let warnings = report::warnings(&aligned.report, &agreement);
    value["warnings"] = json!(warnings);
    if let Some(path) = &job.report {
        write_json(path, &value)?;
    }
    screen.answer(&value, || {
        let place = job.output.display();
        let mut lines = vec![format!("{place}: {}", report::align_text(&aligned.report, seconds))];
        lines.extend(optimality.as_ref().map(report::bound_text));
        lines.extend(warnings);
        lines.join("\n")
    })
}

/// Aligns, shows the search while it runs, and says how long it took.
pub(super) fn search(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: &Checkpoint,
    options: &MatchOptions,
    screen: &Screen,
    label: &str,
) -> std::result::Result<(Aligned, f64), AlignError> {
    let begun = Instant::now();
    let mut progress = SearchLine::new(screen, label);
    let aligned = rebasin::align(spec, reference, update, options, &mut |event| {
        progress.see(&event);
        ControlFlow::Continue(())
    })?;
    Ok((aligned, begun.elapsed().as_secs_f64()))
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
