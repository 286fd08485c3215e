//! Rounds under load, with the server in a process of its own, on SQLite and a disk: how long they take beside what disk and
//! loopback take for their bytes, and how much memory the server needs.
//!
//! ```text
//! cargo bench -p fedbasin-tests --bench load                    all cases; writes tests/LOAD.md and tests/LOAD.svg
//! cargo bench -p fedbasin-tests --bench load -- pair many       some (pair, large, memory, many), to the terminal only
//! ```
//!
//! It needs about 10 GB in the target folder, which are free again at the end, and memory for a few models of 1 GB.

#![forbid(unsafe_code)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::cast_precision_loss,
    reason = "a benchmark prints rounded figures; its modules are seen by nobody else"
)]

#[path = "load/floors.rs"]
mod floors;
#[path = "load/many.rs"]
mod many;
#[path = "load/memory.rs"]
mod memory;
#[path = "load/model.rs"]
mod model;
#[path = "load/scene.rs"]
mod scene;
#[path = "load/speed.rs"]
mod speed;

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};

use crate::speed::Case;

const CASES: [&str; 4] = ["pair", "large", "memory", "many"];

/// The client's work is that of many machines: none of them waits for another one's disk.
const WORKERS: usize = 16;

/// A number of bytes in megabytes of 1,000,000.
fn mb(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

fn main() -> ExitCode {
    let mut cases: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(unknown) = cases.iter().find(|case| !CASES.contains(&case.as_str())) {
        eprintln!("there is no case {unknown}: name some of {}, or none for all", CASES.join(", "));
        return ExitCode::from(2);
    }
    let all = cases.is_empty();
    if all {
        cases = CASES.map(str::to_owned).to_vec();
    }
    let outcome = allow_open_files(&cases).and_then(|()| {
        let folder = folder()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
        let outcome = runtime.block_on(run(&cases, &folder));
        // Ends what still writes there after an error.
        drop(runtime);
        let removed = fs::remove_dir_all(&folder).with_context(|| folder.display().to_string());
        outcome.and_then(|outcome| removed.map(|()| outcome))
    });
    let (document, plot) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("failed: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    if let (true, Some(plot)) = (all, plot) {
        let room = Path::new(env!("CARGO_MANIFEST_DIR"));
        let written =
            fs::write(room.join("LOAD.md"), document).and_then(|()| fs::write(room.join("LOAD.svg"), plot));
        if let Err(error) = written {
            eprintln!("the figures cannot be written: {error}");
            return ExitCode::FAILURE;
        }
        println!("written: tests/LOAD.md, tests/LOAD.svg");
    }
    ExitCode::SUCCESS
}

/// Runs the cases that are wanted; gives the document, and the plot where memory was measured.
async fn run(cases: &[String], folder: &Path) -> Result<(String, Option<String>)> {
    let wanted = |case: &str| cases.iter().any(|wanted| wanted == case);
    let mut document = beginning()?;
    let mut plot = None;
    if wanted("pair") {
        let case = Case {
            title: "Two sites with models of 100 MB",
            sites: 2,
            bytes: 100_000_000,
            rounds: 5,
            budget: Some(1.2),
        };
        case.run(folder, &mut document).await?;
    }
    if wanted("large") {
        let case = Case {
            title: "One site with a model of 1 GB",
            sites: 1,
            bytes: 1_000_000_000,
            rounds: 3,
            budget: None,
        };
        case.run(folder, &mut document).await?;
    }
    if wanted("memory") {
        plot = Some(memory::run(&mut document).await?);
    }
    if wanted("many") {
        many::run(&mut document).await?;
    }
    Ok((document, plot))
}

fn beginning() -> Result<String> {
    let processors = std::thread::available_parallelism()?;
    Ok(format!(
        "# Load: figures of one run\n\nWritten by `cargo bench -p fedbasin-tests --bench load`, on {processors} processors. The server \
         is a process of its own, a release build with its defaults: SQLite, a folder, everything synced before it is acknowledged (only \
         its failpoints are compiled in, which a release has not). The sites are tasks of the benchmark's process and call the client's \
         library over loopback; so server, sites and the kernel share the processors, and the sites' files lie on the server's disk. \
         Nothing trains. Every run starts from a seed; each site uploads the seed with a little noise of its own, so each update's bytes \
         are new, and the strategy `aligned` really searches and finds that nothing has to move. Models are perceptrons with five \
         hidden layers (of 2048 units; of 256 where memory is measured, of 128 in those of 1 MB) and as many inputs as make up the size. Every merged model is computed \
         again and compared number by number. MB are 1,000,000 bytes.\n\n**Floor**: what no server undercuts on the machine, taken in \
         the same run, between its rounds. *Disk*: the updates written and synced, from as many threads as there are sites, then the \
         model from one. *Loopback*: the same bytes up and the model down over plain TCP, a line a site. Before each round and each floor the \
         system holds as many bytes of a file as it writes, and gives that memory back: where a host gives its guest memory on demand, \
         the first use takes ten times as long as every other. Seconds compare within one \
         machine, multiples of the floor between machines.\n"
    ))
}

/// Raises the number of open files that the system allows, where many sites need more: this program is started again by a shell that
/// did. Its servers inherit it.
fn allow_open_files(cases: &[String]) -> Result<()> {
    let limits = fs::read_to_string("/proc/self/limits").context("the limits of this process")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let allowed = line.and_then(|line| line.split_whitespace().next()).unwrap_or_default();
    // What is no number is `unlimited`.
    let enough = allowed.parse().map_or(true, |allowed: u64| allowed >= many::OPEN_FILES);
    if enough || !cases.iter().any(|case| case == "many") {
        return Ok(());
    }
    let script = format!("ulimit -n {} && exec \"$0\" \"$@\"", many::OPEN_FILES);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    Err(shell.exec()).context("starting this program again with more open files")
}

/// An empty folder on a disk, where all temporary files of this process and its servers go. What an earlier run left that was
/// interrupted is removed.
fn folder() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| folder.display().to_string());
        }
        _ => fs::create_dir_all(&folder)?,
    }
    let kind = file_system(&folder.canonicalize()?)?;
    ensure!(
        !["tmpfs", "ramfs"].contains(&kind.as_str()),
        "the target folder lies in memory ({kind}), not on a disk: set CARGO_TARGET_DIR to one that does not"
    );
    ensure!(
        tempfile::env::override_temp_dir(&folder).is_ok(),
        "the folder of temporary files was set before"
    );
    Ok(folder)
}

/// The kind of the file system that a folder lies on.
fn file_system(folder: &Path) -> Result<String> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    // Of those at one place the last one counts.
    let found = mounts.filter(|(place, _)| folder.starts_with(place)).max_by_key(|(place, _)| place.len());
    Ok(found.context("the mount of the target folder")?.1.to_owned())
}
