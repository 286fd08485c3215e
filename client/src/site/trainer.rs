//! The site's own trainer: any program, told by its environment what to do.

use std::{collections::BTreeMap, path::Path, time::Instant};

use fedbasin_proto::{MAX_METRIC_NAME_BYTES, MAX_METRICS, MAX_NUM_EXAMPLES, is_metric_name};
use serde_json::Value;

use super::{
    MetricMap,
    command::{Call, full},
    workdir::{Attempt, RoundDir},
};
use crate::{
    error::{Error, Result},
    files::read_text,
};

/// A metrics file larger than this is none.
pub(super) const MAX_METRICS_BYTES: u64 = 1 << 20;

/// One call of the trainer.
pub(super) struct Trainer<'a> {
    pub(super) command: &'a str,
    pub(super) run_id: &'a str,
    pub(super) round: u32,
    pub(super) reference: Option<&'a Path>,
    pub(super) dir: &'a RoundDir,
    /// Whether standard output is for an answer that a program reads.
    pub(super) for_a_program: bool,
}

impl Trainer<'_> {
    /// Runs the command through `sh -c` to its end; returns how many seconds it took. Its output goes where our lines go.
    /// What it wrote gets its name in the round's folder only once it succeeded. Dropping the future ends the trainer and
    /// what it started.
    ///
    /// # Errors
    /// It cannot be started, exits with something else than 0, or leaves no output.
    pub(super) async fn run(&self) -> Result<f64> {
        let attempt = self.dir.attempt()?;
        let place = format!("the trainer of round {}", self.round);
        let begun = Instant::now();
        let environment = [
            ("FEDBASIN_RUN", self.run_id.into()),
            ("FEDBASIN_ROUND", self.round.to_string().into()),
            ("FEDBASIN_REFERENCE", self.reference.map(full).transpose()?.unwrap_or_default()),
            ("FEDBASIN_OUTPUT", full(&attempt.output)?),
            ("FEDBASIN_METRICS", full(&attempt.metrics)?),
        ];
        let call = Call {
            command: self.command,
            place: &place,
            environment: &environment,
            for_a_program: self.for_a_program,
        };
        call.run().await?;
        failpoint!("train.ended");
        check_written(&attempt, &place)?;
        let seconds = begun.elapsed().as_secs_f64();
        self.dir.keep(&attempt)?;
        failpoint!("train.kept");
        Ok(seconds)
    }
}

/// A trainer that succeeded must have left a file, and may have left metrics; folders are neither.
fn check_written(attempt: &Attempt, place: &str) -> Result<()> {
    let wrong = |what, remedy| Err(Error::failed(what, place, remedy));
    if attempt.output.is_dir() {
        return wrong(
            "wrote a folder; a safetensors file is wanted",
            "write the file $FEDBASIN_OUTPUT itself, for instance by safetensors.torch.save_file",
        );
    }
    if !attempt.output.is_file() {
        return wrong(
            "succeeded but wrote no checkpoint",
            "it must write a safetensors file to $FEDBASIN_OUTPUT",
        );
    }
    if attempt.metrics.exists() && !attempt.metrics.is_file() {
        return wrong("wrote metrics that are no file", "write JSON to the file $FEDBASIN_METRICS itself");
    }
    Ok(())
}

/// What a trainer reports beside the checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Metrics {
    pub(super) num_examples: u64,
    pub(super) metrics: MetricMap,
}

/// What to do about a metrics file that was kept: the training is done, only its figures are not known.
const MEND_METRICS: &str =
    "correct this file, or remove it and give --num-examples N, and start again; nothing is trained again";

/// Metrics that were written but are not sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Names of those that are no finite number.
    pub(super) no_numbers: Vec<String>,
    /// How many did not fit into the contract's limits.
    pub(super) over_limits: usize,
}

