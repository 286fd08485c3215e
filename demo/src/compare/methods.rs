//! The methods, one after the other, on the same two models.

use std::{ops::ControlFlow, sync::atomic::AtomicBool, time::Instant};

use candle_core::Tensor;
use rebasin::{
    Activations, Agreement, Alignment, CheckedSpec, Checkpoint, MatchOptions, MergeProgress, Progress,
    StraightThroughOptions,
};

use super::{
    network::{Architecture, Net, Statistics, logits},
    objective::Batches,
    outcome::{Method, Path, Point},
    show::Line,
};
use crate::{
    dataset::Dataset,
    eval::{Score, score_logits},
    run::go_on,
    trainer,
};

/// How much is spent on each method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Points on each path, end points included.
    pub points: usize,
    /// Images whose activations are compared.
    pub activation_images: usize,
    /// Steps of the straight-through estimator.
    pub steps: u32,
}

impl Default for Effort {
    fn default() -> Self {
        Self { points: 25, activation_images: 4000, steps: 200 }
    }
}

/// Two trained sites and what there is to measure them by.
pub(super) struct Sites {
    architecture: Architecture,
    spec: CheckedSpec,
    models: [Checkpoint; 2],
    train: Dataset,
    train_tensors: (Tensor, Tensor),
    held_back: Tensor,
    test: (Tensor, Tensor),
}

