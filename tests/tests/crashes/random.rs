//! The long form: random points, worlds and faults, several runs at a time, and the table of all of them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    FAILPOINTS, SITE_FAILPOINTS,
    crash::{Crash, Fault, Met},
    worlds::World,
};

/// How many runs go on at the same time: their processes mostly wait.
const AT_A_TIME: usize = 3;

/// What befell whom at one point.
#[derive(Debug, Default)]
struct Tally {
    runs: u32,
    met: Met,
    slowest: f64,
}

/// The `run`-th of the long form: the same each time.
fn chosen(run: u64) -> Crash<'static> {
    let mut state = run;
    let mut pick = |of: usize| {
        // SplitMix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        usize::try_from(bits % of as u64).expect("less than a usize")
    };
    let fault = match pick(8) {
        0..=3 => Fault::Killed,
        4 => Fault::Asleep(Duration::from_millis(500 + 100 * pick(30) as u64)),
        5 => Fault::Relieved,
        _ => Fault::SiteKilled,
    };
    let may = |point: &&&str| match fault {
        Fault::Killed | Fault::SiteKilled => true,
        // Those come before the process says that it listens, which is waited for.
        Fault::Asleep(_) => !point.starts_with("sweep."),
        Fault::Relieved => ["align.", "merge.", "publish."].iter().any(|part| point.starts_with(part)),
    };
    let all = if fault == Fault::SiteKilled { SITE_FAILPOINTS } else { FAILPOINTS };
    let points: Vec<&&str> = all.iter().filter(may).collect();
    let point = points[pick(points.len())];
    let turn = pick(6);
    let world = if fault == Fault::Relieved { World::of_workers(turn) } else { World::of(point, turn) };
    let time = 1 + u32::try_from(pick(3)).expect("1 to 3");
    Crash { world, point, time, fault, alike: pick(2) == 0 }
}

#[test]
#[ignore = "the long form, a command of its own: see the top of main.rs"]
fn struck_at_random() {
    let (runs, first) = (number("FEDBASIN_CRASH_RUNS").unwrap_or(100), number("FEDBASIN_CRASH_FIRST"));
    let next = AtomicU64::new(first.unwrap_or(0));
    let end = first.unwrap_or(0) + runs;
    let (failed, tallies) = (AtomicBool::new(false), Mutex::new(BTreeMap::new()));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                let _alarm = Alarm(&failed);
                let runtime = tokio::runtime::Runtime::new().expect("a runtime");
                while !failed.load(Ordering::Relaxed) {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= end {
                        return;
                    }
                    let crash = chosen(run);
                    println!("{:5.0} s: run {run}: {crash:?}", begun.elapsed().as_secs_f64());
                    let began = Instant::now();
                    let met = runtime.block_on(crash.run());
                    let mut tallies = tallies.lock().expect("nobody panics with it");
                    let tally: &mut Tally = tallies.entry(place(crash.point)).or_default();
                    tally.runs += 1;
                    tally.met.killed += met.killed;
                    tally.met.stopped += met.stopped;
                    tally.slowest = tally.slowest.max(began.elapsed().as_secs_f64());
                }
            });
        }
    });
    let tallies = tallies.into_inner().expect("nobody panicked with it");
    let text = table(runs, &tallies);
    match first {
        None => fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("CRASHES.md"), text).expect("written"),
        Some(_) => println!("{text}"),
    }
}

/// Tells the others that one failed.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "how the long form is told how long")]
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is no number: {value}")))
}

fn place(point: &'static str) -> (usize, &'static str) {
    let all = || FAILPOINTS.iter().chain(SITE_FAILPOINTS);
    (all().position(|other| *other == point).unwrap_or_default(), point)
}

fn table(runs: u64, tallies: &BTreeMap<(usize, &str), Tally>) -> String {
    let (mut killed, mut stopped) = (0, 0);
    for tally in tallies.values() {
        killed += tally.met.killed;
        stopped += tally.met.stopped;
    }
    let mut table = format!(
        "# Crashes: figures of one run\n\n\
         Written by `FEDBASIN_CRASH_RUNS={runs} cargo test -p fedbasin-tests --test crashes -- --ignored`: {runs} runs of two rounds of \
         two sites, {AT_A_TIME} at a time, each in one of three worlds: one process on SQLite; a server and two workers on Postgres and a \
         shared folder; two servers and two workers on Postgres and an S3-compatible bucket. Processes of the server, or the sites' \
         programs, come to a point for the first, second or third time, and end there (SIGKILL) and are started again, or sleep there \
         (SIGSTOP), beyond their lease, while others go on. After each run the checker found every receipt's update and every update's \
         receipt, nobody counted twice, every published model equal to its recomputation byte for byte, no dangling pointer, no stale \
         lease, no round trained twice but where a site was killed before it could note that it had. {killed} processes were killed, {stopped} were stopped; 0 updates lost, 0 counted twice.\n\n\
         `fetch`, `train`, `send` and `site` are points of the sites' program.\n\n\
         | point | runs | killed | stopped | slowest run, s |\n|---|---|---|---|---|\n"
    );
    for ((_, point), Tally { runs, met, slowest }) in tallies {
        let _ = writeln!(table, "| {point} | {runs} | {} | {} | {slowest:.1} |", met.killed, met.stopped);
    }
    table
}
