//! What changes a checkpoint and not its network's function: a permutation of units, and their scale.

use std::path::Path;

use rebasin::Alignment;
use serde_json::json;

use super::{load, open, read_spec, write_checkpoint};
use crate::{
    error::{Error, Result},
    files::{BAD_CHECKPOINT, check_checkpoint},
    progress::Screen,
};

/// Applies random permutations, drawn by `seed`; the network's function stays the same.
///
/// # Errors
/// The spec does not fit, the checkpoint is none or not finite, or a file cannot be read or written.
pub fn permute(spec: &Path, seed: u64, input: &Path, output: &Path, screen: &Screen) -> Result<()> {
    let source = open(input)?;
    let (checked, verified) = read_spec(spec, &source, input, screen)?;
    check_checkpoint(input, None)?;
    let permuted = Alignment::random(&checked, seed)
        .apply(&checked, &load(&source, input)?)
        .map_err(|error| Error::failed(error, input.display(), BAD_CHECKPOINT))?;
    let digest = write_checkpoint(&permuted, output)?;
    let value =
        json!({ "file": output, "digest": digest.to_string(), "seed": seed, "spec_verified": verified });
    screen.answer(&value, || format!("{}: permuted by seed {seed}, digest {digest}", output.display()))
}

/// Brings a checkpoint to its canonical scale; the network's function stays the same.
///
/// # Errors
/// A spec that does not fit or knows of no scale symmetry, a checkpoint that is none or not finite, or a file that cannot be read
/// or written.
pub fn scale(spec: &Path, input: &Path, output: &Path, screen: &Screen) -> Result<()> {
    let source = open(input)?;
    let (path, (spec, verified)) = (spec, read_spec(spec, &source, input, screen)?);
    if spec.scales().is_empty() {
        return Err(Error::failed(
            "this spec knows of no unit that can be scaled",
            path.display(),
            "derive it from the graph with `fedbasin spec derive`; without ReLU or its kind there is nothing to balance",
        ));
    }
    check_checkpoint(input, None)?;
    let canonical = rebasin::canonical_scale(&spec, &load(&source, input)?)
        .map_err(|error| Error::failed(error, input.display(), BAD_CHECKPOINT))?;
    let digest = write_checkpoint(&canonical.checkpoint, output)?;
    let (least, greatest) = canonical.range();
    let units: usize = canonical.factors.iter().map(Vec::len).sum();
    let value = json!({
        "file": output,
        "digest": digest.to_string(),
        "units": units,
        "idle": canonical.idle,
        "least_factor": least,
        "greatest_factor": greatest,
        "passes": canonical.passes,
        "spec_verified": verified,
    });
    screen.answer(&value, || {
        format!(
            "{}: {units} units balanced, factors {least:.3} to {greatest:.3}, {} left as they are (nothing comes in, or nothing goes \
             out), {} passes, digest {digest}",
            output.display(),
            canonical.idle,
            canonical.passes
        )
    })
}
