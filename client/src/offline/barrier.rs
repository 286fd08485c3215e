//! The loss along the straight path between two checkpoints, measured by running the network.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use fedbasin_graph::{Evaluation, InputData, Output};
use rebasin::{Barrier, Checkpoint, Tensor};
use serde_json::{Value, json};

use super::{align::search, load, open, options, read_spec, same_layout};
use crate::{
    chart::{Curve, Panel, svg},
    error::{Error, Result},
    files::{check_checkpoint, write_bytes, write_json},
    graph::{read_graph, refuse_folded},
    progress::{Screen, Steps},
};

#[cfg(test)]
mod tests;

/// A path to be measured.
#[derive(Debug, Clone)]
pub struct BarrierJob {
    /// The spec's file.
    pub spec: PathBuf,
    /// The network's graph.
    pub onnx: PathBuf,
    /// Examples: the graph's inputs by name, and `labels` or `targets`.
    pub data: PathBuf,
    /// Points on the path, end points included; at least 2.
    pub points: u16,
    /// One end, and what the other is aligned to.
    pub a: PathBuf,
    /// The other end.
    pub b: PathBuf,
    /// Where a plot goes.
    pub plot: Option<PathBuf>,
    /// Where the report goes.
    pub report: Option<PathBuf>,
}

/// What examples should come to.
enum Goal {
    /// A class for each example: mean cross-entropy in nats of the first output as logits.
    Labels(Vec<usize>),
    /// Numbers: mean squared error of the first output.
    Targets(Vec<f32>),
}

/// A loss, and for classes the fraction that the largest logit gets right.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score {
    loss: f64,
    accuracy: Option<f64>,
}

/// Losses along a path, and how much they rise.
struct Curved {
    scores: Vec<Score>,
    barrier: Barrier,
}

/// Measures the loss on the straight path from A to B: with B as it is, and with B aligned to A.
///
/// # Errors
/// A spec, graph, checkpoint or data file that cannot be read or does not fit the others; a network that cannot be run; a file that
/// cannot be written.
pub fn barrier(job: &BarrierJob, screen: &Screen) -> Result<()> {
    let begun = Instant::now();
    let (source_a, source_b) = (open(&job.a)?, open(&job.b)?);
    let (spec, verified) = read_spec(&job.spec, &source_a, &job.a, screen)?;
    same_layout(&source_a, &job.a, &source_b, &job.b)?;
    let digests = [check_checkpoint(&job.a, None)?.digest, check_checkpoint(&job.b, None)?.digest];
    let (a, b) = (load(&source_a, &job.a)?, load(&source_b, &job.b)?);
    let graph = read_graph(&job.onnx)?;
    let in_graph = graph
        .layout()
        .map_err(|error| Error::failed(error, job.onnx.display(), "export the network anew"))?;
    refuse_folded(a.layout(), &|name| in_graph.get(name).is_some(), &job.a)?;
    let (inputs, goal) = read_data(&job.data)?;
    let evaluation = Evaluation::new(&graph, inputs).map_err(|error| {
        let place = format!("{} with {}", job.onnx.display(), job.data.display());
        Error::failed(error, place, "give each input of the graph as a tensor of that name")
    })?;
    goal.fits(evaluation.examples(), &job.data)?;
    let (aligned, _) = search(&spec, &a, &b, &options(&digests), screen, "aligning").map_err(|error| {
        Error::failed(error, job.b.display(), "check that both come from one architecture")
    })?;
    let moved = aligned
        .alignment
        .apply(&spec, &b)
        .map_err(|error| Error::failed(error, job.b.display(), "this is a defect, report it"))?;
    let steps = screen.steps("evaluating", 2 * u64::from(job.points));
    let as_is = along(job, &evaluation, &goal, [&a, &b], &steps)?;
    let aligned_path = along(job, &evaluation, &goal, [&a, &moved], &steps)?;
    drop(steps);
    if let Some(path) = &job.plot {
        write_bytes(path, plot(job, &goal, &as_is, &aligned_path)?.as_bytes())?;
    }
    let statistics = a.layout().tensors().iter().any(|info| info.name.ends_with("running_var"));
    let value = json!({
        "a": { "file": job.a, "digest": digests[0].to_string() },
        "b": { "file": job.b, "digest": digests[1].to_string() },
        "examples": evaluation.examples(),
        "loss": goal.name(),
        "as_is": as_is.json(),
        "aligned": aligned_path.json(),
        "moved": aligned.report.moved,
        "running_statistics": statistics,
        "seconds": begun.elapsed().as_secs_f64(),
        "spec_verified": verified,
    });
    if let Some(path) = &job.report {
        write_json(path, &value)?;
    }
    screen.answer(&value, || {
        let mut lines = vec![
            format!("{}, {} examples, {} points", goal.name(), evaluation.examples(), job.points),
            as_is.text("as it is", job.points),
            aligned_path.text("aligned", job.points),
        ];
        if statistics {
            lines.push(
                "running statistics were averaged like weights; a merged network with BatchNorm wants them computed anew on data"
                    .to_owned(),
            );
        }
        lines.join("\n")
    })
}

