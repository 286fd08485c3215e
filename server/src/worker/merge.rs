//! Lease a round, merge its updates blockwise, store the model, publish.

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use rebasin::{AlignReport, Alignment, Differences, Digest, Input, MatchOptions, MergeError, Source as _};

use super::{
    Worker,
    align::{checked_spec, match_options},
    cpu::{self, Halt},
};
use crate::{
    config::Work,
    error::{Code, Error, Result},
    model::Strategy,
    round::Judged,
    signing::{Made, Signer},
    store::{Kind, Lease, MergeWork, Scratch, Sealed, Staging, Store, StoredSource},
    telemetry::{Leased, Outcome, Step},
};

type Refined = Vec<(String, Alignment, AlignReport)>;

/// A merged model, not published yet.
struct Merged {
    sealed: Sealed,
    refined: Refined,
    /// How its updates stand beside one another.
    differences: Differences,
    /// The length that distances to the reference are told by.
    reference_norm: f64,
    /// Where its bytes are, until it is stored.
    _file: Scratch,
}

pub(super) async fn step(worker: &mut Worker) -> Result<bool> {
    let Some(lease) = worker.store.lease_merge(worker.lease()).await? else { return Ok(false) };
    let (store, signer) = (worker.store.clone(), worker.signer.clone());
    let (run_id, round, count) = (lease.work.run.id.clone(), lease.work.round, lease.work.inputs.len());
    let started = tokio::time::Instant::now();
    let work = attempt(&store, &signer, &worker.settings, &lease, started);
    let Some(outcome) = worker.while_renewing(lease.token(), work).await else {
        worker.telemetry().leased(Leased::merge, Outcome::returned);
        worker.give_back(lease.token(), Duration::ZERO).await;
        return Ok(false);
    };
    match outcome {
        Ok(Some(Done::Rejected(updates))) => {
            worker.telemetry().leased(Leased::merge, Outcome::done);
            worker.storage_is_well();
            tracing::warn!(
                run.id = run_id,
                round.number = round,
                round.rejected = updates,
                "implausible updates were rejected; what is left of the round is merged again"
            );
        }
        Ok(Some(Done::Published(global))) => {
            worker.telemetry().leased(Leased::merge, Outcome::done);
            worker.storage_is_well();
            tracing::info!(
                run.id = run_id,
                round.number = round,
                round.updates = count,
                model.digest = %global,
                duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                "round published"
            );
        }
        Ok(None) => {
            worker.telemetry().leased(Leased::merge, Outcome::lost);
            tracing::warn!(run.id = run_id, round.number = round, "a merge's lease was lost");
        }
        Err(error) => {
            worker.telemetry().leased(Leased::merge, Outcome::failed);
            tracing::warn!(
                run.id = run_id,
                round.number = round,
                error.code = error.code().as_str(),
                error.message = error.message(),
                "merging a round failed"
            );
            match error.code() {
                Code::Unavailable => worker.storage_is_unwell(lease.token()).await,
                // Sites and operators read this.
                _ => _ = store.fail_merge(&lease, error.public_text()).await?,
            }
        }
    }
    Ok(true)
}

/// Merges a leased round and publishes it, each in a span of its trace; nothing where the lease was lost meanwhile.
async fn attempt(
    store: &Store,
    signer: &Signer,
    settings: &Work,
    lease: &Lease<MergeWork>,
    started: tokio::time::Instant,
) -> Result<Option<Done>> {
    let (run_id, round) = (&lease.work.run.id, lease.work.round);
    let (trace, of_updates) = store.traces_of_round(run_id, round).await;
    let trace = trace.or(of_updates.first().copied());
    let span = store.traces().within(Step::merge.name(), trace);
    let mut span = span.map(|span| span.tell("run.id", run_id).tell("round.number", &round));
    if let Some(span) = &mut span {
        // Its own trace is that of one of them.
        of_updates.iter().filter(|of| trace.is_some_and(|own| own.id != of.id)).for_each(|of| span.link(*of));
    }
    let model = merge(store, settings, &lease.work).await;
    if let (Some(span), Err(error)) = (&mut span, &model) {
        span.fail(error.public_text());
    }
    drop(span);
    let model = model?;
    store.telemetry().step(Step::merge, started.elapsed());
    let merged = tokio::time::Instant::now();
    let judged = judge(&lease.work, &model.differences);
    let (mut kept, mut rejected) = (Vec::new(), Vec::new());
    for (update_id, judged, is_rejected) in judged {
        if is_rejected { &mut rejected } else { &mut kept }.push((update_id, judged));
    }
    if !rejected.is_empty() {
        let held = store.reject_implausible(lease, &rejected).await?;
        return Ok(held.then_some(Done::Rejected(rejected.len())));
    }
    let naive = naive_mean(store, &lease.work).await?;
    let span = store.traces().within(Step::publish.name(), trace);
    let _span = span.map(|span| span.tell("run.id", run_id).tell("model.digest", &model.sealed.digest));
    let made = Made { work: &lease.work, refined: &model.refined, reference_norm: model.reference_norm };
    let sign = |place| signer.model(&made, &model.sealed.digest, place);
    let plain = naive.as_ref().map(|(sealed, _)| sealed);
    let global = store.finish_merge(lease, &model.sealed, plain, &model.refined, &kept, sign).await?;
    store.telemetry().step(Step::publish, merged.elapsed());
    Ok(global.map(Done::Published))
}

