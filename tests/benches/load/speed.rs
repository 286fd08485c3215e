//! How long a round takes, beside what the disk and the loopback device take for its bytes.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::{
    floors, mb,
    model::Model,
    scene::{Part, Scene, Tally, Times},
};

/// Rounds before the ones that count.
const WARM_UP: u32 = 1;

/// What the design allows a round for each second of disk and loopback.
const TIMES_THE_FLOOR: f64 = 1.5;

/// A round to measure.
pub struct Case {
    /// Its heading.
    pub title: &'static str,
    /// How many sites.
    pub sites: usize,
    /// Size of each one's model.
    pub bytes: usize,
    /// Rounds that count.
    pub rounds: u32,
    /// What the design allows, in seconds, where it says so.
    pub budget: Option<f64>,
}

/// What one round took: the sites' times, and of them, by the server's log, aligning and merging.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    times: Times,
    aligning: Option<f64>,
    merging: Option<f64>,
}

/// Floors of one round, in seconds.
#[derive(Debug, Clone, Copy)]
struct Floors {
    /// The updates, from as many threads as there are sites, then the model, from one.
    disk: f64,
    /// The updates up and the model down, as many lines at once as there are sites.
    loopback: f64,
    /// The sites' own files of the model, which here lie on the same disk.
    copies: f64,
    /// SHA-256: of the updates where they arrive, of the model where it is made and wherever it arrives.
    digests: f64,
}

impl Floors {
    fn measure(folder: &Path, bytes: u64, sites: usize) -> Result<Self> {
        Ok(Self {
            disk: floors::disk(folder, bytes, sites)? + floors::disk(folder, bytes, 1)?,
            loopback: floors::loopback(bytes, sites)? + floors::loopback(bytes, sites)?,
            copies: floors::disk(folder, bytes, sites)?,
            digests: 2.0 * floors::digests(bytes, sites)? + floors::digests(bytes, 1)?,
        })
    }
}

/// What some rounds of one strategy took.
struct Outcome {
    strategy: &'static str,
    /// Those that count, the fastest first.
    taken: Vec<Taken>,
    floors: Vec<Floors>,
    checks: Vec<f64>,
    peak: u64,
    again: u64,
}

impl Case {
    /// Measures both strategies, and writes their tables.
    pub async fn run(&self, folder: &Path, document: &mut String) -> Result<()> {
        let mut outcomes = Vec::new();
        for strategy in ["aligned", "mean"] {
            outcomes.push(self.measure(strategy, folder).await?);
        }
        let size = Model::sized(self.bytes).size();
        let mut text = format!(
            "\n## {}\n\n{} of {} MB, median of {} rounds after {WARM_UP} that does not count, all in one process of the server. \
             The steps are those of the median round, each until the last site had done it.\n\n\
             | strategy | seconds: median | least | most | upload | until published | download | by the server's log: aligning | \
             merging | server's peak, MB | tried again |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
            self.title,
            if self.sites == 1 { "One model".to_owned() } else { format!("{} models", self.sites) },
            mb(size),
            self.rounds,
        );
        for outcome in &outcomes {
            text.push_str(&outcome.line());
        }
        self.write_floors(&outcomes, &mut text);
        println!("{text}");
        document.push_str(&text);
        Ok(())
    }

    fn write_floors(&self, outcomes: &[Outcome], text: &mut String) {
        let floor = |part: fn(&Floors) -> f64| {
            median(outcomes.iter().flat_map(|outcome| outcome.floors.iter().map(part)).collect())
        };
        let (disk, loopback) = (floor(|floors| floors.disk), floor(|floors| floors.loopback));
        let (copies, digests, both) =
            (floor(|floors| floors.copies), floor(|floors| floors.digests), disk + loopback);
        let all = both + copies + digests;
        let check = median(outcomes.iter().flat_map(|outcome| outcome.checks.iter().copied()).collect());
        let budgets = match self.budget {
            Some(seconds) => [seconds, TIMES_THE_FLOOR].map(|budget| budget.to_string()),
            None => ["none", "none"].map(str::to_owned),
        };
        let _ = write!(
            text,
            "\n| floor, median of {} | seconds |\n|---|---|\n\
             | disk: the updates at once, a thread each, then the model, written and synced | {disk:.3} |\n\
             | loopback: the updates at once, a TCP line each, then the model back on as many | {loopback:.3} |\n\
             | **both** | {both:.3} |\n\
             | not in it: the sites' files of the model, written and synced on the same disk | {copies:.3} |\n\
             | not in it: digests (SHA-256) of the updates and the model as each arrives, and of the model as it is made | {digests:.3} |\n\
             | **all of these** | {all:.3} |\n\
             | not in any figure: a site reads, checks and hashes its file before it announces it | {check:.3} |\n\n\
             | strategy | seconds | budget | times disk and loopback | budget | times all of these |\n\
             |---|---|---|---|---|---|\n",
            outcomes.iter().map(|outcome| outcome.floors.len()).sum::<usize>(),
        );
        for outcome in outcomes {
            let seconds = outcome.middle().times.downloaded;
            let _ = writeln!(
                text,
                "| {} | {seconds:.3} | {} | {:.2} | {} | {:.2} |",
                outcome.strategy,
                budgets[0],
                seconds / both,
                budgets[1],
                seconds / all,
            );
        }
        if self.budget.is_some() {
            let _ = writeln!(
                text,
                "\nThe budget of {TIMES_THE_FLOOR} times disk and loopback is missed by what nobody can leave out: bytes are known by their digests, \
                 and each side looks. With these and the sites' own files the floor alone is {:.2} times disk and loopback, on processors \
                 that server and sites share. The last column compares with that.",
                all / both,
            );
        }
    }

