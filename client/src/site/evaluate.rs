//! How good published models are here: the site's own command tries them, and the server is told.

mod path;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fedbasin_proto::v1::{EvaluatedModel, Evaluation, ReportEvaluationRequest, RunState, RunStatus};
use rebasin::Digest;
use serde::{Deserialize, Serialize};
use tonic::Request;

use self::path::Point;
#[cfg(feature = "fuzzing")]
pub(super) use self::path::parse as parse_path;
use super::{
    Site,
    command::{Call, full},
    trainer::Metrics,
    workdir::RoundDir,
};
use crate::{
    download::download,
    error::{Error, Result},
    files::{hash_file, read_error, write_error},
    retry::patiently,
    trust,
};

/// The command that tries models.
#[derive(Debug, Clone)]
pub struct Evaluator {
    /// For `sh -c`.
    pub command: String,
    /// How long one call of it may take.
    pub limit: Duration,
}

/// What to do about figures that are none.
const MEND: &str =
    "let it write {\"num_examples\": 1000, \"loss\": 0.5, \"accuracy\": 0.9} to the file $FEDBASIN_METRICS";

/// What a command said of models, by their kind; what of that the server knows is noted.
pub(super) type Said = BTreeMap<String, Figures>;

/// What a command said of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    digest: String,
    num_examples: u64,
    #[serde(default)]
    loss: Option<f64>,
    #[serde(default)]
    accuracy: Option<f64>,
    /// From the model to the global one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    path: Vec<Point>,
    /// Whether the server holds it.
    #[serde(default)]
    reported: bool,
}

impl Figures {
    /// Of what a command wrote.
    fn of(metrics: &Metrics, path: Vec<Point>, digest: Digest, place: &str) -> Result<Self> {
        let (loss, accuracy) =
            (metrics.metrics.get("loss").copied(), metrics.metrics.get("accuracy").copied());
        if loss.is_none() && accuracy.is_none() {
            return Err(Error::failed("wrote neither a loss nor an accuracy", place, MEND));
        }
        if let Some(accuracy) = accuracy.filter(|accuracy| !(0.0..=1.0).contains(accuracy)) {
            return Err(Error::failed(
                format_args!("wrote an accuracy of {accuracy}, not of 0 to 1"),
                place,
                MEND,
            ));
        }
        let digest = digest.to_string();
        Ok(Self { digest, num_examples: metrics.num_examples, loss, accuracy, path, reported: false })
    }

    fn line(&self) -> String {
        let loss = self.loss.map(|loss| format!("loss {loss:.4}, "));
        let accuracy = self.accuracy.map(|accuracy| format!("accuracy {:.1} %, ", 100.0 * accuracy));
        let examples = if self.num_examples == 1 { "example" } else { "examples" };
        let path = match self.path.len() {
            0 => String::new(),
            points => format!(", {points} points of its path to the global model"),
        };
        format!(
            "{}{}{} {examples}{path}",
            loss.unwrap_or_default(),
            accuracy.unwrap_or_default(),
            self.num_examples
        )
    }
}

/// What a round published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    number: u32,
    global: Digest,
    /// The mean of its updates as they came, if its run asks for that.
    naive: Option<Digest>,
}

/// A model to try.
struct Candidate {
    kind: EvaluatedModel,
    digest: Digest,
    path: PathBuf,
    /// The global model's file, for another one, where it is here.
    global: Option<PathBuf>,
}

impl Candidate {
    fn name(&self) -> &'static str {
        match self.kind {
            EvaluatedModel::Naive => "naive",
            EvaluatedModel::Own => "own",
            EvaluatedModel::Global | EvaluatedModel::Unspecified => "global",
        }
    }
}

impl Site {
    /// What is to be tried now; nothing where this site tries none, or did already.
    pub(super) fn to_evaluate(&self, status: &RunStatus) -> Option<Published> {
        self.options.evaluate.as_ref()?;
        let goes_on = matches!(status.state(), RunState::Open | RunState::Complete);
        let is_new = self.evaluated.is_none_or(|evaluated| evaluated < status.global_round);
        let (global, naive) = (status.global_digest.parse().ok()?, status.naive_digest.parse().ok());
        let published = Published { number: status.global_round, global, naive };
        (goes_on && is_new && published.number > 0).then_some(published)
    }

    /// Tries the models of a published round, and tells the server. What this folder says was tried is not tried again. A command
    /// that fails is no failure of the site: it is said, and the run goes on.
    ///
    /// # Errors
    /// The model cannot be had or is not signed, or the folder cannot be read or written.
    pub(super) async fn evaluate(&mut self, published: Published) -> Result<()> {
        let number = published.number;
        let Some(evaluator) = self.options.evaluate.clone() else { return Ok(()) };
        self.evaluated = Some(number);
        let dir = self.dir.round(number)?;
        let mut said = dir.evaluations()?;
        for candidate in self.candidates(&dir, published, &said).await? {
            let (name, digest) = (candidate.name(), candidate.digest.to_string());
            if said.get(name).is_none_or(|figures| figures.digest != digest) {
                match self.try_model(&evaluator, &dir, number, &candidate).await {
                    Ok(figures) => said.insert(name.to_owned(), figures),
                    Err(error) => {
                        self.screen
                            .say(format_args!("round {number}: the {name} model is not evaluated: {error}"));
                        continue;
                    }
                };
                dir.save_evaluations(&said)?;
            }
            let Some(figures) = said.get_mut(name).filter(|figures| !figures.reported) else { continue };
            self.screen.say(format_args!("round {number}: {name} model: {}", figures.line()));
            match self.report(number, candidate.kind, figures).await {
                Ok(()) => figures.reported = true,
                Err(error) => {
                    self.screen.say(format_args!("round {number}: the evaluation is not reported: {error}"));
                    continue;
                }
            }
            dir.save_evaluations(&said)?;
        }
        // Nobody goes on from it.
        dir.remove_naive()
    }