/// The losses at evenly spaced points from one checkpoint to another.
fn along(
    job: &BarrierJob,
    evaluation: &Evaluation,
    goal: &Goal,
    [a, b]: [&Checkpoint; 2],
    steps: &Steps,
) -> Result<Curved> {
    let trouble = |error: &dyn std::fmt::Display| {
        Error::failed(error, job.onnx.display(), "use the graph that these checkpoints were trained with")
    };
    let mut scores = Vec::with_capacity(usize::from(job.points));
    for point in 0..job.points {
        let lambda = f64::from(point) / f64::from(job.points - 1);
        let between = rebasin::interpolate(a, b, lambda).map_err(|error| trouble(&error))?;
        let output = evaluation.run(&between).map_err(|error| trouble(&error))?;
        scores.push(goal.score(&output).map_err(|why| trouble(&why))?);
        steps.advance();
    }
    let losses: Vec<f64> = scores.iter().map(|score| score.loss).collect();
    Ok(Curved { barrier: rebasin::barrier(&losses), scores })
}

fn plot(job: &BarrierJob, goal: &Goal, as_is: &Curved, aligned: &Curved) -> Result<String> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (a, b) = (name(&job.a), name(&job.b));
    let curve = |name: &str, path: &Curved| Curve {
        name: format!("{name} (barrier {:.3})", path.barrier.against_mean),
        losses: path.scores.iter().map(|score| score.loss).collect(),
    };
    let panel = Panel {
        title: format!("Loss on the path from {a} to {b}"),
        x: format!("0 = {a}, 1 = {b}"),
        y: goal.name().to_owned(),
        curves: vec![curve("as it is", as_is), curve("aligned", aligned)],
    };
    svg(&[panel]).map_err(|error| Error::failed(error, job.onnx.display(), "are all losses finite?"))
}

impl Curved {
    fn json(&self) -> Value {
        let accuracies: Option<Vec<f64>> = self.scores.iter().map(|score| score.accuracy).collect();
        json!({
            "barrier": self.barrier.against_mean,
            "barrier_over_chord": self.barrier.against_chord,
            "losses": self.scores.iter().map(|score| score.loss).collect::<Vec<_>>(),
            "accuracies": accuracies,
        })
    }

    fn text(&self, name: &str, points: u16) -> String {
        let (first, last) = (self.scores[0], self.scores[self.scores.len() - 1]);
        let middle = self.scores[usize::from(points) / 2];
        let percent = |score: Score| {
            score.accuracy.map_or_else(String::new, |accuracy| format!(" ({:.1} %)", 100.0 * accuracy))
        };
        format!(
            "{name}: barrier {:.4}, over the chord {:.4}; loss {:.4}{} at A, {:.4}{} in the middle, {:.4}{} at B",
            self.barrier.against_mean,
            self.barrier.against_chord,
            first.loss,
            percent(first),
            middle.loss,
            percent(middle),
            last.loss,
            percent(last)
        )
    }
}

