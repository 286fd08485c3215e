//! Lease a round, merge its updates blockwise, store the model, publish.

use std::{fs::File, io::BufWriter, path::Path, time::Duration};

use rebasin::{AlignReport, Alignment, FileSource, Input, MatchOptions};

use super::{
    Worker,
    align::{checked_spec, match_options},
    cpu::{self, Halt},
};
use crate::{
    config::Work,
    error::{Code, Error, Result},
    model::Strategy,
    store::{Kind, MergeWork, Scratch, Sealed, Store},
};

type Refined = Vec<(String, Alignment, AlignReport)>;

/// A merged model, not published yet.
struct Merged {
    sealed: Sealed,
    refined: Refined,
    /// Where its bytes are, until it is stored.
    _file: Scratch,
}

pub(super) async fn step(worker: &mut Worker) -> Result<bool> {
    let Some(lease) = worker.store.lease_merge(worker.lease()).await? else { return Ok(false) };
    let store = worker.store.clone();
    let (run_id, round, count) = (lease.work.run.id.clone(), lease.work.round, lease.work.inputs.len());
    let started = tokio::time::Instant::now();
    let work = async {
        let model = merge(&store, &worker.settings, &lease.work).await?;
        store.finish_merge(&lease, &model.sealed, &model.refined).await
    };
    let Some(outcome) = worker.while_renewing(lease.token(), work).await else {
        worker.give_back(lease.token(), Duration::ZERO).await;
        return Ok(false);
    };
    match outcome {
        Ok(Some(global)) => {
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
        Ok(None) => tracing::warn!(run.id = run_id, round.number = round, "a merge's lease was lost"),
        Err(error) => {
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

async fn merge(store: &Store, settings: &Work, work: &MergeWork) -> Result<Merged> {
    let counts: Vec<u64> = work.inputs.iter().map(|input| input.update.num_examples).collect();
    let shares = rebasin::shares(&counts).map_err(Error::internal)?;
    let reference = store.source(&work.reference).await?;
    let mut sources = Vec::with_capacity(work.inputs.len());
    for input in &work.inputs {
        sources.push(store.source(&input.update.digest).await?);
    }
    failpoint!("merge.opened");
    let spec = match work.run.strategy {
        Strategy::Mean => None,
        _ => Some(checked_spec(work.run.spec.as_ref(), work.run.layout.as_ref())?),
    };
    let mut alignments: Vec<Option<Alignment>> =
        work.inputs.iter().map(|input| input.alignment.clone()).collect();
    let mut digests = vec![work.reference];
    digests.extend(work.inputs.iter().map(|input| input.update.digest));
    let options = match_options(settings, &digests);
    let ids: Vec<String> = work.inputs.iter().map(|input| input.update.id.clone()).collect();
    let refine = work.run.strategy == Strategy::MergeMany;
    let scratch = store.scratch(Kind::Merge);
    // The file's name travels with who writes it, so that it cannot go before the last write.
    let (scratch, refined) = cpu::run(move |halt| {
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
                alignment: alignment.as_ref(),
                share: *share,
            })
            .collect();
        write_model(spec.as_ref(), &inputs, &reference, scratch.path())?;
        Ok::<_, Error>((scratch, refined))
    })
    .await??;
    failpoint!("merge.written");
    let size = std::fs::metadata(scratch.path())?.len();
    let file = File::open(scratch.path())?;
    // While it is read back.
    let synced = tokio::task::spawn_blocking(move || file.sync_all());
    let layout = work.run.layout.clone();
    let store = store.clone();
    // Read back what was written, once, through the same gate as an upload: what is published is a valid checkpoint.
    let merged = tokio::task::spawn_blocking(move || {
        let sealed = store.staging(scratch.name(), size, layout)?.seal(None)?;
        failpoint!("merge.sealed");
        Ok(Merged { sealed, refined, _file: scratch })
    })
    .await
    .map_err(Error::internal)?;
    synced.await.map_err(Error::internal)??;
    merged
}

fn write_model(
    spec: Option<&rebasin::CheckedSpec>,
    inputs: &[Input<'_>],
    reference: &FileSource,
    path: &Path,
) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    rebasin::merge_to(spec, inputs, Some(reference), &mut out, &mut |_, _| {}).map_err(Error::internal)?;
    out.into_inner().map_err(|error| Error::from(error.into_error()))?;
    Ok(())
}

/// MergeMany (Git Re-Basin, Alg. 3), from the updates as aligned to the reference. Where it cannot go on, the alignments
/// stay as they are, and nothing is refined.
fn refine(
    spec: &rebasin::CheckedSpec,
    reference: &FileSource,
    sources: &[FileSource],
    alignments: &mut [Option<Alignment>],
    shares: &[f64],
    options: &MatchOptions,
    halt: &Halt,
) -> Result<Vec<(Alignment, AlignReport)>> {
    let first: Vec<Alignment> = alignments
        .iter()
        .map(|alignment| alignment.clone().unwrap_or_else(|| Alignment::identity(spec)))
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
        let total = merged.alignments[index].compose(&first[index]);
        let raw = rebasin::read_checkpoint(&sources[index])?;
        let report = rebasin::report(spec, &reference, &raw, &total).map_err(Error::internal)?;
        alignments[index] = Some(total.clone());
        refined.push((total, report));
    }
    Ok(refined)
}
