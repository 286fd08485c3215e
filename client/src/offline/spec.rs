//! Specs of plain networks, from names and shapes; and whether a spec fits.

use std::path::Path;

use rebasin::{FileSource, Source as _, Spec};
use serde_json::json;

use super::{
    open, read_spec,
    report::{self, axes_text},
    save_spec,
};
use crate::{
    error::{Error, Result},
    progress::Screen,
};

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
    let mut value = report::summary_json(&checked);
    value["file"] = json!(output);
    value["verified"] = json!(false);
    // Names and shapes do not show a sum or the order of a flatten; only running the network does.
    screen.answer(&value, || {
        format!(
            "{}: {}\nderived from names and shapes, which do not show everything: prove it with `fedbasin spec verify` and the network's \
             ONNX graph, or by running the network before and after `fedbasin permute` (see README)",
            output.display(),
            report::summary(&checked)
        )
    })
}

/// Says whether a spec fits a checkpoint, and which axes are permutable and which pinned.
///
/// # Errors
/// They do not fit, or a file cannot be read.
pub fn spec_check(spec: &Path, checkpoint: &Path, screen: &Screen) -> Result<()> {
    let (checked, verified) = read_spec(spec, &open(checkpoint)?, checkpoint, screen)?;
    let mut value = report::summary_json(&checked);
    value["verified"] = json!(verified);
    value["tensors"] = report::axes_json(&checked);
    screen.answer(&value, || {
        let mut lines = axes_text(&checked);
        let (spec, checkpoint) = (spec.display(), checkpoint.display());
        lines.push(format!("{spec} fits {checkpoint}: {}", report::summary(&checked)));
        lines.join("\n")
    })
}
