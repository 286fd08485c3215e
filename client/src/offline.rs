//! Work on files, with no server: derive and check specs, permute, scale, align, merge, look for barriers. The same mathematics as
//! the server's.

mod align;
mod barrier;
mod merge;
mod report;
mod spec;
mod symmetry;

use std::path::Path;

use rebasin::{CheckedSpec, Checkpoint, Digest, FileSource, MatchOptions, Source as _, Spec};

use crate::{
    error::{Error, Result},
    files::{
        BAD_CHECKPOINT, no_spec, open_checkpoint as open, read_spec_text, write_atomically, write_bytes,
        write_error,
    },
    graph::is_verified,
    progress::Screen,
};

pub use self::{
    align::{AlignJob, align},
    barrier::{BarrierJob, barrier},
    merge::{MergeJob, Method, merge},
    spec::{spec_check, spec_conv, spec_mlp},
    symmetry::{permute, scale},
};

/// Writes a spec's file.
pub(crate) fn save_spec(spec: &Spec, output: &Path) -> Result<()> {
    write_bytes(output, format!("{}\n", spec.to_json().trim_end()).as_bytes())
}

fn options(digests: &[Digest]) -> MatchOptions {
    MatchOptions { seed: rebasin::seed_from_digests(digests), ..MatchOptions::default() }
}

/// Reads a whole checkpoint.
fn load(source: &FileSource, path: &Path) -> Result<Checkpoint> {
    rebasin::read_checkpoint(source).map_err(|error| Error::failed(error, path.display(), BAD_CHECKPOINT))
}

/// Reads a spec and checks it against a checkpoint; tells also whether it was verified, and says so if not.
fn read_spec(
    path: &Path,
    source: &FileSource,
    checkpoint: &Path,
    screen: &Screen,
) -> Result<(CheckedSpec, bool)> {
    let spec = Spec::from_json(&read_spec_text(path)?).map_err(|error| no_spec(path, error))?;
    let verified = is_verified(path, &spec);
    if !verified {
        screen.say(format_args!(
            "{}: this spec was not verified, or its certificate is not beside it; `fedbasin spec verify` runs its network to show that it is right",
            path.display()
        ));
    }
    let checked = spec.check(source.header().layout()).map_err(|error| {
        Error::failed(
            error,
            format_args!("{} against {}", path.display(), checkpoint.display()),
            "use the spec of this architecture",
        )
    })?;
    Ok((checked, verified))
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
