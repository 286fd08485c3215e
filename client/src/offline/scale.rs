//! The scale symmetry: a checkpoint brought to the one scale that all of its function share.

use std::path::PathBuf;

use crate::{
    error::{Error, Result},
    files::{BAD_CHECKPOINT, check_checkpoint, open_checkpoint as open},
    progress::Screen,
};

use super::{load, read_spec, write_checkpoint};

/// A checkpoint to be brought to its canonical scale.
#[derive(Debug, Clone)]
pub struct ScaleJob {
    /// The spec's file.
    pub spec: PathBuf,
    /// The checkpoint.
    pub input: PathBuf,
    /// Where the balanced checkpoint goes.
    pub output: PathBuf,
}

/// Brings a checkpoint to its canonical scale; the network's function stays the same.
///
/// # Errors
/// A spec that does not fit or knows of no scale symmetry, a checkpoint that is none or not finite, or a file that cannot be read
/// or written.
pub fn scale(job: &ScaleJob, screen: &Screen) -> Result<()> {
    let source = open(&job.input)?;
    let spec = read_spec(&job.spec, &source, &job.input, screen)?;
    if spec.scales().is_empty() {
        return Err(Error::failed(
            "this spec knows of no unit that can be scaled",
            job.spec.display(),
            "derive it from the graph with `fedbasin spec derive`; without ReLU or its kind there is nothing to balance",
        ));
    }
    check_checkpoint(&job.input, None)?;
    let canonical = rebasin::canonical_scale(&spec, &load(&source, &job.input)?)
        .map_err(|error| Error::failed(error, job.input.display(), BAD_CHECKPOINT))?;
    let digest = write_checkpoint(&canonical.checkpoint, &job.output)?;
    let (least, greatest) = canonical.range();
    let units: usize = canonical.factors.iter().map(Vec::len).sum();
    screen.say(format_args!(
        "{}: {units} units balanced, factors {least:.3} to {greatest:.3}, {} left as they are (nothing comes in, or nothing goes \
         out), {} passes, digest {digest}",
        job.output.display(),
        canonical.idle,
        canonical.passes
    ));
    Ok(())
}
