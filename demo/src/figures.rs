//! The figures: every number of the report, computed on the test images from the files that went through the server.

use std::{ops::ControlFlow, path::Path, sync::atomic::AtomicBool};

use anyhow::{Context, bail};
use fedbasin_client::admin::types;
use rebasin::{CheckedSpec, Checkpoint, Digest, MatchOptions};

use crate::{
    cli::DemoArgs,
    eval::{self, Score},
    idx::CLASSES,
    model::Mlp,
    report::{Barrier, Model, Report, Round, Site, SiteRound},
    run::{Finished, go_on, site_id, units_moved},
    split::{OWN_CLASSES, SITES},
};

/// Points on the path between two models, end points included.
const LAMBDAS: usize = 25;
/// The two sites of the path.
const PATH_SITES: [usize; 2] = [0, 1];

/// Computes the report; its sentence is still empty.
///
/// # Errors
/// A file or a record that is not as it should be, or an interruption.
pub fn report(args: &DemoArgs, finished: &Finished, interrupted: &AtomicBool) -> anyhow::Result<Report> {
    let initial = read(&finished.folder.initial_model())?;
    let spec = finished.spec.check(initial.layout())?;
    let mut rounds = Vec::with_capacity(finished.rounds.len());
    for (record, &seconds) in finished.rounds.iter().zip(&finished.round_seconds) {
        go_on(interrupted)?;
        rounds.push(round(finished, &spec, record, seconds)?);
    }
    go_on(interrupted)?;
    let barrier = path_barrier(finished, &spec)?;
    let site = |site: usize| Site {
        id: site_id(site),
        num_examples: finished.shares[site].len(),
        own_classes: OWN_CLASSES[site].to_vec(),
        class_counts: class_counts(finished, site),
    };
    Ok(Report {
        format: "fedbasin.demo/1".to_owned(),
        same_init: args.same_init,
        seed: args.seed,
        train_images: finished.train.len(),
        test_images: finished.test.len(),
        units: spec.groups().iter().map(|group| group.size).sum(),
        sites: (0..SITES).map(site).collect(),
        rounds,
        all_data: score(finished, &read(&finished.folder.all_data_model())?)?,
        barrier,
        sentence: String::new(),
        seconds: 0.0,
    })
}

fn class_counts(finished: &Finished, site: usize) -> Vec<usize> {
    let mut counts = vec![0; CLASSES];
    for &index in &finished.shares[site] {
        counts[usize::from(finished.train.labels[index])] += 1;
    }
    counts
}

fn read(path: &Path) -> anyhow::Result<Checkpoint> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Checkpoint::from_bytes(&bytes).with_context(|| path.display().to_string())
}

fn network(checkpoint: &Checkpoint) -> anyhow::Result<Mlp> {
    Mlp::from_bytes(&checkpoint.to_bytes())
}

fn score(finished: &Finished, checkpoint: &Checkpoint) -> anyhow::Result<Score> {
    eval::score(&network(checkpoint)?, &finished.test)
}

/// The records of the sites, in the order of the sites; each must have been merged, with the examples that it has.
fn records<'a>(finished: &Finished, record: &'a types::Round) -> anyhow::Result<Vec<&'a types::RoundSite>> {
    let mut sites = Vec::with_capacity(SITES);
    for site in 0..SITES {
        let (id, number) = (site_id(site), record.number);
        let found = record.sites.iter().find(|candidate| candidate.site == id);
        let found = found.with_context(|| format!("round {number} does not name {id}"))?;
        if found.state != "aligned" {
            bail!("round {number}: {id} is {} and was not merged", found.state);
        }
        if found.num_examples != Some(finished.shares[site].len() as u64) {
            bail!("round {number}: {id} was recorded with {:?} examples", found.num_examples);
        }
        sites.push(found);
    }
    Ok(sites)
}

