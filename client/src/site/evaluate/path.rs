//! The way from a model to the global one, as the site's command measured it.

use std::path::Path;

use fedbasin_proto::{PATH_POINTS, PathFault, path_fault, v1::PathPoint};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::trainer::{MAX_METRICS_BYTES, without_nan};
use crate::{
    error::{Error, Result},
    files::read_text,
};

/// What to do about a path that is none.
const MEND: &str = "let it write \"path\": [{\"t\": 0.0, \"loss\": 0.9}, {\"t\": 0.5, \"loss\": 0.7}, {\"t\": 1.0, \"loss\": 0.5}], from the model at 0 to the \
                    global one at 1, or no path";
const _: () = assert!(*PATH_POINTS.start() == 2 && *PATH_POINTS.end() == 33, "a text says so");

/// A model on the way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Point {
    t: f64,
    loss: f64,
    #[serde(default)]
    accuracy: Option<f64>,
}

impl Point {
    pub(super) fn message(&self) -> PathPoint {
        let Self { t, loss, accuracy } = *self;
        PathPoint { t, loss, accuracy }
    }
}

/// The path of a file of figures; empty where it has none.
///
/// # Errors
/// It is none that a server takes.
pub(super) fn read(file: &Path, place: &str) -> Result<Vec<Point>> {
    parse(&read_text(file, MAX_METRICS_BYTES)?, place)
}

pub(in super::super) fn parse(text: &str, place: &str) -> Result<Vec<Point>> {
    let wrong = |what: &str| Error::failed(format_args!("wrote a path with {what}"), place, MEND);
    let value: Value =
        serde_json::from_str(&without_nan(text)).map_err(|error| wrong(&format!("no JSON: {error}")))?;
    let Some(path) = value.get("path").filter(|path| !path.is_null()) else { return Ok(Vec::new()) };
    let points: Vec<Point> = Deserialize::deserialize(path)
        .map_err(|_| wrong("something else than points, each with the numbers t and loss"))?;
    let messages: Vec<PathPoint> = points.iter().map(Point::message).collect();
    match path_fault(&messages) {
        None => Ok(points),
        Some(PathFault::Count) => Err(wrong(&format!("{} points, not 2 to 33", points.len()))),
        Some(PathFault::Place) => Err(wrong("a t that is not within 0 and 1")),
        Some(PathFault::Loss) => Err(wrong("a loss that is too large")),
        Some(PathFault::Accuracy) => Err(wrong("an accuracy that is not within 0 and 1")),
        Some(PathFault::Order) => Err(wrong("a t that does not grow from each point to the next")),
    }
}

#[cfg(test)]
mod tests;
