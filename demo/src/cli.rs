//! The command line of the demo, and the programs that it is in its children.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use clap::Parser;

use crate::{compare, figures, plot, process, report, run, site_evaluation, site_training, table};

#[cfg(test)]
mod tests;

/// What a user may choose.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "fedbasin-demo",
    version,
    about = "Four sites that really train, a real server, and the table that shows what alignment buys"
)]
pub struct DemoArgs {
    /// Folder of the four IDX .gz files of Fashion-MNIST [default: the subset in demo/data]
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data"), hide_default_value = true)]
    pub data: PathBuf,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Where the plot goes (SVG) [default: fedbasin-demo.svg beside this program]
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// The control: all sites start from one model, so alignment has nothing to move
    #[arg(long)]
    pub same_init: bool,
    /// Compare the paper's methods on two sites instead, without a server: a perceptron and a convolutional network
    #[arg(long, conflicts_with_all = ["same_init", "rounds", "later_epochs", "keep", "serve"])]
    pub compare: bool,
    /// Leave the server up when the run is over, with its dashboard, until Ctrl-C
    #[arg(long)]
    pub serve: bool,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rounds: u32,
    /// Epochs that each site trains in the first round
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub epochs: u32,
    /// Epochs that each site trains in later rounds
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub later_epochs: u32,
    /// Decides initialisations, shares and order
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Keep models, logs and the server's data in this folder, which must be new or empty
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// Runs the demo or, in its children, the server, a site's client, its trainer or what tries its models. The first argument is the program's
/// name. Exit code 0 on success, 2 on wrong usage, 1 otherwise.
#[must_use]
pub fn main_with(args: Vec<OsString>) -> ExitCode {
    let role = args.get(1).and_then(|role| role.to_str()).unwrap_or_default();
    let rest =
        |name: &str, from| std::iter::once(OsString::from(name)).chain(args.iter().skip(from).cloned());
    match role {
        "server" => {
            process::end_with_parent(None);
            fedbasin_server::main_with(rest("fedbasin-server", 2))
        }
        "site" => {
            // The leash comes before the client's own arguments: `site LEASH site run …`.
            process::end_with_parent(args.get(2).map(PathBuf::from));
            fedbasin_client::main_with(rest("fedbasin", 3))
        }
        "train" => match site_training::TrainArgs::try_parse_from(rest("train", 2)) {
            Ok(args) => {
                process::end_without(args.leash.clone());
                exit_code(site_training::run(&args))
            }
            Err(error) => usage(&error),
        },
        "evaluate" => match site_evaluation::EvaluateArgs::try_parse_from(rest("evaluate", 2)) {
            Ok(args) => {
                process::end_without(args.leash.clone());
                exit_code(site_evaluation::run(&args))
            }
            Err(error) => usage(&error),
        },
        _ => match DemoArgs::try_parse_from(args) {
            Ok(args) => exit_code(demo(args)),
            Err(error) => usage(&error),
        },
    }
}

/// Help and version go to standard output with code 0; wrong usage to standard error, in one line, with code 2.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        eprintln!("fedbasin-demo: {}", one_line(&error.to_string()));
    } else {
        // A reader that went away is no reason for anything else.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").trim_start_matches("error: ").to_owned()
}

/// One line on standard error: what, where, and what to do.
fn exit_code(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fedbasin-demo: {}", one_line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// The demo on its own thread, so that Ctrl-C and SIGTERM can end it in order: every child is ended by its handle.
fn demo(args: DemoArgs) -> anyhow::Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = std::thread::spawn(move || whole(&args, &flag));
    runtime.block_on(async {
        let mut signals = std::pin::pin!(told_to_end());
        while !work.is_finished() {
            tokio::select! {
                () = &mut signals, if !interrupted.load(Ordering::Relaxed) => {
                    interrupted.store(true, Ordering::Relaxed);
                }
                () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
            }
        }
    });
    work.join()
        .map_err(|_| anyhow::anyhow!("the demo met a defect (a panic, see above); please report it"))?
}

#[cfg(unix)]
async fn told_to_end() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => wait_for_ctrl_c().await,
    }
}

#[cfg(not(unix))]
async fn told_to_end() {
    wait_for_ctrl_c().await;
}

async fn wait_for_ctrl_c() {
    if tokio::signal::ctrl_c().await.is_err() {
        // No such signal here: then nobody can send it.
        std::future::pending::<()>().await;
    }
}

fn can_write(path: &Path) -> anyhow::Result<()> {
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    opened
        .map(|_| ())
        .with_context(|| format!("cannot write {}: name a file in a folder that exists", path.display()))
}

/// Rounds, figures, plot, report, tables, sentence.
fn whole(args: &DemoArgs, interrupted: &AtomicBool) -> anyhow::Result<()> {
    let plot = match &args.plot {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .context("cannot find this program's own file")?
            .with_file_name(if args.compare { "fedbasin-compare.svg" } else { "fedbasin-demo.svg" }),
    };
    // Before a minute of work, not after it.
    for path in args.report.iter().chain([&plot]) {
        can_write(path)?;
    }
    if args.compare {
        let options = compare::Options { data: &args.data, epochs: args.epochs, seed: args.seed };
        return compare::run(&options, &plot, args.report.as_deref(), interrupted);
    }
    let mut finished = run::run(args, interrupted)?;
    let mut report = figures::report(args, &finished, interrupted)?;
    report.sentence = report::sentence(&report);
    plot::write_svg(&report.barrier, &plot)?;
    report.seconds = finished.begun.elapsed().as_secs_f64();
    if let Some(path) = &args.report {
        let text = format!("{}\n", serde_json::to_string_pretty(&report)?);
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{}", table::tables(&report));
    println!(
        "Loss barrier between {} and {}: {:.3} as uploaded, {:.3} aligned. Plot: {}",
        report.barrier.sites[0],
        report.barrier.sites[1],
        report.barrier.naive,
        report.barrier.aligned,
        plot.display()
    );
    if let Some(path) = &args.report {
        println!("Figures: {}", path.display());
    }
    println!("\n{}\n({:.0} s)", report.sentence, report.seconds);
    if let Some(served) = &mut finished.served {
        println!(
            "\nDashboard: {}/\nSign in with the token in {}\nCtrl-C ends it.",
            served.http,
            served.token_file.display()
        );
        served.until(interrupted)?;
    }
    Ok(())
}