/// Splits a data file into the graph's inputs and what they should come to.
fn read_data(path: &Path) -> Result<(BTreeMap<String, InputData>, Goal)> {
    let source = open(path)?;
    let data = load(&source, path)?;
    let wrong = |what: String| {
        let remedy = "give `labels` (whole numbers, one an example) or `targets` (floats), and the graph's inputs by name";
        Error::failed(what, path.display(), remedy)
    };
    let mut goal = None;
    let mut inputs = BTreeMap::new();
    for tensor in data.tensors() {
        let info = tensor.info();
        let found = match info.name.as_str() {
            "labels" if !info.dtype.is_float() && info.shape.len() == 1 => {
                let labels = whole(tensor).and_then(|labels| {
                    labels.into_iter().map(usize::try_from).collect::<std::result::Result<_, _>>().ok()
                });
                Goal::Labels(labels.ok_or_else(|| wrong("labels are not classes from 0".into()))?)
            }
            "labels" => {
                return Err(wrong(format!("labels are {} of shape {:?}", info.dtype.name(), info.shape)));
            }
            "targets" if info.dtype.is_float() => Goal::Targets(tensor.to_f32()),
            "targets" => return Err(wrong(format!("targets are {}", info.dtype.name()))),
            _ => {
                let shape = info.shape.clone();
                let input = if info.dtype.is_float() {
                    InputData::Floats { shape, values: tensor.to_f32() }
                } else {
                    let values = whole(tensor)
                        .ok_or_else(|| wrong(format!("{} has numbers beyond 32 bits", info.name)))?;
                    InputData::Ints { shape, values }
                };
                inputs.insert(info.name.clone(), input);
                continue;
            }
        };
        if goal.replace(found).is_some() {
            return Err(wrong("both labels and targets are there".into()));
        }
    }
    let goal = goal.ok_or_else(|| wrong("neither labels nor targets are there".into()))?;
    Ok((inputs, goal))
}

/// A tensor's whole numbers; `None` if one is beyond 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "checked to be whole numbers of 32 bits")]
fn whole(tensor: &Tensor) -> Option<Vec<i32>> {
    let fits =
        |value: f64| (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value).then_some(value as i32);
    tensor.to_f64().into_iter().map(fits).collect()
}

impl Goal {
    fn name(&self) -> &'static str {
        match self {
            Self::Labels(_) => "mean cross-entropy",
            Self::Targets(_) => "mean squared error",
        }
    }

    /// Whether there is one for each example.
    fn fits(&self, examples: usize, path: &Path) -> Result<()> {
        let (count, what) = match self {
            Self::Labels(labels) => (labels.len(), "labels"),
            Self::Targets(targets) => (targets.len(), "targets"),
        };
        let whole = match self {
            Self::Labels(_) => count == examples,
            Self::Targets(_) => count % examples == 0 && count > 0,
        };
        if whole {
            return Ok(());
        }
        Err(Error::failed(
            format_args!("{count} {what} for {examples} examples"),
            path.display(),
            "give one for each example, in the same order",
        ))
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of examples are far below 2^52")]
    fn score(&self, output: &Output) -> std::result::Result<Score, String> {
        match self {
            Self::Labels(labels) => {
                let (mut loss, mut right) = (0.0, 0_usize);
                for (row, &label) in output.values.chunks_exact(output.width).zip(labels) {
                    let logit = row.get(label).ok_or_else(|| {
                        format!(
                            "class {label} is labelled, the network's first output has {} classes",
                            row.len()
                        )
                    })?;
                    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let sum: f64 = row.iter().map(|&other| f64::from(other - highest).exp()).sum();
                    loss += sum.ln() - f64::from(logit - highest);
                    right += usize::from(row.iter().position(|&other| other == highest) == Some(label));
                }
                let count = labels.len() as f64;
                Ok(Score { loss: loss / count, accuracy: Some(right as f64 / count) })
            }
            Self::Targets(targets) => {
                if targets.len() != output.values.len() {
                    return Err(format!(
                        "there are {} targets, the network's first output has {} numbers",
                        targets.len(),
                        output.values.len()
                    ));
                }
                let squares = targets.iter().zip(&output.values).map(|(a, b)| f64::from(a - b).powi(2));
                Ok(Score { loss: squares.sum::<f64>() / targets.len() as f64, accuracy: None })
            }
        }
    }
}
