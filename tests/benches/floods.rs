//! What honest sites get while a server is flooded, beside what they get in peace: for each flood of `fedbasin_tests::floods`.
//!
//! ```text
//! cargo bench -p fedbasin-tests --bench floods                      all; writes tests/FLOODS.md
//! cargo bench -p fedbasin-tests --bench floods -- Ping RapidReset   some, to the terminal only
//! ```

#![forbid(unsafe_code)]
#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    reason = "a benchmark prints rounded figures; it has no callers"
)]

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use fedbasin_tests::{
    Admin, Database, Options, Server, Site,
    checkpoint::{f32s, file},
    floods::{FLOODS, Flood, Target},
    h2::{End, Raw},
};
use serde_json::json;
use tokio::{io::AsyncReadExt as _, net::TcpListener, runtime, task::JoinSet};

/// Connections that flood at a time.
const ATTACKERS: usize = 4;
/// So long one waits before it comes again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long honest sites are watched in peace, beside attackers of nobody, and beside those of the server.
const WINDOW: Duration = Duration::from_millis(1500);
/// How often, each beside the others in time: the median counts, for a machine has slower seconds.
const REPEATS: usize = 5;
/// Parameters of the honest sites' model: 8 MB.
const WIDTH: usize = 2_000_000;
/// Connections that say nothing.
const SILENT: usize = 1500;
/// What honest sites must keep of what they get in peace.
const BUDGET: f64 = 0.7;
/// What a flood may cost the server.
const GROWTH: u64 = 256 << 20;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match run(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("a budget was missed: see the table");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is done to the server.
#[derive(Debug, Clone, Copy)]
enum Attack {
    Flood(Flood),
    /// Many connections that say nothing at all.
    Silence,
}

struct Row {
    attack: Attack,
    /// Bytes a second of the honest sites; medians.
    quiet: f64,
    beside: f64,
    flooded: f64,
    /// Medians of what the repetitions kept.
    of_quiet: f64,
    of_beside: f64,
    grown: u64,
    connections: u64,
    frames: u64,
    goaway: Option<(u32, String)>,
}

fn run(wanted: &[String]) -> Result<bool> {
    let mut attacks: Vec<Attack> = FLOODS.into_iter().map(Attack::Flood).collect();
    attacks.push(Attack::Silence);
    let name = |attack: &Attack| match attack {
        Attack::Flood(flood) => format!("{flood:?}"),
        Attack::Silence => "Silence".to_owned(),
    };
    attacks.retain(|attack| wanted.is_empty() || wanted.contains(&name(attack)));
    ensure!(!attacks.is_empty(), "there is no such flood: name some of {FLOODS:?}, Silence, or none for all");
    let honest = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // One thread: the attackers stand for other machines, and are not to take all of this one.
    let hostile = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut rows = Vec::new();
    let mut scene = honest.block_on(Scene::start())?;
    for attack in attacks {
        rows.push(scene.measure(attack, &honest, &hostile)?);
        let row = rows.last().context("a row")?;
        println!("{}", row.line(&name(&attack)));
    }
    let mut text = beginning()?;
    let mut kept = true;
    for row in &rows {
        text.push_str(&row.line(&name(&row.attack)));
        text.push('\n');
        kept &= row.of_quiet >= BUDGET && row.grown <= GROWTH;
    }
    let _ = writeln!(
        text,
        "\nThe budgets (at least {BUDGET:.2} of what honest sites get in peace, at most {} MiB more memory) are {}.",
        GROWTH >> 20,
        if kept { "kept by each" } else { "**missed by some**" }
    );
    if wanted.is_empty() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("FLOODS.md"), text)?;
        println!("written: tests/FLOODS.md");
    } else {
        println!("{text}");
    }
    Ok(kept)
}

