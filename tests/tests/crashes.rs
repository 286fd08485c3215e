//! The server's processes are killed at every named point of a run (`FAILPOINTS`), and started again; then a checker that reads
//! only the database, the stored bytes and the sites' receipts says whether anything was lost, counted twice or left half done.
//!
//! A point each, in one of two worlds by turns: one process on SQLite, or a server that only serves and two workers on Postgres and
//! a shared folder, all of which end at the point. The long form, any number of random points in both worlds:
//! `FEDBASIN_CRASH_RUNS=500 cargo test -p fedbasin-tests --test crashes -- --ignored --nocapture`, which writes `CRASHES.md`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use fedbasin_server::FAILPOINTS;
use fedbasin_tests::{
    Database, Options, Server, SiteProgram,
    checkpoint::{one_hot, read_f32},
    digest, eventually,
};
use rebasin::{Alignment, FileSource, Input, Layout, Source, Spec};
use serde_json::Value;
use sqlx::{Row as _, any::AnyRow};

/// Rounds of each run. Two, so that the second one's reference is what the first one published.
const ROUNDS: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    /// One process, SQLite, its own folder.
    One,
    /// One process that serves and two that work, Postgres, a folder that all see.
    Many,
}

/// The processes of a world, and the folder that they share.
struct Processes {
    all: Vec<Server>,
    shared: Option<tempfile::TempDir>,
}

impl Processes {
    async fn start(world: World) -> Self {
        let work = "poll_ms = 100\nlease_seconds = 1\n";
        if world == World::One {
            let options = Options { config: format!("[work]\n{work}"), ..Options::default() };
            return Self { all: vec![Server::start_with(Database::sqlite(), options)], shared: None };
        }
        let shared = tempfile::tempdir().expect("a folder");
        let options = Options::in_folder(shared.path()).only_serving(work);
        let first = Server::start_with(Database::postgres().await, options);
        let workers = [first.beside(true), first.beside(true)];
        Self { all: [first].into_iter().chain(workers).collect(), shared: Some(shared) }
    }

    /// The one that serves.
    fn server(&self) -> &Server {
        &self.all[0]
    }

    /// Starts each that was killed again, without the point; tells how many those were.
    fn revive(&mut self) -> usize {
        let mut killed = 0;
        for process in &mut self.all {
            if process.was_killed() {
                killed += 1;
                process.start_again();
            }
        }
        killed
    }

    fn objects(&self) -> PathBuf {
        let folder = match &self.shared {
            Some(shared) => shared.path().to_owned(),
            None => self.server().data_dir().join("objects"),
        };
        folder.join("checkpoints")
    }
}

/// What killed processes of long ago may have left: bytes that no row tells of, and an upload's file without an update.
fn leave_things_behind(processes: &Processes) -> Vec<PathBuf> {
    let orphan = one_hot(0, 9);
    let object = processes.objects().join(digest(&orphan));
    fs::create_dir_all(processes.objects()).expect("the folder of checkpoints");
    fs::write(&object, orphan).expect("an object");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::options().write(true).open(&object).expect("the object");
    file.set_modified(long_ago).expect("its time");
    let mut left = vec![object];
    for process in &processes.all {
        let upload = process.data_dir().join("staging/01890a5d-ac96-774b-bcce-b302099a8057");
        fs::write(&upload, b"half").expect("an upload");
        left.push(upload);
    }
    left
}

/// One run of two sites whose server's processes end when they come to `point` for the n-th time. How often one did.
async fn crash(world: World, point: &str, time: u32) -> usize {
    let mut processes = Processes::start(world).await;
    let tokens = ["a", "b"].map(|id| processes.server().admin().enrol(id));
    // None runs meanwhile: each sweeps when it starts.
    processes.all.iter_mut().for_each(Server::kill);
    let left = leave_things_behind(&processes);
    for process in &mut processes.all {
        process.start_again_until(&format!("{point}:{time}")).await;
    }
    let mut killed = 0;
    // Whoever was killed is there again; then whether what is waited for has come.
    let mut revived = |has_come: bool, processes: &mut Processes| {
        killed += processes.revive();
        has_come.then_some(())
    };
    let (what, admin) = (format!("{point} in {world:?}"), processes.server().admin());
    let mut run = SiteProgram::run(ROUNDS);
    let keeps_all = !point.starts_with("retire.");
    if !keeps_all {
        run["policy"]["keep_models"] = 1.into();
        run["policy"]["keep_updates"] = 0.into();
    }
    let (json, run) = ([("content-type", "application/json")], run.to_string());
    // An operator whose answer was lost asks again.
    eventually(&format!("{what}: the run is created"), || {
        let answer = admin.try_request("POST", "/v1/runs", &json, run.as_bytes());
        revived(answer.is_ok_and(|answer| matches!(answer.status, 201 | 409)), &mut processes)
    })
    .await;
    let mut sites = [
        SiteProgram::start(processes.server(), &tokens[0], 0, 1),
        SiteProgram::start(processes.server(), &tokens[1], 1, 3),
    ];
    eventually(&format!("{what}: the run ends"), || {
        let ended = sites.each_mut().map(|site| site.child.try_wait().expect("its status").is_some());
        revived(ended == [true, true], &mut processes)
    })
    .await;
    for site in &mut sites {
        assert_eq!(site.ends().await, Some(0), "{what}: {}", site.read("log"));
    }
    // What comes after the end may be the point too.
    eventually(&format!("{what}: what was left over is swept"), || {
        let swept = !left.iter().any(|path| path.exists());
        let has_come = swept && (keeps_all || lets_go(&processes));
        revived(has_come, &mut processes)
    })
    .await;
    check(&processes, &sites).await;
    killed
}

