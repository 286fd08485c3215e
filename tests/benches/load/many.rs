//! A thousand sites at once.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rebasin::Digest;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    mb,
    model::Model,
    scene::{LONGEST, Part, Scene, Sites, Tally, Times},
};

const SITES: usize = 1000;

const BYTES: usize = 1_000_000;

/// Files and connections that the server, which merges all updates at once, and this process have open, and some to spare.
pub const OPEN_FILES: u64 = 4 * SITES as u64;

/// Which sites watch the run while others still upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watching {
    /// One, which tells the others.
    One,
    /// Each from its receipt on.
    Each,
}

/// How far all have come.
#[derive(Debug, Default)]
struct Progress {
    accepted: AtomicUsize,
    downloaded: AtomicUsize,
}

/// Measures both ways to wait, and writes the table.
pub async fn run(document: &mut String) -> Result<()> {
    let mut text = format!(
        "\n## Many sites\n\n{SITES} sites, each with a connection of its own, begin one round at the same moment, with models of {} MB. \
         As `fedbasin site run` does, each uploads, watches the run until the round is published, and downloads the model; or only one \
         watches, and tells the others. Each step is counted until the last site has done it. No request failed: a failure ends the \
         benchmark. What was tried again is counted by the sites (uploads begun again after sending or finishing failed, watches begun \
         again) and by the server's log (requests answered with UNAVAILABLE because its storage could not answer in time).\n\n\
         | who watches | seconds | upload | until published | download | sites that failed | again: uploads | watches | UNAVAILABLE \
         in the log | server's peak, MB |\n|---|---|---|---|---|---|---|---|---|---|\n",
        mb(Model::sized(BYTES).size()),
    );
    for (who, watching) in [("one site", Watching::One), ("each site", Watching::Each)] {
        let line = tokio::time::timeout(LONGEST, measure(who, watching)).await;
        text.push_str(&line.context("the round of many sites does not end")??);
    }
    println!("{text}");
    document.push_str(&text);
    Ok(())
}

async fn measure(who: &str, watching: Watching) -> Result<String> {
    eprintln!("many, {who} watches: starting a server and enrolling {SITES} sites");
    let scene = Scene::start(Model::sized(BYTES), SITES, "aligned", 1, "")?;
    eprintln!("many, {who} watches: making {SITES} updates");
    let parts: Vec<Part> = (0..SITES).map(|site| scene.sites.part(site, 1)).collect::<Result<_>>()?;
    let (tally, progress) = (Arc::new(Tally::default()), Arc::new(Progress::default()));
    let (news, _) = watch::channel(None);
    scene.server.forget_peak();
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (site, part) in parts.into_iter().enumerate() {
        let (tally, progress, news) = (Arc::clone(&tally), Arc::clone(&progress), news.clone());
        let watches = site == 0 || watching == Watching::Each;
        tasks.spawn(async move { take(&part, begun, watches, &news, &tally, &progress).await });
    }
    let telling = tokio::spawn(tell(who.to_owned(), Arc::clone(&progress)));
    let mut all = Times::default();
    while let Some(done) = tasks.join_next().await {
        let times = done?.with_context(|| {
            format!("a request failed, {} sites had their receipts", count(&progress.accepted))
        })?;
        all = all.latest(times);
    }
    telling.abort();
    let failed = SITES - count(&progress.downloaded);
    ensure!(failed == 0, "{failed} sites did not take part");
    let peak = scene.server.peak_bytes().context("the server has ended")?;
    check(&scene.sites)?;
    scene.check_alignments(1)?;
    let unavailable = scene.server.log().lines().filter(|line| line.contains("storage unavailable")).count();
    Ok(format!(
        "| {who} | {:.2} | {:.2} | {:.2} | {:.2} | {failed} | {} | {} | {unavailable} | {} |\n",
        all.downloaded,
        all.accepted,
        all.published - all.accepted,
        all.downloaded - all.published,
        tally.uploads.load(Ordering::Relaxed),
        tally.watches.load(Ordering::Relaxed),
        mb(peak),
    ))
}

/// Whether all sites hold the same model, and the right one.
fn check(sites: &Sites) -> Result<()> {
    sites.check(1, &sites.global(0, 1))?;
    let first = fs::read(sites.global(0, 1))?;
    for site in 1..SITES {
        ensure!(
            fs::read(sites.global(site, 1))? == first,
            "site {site} has another model than the first one"
        );
    }
    Ok(())
}

/// One site's part; who does not watch is told.
async fn take(
    part: &Part,
    begun: Instant,
    watches: bool,
    news: &watch::Sender<Option<Digest>>,
    tally: &Tally,
    progress: &Progress,
) -> Result<Times> {
    part.send(tally).await?;
    progress.accepted.fetch_add(1, Ordering::Relaxed);
    let accepted = begun.elapsed().as_secs_f64();
    let digest = if watches {
        let digest = part.watch(tally).await?;
        news.send_replace(Some(digest));
        digest
    } else {
        let told = *news.subscribe().wait_for(Option::is_some).await?;
        told.context("what was waited for")?
    };
    let published = begun.elapsed().as_secs_f64();
    part.fetch(digest).await?;
    progress.downloaded.fetch_add(1, Ordering::Relaxed);
    Ok(Times { accepted, published, downloaded: begun.elapsed().as_secs_f64() })
}

/// Says every two seconds how far all have come.
async fn tell(who: String, progress: Arc<Progress>) {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (accepted, downloaded) = (count(&progress.accepted), count(&progress.downloaded));
        eprintln!("many, {who} watches: {accepted} uploaded, {downloaded} downloaded");
    }
}

fn count(of: &AtomicUsize) -> usize {
    of.load(Ordering::Relaxed)
}
