//! What each input of the corpus of hostile inputs (`tests/tests/hostile/`) costs a server, on both databases, and how soon what a token
//! or a certificate opened is over once that is revoked.
//!
//! ```text
//! cargo bench -p fedbasin-tests --bench hostile                  all; writes tests/HOSTILE.md
//! cargo bench -p fedbasin-tests --bench hostile -- corpus        a part, `corpus` or `revocation`, to the terminal only
//! ```
//!
//! `FEDBASIN_TEST_POSTGRES_URL` names a Postgres whose user may create databases, as for the tests.

#![forbid(unsafe_code)]
#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    reason = "a benchmark prints rounded figures; it has no callers"
)]

// The corpus is a test's: the same files, so that what is measured is what is tested.
#[path = "../tests/hostile/admin.rs"]
mod admin;
#[path = "../tests/hostile/bodies.rs"]
mod bodies;
#[path = "../tests/hostile/certificates.rs"]
mod certificates;
#[path = "../tests/hostile/corpus.rs"]
mod corpus;
#[path = "../tests/hostile/headers.rs"]
mod headers;
#[path = "../tests/hostile/identity.rs"]
mod identity;
#[path = "../tests/hostile/protocol.rs"]
mod protocol;
#[path = "hostile/revocation.rs"]
mod revocation;
#[path = "../tests/hostile/run.rs"]
mod run;
#[path = "../tests/hostile/steps.rs"]
mod steps;
#[path = "../tests/hostile/values.rs"]
mod values;
#[path = "../tests/hostile/wire.rs"]
mod wire;

use std::{fmt::Write as _, fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use fedbasin_tests::Database;

use crate::corpus::{MOST_MEMORY, Tried};

/// Longest that an input may take to be answered.
const LONGEST: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match run(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("a budget was missed: see the tables");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &[String]) -> Result<bool> {
    let parts = ["corpus", "revocation"];
    ensure!(wanted.iter().all(|part| parts.contains(&&**part)), "name one of {parts:?}, or none for all");
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == part);
    // As the tests have it: one runtime for whoever attacks and whoever is honest.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (mut text, mut kept) = (beginning()?, true);
    if wants("corpus") {
        let areas = runtime.block_on(areas())?;
        kept &= write_areas(&mut text, &areas);
    }
    if wants("revocation") {
        let ends = runtime.block_on(revocation::measure())?;
        kept &= revocation::write(&mut text, &ends);
    }
    if wanted.is_empty() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("HOSTILE.md"), &text)?;
        println!("written: tests/HOSTILE.md");
    } else {
        println!("{text}");
    }
    Ok(kept)
}

fn beginning() -> Result<String> {
    let build = if cfg!(debug_assertions) { "development" } else { "release" };
    Ok(format!(
        "# Hostile inputs and revocation: figures of one run\n\nWritten by `cargo bench -p fedbasin-tests --bench hostile`, on {} \
         processors, which the servers ({build} builds), whoever attacks, honest sites and Postgres share.\n",
        std::thread::available_parallelism()?,
    ))
}

const DATABASES: [&str; 2] = ["SQLite", "Postgres"];

/// One area of the corpus: what its inputs cost, by database.
struct Area {
    name: &'static str,
    tried: [Vec<Tried>; 2],
}

/// Tries the whole corpus, first on SQLite, then on Postgres.
async fn areas() -> Result<Vec<Area>> {
    let mut areas = Vec::new();
    macro_rules! area {
        ($name:literal, $class:ident, $claim:ident) => {
            println!("{}", $name);
            let mut tried = [Vec::new(), Vec::new()];
            for (database, tried) in
                [Database::sqlite(), Database::postgres().await].into_iter().zip(&mut tried)
            {
                *tried = $class::$claim(database).await;
                ensure!(tried.len() == $class::names().len(), "{}: not every input was tried", $name);
            }
            areas.push(Area { name: $name, tried });
        };
    }
    area!("Headers of checkpoints", headers, every_header_is_refused_for_its_own_reason);
    area!("Values of checkpoints", values, numbers_that_are_none_are_refused_and_odd_ones_break_nothing);
    area!("gRPC and HTTP/2", wire, what_is_no_call_is_refused_and_the_edge_goes_on);
    area!("Protocol", protocol, what_is_out_of_order_is_refused_and_the_round_goes_on);
    area!("Identity", identity, who_is_not_who_it_says_opens_nothing);
    area!("Admin API", admin, what_no_operator_asks_is_refused_as_a_problem);
    Ok(areas)
}

