//! The way from a model to the global one, as the site's command measured it.

use std::path::Path;

use fedbasin_proto::{MAX_LOSS, PATH_POINTS, v1::PathPoint};
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

    /// What is wrong with it, if anything is.
    fn fault(&self) -> Option<&'static str> {
        if !(0.0..=1.0).contains(&self.t) {
            Some("a t that is not within 0 and 1")
        } else if !self.loss.is_finite() || self.loss.abs() > MAX_LOSS {
            Some("a loss that is too large")
        } else if self.accuracy.is_some_and(|accuracy| !(0.0..=1.0).contains(&accuracy)) {
            Some("an accuracy that is not within 0 and 1")
        } else {
            None
        }
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
    if !PATH_POINTS.contains(&points.len()) {
        return Err(wrong(&format!("{} points, not 2 to 33", points.len())));
    }
    if let Some(fault) = points.iter().find_map(Point::fault) {
        return Err(wrong(fault));
    }
    if points.windows(2).any(|pair| pair[0].t >= pair[1].t) {
        return Err(wrong("a t that does not grow from each point to the next"));
    }
    Ok(points)
}

#[cfg(test)]
mod tests;
