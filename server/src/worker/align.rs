//! Lease an update, align it to its reference, commit the permutations.

use std::time::Duration;

use rebasin::{AlignError, Aligned, CheckedSpec, Digest, MatchOptions};

use super::{
    Worker,
    cpu::{self, Halt},
};
use crate::{
    config::Work,
    error::{Code, Error, Result},
    store::{AlignWork, Store, StoredSource},
    telemetry::{Leased, Outcome, Step},
};

pub(super) async fn step(worker: &mut Worker) -> Result<bool> {
    let Some(lease) = worker.store.lease_alignment(worker.lease()).await? else { return Ok(false) };
    let (store, update) = (worker.store.clone(), lease.work.update.clone());
    let started = tokio::time::Instant::now();
    let span = store.traces().within(Step::align.name(), store.trace_of_update(&update.id).await);
    let mut span = span.map(|span| span.tell("run.id", &update.run_id).tell("update.id", &update.id));
    let computed = align(&store, &worker.settings, &lease.work);
    let Some(aligned) = worker.while_renewing(lease.token(), computed).await else {
        worker.telemetry().leased(Leased::align, Outcome::returned);
        worker.give_back(lease.token(), Duration::ZERO).await;
        return Ok(false);
    };
    let outcome = match aligned {
        Ok(aligned) => {
            let finished = store.finish_alignment(&lease, &aligned.alignment, &aligned.report).await;
            finished.map(|held| held.then_some(aligned.report.moved))
        }
        Err(error) => Err(error),
    };
    if let (Some(span), Err(error)) = (&mut span, &outcome) {
        span.fail(error.public_text());
    }
    drop(span);
    match outcome {
        Ok(Some(moved)) => {
            worker.storage_is_well();
            worker.telemetry().step(Step::align, started.elapsed());
            worker.telemetry().leased(Leased::align, Outcome::done);
            tracing::info!(
                run.id = update.run_id,
                round.number = update.round,
                site.id = update.site_id,
                update.id = update.id,
                alignment.moved = moved,
                duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                "update aligned"
            );
        }
        Ok(None) => {
            worker.telemetry().leased(Leased::align, Outcome::lost);
            tracing::warn!(run.id = update.run_id, update.id = update.id, "an alignment's lease was lost");
        }
        Err(error) => {
            worker.telemetry().leased(Leased::align, Outcome::failed);
            tracing::warn!(
                run.id = update.run_id,
                update.id = update.id,
                error.code = error.code().as_str(),
                error.message = error.message(),
                "aligning an update failed"
            );
            match error.code() {
                // The update is not to blame: it waits until the bytes are back.
                Code::Unavailable | Code::DataLoss => worker.storage_is_unwell(lease.token()).await,
                // The site and the operator read this.
                _ => _ = store.fail_alignment(&lease, error.public_text()).await?,
            }
        }
    }
    Ok(true)
}

async fn align(store: &Store, settings: &Work, work: &AlignWork) -> Result<Aligned> {
    let spec = checked_spec(work.run.spec.as_ref(), work.run.layout.as_ref())?;
    // The limit may have been another one when the layout was fixed.
    if let Some(layout) = &work.run.layout {
        store.check_memory(work.run.strategy, work.run.spec.as_ref(), layout)?;
    }
    let reference = store.source(&work.reference).await?;
    let update = store.source(&work.update.digest).await?;
    let options = match_options(settings, work.reference);
    cpu::run(move |halt| align_sources(&spec, &reference, &update, &options, halt)).await?
}

fn align_sources(
    spec: &CheckedSpec,
    reference: &StoredSource,
    update: &StoredSource,
    options: &MatchOptions,
    halt: &Halt,
) -> Result<Aligned> {
    let (reference, update) =
        rayon::join(|| rebasin::read_checkpoint(reference), || rebasin::read_checkpoint(update));
    let (reference, update) = (reference?, update?);
    let aligned = rebasin::align_canonically(spec, &reference, update, options, &mut |_| halt.flow());
    aligned.map_err(|error| match error {
        AlignError::Overflow { .. } | AlignError::Scale { .. } => {
            Error::new(Code::InvalidCheckpoint, error.to_string())
        }
        error => Error::internal(error),
    })
}

/// The run's spec, bound to its layout: both were checked when they were fixed.
pub(super) fn checked_spec(
    spec: Option<&rebasin::Spec>,
    layout: Option<&rebasin::Layout>,
) -> Result<CheckedSpec> {
    let spec = spec.ok_or_else(|| Error::internal("a run that aligns has no spec"))?;
    let layout = layout.ok_or_else(|| Error::internal("a run with updates has no layout"))?;
    spec.check(layout).map_err(Error::internal)
}

/// The seed comes from the reference's digest, so that the same inputs give the same bytes; and not from an update's, so that a site has no say in
/// it by the order of its units.
pub(super) fn match_options(settings: &Work, reference: Digest) -> MatchOptions {
    MatchOptions {
        seed: rebasin::seed_from_digests(&[reference]),
        starts: settings.starts.max(1),
        ..MatchOptions::default()
    }
}