impl Sites {
    pub(super) fn new(
        architecture: Architecture,
        models: [Checkpoint; 2],
        train: Dataset,
        held_back: &Dataset,
        test: &Dataset,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            architecture,
            spec: architecture.spec()?,
            models,
            train_tensors: trainer::tensors(&train)?,
            train,
            held_back: trainer::tensors(held_back)?.0,
            test: trainer::tensors(test)?,
        })
    }

    pub(super) fn held_back(&self) -> usize {
        self.held_back.dims().first().copied().unwrap_or(0)
    }

    pub(super) fn units(&self) -> usize {
        self.spec.groups().iter().map(|group| group.units).sum()
    }

    pub(super) fn own_scores(&self) -> anyhow::Result<[Point; 2]> {
        Ok([self.score(&self.models[0])?, self.score(&self.models[1])?])
    }

    pub(super) fn score(&self, model: &Checkpoint) -> anyhow::Result<Point> {
        self.point(&Net::from_checkpoint(self.architecture, model)?)
    }

    fn point(&self, net: &Net) -> anyhow::Result<Point> {
        let on = |(images, labels): &(Tensor, Tensor)| -> anyhow::Result<Score> {
            score_logits(&logits(net, images, Statistics::Running)?, labels)
        };
        Ok(Point { test: on(&self.test)?, train_loss: on(&self.train_tensors)?.loss })
    }

    pub(super) fn ensemble(&self) -> anyhow::Result<Score> {
        let of = |model: &Checkpoint| -> anyhow::Result<Tensor> {
            Ok(logits(&Net::from_checkpoint(self.architecture, model)?, &self.test.0, Statistics::Running)?)
        };
        let mean = ((of(&self.models[0])? + of(&self.models[1])?)? * 0.5)?;
        score_logits(&mean, &self.test.1)
    }

    /// Every method.
    pub(super) fn compare(
        &self,
        effort: &Effort,
        seed: u64,
        interrupted: &AtomicBool,
    ) -> anyhow::Result<Vec<Method>> {
        type Find<'a> = &'a dyn Fn(&mut Line) -> anyhow::Result<[Alignment; 2]>;
        let stays = || Alignment::identity(&self.spec);
        let flow =
            || if go_on(interrupted).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        let options = MatchOptions { seed, ..MatchOptions::default() };
        let naive = |_: &mut Line| Ok([stays(), stays()]);
        let activations = |line: &mut Line| Ok([stays(), self.by_activations(effort, line)?]);
        let weights = |line: &mut Line| {
            let found =
                rebasin::align(&self.spec, &self.models[0], &self.models[1], &options, &mut |event| {
                    if let Progress::Sweep { sweep, objective, .. } = event {
                        line.say(&format!("sweep {sweep}, objective {objective:.3}"));
                    }
                    flow()
                })?;
            Ok([stays(), found.alignment])
        };
        let straight_through = |line: &mut Line| {
            let options = StraightThroughOptions { steps: effort.steps, ..StraightThroughOptions::default() };
            let mut objective = Batches::new(self.architecture, &self.train, seed);
            let (reference, update) = (&self.models[0], &self.models[1]);
            let found = rebasin::straight_through(
                &self.spec,
                reference,
                update,
                &mut objective,
                &options,
                &mut |step, loss| {
                    line.say(&format!("step {} of {}, loss {loss:.3}", step + 1, effort.steps));
                    flow()
                },
            )?;
            Ok([stays(), found.alignment])
        };
        let many = |line: &mut Line| {
            let mut load = |index: usize| -> anyhow::Result<Checkpoint> { Ok(self.models[index].clone()) };
            let found = rebasin::merge_many(&self.spec, 2, &mut load, &[0.5; 2], &options, &mut |event| {
                if let MergeProgress::Iteration { iteration, outcome } = event {
                    line.say(&format!("pass {iteration}, objective {:.3}", outcome.objective));
                }
                flow()
            })?;
            let [first, second] = [&found.alignments[0], &found.alignments[1]];
            Ok([first.clone(), second.clone()])
        };
        let methods: [(&str, Find<'_>); 5] = [
            ("naive mean", &naive),
            ("activation matching", &activations),
            ("weight matching", &weights),
            ("straight-through", &straight_through),
            ("MergeMany", &many),
        ];
        let mut outcomes = Vec::new();
        for (name, find) in methods {
            let mut line = Line::new(&format!("{}, {name}", self.architecture), 0);
            let begun = Instant::now();
            let found = find(&mut line)?;
            let seconds = begun.elapsed().as_secs_f64();
            go_on(interrupted)?;
            line.say("evaluating the path");
            outcomes.push(self.outcome(name, &found, seconds, effort, interrupted)?);
        }
        Ok(outcomes)
    }

    fn outcome(
        &self,
        name: &str,
        found: &[Alignment; 2],
        seconds: f64,
        effort: &Effort,
        interrupted: &AtomicBool,
    ) -> anyhow::Result<Method> {
        let a = found[0].apply(&self.spec, &self.models[0])?;
        let b = found[1].apply(&self.spec, &self.models[1])?;
        let anew = match self.architecture.has_batch_norm() {
            true => Some(self.path(&a, &b, effort.points, true, interrupted)?),
            false => None,
        };
        // What counts is how they lie to each other.
        let relative = found[0].inverse_permutations().compose(&self.spec, &found[1]);
        Ok(Method {
            name: name.to_owned(),
            moved: relative.moved(),
            seconds,
            merged: self.path(&a, &b, effort.points, false, interrupted)?,
            anew,
        })
    }

    fn path(
        &self,
        a: &Checkpoint,
        b: &Checkpoint,
        points: usize,
        anew: bool,
        interrupted: &AtomicBool,
    ) -> anyhow::Result<Path> {
        let at = |lambda: f64| -> anyhow::Result<Net> {
            let net = Net::from_checkpoint(self.architecture, &rebasin::interpolate(a, b, lambda)?)?;
            if anew {
                net.reset_statistics(&self.held_back)?;
            }
            Ok(net)
        };
        let mut losses = Vec::with_capacity(points);
        for point in 0..points {
            go_on(interrupted)?;
            let net = at(point as f64 / (points - 1) as f64)?;
            losses.push(score_logits(&logits(&net, &self.test.0, Statistics::Running)?, &self.test.1)?.loss);
        }
        let barrier = rebasin::barrier(&losses);
        Ok(Path {
            middle: self.point(&at(0.5)?)?,
            barrier: barrier.against_mean,
            barrier_over_chord: barrier.against_chord,
            losses,
        })
    }

    /// Each site would compute its part where its data is; here both models see the same training images.
    fn by_activations(&self, effort: &Effort, line: &mut Line) -> anyhow::Result<Alignment> {
        let nets = [
            Net::from_checkpoint(self.architecture, &self.models[0])?,
            Net::from_checkpoint(self.architecture, &self.models[1])?,
        ];
        let images = &self.train_tensors.0;
        let count = images.dim(0)?.min(effort.activation_images);
        let mut sums = Activations::new(&self.spec);
        for from in (0..count).step_by(500) {
            line.say(&format!("image {from} of {count}"));
            let part = images.narrow(0, from, 500.min(count - from))?;
            let mut seen: [Vec<(String, Vec<f32>)>; 2] = [Vec::new(), Vec::new()];
            for (net, seen) in nets.iter().zip(&mut seen) {
                net.forward(&part, Statistics::Running, &mut |weight, values| {
                    seen.push((weight.to_owned(), values.flatten_all()?.to_vec1::<f32>()?));
                    Ok(())
                })?;
            }
            let [reference, update] = &seen;
            for ((weight, reference), (_, update)) in reference.iter().zip(update) {
                sums.add(&self.spec, &group_of(&self.spec, weight)?, reference, update)?;
            }
        }
        Ok(sums.solve(&self.spec, Agreement::Correlation))
    }
}

/// The group that stands on the first axis of a weight.
fn group_of(spec: &CheckedSpec, weight: &str) -> anyhow::Result<String> {
    let group =
        spec.layout().position(weight).and_then(|tensor| spec.axes(tensor)[0].as_ref()?.groups().next());
    let group = group.ok_or_else(|| anyhow::anyhow!("nothing moves the rows of {weight}"))?;
    Ok(spec.groups()[group].name.clone())
}