/// Whether no update's bytes are kept or wait to be removed, by the rows.
fn lets_go(processes: &Processes) -> bool {
    let left = async {
        let query = "SELECT COUNT(*) AS waiting FROM checkpoints WHERE object IS NOT NULL
                     AND (removed_at_ms IS NOT NULL OR digest IN (SELECT digest FROM updates))";
        let row = sqlx::query(query).fetch_one(&mut processes.server().rows().await).await;
        number(&row.expect("a count"), "waiting")
    };
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(left)) == 0
}

/// Reads the rows, the bytes and the receipts, and nothing of the server's code.
async fn check(processes: &Processes, sites: &[SiteProgram]) {
    let mut rows = processes.server().rows().await;
    let stored = sqlx::query("SELECT digest, object FROM checkpoints WHERE removed_at_ms IS NULL");
    let stored = stored.fetch_all(&mut rows).await.expect("the checkpoints");
    let stored: BTreeMap<_, _> = stored
        .iter()
        .map(|row| (text(row, "digest"), processes.objects().join(text(row, "object"))))
        .collect();
    let bytes_of = |name: &str| {
        let bytes = fs::read(&stored[name]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(digest(&bytes), name, "stored bytes have the digest that their row tells");
        bytes
    };

    // The run ended, and its last model is that of its last round.
    let run = sqlx::query("SELECT state, spec, layout, rounds_published, global_digest FROM runs");
    let run = run.fetch_one(&mut rows).await.expect("one run");
    assert_eq!(
        (text(&run, "state"), number(&run, "rounds_published")),
        ("complete".into(), i64::from(ROUNDS))
    );
    let spec: Spec = serde_json::from_str(&text(&run, "spec")).expect("a spec");
    let layout: Layout = serde_json::from_str(&text(&run, "layout")).expect("a layout");
    let spec = spec.check(&layout).expect("they fit");

    // Each receipt's update is there as it says, and counts once; nothing else counts.
    let mut receipts = Vec::new();
    for site in sites {
        for round in 1..=ROUNDS {
            let ticket: Value =
                serde_json::from_str(&site.read(&format!("fedbasin-pilot/round-{round}/ticket.json")))
                    .expect("a ticket");
            let field = |name: &str| ticket["receipt"][name].as_str().expect("a receipt").to_owned();
            receipts.push((i64::from(round), field("site_id"), field("update_id"), field("digest")));
        }
    }
    receipts.sort();
    let counted = sqlx::query(
        "SELECT round, site_id, id, digest, num_examples, alignment, lease_token, retired_at_ms FROM updates
         WHERE state IN ('accepted', 'aligned') ORDER BY round, site_id",
    );
    let counted = counted.fetch_all(&mut rows).await.expect("the updates");
    let held: Vec<_> = counted
        .iter()
        .map(|row| (number(row, "round"), text(row, "site_id"), text(row, "id"), text(row, "digest")))
        .collect();
    assert_eq!(held, receipts, "what counts is what there are receipts for");

    // Each published model is the mean of its updates: by its own words, and computed again, byte for byte.
    let rounds = sqlx::query(
        "SELECT number, state, reference_digest, global_digest, lease_token FROM rounds ORDER BY number",
    );
    let rounds = rounds.fetch_all(&mut rows).await.expect("the rounds");
    assert_eq!(rounds.len(), ROUNDS as usize, "no round failed");
    for round in &rounds {
        assert_eq!(text(round, "state"), "published");
        let global = bytes_of(&text(round, "global_digest"));
        assert_eq!(read_f32(&global, "counted"), [0.25, 0.75], "each counted once");
        let updates: Vec<&AnyRow> =
            counted.iter().filter(|row| number(row, "round") == number(round, "number")).collect();
        if updates.iter().all(|row| row.get::<Option<i64>, _>("retired_at_ms").is_some()) {
            let kept = updates.iter().any(|row| stored.contains_key(&text(row, "digest")));
            assert!(!kept, "what no row needs is removed");
            continue;
        }
        let sources: Vec<FileSource> =
            updates.iter().map(|row| source(&stored[&text(row, "digest")])).collect();
        let alignments: Vec<Alignment> = updates
            .iter()
            .map(|row| serde_json::from_str(&text(row, "alignment")).expect("an alignment"))
            .collect();
        let examples: Vec<u64> =
            updates.iter().map(|row| u64::try_from(number(row, "num_examples")).expect("a count")).collect();
        let shares = rebasin::shares(&examples).expect("shares");
        let inputs: Vec<Input<'_>> = (0..updates.len())
            .map(|i| Input { source: &sources[i], alignment: Some(&alignments[i]), share: shares[i] })
            .collect();
        let reference = source(&stored[&text(round, "reference_digest")]);
        let mut again = Vec::new();
        rebasin::merge_to(Some(&spec), &inputs, Some(&reference as &dyn Source), &mut again, &mut |_, _| {})
            .expect("a mean");
        assert!(again == global, "computed again it is the same");
        for row in updates {
            bytes_of(&text(row, "digest"));
        }
    }
    assert_eq!(text(&run, "global_digest"), text(&rounds[1], "global_digest"));

    // Nothing that ended is still somebody's, and no pointer dangles.
    let leases =
        rounds.iter().chain(&counted).filter(|row| row.get::<Option<String>, _>("lease_token").is_some());
    assert_eq!(leases.count(), 0, "a lease outlived its work");
    let (holds, said) = processes.server().fsck();
    assert!(holds, "{said}");
}

fn source(path: &Path) -> FileSource {
    FileSource::open(path).expect("a checkpoint")
}

fn text(row: &AnyRow, column: &str) -> String {
    row.try_get(column).unwrap_or_else(|error| panic!("{column}: {error}"))
}

fn number(row: &AnyRow, column: &str) -> i64 {
    row.try_get(column).unwrap_or_else(|error| panic!("{column}: {error}"))
}

/// All points of one part of a run.
async fn crash_at_each(part: &str) {
    let points: Vec<_> = FAILPOINTS.iter().enumerate().filter(|(_, point)| point.starts_with(part)).collect();
    assert!(points.len() > 1, "{part}: no such points");
    for (index, point) in points {
        let world = if index % 2 == 0 { World::One } else { World::Many };
        let begun = Instant::now();
        let killed = crash(world, point, 1).await;
        println!("| {point} | {world:?} | {killed} | {:.1} |", begun.elapsed().as_secs_f64());
        assert!(killed > 0, "{point} in {world:?}: no process came there");
    }
}

macro_rules! parts {
    ($($name:ident $part:literal),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crash_at_each($part).await;
            }
        )*

        #[test]
        fn every_point_is_of_a_part() {
            let of_a_part = |point: &str| [$($part),*].iter().filter(|part| point.starts_with(*part)).count();
            for point in FAILPOINTS {
                assert_eq!(of_a_part(point), 1, "{point}");
            }
        }
    };
}