/// A table, and whether each input kept its budgets.
fn write_areas(text: &mut String, areas: &[Area]) -> bool {
    let inputs: usize = areas.iter().map(|area| area.tried[0].len()).sum();
    let (seconds, mib) = (LONGEST.as_secs(), MOST_MEMORY >> 20);
    let _ = writeln!(
        text,
        "\n## Inputs\n\nEach of the corpus's {inputs} inputs (`tests/tests/hostile/`) is sent to a server in the middle of a round, while an \
         honest site's update is under way; its answer, the log, that update and the round are checked as by the tests. Times are from \
         the first step until the answer, with all steps that lead to it: some make a run of their own, some wait until a round is \
         published. Memory is what the server's process grew by at its peak. Each may take {seconds} s at the most, and {mib} MiB.\n\n\
         | area | kind | inputs | SQLite: median ms | longest ms | MiB | Postgres: median ms | longest ms | MiB | budgets: {seconds} s, \
         {mib} MiB |\n|---|---|---|---|---|---|---|---|---|---|",
    );
    let mut all_kept = true;
    for area in areas {
        let mut kinds: Vec<&str> = area.tried[0].iter().map(|tried| tried.kind).collect();
        kinds.dedup();
        for kind in kinds {
            let (line, kept) = area.line(kind);
            all_kept &= kept;
            let _ = writeln!(text, "{line}");
        }
    }
    let all = areas.iter().flat_map(|area| DATABASES.into_iter().zip(&area.tried));
    let mut slowest: Vec<(&str, &Tried)> =
        all.flat_map(|(database, tried)| tried.iter().map(move |tried| (database, tried))).collect();
    slowest.sort_by_key(|(_, tried)| std::cmp::Reverse(tried.took));
    let name = |(database, tried): &(&str, &Tried)| {
        format!("{} ({:.0} ms, {database})", tried.name, milliseconds(tried.took))
    };
    let slowest: Vec<String> = slowest.iter().take(5).map(name).collect();
    let verdict = if all_kept { "kept by each input" } else { "**missed by some**" };
    let _ = writeln!(text, "\nThe five longest: {}. The budgets are {verdict}.", slowest.join("; "));
    all_kept
}

impl Area {
    /// A kind's line, and whether each of its inputs kept its budgets.
    fn line(&self, kind: &str) -> (String, bool) {
        let of_kind = self
            .tried
            .each_ref()
            .map(|tried| tried.iter().filter(|tried| tried.kind == kind).copied().collect::<Vec<Tried>>());
        let kept = of_kind.iter().flatten().all(|tried| tried.took <= LONGEST && tried.more <= MOST_MEMORY);
        let figures = of_kind.each_ref().map(|tried| {
            let mut times: Vec<Duration> = tried.iter().map(|tried| tried.took).collect();
            let (median, longest) = median_and_longest(&mut times);
            let most = tried.iter().map(|tried| tried.more).max().unwrap_or_default();
            format!("{median:.1} | {longest:.1} | {:.1}", most as f64 / f64::from(1 << 20))
        });
        let (count, verdict) = (of_kind[0].len(), if kept { "kept" } else { "**missed**" });
        (format!("| {} | {kind} | {count} | {} | {verdict} |", self.name, figures.join(" | ")), kept)
    }
}

/// In milliseconds.
fn median_and_longest(times: &mut [Duration]) -> (f64, f64) {
    times.sort_unstable();
    let at = |place: usize| times.get(place).copied().map_or(0.0, milliseconds);
    let middle = times.len() / 2;
    let median = if times.len().is_multiple_of(2) {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    } else {
        at(middle)
    };
    (median, at(times.len().saturating_sub(1)))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