fn beginning() -> Result<String> {
    let build = if cfg!(debug_assertions) { "development" } else { "release" };
    Ok(format!(
        "# Floods: figures of one run\n\nWritten by `cargo bench -p fedbasin-tests --bench floods`, on {} processors, which the server (a \
         {build} build with its default limits, SQLite), two honest sites and the attackers share. The honest sites go through round after \
         round with {} MB each: both upload, the server merges, both download; counted are the bytes up and down. {ATTACKERS} connections \
         flood at a time, with up to 100,000 frames a second each, all by one thread; each that was ended comes again after {} ms. Each is measured {REPEATS} times, for {} ms one after the other: in \
         peace, beside attackers of somebody else (a listener that reads all and answers nothing: the floor, what senders alone cost \
         this machine), and flooded; shown are the medians, also of the quotients. Floods are described in `tests/src/floods.rs`; Silence is {SILENT} connections that say nothing.\n\n\
         | flood | connections | frames sent | how the last one ended | honest MB/s: in peace | beside attackers of somebody else | flooded | of \
         peace | of the floor | server grew by, MiB |\n|---|---|---|---|---|---|---|---|---|---|\n",
        std::thread::available_parallelism()?,
        WIDTH * 4 / 1_000_000,
        PAUSE.as_millis(),
        WINDOW.as_millis(),
    ))
}

impl Row {
    fn line(&self, name: &str) -> String {
        let ended = match &self.goaway {
            Some((code, text)) => format!("GOAWAY {code} {text}"),
            None => "none was asked to go".to_owned(),
        };
        format!(
            "| {name} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.1} |",
            self.connections,
            self.frames,
            ended.trim_end(),
            self.quiet / 1e6,
            self.beside / 1e6,
            self.flooded / 1e6,
            self.of_quiet,
            self.of_beside,
            self.grown as f64 / f64::from(1 << 20),
        )
    }
}

/// A server, its honest sites, and the round that they are at.
struct Scene {
    server: Server,
    admin: Admin,
    sites: Vec<Site>,
    run: String,
    round: u32,
    target: Target,
    checkpoint: Vec<u8>,
}

impl Scene {
    async fn start() -> Result<Self> {
        let server = Server::start_with(Database::sqlite(), Options::default());
        let admin = server.admin();
        let sites = vec![server.site("a"), server.site("b")];
        let attacker = server.site("attacker");
        let checkpoint = file(&[f32s("t", &[WIDTH], &vec![0.5; WIDTH])]);
        let seed = admin.upload(&checkpoint);
        let run = |cohort: &[&str], rounds: u32| {
            admin.create_run(&json!({
                "spec": null, "strategy": "mean", "cohort": cohort, "seed_digest": seed,
                "policy": { "rounds": rounds, "quorum": cohort.len(), "deadline_seconds": 24 * 3600, "keep_models": 2,
                    "keep_updates": 1 },
            }))
        };
        let id = run(&["a", "b"], 10_000);
        let bait = run(&["attacker"], 1);
        attacker.status(&bait).await?;
        let target = Target {
            grpc: server.grpc.clone(),
            http: server.http.clone(),
            token: attacker.token,
            digest: seed.clone(),
        };
        let mut scene = Self { server, admin, sites, run: id, round: 1, target, checkpoint };
        scene.window(WINDOW).await?;
        Ok(scene)
    }

    /// Honest rounds for so long; bytes a second.
    async fn window(&mut self, time: Duration) -> Result<f64> {
        let (begun, mut bytes) = (Instant::now(), 0);
        while begun.elapsed() < time {
            bytes += self.round().await?;
        }
        Ok(bytes as f64 / begun.elapsed().as_secs_f64())
    }

    /// One honest round; its bytes up and down.
    async fn round(&mut self) -> Result<u64> {
        let mut uploads = JoinSet::new();
        for (place, site) in self.sites.iter().enumerate() {
            let (site, run, round) = (site.clone(), self.run.clone(), self.round);
            let mut bytes = self.checkpoint.clone();
            // Each is another one: its last value tells whose it is.
            let value = (round * 2 + place as u32) as f32;
            let end = bytes.len() - 4;
            bytes[end..].copy_from_slice(&value.to_le_bytes());
            uploads.spawn(async move { site.upload(&run, round, &bytes, 1).await });
        }
        while let Some(done) = uploads.join_next().await {
            done?.context("an honest upload")?;
        }
        let record = self.admin.round_becomes(&self.run, self.round, "published").await;
        let digest = record["global_digest"].as_str().context("a digest")?.to_owned();
        let mut downloads = JoinSet::new();
        for site in &self.sites {
            let (site, digest) = (site.clone(), digest.clone());
            downloads.spawn(async move { site.download(&digest, 0).await });
        }
        let mut bytes = 2 * self.checkpoint.len() as u64;
        while let Some(done) = downloads.join_next().await {
            bytes += done?.context("an honest download")?.len() as u64;
        }
        self.round += 1;
        let next = format!("/v1/runs/{}/rounds/{}", self.run, self.round);
        fedbasin_tests::eventually("the next round", || (self.admin.get(&next).status == 200).then_some(()))
            .await;
        Ok(bytes)
    }