impl Metrics {
    /// Reads the trainer's JSON: `{"num_examples": 9, "metrics": {"loss": 0.5}}`, or flat: `{"num_examples": 9, "loss": 0.5}`.
    /// The file may be absent if `fallback` says the number of examples. Returns also what is left out.
    ///
    /// # Errors
    /// A file that is not such JSON, no valid number of examples anywhere, or a metric whose name no server takes.
    pub(super) fn read(path: &Path, fallback: Option<u64>) -> Result<(Self, LeftOut)> {
        let text = if path.exists() {
            read_text(path, MAX_METRICS_BYTES).map_err(|error| error.with_remedy(MEND_METRICS))?
        } else {
            "{}".to_owned()
        };
        Self::parse(&text, fallback, &path.display().to_string())
    }

    pub(super) fn parse(text: &str, fallback: Option<u64>, place: &str) -> Result<(Self, LeftOut)> {
        let wrong = |what: &str| Error::failed(what, place, MEND_METRICS);
        let value: Value =
            serde_json::from_str(&without_nan(text)).map_err(|error| wrong(&format!("not JSON: {error}")))?;
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
        if !(1..=MAX_NUM_EXAMPLES).contains(&num_examples) {
            return Err(wrong("num_examples is no whole number from 1 to 10^12"));
        }
        let mut metrics = BTreeMap::new();
        let mut left_out = LeftOut::default();
        for (name, value) in object.iter().filter(|(name, _)| *name != "num_examples") {
            match value {
                Value::Object(inner) if name == "metrics" => {
                    for (name, value) in inner.iter().filter(|(name, _)| *name != "num_examples") {
                        left_out.take(name, value, &mut metrics);
                    }
                }
                // Python's None: there are none.
                Value::Null if name == "metrics" => {}
                Value::Array(_) | Value::String(_) | Value::Bool(_) if name == "metrics" => {
                    return Err(wrong("\"metrics\" is not an object of numbers"));
                }
                _ => left_out.take(name, value, &mut metrics),
            }
        }
        if let Some(name) = bad_metric_name(&metrics) {
            return Err(Error::failed(
                format_args!("the metric name {name:?} {METRIC_NAME_RULE}"),
                place,
                "rename it in this file (nothing is trained again) and in the trainer, then start the same command again",
            ));
        }
        left_out.over_limits = limit_metrics(&mut metrics);
        Ok((Self { num_examples, metrics }, left_out))
    }
}

impl LeftOut {
    /// A number becomes a metric; of anything else the name is noted.
    fn take(&mut self, name: &str, value: &Value, metrics: &mut MetricMap) {
        match value.as_f64() {
            Some(number) => {
                metrics.insert(name.to_owned(), number);
            }
            None => self.no_numbers.push(name.to_owned()),
        }
    }
}

/// Python's `json.dump` writes NaN, Infinity and -Infinity, which JSON does not have: they become null.
pub(super) fn without_nan(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_string = false;
    while let Some(first) = rest.chars().next() {
        let token = ["NaN", "Infinity", "-Infinity"].into_iter().find(|token| rest.starts_with(token));
        let length = match (first, token) {
            (_, Some(token)) if !in_string => {
                out.push_str("null");
                rest = &rest[token.len()..];
                continue;
            }
            ('"', _) => {
                in_string = !in_string;
                1
            }
            // What is escaped does not end the string.
            ('\\', _) if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => first.len_utf8(),
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

/// What is wrong with a bad name of a metric.
pub(crate) const METRIC_NAME_RULE: &str = "is not 1 to 64 characters of printable ASCII";
const _: () = assert!(MAX_METRIC_NAME_BYTES == 64 && MAX_METRICS == 64, "texts say 64");

/// A metric whose name the contract does not allow, if there is one.
pub(crate) fn bad_metric_name(metrics: &MetricMap) -> Option<&str> {
    metrics.keys().map(String::as_str).find(|name| !is_metric_name(name))
}

/// Keeps what the contract allows: 64 metrics by name, finite. Returns how many went.
pub(crate) fn limit_metrics(metrics: &mut MetricMap) -> usize {
    let before = metrics.len();
    metrics.retain(|_, value| value.is_finite());
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
        (number.fract() == 0.0 && (0.0..=MAX_NUM_EXAMPLES as f64).contains(&number)).then_some(number as u64)
    })
}

#[cfg(test)]
mod tests;