parts!(
    killed_while_rounds_open_and_close "round.",
    killed_while_an_update_arrives "upload.",
    killed_while_an_update_is_aligned "align.",
    killed_while_a_round_is_merged "merge.",
    killed_while_a_model_is_published "publish.",
    killed_while_leftovers_are_swept "sweep.",
    killed_while_a_run_lets_go "retire.",
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long form, a command of its own: see the top of this file"]
async fn killed_at_random() {
    #[expect(clippy::disallowed_methods, reason = "how the long form is told how long")]
    let runs: u64 =
        std::env::var("FEDBASIN_CRASH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(100);
    let mut points: BTreeMap<(usize, &str), (u32, usize, f64)> = BTreeMap::new();
    for run in 0..runs {
        // SplitMix64: any run can be had again by its number.
        let mut bits = (run + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let pick = |shift: u32, of: u64| (bits >> shift) % of;
        let place = usize::try_from(pick(0, FAILPOINTS.len() as u64)).expect("an index");
        let world = if pick(40, 2) == 0 { World::One } else { World::Many };
        let time = 1 + u32::try_from(pick(44, 3)).expect("1 to 3");
        let begun = Instant::now();
        println!("run {run}: {}, time {time}, {world:?}", FAILPOINTS[place]);
        let killed = crash(world, FAILPOINTS[place], time).await;
        let (runs, all, slowest) = points.entry((place, FAILPOINTS[place])).or_default();
        *runs += 1;
        *all += killed;
        *slowest = slowest.max(begun.elapsed().as_secs_f64());
    }
    let all: usize = points.values().map(|(_, killed, _)| killed).sum();
    let mut table = format!(
        "# Crashes: figures of one run\n\nWritten by `FEDBASIN_CRASH_RUNS={runs} cargo test -p fedbasin-tests --test crashes -- \
         --ignored`: {runs} runs of two rounds of two sites, on SQLite with one process, or on Postgres with a server and two \
         workers, that end themselves (SIGKILL) when they come to a point for the first, second or third time, and are started \
         again. After each run the checker found every receipt's update, nobody counted twice, every published model equal to its \
         recomputation byte for byte, no dangling pointer, no stale lease. {all} processes were killed; 0 updates lost, 0 counted \
         twice.\n\n| point | runs | processes killed | slowest run, s |\n|---|---|---|---|\n"
    );
    for ((_, point), (runs, killed, slowest)) in points {
        table.push_str(&format!("| {point} | {runs} | {killed} | {slowest:.1} |\n"));
    }
    fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("CRASHES.md"), table).expect("written");
}