fn round(
    finished: &Finished,
    spec: &CheckedSpec,
    record: &types::Round,
    seconds: f64,
) -> anyhow::Result<Round> {
    let number = record.number;
    let records = records(finished, record)?;
    let updates: Vec<Checkpoint> =
        (0..SITES).map(|site| read(&finished.folder.update(site, number))).collect::<anyhow::Result<_>>()?;
    let num_examples: Vec<u64> = finished.shares.iter().map(|share| share.len() as u64).collect();
    let shares = rebasin::shares(&num_examples)?;
    let networks: Vec<Mlp> = updates.iter().map(network).collect::<anyhow::Result<_>>()?;

    let mut sites = Vec::with_capacity(SITES);
    for (site, network) in networks.iter().enumerate() {
        let record = records[site];
        let alignment = record.alignment.as_ref();
        let alignment =
            alignment.with_context(|| format!("round {number}: no report for {}", record.site))?;
        let metric = |name| record.metrics.as_ref().and_then(|metrics| metrics.get(name)).copied();
        sites.push(SiteRound {
            site: record.site.clone(),
            model: Model {
                score: eval::score(network, &finished.test)?,
                digest: record.digest.clone().unwrap_or_default(),
            },
            share: shares[site],
            moved: alignment.moved,
            units_moved: units_moved(alignment),
            l2: [alignment.l2_before, alignment.l2_after],
            train_seconds: metric("seconds").unwrap_or_default(),
        });
    }
    let borrowed: Vec<&Checkpoint> = updates.iter().collect();
    let naive = rebasin::mean(None, &borrowed, None, &shares)?;
    let published = read(&finished.folder.global_model(number))?;
    Ok(Round {
        round: number,
        sites,
        naive: score(finished, &naive)?,
        aligned_is_naive: naive.to_bytes() == published.to_bytes(),
        aligned: Model {
            score: score(finished, &published)?,
            digest: record.global_digest.clone().unwrap_or_default(),
        },
        merge_many: score(finished, &merge_many(spec, &updates, &shares, &digests(&records)?)?)?,
        ensemble: eval::score_ensemble(&networks, &shares, &finished.test)?,
        seconds,
    })
}

fn digests(records: &[&types::RoundSite]) -> anyhow::Result<Vec<Digest>> {
    let parse = |record: &&types::RoundSite| -> anyhow::Result<Digest> {
        Ok(record.digest.as_deref().unwrap_or_default().parse()?)
    };
    records.iter().map(parse).collect()
}

fn options(digests: &[Digest]) -> MatchOptions {
    MatchOptions { seed: rebasin::seed_from_digests(digests), ..MatchOptions::default() }
}

/// `MergeMany` (Ainsworth et al., Alg. 3) over the models as they were uploaded.
fn merge_many(
    spec: &CheckedSpec,
    updates: &[Checkpoint],
    shares: &[f64],
    digests: &[Digest],
) -> anyhow::Result<Checkpoint> {
    let mut load = |index: usize| -> anyhow::Result<Checkpoint> { Ok(updates[index].clone()) };
    let merged = rebasin::merge_many(spec, updates.len(), &mut load, shares, &options(digests), &mut |_| {
        ControlFlow::Continue(())
    })?;
    let borrowed: Vec<&Checkpoint> = updates.iter().collect();
    Ok(rebasin::mean(Some(spec), &borrowed, Some(&merged.alignments), shares)?)
}

/// Loss along the path between two sites' models of the first round: as uploaded, and each aligned to the round's reference,
/// which is what the server averages.
fn path_barrier(finished: &Finished, spec: &CheckedSpec) -> anyhow::Result<Barrier> {
    let record = finished.rounds.first().context("no round was published")?;
    let reference = reference_digest(record)?;
    let mut candidates = vec![finished.folder.initial_model()];
    candidates.extend((0..SITES).map(|site| finished.folder.update(site, record.number)));
    let mut found = None;
    for path in candidates {
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if Digest::of(&bytes) == reference {
            found = Some(Checkpoint::from_bytes(&bytes)?);
        }
    }
    let found = found.with_context(|| format!("the reference {reference} of round 1 is at no site"))?;
    let mut ends = Vec::new();
    for site in PATH_SITES {
        let update = read(&finished.folder.update(site, record.number))?;
        // As the server searches, by the reference's digest alone.
        let options = options(&[reference]);
        let aligned =
            rebasin::align_canonically(spec, &found, update.clone(), &options, &mut rebasin::quietly)?;
        ends.push((aligned.alignment.apply(spec, &update)?, update));
    }
    let naive_losses = losses(finished, &ends[0].1, &ends[1].1)?;
    let aligned_losses = losses(finished, &ends[0].0, &ends[1].0)?;
    let (naive, aligned) = (rebasin::barrier(&naive_losses), rebasin::barrier(&aligned_losses));
    Ok(Barrier {
        naive: naive.against_mean,
        aligned: aligned.against_mean,
        naive_over_chord: naive.against_chord,
        aligned_over_chord: aligned.against_chord,
        sites: PATH_SITES.map(site_id),
        naive_losses,
        aligned_losses,
    })
}

fn reference_digest(record: &types::Round) -> anyhow::Result<Digest> {
    let digest = record.reference_digest.as_deref().context("round 1 has no reference on record")?;
    Ok(digest.parse()?)
}

fn losses(finished: &Finished, from: &Checkpoint, to: &Checkpoint) -> anyhow::Result<Vec<f64>> {
    let mut losses = Vec::with_capacity(LAMBDAS);
    for step in 0..LAMBDAS {
        let lambda = step as f64 / (LAMBDAS - 1) as f64;
        losses.push(score(finished, &rebasin::interpolate(from, to, lambda)?)?.loss);
    }
    Ok(losses)
}