    /// The models of a round that are here, or can be had.
    async fn candidates(
        &mut self,
        dir: &RoundDir,
        Published { number, global, naive }: Published,
        said: &Said,
    ) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        // Where it is gone a newer one took its place meanwhile, and the run keeps no others.
        let fetched = self.fetch_global(global).await;
        let found = self.unless_gone(fetched, number, "global")?;
        if let Some(path) = found.clone() {
            candidates.push(Candidate { kind: EvaluatedModel::Global, digest: global, path, global: None });
        }
        let sent = dir.ticket()?.is_some_and(|ticket| ticket.trained && ticket.rejected.is_none());
        let path = dir.output();
        if sent && path.exists() {
            let (hasher, _) = hash_file(&path).map_err(|error| read_error(&path, &error))?;
            let (kind, digest) = (EvaluatedModel::Own, hasher.finish());
            candidates.push(Candidate { kind, digest, path, global: found.clone() });
        }
        let Some(digest) = naive else { return Ok(candidates) };
        let path = dir.naive();
        let is_said = said.get("naive").is_some_and(|figures| figures.digest == digest.to_string());
        let fetched = if is_said { Ok(()) } else { self.fetch(digest, &path, "naive mean").await };
        // It is kept until the next round is published.
        if self.unless_gone(fetched, number, "naive")?.is_some() {
            candidates.push(Candidate { kind: EvaluatedModel::Naive, digest, path, global: found });
        }
        Ok(candidates)
    }

    /// What was fetched; nothing, which is said, where the server no longer has it.
    fn unless_gone<T>(&self, fetched: Result<T>, number: u32, name: &str) -> Result<Option<T>> {
        match fetched {
            Ok(fetched) => Ok(Some(fetched)),
            Err(error) if error.code() == Some("not-found") => {
                self.screen.say(format_args!("round {number}: the {name} model is not evaluated: {error}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A model's file, downloaded unless it is here; its signature lies beside it.
    async fn fetch(&self, digest: Digest, path: &Path, label: &str) -> Result<()> {
        let signature = self.trust.model(&self.client, digest, Some(&self.options.run_id)).await?;
        download(&self.client, digest, path, self.most, self.options.patience, &self.screen, label).await?;
        trust::keep_signature(signature.as_deref(), path)
    }

    /// The newest global model's file, downloaded unless it is here; its signature lies beside it.
    ///
    /// # Errors
    /// It cannot be had, or is not signed.
    pub(super) async fn fetch_global(&mut self, digest: Digest) -> Result<PathBuf> {
        let path = self.dir.global();
        self.fetch(digest, &path, "global model").await?;
        self.global = Some(digest);
        Ok(path)
    }

    /// One call of the command.
    async fn try_model(
        &self,
        evaluator: &Evaluator,
        dir: &RoundDir,
        number: u32,
        candidate: &Candidate,
    ) -> Result<Figures> {
        let place = format!("the evaluation of the {} model of round {number}", candidate.name());
        let metrics = dir.attempt()?.metrics;
        let environment = [
            ("FEDBASIN_RUN", self.options.run_id.as_str().into()),
            ("FEDBASIN_ROUND", number.to_string().into()),
            ("FEDBASIN_KIND", candidate.name().into()),
            ("FEDBASIN_MODEL", full(&candidate.path)?),
            ("FEDBASIN_GLOBAL", candidate.global.as_deref().map(full).transpose()?.unwrap_or_default()),
            ("FEDBASIN_METRICS", full(&metrics)?),
        ];
        let call = Call {
            command: &evaluator.command,
            place: &place,
            environment: &environment,
            for_a_program: self.screen.is_for_a_program(),
        };
        self.screen.say(format_args!("round {number}: evaluating the {} model", candidate.name()));
        match tokio::time::timeout(evaluator.limit, call.run()).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                let limit = evaluator.limit.as_secs();
                return Err(Error::failed(
                    format_args!("took longer than {limit} s and was ended"),
                    place,
                    "give it more time with --evaluate-seconds, or fewer examples",
                ));
            }
        }
        if !metrics.is_file() {
            return Err(Error::failed("wrote no figures", place, MEND));
        }
        let (found, _) = Metrics::read(&metrics, None).map_err(|error| error.with_remedy(MEND))?;
        let path = path::read(&metrics, &place)?;
        fs::remove_file(&metrics).map_err(|error| write_error(&metrics, &error))?;
        if candidate.kind == EvaluatedModel::Global && !path.is_empty() {
            let what = "wrote a path from the global model, where paths end";
            return Err(Error::failed(what, place, "write none where $FEDBASIN_KIND is global"));
        }
        Figures::of(&found, path, candidate.digest, &place)
    }

    async fn report(&self, round: u32, model: EvaluatedModel, figures: &Figures) -> Result<()> {
        let place = format!("reporting the evaluation of round {round} at {}", self.client.url());
        let answer = patiently(self.options.patience, &place, async || {
            let evaluation = Evaluation {
                model: model.into(),
                digest: figures.digest.clone(),
                num_examples: figures.num_examples,
                loss: figures.loss,
                accuracy: figures.accuracy,
                path: figures.path.iter().map(Point::message).collect(),
            };
            let mut request = Request::new(ReportEvaluationRequest {
                run_id: self.options.run_id.clone(),
                round,
                evaluations: vec![evaluation],
            });
            request.set_timeout(Duration::from_secs(60));
            self.client.clone().report_evaluation(request).await
        });
        answer.await.map(drop)
    }
}

#[cfg(test)]
mod tests;