    async fn measure(&self, strategy: &'static str, folder: &Path) -> Result<Outcome> {
        let rounds = WARM_UP + self.rounds;
        eprintln!("{}, {strategy}: starting", self.title);
        let scene = Scene::start(Model::sized(self.bytes), self.sites, strategy, rounds, "")?;
        let tally = Arc::new(Tally::default());
        let (mut times, mut floors, mut checks) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=rounds {
            if round == WARM_UP + 1 {
                scene.server.forget_peak();
            }
            scene.opens(round).await?;
            let parts: Vec<Part> =
                (0..self.sites).map(|site| scene.sites.part(site, round)).collect::<Result<_>>()?;
            let (size, check) = (parts[0].size(), parts[0].check_seconds);
            // The updates twice (here and there), the model once more, and what is on its way.
            let touched = size * (3 * self.sites as u64 + 2);
            floors::touch(folder, touched)?;
            let taken = self.round(&scene, round, parts, &tally).await?;
            if strategy == "aligned" {
                scene.check_alignments(round)?;
            }
            eprintln!(
                "{}, {strategy}: round {round} of {rounds}: {:.3} s; accepted after {:.3} s, published after {:.3} s",
                self.title, taken.downloaded, taken.accepted, taken.published
            );
            if round > WARM_UP {
                times.push(taken);
                checks.push(check);
                floors::touch(folder, touched)?;
                floors.push(Floors::measure(folder, size, self.sites)?);
            }
        }
        let (aligning, merging) = (scene.logged("update aligned"), scene.logged("round published"));
        let count = self.sites;
        let mut taken: Vec<Taken> = (WARM_UP as usize..)
            .zip(times)
            .map(|(place, times)| Taken {
                times,
                aligning: aligning.get(place * count..(place + 1) * count).map(|each| each.iter().sum()),
                merging: merging.get(place).copied(),
            })
            .collect();
        taken.sort_by(|a, b| a.times.downloaded.total_cmp(&b.times.downloaded));
        let again = tally.uploads.load(Ordering::Relaxed) + tally.watches.load(Ordering::Relaxed);
        let peak = scene.server.peak_bytes().unwrap_or_default();
        Ok(Outcome { strategy, taken, floors, checks, peak, again })
    }

    /// All sites' parts at once. Then the model is checked, number by number, and all files are removed.
    async fn round(&self, scene: &Scene, round: u32, parts: Vec<Part>, tally: &Arc<Tally>) -> Result<Times> {
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        for part in parts {
            let tally = Arc::clone(tally);
            tasks.spawn(async move {
                let times = part.take(begun, &tally).await?;
                anyhow::Ok((times, part))
            });
        }
        let mut all = Times::default();
        let mut parts = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let (times, part) = done??;
            all = all.latest(times);
            parts.push(part);
        }
        ensure!(parts.len() == self.sites, "not every site took part");
        for part in &parts {
            scene.sites.check(round, &part.global)?;
            part.forget()?;
            fs::remove_file(&part.global)?;
        }
        Ok(all)
    }
}

impl Outcome {
    fn middle(&self) -> Taken {
        self.taken[self.taken.len() / 2]
    }

    fn line(&self) -> String {
        let Taken { times, aligning, merging } = self.middle();
        let ends = [0, self.taken.len() - 1].map(|place| self.taken[place].times.downloaded);
        let known = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.3}"));
        format!(
            "| {} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {} | {} | {} | {} |\n",
            self.strategy,
            times.downloaded,
            ends[0],
            ends[1],
            times.accepted,
            times.published - times.accepted,
            times.downloaded - times.published,
            if self.strategy == "aligned" { known(aligning) } else { "none".to_owned() },
            known(merging),
            mb(self.peak),
            self.again,
        )
    }
}

/// The lower of the two in the middle, where there are two: a floor is not made higher than it is.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