    fn measure(
        &mut self,
        attack: Attack,
        honest: &runtime::Runtime,
        hostile: &runtime::Runtime,
    ) -> Result<Row> {
        let sink = hostile.block_on(sink())?;
        let target = self.target.clone();
        let before = self.server.resident_bytes();
        self.server.forget_peak();
        let mut rates = Vec::new();
        let (mut connections, mut frames, mut goaway) = (0, 0, None);
        for _ in 0..REPEATS {
            let quiet = honest.block_on(self.window(WINDOW))?;
            let (beside, ..) = self.beside(attack, &sink, honest, hostile)?;
            let (flooded, opened, sent, ended) = self.beside(attack, &target, honest, hostile)?;
            rates.push((quiet, beside, flooded));
            connections += opened;
            frames += sent;
            goaway = ended.or(goaway);
        }
        let grown = self.server.peak_bytes().context("the server has ended")?.saturating_sub(before);
        let median_of = |figure: fn(&(f64, f64, f64)) -> f64| median(rates.iter().map(figure).collect());
        Ok(Row {
            attack,
            quiet: median_of(|rate| rate.0),
            beside: median_of(|rate| rate.1),
            flooded: median_of(|rate| rate.2),
            of_quiet: median_of(|rate| rate.2 / rate.0),
            of_beside: median_of(|rate| rate.2 / rate.1),
            grown,
            connections,
            frames,
            goaway,
        })
    }

    /// Honest rounds while a target is attacked.
    #[expect(clippy::type_complexity, reason = "the figures of one row")]
    fn beside(
        &mut self,
        attack: Attack,
        target: &Target,
        honest: &runtime::Runtime,
        hostile: &runtime::Runtime,
    ) -> Result<(f64, u64, u64, Option<(u32, String)>)> {
        let stop = Arc::new(AtomicBool::new(false));
        let counted = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let mut attackers = JoinSet::new();
        let count = match attack {
            Attack::Flood(_) => ATTACKERS,
            Attack::Silence => SILENT,
        };
        for _ in 0..count {
            let attacker = attacker(attack, target.clone(), Arc::clone(&stop), Arc::clone(&counted));
            attackers.spawn_on(attacker, hostile.handle());
        }
        let rate = honest.block_on(self.window(WINDOW));
        stop.store(true, Ordering::Relaxed);
        let mut goaway = None;
        hostile.block_on(async {
            while let Some(ended) = attackers.join_next().await {
                goaway = ended.ok().flatten().and_then(|end| end.goaway).or(goaway.take());
            }
        });
        let (connections, frames) = (counted.0.load(Ordering::Relaxed), counted.1.load(Ordering::Relaxed));
        Ok((rate?, connections, frames, goaway))
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// One attacker, until `stop`; how its last connection that was ended ended.
async fn attacker(
    attack: Attack,
    target: Target,
    stop: Arc<AtomicBool>,
    counted: Arc<(AtomicU64, AtomicU64)>,
) -> Option<End> {
    let mut last = None;
    while !stop.load(Ordering::Relaxed) {
        counted.0.fetch_add(1, Ordering::Relaxed);
        match attack {
            Attack::Flood(flood) => {
                if let Ok((frames, end)) = flood.run(&target, &stop).await {
                    counted.1.fetch_add(frames, Ordering::Relaxed);
                    last = if end.goaway.is_some() { Some(end) } else { last };
                }
            }
            Attack::Silence => {
                let raw = Raw::silent(&target.grpc).await;
                while raw.is_ok() && !stop.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    last
}

/// A listener that reads all and answers nothing, and is nobody's server.
async fn sink() -> Result<Target> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut block = vec![0; 1 << 16];
                while stream.read(&mut block).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    Ok(Target { grpc: url.clone(), http: url, token: "fbs_".into(), digest: "0".repeat(64) })
}
