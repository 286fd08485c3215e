//! What sites say of models.

use std::collections::BTreeSet;

use fedbasin_proto::{MAX_LOSS, MAX_NUM_EXAMPLES};
use rebasin::Digest;
use serde::Serialize;

use super::path::{self, PathPoint};
use crate::{
    error::{Error, Result},
    round::Millis,
};

/// Which model of a round was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Evaluated {
    /// What the round published.
    Global,
    /// The mean of its updates as they came, without alignment; none is made so far.
    Naive,
    /// What the site has by itself.
    Own,
}

impl Evaluated {
    /// The name, as stored and shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Naive => "naive",
            Self::Own => "own",
        }
    }

    /// Reads a stored name.
    pub(crate) fn from_name(name: &str) -> Result<Self> {
        match name {
            "global" => Ok(Self::Global),
            "naive" => Ok(Self::Naive),
            "own" => Ok(Self::Own),
            _ => Err(Error::internal(format_args!("evaluations.model holds {name:?}"))),
        }
    }
}

/// What a site says of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvaluation {
    /// Which.
    pub model: Evaluated,
    /// SHA-256 of its bytes; of an own model the site's word.
    pub digest: Digest,
    /// How many examples it was tried with.
    pub num_examples: u64,
    /// Mean loss over them.
    pub loss: Option<f64>,
    /// Fraction of them that was right.
    pub accuracy: Option<f64>,
    /// The way from it to the global model; empty where nobody measured that.
    pub path: Vec<PathPoint>,
}

/// What a site says of the models of one round.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvaluations {
    /// The run.
    pub run_id: String,
    /// The round's number.
    pub round: u32,
    /// Each of another model.
    pub evaluations: Vec<NewEvaluation>,
}

impl NewEvaluations {
    /// Checks what needs no look into the store.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`](crate::error::Code) naming the field.
    pub fn check(&self) -> Result<()> {
        if self.evaluations.is_empty() {
            return Err(Error::invalid("evaluations: there is none; send at least one"));
        }
        let mut known = BTreeSet::new();
        for evaluation in &self.evaluations {
            if !known.insert(evaluation.model) {
                return Err(Error::invalid(format!(
                    "evaluations: two are of the {} model; send one",
                    evaluation.model.name()
                )));
            }
            evaluation.check()?;
        }
        Ok(())
    }
}

impl NewEvaluation {
    fn check(&self) -> Result<()> {
        if self.num_examples == 0 || self.num_examples > MAX_NUM_EXAMPLES {
            return Err(Error::invalid(format!(
                "num_examples: {} is not within 1 and {MAX_NUM_EXAMPLES}; send how many examples the model was tried with",
                self.num_examples
            )));
        }
        if self.loss.is_none() && self.accuracy.is_none() {
            return Err(Error::invalid(
                "evaluations: one has neither loss nor accuracy; send one of the two",
            ));
        }
        if self.loss.is_some_and(|loss| !loss.is_finite() || loss.abs() > MAX_LOSS) {
            return Err(Error::invalid(format!(
                "loss: not a finite number of a magnitude of at most {MAX_LOSS:e}"
            )));
        }
        if self.accuracy.is_some_and(|accuracy| !(0.0..=1.0).contains(&accuracy)) {
            return Err(Error::invalid(
                "accuracy: not a number within 0 and 1; send the fraction that was right",
            ));
        }
        if self.model == Evaluated::Global && !self.path.is_empty() {
            return Err(Error::invalid(
                "path: the global model has none, for there paths end; send that of another model",
            ));
        }
        path::check(&self.path)
    }
}

/// What a site said of a model, last.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Who.
    pub site_id: String,
    /// What.
    pub of: NewEvaluation,
    /// When it was said.
    pub reported_at_ms: Millis,
}

/// What all sites together said of a model: means, weighted by examples.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanEvaluation {
    /// The round's number.
    pub round: u32,
    /// Which model.
    pub model: Evaluated,
    /// How many sites tried it.
    pub sites: u32,
    /// With how many examples in all.
    pub num_examples: u64,
    /// Mean loss, over the examples of the sites that told one.
    pub loss: Option<f64>,
    /// Fraction that was right, over the examples of the sites that told it.
    pub accuracy: Option<f64>,
}
