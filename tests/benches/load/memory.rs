//! The server's peak resident memory against the number of sites.

use std::{
    fmt::Write as _,
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use fedbasin_client::chart::{Curve, Panel, svg};
use tokio::task::JoinSet;

use crate::{
    mb,
    model::Model,
    scene::{LONGEST, Scene, Sites, Tally},
};

/// Numbers of sites, each twice the one before, so that the plot's axis is logarithmic.
const COUNTS: [usize; 6] = [2, 4, 8, 16, 32, 64];

const BYTES: usize = 100_000_000;

/// Sites that upload at a time: their files are made when their turn comes, and removed afterwards.
const AT_A_TIME: usize = 4;

/// What the design allows an idle server, in bytes.
const IDLE_BUDGET: u64 = 30_000_000;

/// What the design allows while models of `size` bytes are merged, in bytes.
fn budget(size: u64) -> u64 {
    size + size / 2 + (64 << 20)
}

/// Peaks of one round, in bytes.
struct Peaks {
    sites: usize,
    /// Of a process that had started a second ago.
    idle: u64,
    /// Of the process that collected and aligned.
    collecting: u64,
    /// Of the process that merged and did nothing else.
    merging: u64,
}

/// Measures all numbers of sites, writes the table, and gives the plot.
pub async fn run(document: &mut String) -> Result<String> {
    let size = Model::narrow(BYTES).size();
    let mut all = Vec::new();
    for sites in COUNTS {
        all.push(measure(sites).await?);
    }
    let budget = budget(size);
    let mut text = format!(
        "\n## Memory\n\nOne round of models of {} MB each. The round's steps are told apart by processes: the server ends itself \
         (SIGKILL, at the failpoint `merge.begun`) when it begins to merge and is started again, so that the second process waits for the \
         dead one's lease to run out, merges, and does nothing else; each one's peak is its own VmHWM. Collecting includes the alignments, which hold an update and the \
         reference whole, one update at a time. The budget is that of merging: 1.5 times the model and 64 MiB, {} MB.\n\n\
         | sites | peak while merging, MB | of the budget | peak while collecting and aligning, MB |\n|---|---|---|---|\n",
        mb(size),
        mb(budget),
    );
    for peaks in &all {
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {} |",
            peaks.sites,
            mb(peaks.merging),
            peaks.merging as f64 / budget as f64,
            mb(peaks.collecting),
        );
    }
    let (first, last) = (&all[0], &all[all.len() - 1]);
    let idle = all.iter().map(|peaks| peaks.idle).max().unwrap_or_default();
    let _ = writeln!(
        text,
        "\nWhile merging {} sites the peak is {:+.1} % of that of {} (budget: within 5 %). A second after its start an idle server had {} MB \
         resident (budget: {} MB).\n\n![peak memory against the number of sites](LOAD.svg)",
        last.sites,
        100.0 * (last.merging as f64 / first.merging as f64 - 1.0),
        first.sites,
        mb(idle),
        mb(IDLE_BUDGET),
    );
    println!("{text}");
    document.push_str(&text);
    plot(&all, budget)
}

fn plot(all: &[Peaks], budget: u64) -> Result<String> {
    let curve = |name: &str, of: &dyn Fn(&Peaks) -> u64| Curve {
        name: name.to_owned(),
        losses: all.iter().map(|peaks| of(peaks) as f64 / 1e6).collect(),
    };
    let counts: Vec<String> = COUNTS.iter().map(ToString::to_string).collect();
    let panel = Panel {
        title: format!("Peak memory of the server, models of {} MB", BYTES / 1_000_000),
        x: format!("sites, on a logarithmic axis: the points are {}", counts.join(", ")),
        y: "resident, MB".to_owned(),
        curves: vec![
            curve("collecting and aligning", &|peaks| peaks.collecting),
            curve("merging", &|peaks| peaks.merging),
            curve("budget of merging", &|_| budget),
        ],
    };
    svg(&[panel]).map_err(anyhow::Error::msg)
}

async fn measure(count: usize) -> Result<Peaks> {
    eprintln!("memory, {count} sites: starting");
    // After the kill the round waits until the dead process's lease has run out.
    let config = "[work]\nlease_seconds = 10\npoll_ms = 100\n";
    let mut scene = Scene::start(Model::narrow(BYTES), count, "aligned", 1, config)?;
    scene.server.kill();
    scene.server.start_again_until("merge.begun").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = scene.server.resident_bytes();
    let begun = Instant::now();
    let mut uploads = upload_all(&scene.sites);
    let mut collecting = 0;
    while !scene.server.was_killed() {
        collecting = collecting.max(scene.server.peak_bytes().unwrap_or_default());
        while let Some(done) = uploads.try_join_next() {
            done??;
        }
        ensure!(begun.elapsed() < LONGEST, "the round of {count} sites does not come to its merge");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    scene.server.start_again();
    // A receipt that the kill cut off is asked for again.
    while let Some(done) = uploads.join_next().await {
        done??;
    }
    let digest = scene.publishes(1).await?;
    let merging = scene.server.peak_bytes().context("the server has ended")?;
    scene.check_alignments(1)?;
    let global = scene.sites.fetch(digest, 1).await?;
    scene.sites.check(1, &global)?;
    fs::remove_file(global)?;
    eprintln!(
        "memory, {count} sites: {} MB while merging, {} MB while collecting, {:.1} s",
        mb(merging),
        mb(collecting),
        begun.elapsed().as_secs_f64()
    );
    Ok(Peaks { sites: count, idle, collecting, merging })
}

/// Some sites at a time make their updates, send them and remove them, until all have.
fn upload_all(sites: &Arc<Sites>) -> JoinSet<Result<()>> {
    let (next, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let (sites, next, done) = (Arc::clone(sites), Arc::clone(&next), Arc::clone(&done));
        tasks.spawn(async move {
            loop {
                let site = next.fetch_add(1, Ordering::Relaxed);
                if site >= sites.count() {
                    return Ok(());
                }
                let making = Arc::clone(&sites);
                let part = tokio::task::spawn_blocking(move || making.part(site, 1)).await??;
                part.send(&Tally::default()).await?;
                part.forget()?;
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                eprintln!("memory, {} sites: {done} uploaded", sites.count());
            }
        });
    }
    tasks
}
