//! The site's own trainer: any program, told by its environment what to do.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, absolute},
    process::Stdio,
    time::Instant,
};

use serde_json::Value;
use tokio::process::Command;

use super::{MetricMap, workdir::RoundDir};
use crate::{
    error::{Error, Result},
    files::{read_error, read_text, write_error},
};

/// Most examples an update may claim (the contract's limit).
const MAX_EXAMPLES: u64 = 1_000_000_000_000;
/// Most metrics of an update, and the longest name, in characters (the contract's limits).
const MAX_METRICS: usize = 64;
const MAX_METRIC_NAME: usize = 64;
/// A metrics file larger than this is none.
const MAX_METRICS_BYTES: u64 = 1 << 20;

/// One call of the trainer.
pub(super) struct Trainer<'a> {
    pub(super) command: &'a str,
    pub(super) run_id: &'a str,
    pub(super) round: u32,
    pub(super) reference: Option<&'a Path>,
    pub(super) dir: &'a RoundDir,
}

impl Trainer<'_> {
    /// Runs the command through `sh -c` to its end; returns how many seconds it took. Its output goes where ours goes.
    /// What an interrupted training left is removed before. Dropping the future ends the trainer.
    ///
    /// # Errors
    /// It cannot be started, exits with something else than 0, or leaves no output.
    pub(super) async fn run(&self) -> Result<f64> {
        let (output, metrics) = (self.dir.output(), self.dir.metrics());
        for path in [&output, &metrics] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(write_error(path, &error)),
                _ => {}
            }
        }
        let place = format!("the trainer of round {}", self.round);
        let full = |path: &Path| absolute(path).map_err(|error| read_error(path, &error));
        let begun = Instant::now();
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(self.command)
            .env("FEDBASIN_RUN", self.run_id)
            .env("FEDBASIN_ROUND", self.round.to_string())
            .env("FEDBASIN_REFERENCE", self.reference.map(full).transpose()?.unwrap_or_default())
            .env("FEDBASIN_OUTPUT", full(&output)?)
            .env("FEDBASIN_METRICS", full(&metrics)?)
            // The trainer has no business with the server.
            .env_remove("FEDBASIN_TOKEN")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Error::failed(format_args!("cannot be started: {error}"), &place, "is `sh` in PATH?")
            })?;
        let status = child.wait().await.map_err(|error| {
            Error::failed(format_args!("cannot be waited for: {error}"), &place, "start again")
        })?;
        if !status.success() {
            return Err(Error::failed(
                format_args!("ended with {status}"),
                place,
                "see its output above, mend it, and start the same command again",
            ));
        }
        if !output.exists() {
            return Err(Error::failed(
                "succeeded but wrote no checkpoint",
                place,
                format_args!("it must write a safetensors file to $FEDBASIN_OUTPUT ({})", output.display()),
            ));
        }
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// What a trainer reports beside the checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Metrics {
    pub(super) num_examples: u64,
    pub(super) metrics: MetricMap,
}

impl Metrics {
    /// Reads the trainer's JSON: `{"num_examples": 9, "metrics": {"loss": 0.5}}`, or flat: `{"num_examples": 9, "loss": 0.5}`.
    /// The file may be absent if `fallback` says the number of examples. Returns also how many metrics did not fit.
    ///
    /// # Errors
    /// A file that is not such JSON, or no valid number of examples anywhere.
    pub(super) fn read(path: &Path, fallback: Option<u64>) -> Result<(Self, usize)> {
        let text = if path.exists() { read_text(path, MAX_METRICS_BYTES)? } else { "{}".to_owned() };
        Self::parse(&text, fallback, &path.display().to_string())
    }

    fn parse(text: &str, fallback: Option<u64>, place: &str) -> Result<(Self, usize)> {
        const REMEDY: &str =
            "write {\"num_examples\": 1000, \"metrics\": {\"loss\": 0.5}} to $FEDBASIN_METRICS";
        let wrong = |what: &str| Error::failed(what, place, REMEDY);
        let value: Value =
            serde_json::from_str(text).map_err(|error| wrong(&format!("not JSON: {error}")))?;
        let Value::Object(object) = value else { return Err(wrong("not a JSON object")) };
        let num_examples = match object.get("num_examples") {
            None | Some(Value::Null) => fallback.ok_or_else(|| {
                Error::failed(
                    "the number of training examples is not known",
                    place,
                    "let the trainer write {\"num_examples\": N} to $FEDBASIN_METRICS, or give --num-examples N; nothing is trained again",
                )
            })?,
            Some(value) => whole_number(value).ok_or_else(|| wrong("num_examples is no whole number from 1 to 10^12"))?,
        };
        if !(1..=MAX_EXAMPLES).contains(&num_examples) {
            return Err(wrong("num_examples is no whole number from 1 to 10^12"));
        }
        let mut metrics = BTreeMap::new();
        let numbers = |map: &serde_json::Map<String, Value>, metrics: &mut MetricMap| {
            let found = map.iter().filter(|(name, _)| *name != "num_examples");
            metrics.extend(found.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))));
        };
        numbers(&object, &mut metrics);
        match object.get("metrics") {
            Some(Value::Object(inner)) => numbers(inner, &mut metrics),
            None | Some(Value::Null | Value::Number(_)) => {}
            Some(_) => return Err(wrong("\"metrics\" is not an object of numbers")),
        }
        let left_out = limit_metrics(&mut metrics);
        Ok((Self { num_examples, metrics }, left_out))
    }
}

/// Keeps what the contract allows: 64 metrics by name, finite, names of at most 64 characters. Returns how many went.
pub(crate) fn limit_metrics(metrics: &mut MetricMap) -> usize {
    let before = metrics.len();
    metrics.retain(|name, value| {
        !name.is_empty() && name.chars().count() <= MAX_METRIC_NAME && value.is_finite()
    });
    while metrics.len() > MAX_METRICS {
        metrics.pop_last();
    }
    before - metrics.len()
}

/// A whole number, also if Python wrote it as 1000.0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be whole and in range"
)]
fn whole_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && (0.0..=MAX_EXAMPLES as f64).contains(&number)).then_some(number as u64)
    })
}

#[cfg(test)]
mod tests;