/// What came of a merge.
enum Done {
    Published(Digest),
    /// Nothing was published: so many updates were taken out.
    Rejected(usize),
}

/// What the run's policy says of each update, by its id, and whether it is to be rejected. Logged here, once.
fn judge(work: &MergeWork, differences: &Differences) -> Vec<(String, Judged, bool)> {
    let standings = differences.standings();
    let verdicts = work.run.policy.plausibility.judge(&standings);
    let mut judged = Vec::with_capacity(standings.len());
    for ((input, standing), verdict) in work.inputs.iter().zip(standings).zip(verdicts) {
        for warning in &verdict.warnings {
            tracing::warn!(
                run.id = work.run.id,
                round.number = work.round,
                site.id = input.site_id,
                update.id = input.update_id,
                warning,
                "an update is implausible"
            );
        }
        let record = Judged { standing, warnings: verdict.warnings };
        judged.push((input.update_id.clone(), record, verdict.rejected));
    }
    judged
}

async fn merge(store: &Store, settings: &Work, work: &MergeWork) -> Result<Merged> {
    let (shares, reference, sources) = opened(store, work).await?;
    failpoint!("merge.opened");
    let spec = match work.run.strategy {
        Strategy::Mean => None,
        _ => Some(checked_spec(work.run.spec.as_ref(), work.run.layout.as_ref())?),
    };
    let reference_norm = match &spec {
        Some(spec) => store.magnitudes(&work.reference).await?.norm(spec.layout()),
        None => 0.0,
    };
    let mut alignments: Vec<Option<Arc<Alignment>>> =
        work.inputs.iter().map(|input| input.alignment.clone()).collect();
    let options = match_options(settings, work.reference);
    let ids: Vec<String> = work.inputs.iter().map(|input| input.update_id.clone()).collect();
    let refine = work.run.strategy == Strategy::MergeMany;
    let (scratch, layout, store) = (store.scratch(Kind::Merge), work.run.layout.clone(), store.clone());
    // The file's name travels with who writes it, so that it cannot go before the last write.
    cpu::run(move |halt| {
        let mut refined = Vec::new();
        if let (true, Some(spec)) = (refine, &spec) {
            let found = self::refine(spec, &reference, &sources, &mut alignments, &shares, &options, halt)?;
            refined =
                ids.into_iter().zip(found).map(|(id, (alignment, report))| (id, alignment, report)).collect();
        }
        let inputs: Vec<Input<'_>> = sources
            .iter()
            .zip(&alignments)
            .zip(&shares)
            .map(|((source, alignment), share)| Input {
                source,
                alignment: alignment.as_deref(),
                share: *share,
            })
            .collect();
        let (sealed, differences) =
            write_model(&store, &scratch, spec.as_ref(), &inputs, &reference, layout)?;
        Ok(Merged { sealed, refined, differences, reference_norm, _file: scratch })
    })
    .await?
}

/// The mean of a round's updates as they came, where the run asks for it and aligns; its file is there as long as the second part lives.
async fn naive_mean(store: &Store, work: &MergeWork) -> Result<Option<(Sealed, Scratch)>> {
    if !work.run.policy.evaluate_naive || !work.run.strategy.aligns() {
        return Ok(None);
    }
    let (shares, reference, sources) = opened(store, work).await?;
    let (scratch, layout, store) = (store.scratch(Kind::Merge), work.run.layout.clone(), store.clone());
    cpu::run(move |_| {
        let inputs: Vec<Input<'_>> = sources
            .iter()
            .zip(&shares)
            .map(|(source, share)| Input { source, alignment: None, share: *share })
            .collect();
        let (sealed, _) = write_model(&store, &scratch, None, &inputs, &reference, layout)?;
        Ok(Some((sealed, scratch)))
    })
    .await?
}

