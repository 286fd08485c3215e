//! How good models are along the straight line from one that a site tried to the global one of its round.

use fedbasin_proto::{MAX_LOSS, PATH_POINTS, PathFault, path_fault, v1};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A model on the line: (1 - t) parts of the first one, t parts of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PathPoint {
    /// Where it is: 0 is the model that was evaluated, 1 the global one.
    pub t: f64,
    /// Mean loss over the site's examples, or some of them.
    pub loss: f64,
    /// Fraction that was right.
    pub accuracy: Option<f64>,
}

/// What sites that measured at the same places found: means, weighted by examples.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct MeanPath {
    /// How many sites.
    pub sites: u32,
    /// How many examples in all.
    pub num_examples: u64,
    /// The means; an accuracy where all of these sites told one.
    pub points: Vec<PathPoint>,
}

/// Checks a path that a site tells; an empty one is none.
///
/// # Errors
/// [`Code::InvalidArgument`](crate::error::Code) naming the field.
pub(super) fn check(path: &[PathPoint]) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    let points: Vec<_> =
        path.iter().map(|&PathPoint { t, loss, accuracy }| v1::PathPoint { t, loss, accuracy }).collect();
    let Some(fault) = path_fault(&points) else { return Ok(()) };
    Err(Error::invalid(match fault {
        PathFault::Count => {
            let (least, most) = (PATH_POINTS.start(), PATH_POINTS.end());
            format!("path: {} points are not {least} to {most}", points.len())
        }
        PathFault::Place => "path.t: not a number within 0 and 1".to_owned(),
        PathFault::Loss => format!("path.loss: not a finite number of a magnitude of at most {MAX_LOSS:e}"),
        PathFault::Accuracy => "path.accuracy: not a number within 0 and 1".to_owned(),
        PathFault::Order => "path.t: does not grow from each point to the next".to_owned(),
    }))
}

fn same_places(a: &[PathPoint], b: &[PathPoint]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.t == b.t)
}

/// The mean of paths, each with its site's number of examples: of those that were measured at the same places, where most sites did.
/// Among equals the first counts. A mean over other sites at each place would have steps that no site saw.
#[must_use]
pub(crate) fn mean<'a>(paths: impl Iterator<Item = (u64, &'a [PathPoint])>) -> Option<MeanPath> {
    let mut groups: Vec<Vec<(u64, &[PathPoint])>> = Vec::new();
    for (examples, path) in paths.filter(|(examples, path)| *examples > 0 && !path.is_empty()) {
        match groups.iter_mut().find(|group| same_places(group[0].1, path)) {
            Some(group) => group.push((examples, path)),
            None => groups.push(vec![(examples, path)]),
        }
    }
    let most = groups.iter().map(Vec::len).max()?;
    let group = groups.into_iter().find(|group| group.len() == most)?;
    let num_examples: u64 = group.iter().map(|(examples, _)| examples).sum();
    let mean_at = |place: usize, of: &dyn Fn(&PathPoint) -> Option<f64>| {
        #[expect(clippy::cast_precision_loss, reason = "at most 10^12 examples a site")]
        let part = |examples: u64| examples as f64 / num_examples as f64;
        group.iter().map(|(examples, path)| Some(of(&path[place])? * part(*examples))).sum::<Option<f64>>()
    };
    let points = group[0].1.iter().enumerate().filter_map(|(place, point)| {
        let loss = mean_at(place, &|point| Some(point.loss))?;
        Some(PathPoint { t: point.t, loss, accuracy: mean_at(place, &|point| point.accuracy) })
    });
    Some(MeanPath { sites: u32::try_from(most).unwrap_or(u32::MAX), num_examples, points: points.collect() })
}

/// How much the loss along a path rises above the straight line between its ends at the most, where both ends were measured.
#[must_use]
pub(crate) fn barrier(path: &[PathPoint]) -> Option<f64> {
    let (first, last) = (path.first()?, path.last()?);
    if first.t != 0.0 || last.t != 1.0 {
        return None;
    }
    let above = path.iter().map(|point| point.loss - (1.0 - point.t) * first.loss - point.t * last.loss);
    let barrier = above.reduce(f64::max)?;
    // What is no more than rounding is none.
    let rounding = 1e-9 * path.iter().map(|point| point.loss.abs()).fold(0.0, f64::max);
    Some(if barrier > rounding { barrier } else { 0.0 })
}

#[cfg(test)]
mod tests;
