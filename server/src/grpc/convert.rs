//! Between the wire's messages and the model's types.

use fedbasin_proto::v1;
use rebasin::AlignReport;

use crate::{
    error::{Error, Result},
    model::{
        Evaluated, NewEvaluation, NewEvaluations, NewUpdate, PathPoint, Receipt, RoundRecord, Run, RunState,
        Update, UpdateState,
    },
    round::State,
};

pub(super) fn new_update(request: v1::BeginUpdateRequest) -> Result<NewUpdate> {
    let digest = digest(&request.digest)?;
    Ok(NewUpdate {
        run_id: request.run_id,
        round: request.round,
        digest,
        size: request.size,
        num_examples: request.num_examples,
        metrics: request.metrics.into_iter().collect(),
    })
}

fn path_point(point: v1::PathPoint) -> PathPoint {
    let v1::PathPoint { t, loss, accuracy } = point;
    PathPoint { t, loss, accuracy }
}

pub(super) fn new_evaluations(request: v1::ReportEvaluationRequest) -> Result<NewEvaluations> {
    let mut evaluations = Vec::with_capacity(request.evaluations.len());
    for evaluation in request.evaluations {
        let model = match evaluation.model() {
            v1::EvaluatedModel::Global => Evaluated::Global,
            v1::EvaluatedModel::Naive => Evaluated::Naive,
            v1::EvaluatedModel::Own => Evaluated::Own,
            v1::EvaluatedModel::Unspecified => {
                return Err(Error::invalid("model: say which one, global, naive or own"));
            }
        };
        evaluations.push(NewEvaluation {
            model,
            digest: digest(&evaluation.digest)?,
            num_examples: evaluation.num_examples,
            loss: evaluation.loss,
            accuracy: evaluation.accuracy,
            path: evaluation.path.into_iter().map(path_point).collect(),
        });
    }
    Ok(NewEvaluations { run_id: request.run_id, round: request.round, evaluations })
}

pub(super) fn digest(text: &str) -> Result<rebasin::Digest> {
    text.parse().map_err(|_| Error::invalid("digest: not a SHA-256 in lower-case hex, 64 characters"))
}

pub(super) fn receipt(receipt: Receipt) -> v1::Receipt {
    v1::Receipt {
        signature: bytes::Bytes::new(),
        log_record: None,
        update_id: receipt.update_id,
        run_id: receipt.run_id,
        round: receipt.round,
        site_id: receipt.site_id,
        digest: receipt.digest.to_string(),
        size: receipt.size,
        num_examples: receipt.num_examples,
        accepted_at_ms: receipt.accepted_at_ms,
    }
}

pub(super) fn update(update: &Update) -> v1::Update {
    let state = match update.state {
        UpdateState::Receiving => v1::UpdateState::Receiving,
        UpdateState::Accepted { .. } => v1::UpdateState::Accepted,
        UpdateState::Aligned { .. } => v1::UpdateState::Aligned,
        UpdateState::Rejected { .. } => v1::UpdateState::Rejected,
        UpdateState::Declined { .. } => v1::UpdateState::Declined,
    };
    v1::Update {
        update_id: update.id.clone(),
        run_id: update.run_id.clone(),
        round: update.round,
        digest: update.digest.to_string(),
        size: update.size,
        num_examples: update.num_examples,
        state: state.into(),
        reason: update.state.reason().unwrap_or_default().to_owned(),
        receipt: update.receipt().map(receipt),
        withdrawn_at_ms: update.withdrawn_at_ms,
        alignment: match &update.state {
            UpdateState::Aligned { report, .. } => Some(alignment(report)),
            _ => None,
        },
    }
}

fn alignment(report: &AlignReport) -> v1::Alignment {
    v1::Alignment {
        objective_before: report.objective_before,
        objective_after: report.objective_after,
        l2_before: report.l2_before,
        l2_after: report.l2_after,
        moved: report.moved,
        sweeps: report.sweeps,
        groups: report
            .groups
            .iter()
            .map(|group| v1::GroupAlignment {
                name: group.name.clone(),
                size: u32::try_from(group.size).unwrap_or(u32::MAX),
                moved: group.moved,
                objective_before: group.objective_before,
                objective_after: group.objective_after,
                l2_before: group.l2_before,
                l2_after: group.l2_after,
                margins: group.margins.map(|margins| v1::Margins {
                    best: margins.best,
                    p5: margins.p5,
                    median: margins.median,
                }),
            })
            .collect(),
    }
}

/// What a round looks like to one site, which may know `reference`. `sizes` are those of the reference and of the global
/// model.
pub(super) fn round_status(
    record: &RoundRecord,
    cohort: usize,
    reference: Option<rebasin::Digest>,
    sizes: (u64, u64),
    own: Option<&Update>,
) -> v1::RoundStatus {
    let round = &record.round;
    let (state, reason, global) = match &round.state {
        State::Collecting => (v1::RoundState::Collecting, "", None),
        State::Merging => (v1::RoundState::Merging, "", None),
        State::Published { global } => (v1::RoundState::Published, "", Some(global)),
        State::Failed { reason } => (v1::RoundState::Failed, reason.as_str(), None),
        State::Cancelled => (v1::RoundState::Cancelled, "", None),
    };
    v1::RoundStatus {
        number: round.number,
        state: state.into(),
        reason: reason.to_owned(),
        reference_digest: reference.map(|digest| digest.to_string()).unwrap_or_default(),
        reference_size: sizes.0,
        global_digest: global.map(ToString::to_string).unwrap_or_default(),
        global_size: sizes.1,
        deadline_at_ms: round.window.deadline_at_ms,
        quorum: round.window.quorum,
        cohort: u32::try_from(cohort).unwrap_or(u32::MAX),
        accepted: round.accepted,
        own_update: own.map(update),
    }
}

pub(super) fn run_status(
    run: &Run,
    round: Option<v1::RoundStatus>,
    max_checkpoint_bytes: u64,
) -> v1::RunStatus {
    let (state, reason) = match &run.state {
        RunState::Open => (v1::RunState::Open, ""),
        RunState::Complete => (v1::RunState::Complete, ""),
        RunState::Failed { reason } => (v1::RunState::Failed, reason.as_str()),
        RunState::Cancelled => (v1::RunState::Cancelled, ""),
    };
    v1::RunStatus {
        run_id: run.id.clone(),
        state: state.into(),
        reason: reason.to_owned(),
        rounds: run.policy.rounds,
        rounds_published: run.rounds_published,
        round,
        global_digest: run.global.map(|digest| digest.to_string()).unwrap_or_default(),
        max_checkpoint_bytes,
        global_round: run.global_round.unwrap_or_default(),
        naive_digest: run.naive.map(|digest| digest.to_string()).unwrap_or_default(),
    }
}