/// What a round is merged from: the shares of its updates, its reference, and the updates.
async fn opened(store: &Store, work: &MergeWork) -> Result<(Vec<f64>, StoredSource, Vec<StoredSource>)> {
    let counts: Vec<u64> = work.inputs.iter().map(|input| input.num_examples).collect();
    let shares = rebasin::shares(&counts).map_err(Error::internal)?;
    let reference = store.source(&work.reference).await?;
    let mut sources = Vec::with_capacity(work.inputs.len());
    for input in &work.inputs {
        sources.push(store.source(&input.digest).await?);
    }
    Ok((shares, reference, sources))
}

/// Writes the merged model through the same gate as an upload, hashed, scanned and measured on its way: what is published is a valid
/// checkpoint, and nothing is read back.
fn write_model(
    store: &Store,
    scratch: &Scratch,
    spec: Option<&rebasin::CheckedSpec>,
    inputs: &[Input<'_>],
    reference: &StoredSource,
    layout: Option<rebasin::Layout>,
) -> Result<(Sealed, Differences)> {
    let size = rebasin::Header::canonical_file_size(reference.header().layout());
    let staging = store.staging_measured(scratch.name(), size, layout)?;
    let mut out = ModelFile { staging, syncing: None, failed: None };
    let merged = rebasin::merge_measured(spec, inputs, reference, &mut out, &mut |_, _| {});
    if let Some(error) = out.failed.take() {
        return Err(error);
    }
    let differences = merged.map_err(|error| match error {
        MergeError::Io(error) => Error::from(error),
        error => Error::internal(error),
    })?;
    failpoint!("merge.written");
    out.settle()?;
    let sealed = out.staging.seal(None)?;
    failpoint!("merge.sealed");
    Ok((sealed, differences))
}

/// Takes a merged model's bytes; those before are made durable meanwhile.
struct ModelFile {
    staging: Staging,
    syncing: Option<(JoinHandle<Result<()>>, u64)>,
    /// What an [`io::Error`] cannot hold.
    failed: Option<Error>,
}

impl ModelFile {
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.staging.append(bytes)?;
        if self.syncing.as_ref().is_some_and(|(thread, _)| thread.is_finished()) {
            self.settle()?;
        }
        if self.syncing.is_none() && self.staging.sync_is_due() {
            let (work, durable) = self.staging.begin_sync()?;
            self.syncing = Some((std::thread::spawn(work), durable));
        }
        Ok(())
    }

    /// Waits for what is on its way to the disk.
    fn settle(&mut self) -> Result<()> {
        if let Some((thread, durable)) = self.syncing.take() {
            thread.join().map_err(|_| Error::internal("a thread that syncs a merged model panicked"))??;
            self.staging.synced(durable);
        }
        Ok(())
    }
}

impl io::Write for ModelFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes).map_err(|error| {
            self.failed = Some(error);
            io::Error::other("the merged model could not be written")
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// MergeMany (Git Re-Basin, Alg. 3), from the updates as aligned to the reference: these are the same bytes, however a site ordered its units, and
/// so is what comes of them. Where it cannot go on, the alignments stay as they are, and nothing is refined.
fn refine(
    spec: &rebasin::CheckedSpec,
    reference: &StoredSource,
    sources: &[StoredSource],
    alignments: &mut [Option<Arc<Alignment>>],
    shares: &[f64],
    options: &MatchOptions,
    halt: &Halt,
) -> Result<Vec<(Alignment, AlignReport)>> {
    let first: Vec<Alignment> = alignments
        .iter()
        .map(|alignment| alignment.as_deref().cloned().unwrap_or_else(|| Alignment::identity(spec)))
        .collect();
    let mut load = |index: usize| -> Result<rebasin::Checkpoint> {
        let raw = rebasin::read_checkpoint(&sources[index])?;
        first[index].apply(spec, &raw).map_err(Error::internal)
    };
    let found = rebasin::merge_many(spec, sources.len(), &mut load, shares, options, &mut |_| halt.flow());
    let merged = match found {
        Ok(merged) => merged,
        Err(error) if error.code() == Code::Unavailable || halt.flow().is_break() => return Err(error),
        Err(error) => {
            // Sums of updates may overflow where each alone is finite. Every update is aligned to the reference already.
            tracing::warn!(
                error.message = error.message(),
                "alignments could not be refined, the first ones count"
            );
            return Ok(Vec::new());
        }
    };
    let reference = rebasin::read_checkpoint(reference)?;
    let mut refined = Vec::with_capacity(sources.len());
    for index in 0..sources.len() {
        let total = merged.alignments[index].compose(spec, &first[index]);
        let raw = rebasin::read_checkpoint(&sources[index])?;
        let report = rebasin::report(spec, &reference, &raw, &total).map_err(Error::internal)?;
        alignments[index] = Some(Arc::new(total.clone()));
        refined.push((total, report));
    }
    Ok(refined)
}
