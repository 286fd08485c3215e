//! `fedbasin site ...`.

use std::{
    future::Future,
    path::PathBuf,
    time::{Duration, Instant},
};

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use fedbasin_proto::v1::{
    ListRunsRequest, RoundState, RunState, RunStatus, UpdateState, WithdrawUpdateRequest,
};
use rebasin::Digest;
use serde_json::{Value, json};
use tonic::Request;

use super::{
    Contact,
    args::{SiteCommand, SiteRunArgs, SiteServerArgs, SiteUploadArgs},
    named_run,
};
use crate::{
    certificate::Certificate,
    connect::{Client, connect},
    download::download,
    error::{Error, Result, does_not_answer},
    files::check_checkpoint,
    kit,
    progress::Screen,
    retry::{Backoff, Patience, patiently},
    site::{self, Evaluator, METRIC_NAME_RULE, SiteOptions, bad_metric_name, limit_metrics},
    trust::{self, Trust, TrustOptions},
    upload::{Announcement, Outcome, upload},
};

const TOKEN_VARIABLE: &str = "FEDBASIN_TOKEN";

pub(super) fn dispatch(command: SiteCommand, screen: &Screen) -> Result<()> {
    match command {
        SiteCommand::Run(args) => block_on(run(args, screen)),
        SiteCommand::Request { site, output } => {
            let path = kit::request(&site, &output)?;
            let value = json!({ "site": site, "request": path });
            screen.answer(&value, || {
                format!(
                    "{}: send it to whoever runs the server; the key beside it stays here, and what comes back belongs beside it",
                    path.display()
                )
            })
        }
        SiteCommand::Status { server, run } => block_on(status(server, run, screen)),
        SiteCommand::Upload(args) => block_on(upload_one(args, screen)),
        SiteCommand::Withdraw { server, update } => block_on(withdraw(server, update, screen)),
        SiteCommand::Download { server, run, reference, digest, output } => {
            block_on(download_one(server, run, reference, digest, output, screen))
        }
    }
}

/// Runs to the end, or until this process is told to end: then what runs below it, such as a trainer, ends too.
fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let trouble =
        |error: std::io::Error| Error::failed(error, "starting the runtime", "see the system's limits");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(trouble)?;
    let result = runtime.block_on(async {
        let stopped = stop_signal().map_err(trouble)?;
        tokio::select! {
            result = work => result,
            () = stopped => Err(Error::failed("stopped by a signal", "this process", "start the same command again; it goes on where it was")),
        }
    });
    // A blocked read ahead of the network must not hold us up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without a handler the process ends as it would have without us.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// A connection, its patience, and where waiting is said.
struct Server<'a> {
    client: Client,
    /// The run that the kit names.
    run: Option<String>,
    /// What this site shows, where that is no token: of a token only the server knows the end.
    certificate: Option<Certificate>,
    patience: Patience,
    trust: TrustOptions,
    screen: &'a Screen,
}

impl<'a> Server<'a> {
    fn of(args: &SiteServerArgs, screen: &'a Screen) -> Result<Self> {
        let patience = Patience::lasting(Duration::from_secs(args.patience_seconds));
        let Contact { address, token, run, trust } = Contact::of(args, TOKEN_VARIABLE)?;
        let (client, certificate) = (connect(&address, token.as_ref())?, address.certificate()?);
        Ok(Self { client, run, certificate, patience, trust, screen })
    }

    /// What is known of the server; nothing is kept for a next call.
    async fn trusted(&self) -> Result<Trust> {
        Trust::establish(&self.client, &self.trust, None, self.patience, self.screen).await
    }

    async fn runs(&self) -> Result<Vec<RunStatus>> {
        let mut client = self.client.clone();
        let mut backoff = Backoff::new(self.patience);
        let place = format!("listing this site's runs at {}", client.url());
        loop {
            let mut request = Request::new(ListRunsRequest {});
            request.set_timeout(Duration::from_secs(30));
            let status = match client.list_runs(request).await {
                Ok(answer) => return Ok(answer.into_inner().runs),
                Err(status) => status,
            };
            if !backoff.allows(&status) {
                return Err(Error::from_status(&status, place));
            }
            if backoff.failures() == 0 {
                self.screen.say(does_not_answer(client.url(), &status));
            }
            if !backoff.wait().await {
                return Err(Error::gave_up(
                    &status,
                    place,
                    "check the address (the gRPC port? https://?) and that the server runs, then start the same command again",
                ));
            }
        }
    }

    async fn run(&self, id: &str) -> Result<RunStatus> {
        self.runs().await?.into_iter().find(|run| run.run_id == id).ok_or_else(|| {
            Error::failed(
                "no such run",
                id,
                "see `fedbasin site status` for the runs that this site belongs to",
            )
        })
    }
}

async fn run(args: SiteRunArgs, screen: &Screen) -> Result<()> {
    let contact = Contact::of(&args.server, TOKEN_VARIABLE)?;
    let run_id = named_run(args.run, contact.run.as_ref())?;
    let options = SiteOptions {
        address: contact.address,
        token: contact.token,
        work_dir: args.work_dir.unwrap_or_else(|| default_work_dir(&run_id)),
        run_id,
        train: args.train,
        evaluate: args
            .evaluate
            .map(|command| Evaluator { command, limit: Duration::from_secs(args.evaluate_seconds) }),
        num_examples: args.num_examples,
        patience: Patience::lasting(Duration::from_secs(args.server.patience_seconds)),
        wait_for_run: Duration::from_secs(args.wait_for_run_seconds),
        align: args.align_locally,
        trust: contact.trust,
    };
    let completed = site::run(options, screen).await?;
    let value = json!({
        "run_id": completed.run_id,
        "rounds_published": completed.rounds_published,
        "global_digest": completed.global.as_ref().map(|(digest, _)| digest.to_string()),
        "file": completed.global.as_ref().map(|(_, file)| file),
    });
    screen.answer(&value, || match &completed.global {
        Some((digest, file)) => format!(
            "run {}: complete, {} rounds, global model {digest} in {}",
            completed.run_id,
            completed.rounds_published,
            file.display()
        ),
        None => format!("run {}: complete, without a model", completed.run_id),
    })
}

/// `fedbasin-RUN` here; whatever was typed as the run's name becomes one plain file name.
fn default_work_dir(run: &str) -> PathBuf {
    let plain =
        |character: char| if character.is_ascii_alphanumeric() || character == '-' { character } else { '_' };
    PathBuf::from(format!("fedbasin-{}", run.chars().map(plain).collect::<String>()))
}

async fn status(args: SiteServerArgs, only: Option<String>, screen: &Screen) -> Result<()> {
    let server = Server::of(&args, screen)?;
    let runs = match only {
        Some(id) => vec![server.run(&id).await?],
        None => server.runs().await?,
    };
    let left = server.certificate.as_ref().map(Certificate::left);
    let value = json!({ "runs": runs.iter().map(run_json).collect::<Vec<_>>(), "certificate": left });
    screen.answer(&value, || match &left {
        Some(left) => format!("{}\n{left}", runs_table(&runs)),
        None => runs_table(&runs),
    })
}

fn runs_table(runs: &[RunStatus]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["run", "state", "published", "round", "round's state", "updates", "this site"]);
    for run in runs {
        let round = run.round.as_ref();
        table.add_row([
            run.run_id.clone(),
            run_state(run.state()).to_owned(),
            format!("{}/{}", run.rounds_published, run.rounds),
            round.map_or_else(String::new, |round| round.number.to_string()),
            round.map_or("", |round| round_state(round.state())).to_owned(),
            round.map_or_else(String::new, |round| {
                format!("{}/{}, quorum {}", round.accepted, round.cohort, round.quorum)
            }),
            round
                .and_then(|round| round.own_update.as_ref())
                .map_or("silent", |own| update_state(own.state()))
                .to_owned(),
        ]);
    }
    table.to_string()
}

fn run_json(run: &RunStatus) -> Value {
    let round = run.round.as_ref().map(|round| {
        json!({
            "number": round.number,
            "state": round_state(round.state()),
            "reason": round.reason,
            "reference_digest": round.reference_digest,
            "reference_size": round.reference_size,
            "global_digest": round.global_digest,
            "global_size": round.global_size,
            "deadline_at_ms": round.deadline_at_ms,
            "quorum": round.quorum,
            "cohort": round.cohort,
            "accepted": round.accepted,
            "own_update": round.own_update.as_ref().map(|own| json!({
                "update_id": own.update_id,
                "digest": own.digest,
                "size": own.size,
                "num_examples": own.num_examples,
                "state": update_state(own.state()),
                "reason": own.reason,
                "moved": own.alignment.as_ref().map(|alignment| alignment.moved),
            })),
        })
    });
    json!({
        "run_id": run.run_id,
        "state": run_state(run.state()),
        "reason": run.reason,
        "rounds": run.rounds,
        "rounds_published": run.rounds_published,
        "global_digest": run.global_digest,
        "max_checkpoint_bytes": run.max_checkpoint_bytes,
        "round": round,
    })
}

fn run_state(state: RunState) -> &'static str {
    match state {
        RunState::Unspecified => "unknown",
        RunState::Open => "open",
        RunState::Complete => "complete",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
    }
}

fn round_state(state: RoundState) -> &'static str {
    match state {
        RoundState::Unspecified => "unknown",
        RoundState::Collecting => "collecting",
        RoundState::Merging => "merging",
        RoundState::Published => "published",
        RoundState::Failed => "failed",
        RoundState::Cancelled => "cancelled",
    }
}

fn update_state(state: UpdateState) -> &'static str {
    match state {
        UpdateState::Unspecified => "unknown",
        UpdateState::Receiving => "receiving",
        UpdateState::Accepted => "accepted",
        UpdateState::Rejected => "rejected",
        UpdateState::Declined => "declined",
        UpdateState::Aligned => "aligned",
    }
}

/// A round opens within a second or so after its run was created. A server that is busy may need longer.
const FIRST_ROUND_WAIT: Duration = Duration::from_secs(10);

/// The number of a run's newest round; waits for the first one.
async fn newest_round(read: impl AsyncFn() -> Result<RunStatus>, wait: Duration) -> Result<u32> {
    let begun = Instant::now();
    loop {
        let run = read().await?;
        if let Some(round) = &run.round {
            return Ok(round.number);
        }
        if run.state() != RunState::Open || begun.elapsed() >= wait {
            return Err(Error::failed(
                format_args!("has no round and is {}", run_state(run.state())),
                format_args!("run {}", run.run_id),
                "see `fedbasin site status`, and try again once a round is there",
            ));
        }
        tokio::time::sleep(Duration::from_millis(200).min(wait)).await;
    }
}

async fn upload_one(args: SiteUploadArgs, screen: &Screen) -> Result<()> {
    let server = Server::of(&args.server, screen)?;
    let run_id = named_run(args.run, server.run.as_ref())?;
    let checked = check_checkpoint(&args.file, None)?;
    let round = match args.round {
        Some(round) => round,
        None => newest_round(async || server.run(&run_id).await, FIRST_ROUND_WAIT).await?,
    };
    let mut metrics: site::MetricMap = args.metrics.into_iter().collect();
    if let Some(name) = bad_metric_name(&metrics) {
        return Err(Error::usage(format_args!("{name:?} {METRIC_NAME_RULE}"), "--metric", "rename it"));
    }
    if limit_metrics(&mut metrics) > 0 {
        return Err(Error::usage("more than 64 metrics", "--metric", "give fewer"));
    }
    let update = Announcement {
        run_id,
        round,
        digest: checked.digest,
        size: checked.size,
        num_examples: args.num_examples,
        metrics,
    };
    let outcome = upload(&server.client, &update, &args.file, server.patience, screen, |_| Ok(())).await?;
    match outcome {
        Outcome::Accepted(receipt) => {
            server.trusted().await?.receipt(&receipt)?;
            let value = json!({
                "round": receipt.round,
                "update_id": receipt.update_id,
                "digest": receipt.digest,
                "num_examples": receipt.num_examples,
            });
            screen.answer(&value, || {
                format!(
                    "round {}: accepted, receipt {} digest {} examples {}",
                    receipt.round, receipt.update_id, receipt.digest, receipt.num_examples
                )
            })
        }
        Outcome::Declined(reason) => Err(Error::failed(
            reason,
            format_args!("round {round} of run {}", update.run_id),
            "see `fedbasin site status` for the round that is open",
        )),
    }
}

async fn withdraw(args: SiteServerArgs, id: String, screen: &Screen) -> Result<()> {
    let server = Server::of(&args, screen)?;
    let place = format!("withdrawing update {id} at {}", server.client.url());
    let answer = patiently(server.patience, &place, async || {
        let mut request = Request::new(WithdrawUpdateRequest { update_id: id.clone() });
        request.set_timeout(Duration::from_secs(60));
        server.client.clone().withdraw_update(request).await
    });
    let update = answer.await?.into_inner().update.unwrap_or_default();
    let value = json!({
        "update_id": update.update_id,
        "run_id": update.run_id,
        "round": update.round,
        "withdrawn_at_ms": update.withdrawn_at_ms,
    });
    screen.answer(&value, || {
        format!(
            "update {} of round {} of run {}: withdrawn, its bytes are erased",
            update.update_id, update.round, update.run_id
        )
    })
}

async fn download_one(
    args: SiteServerArgs,
    run: Option<String>,
    reference: bool,
    digest: Option<String>,
    output: PathBuf,
    screen: &Screen,
) -> Result<()> {
    let digest = match digest {
        Some(text) => Some(text.parse().map_err(|_| {
            Error::usage("not a digest", &text, "give a SHA-256 in lower-case hex, 64 characters")
        })?),
        None => None,
    };
    let server = Server::of(&args, screen)?;
    let digest: Digest = match (digest, run.or_else(|| server.run.clone())) {
        (Some(digest), _) => digest,
        (None, Some(id)) => newest(&server.run(&id).await?, reference)?,
        (None, None) => {
            return Err(Error::usage("no checkpoint is named", "arguments", "give --run or --digest"));
        }
    };
    let signature = server.trusted().await?.model(&server.client, digest, None).await?;
    let size =
        download(&server.client, digest, &output, u64::MAX, server.patience, screen, "checkpoint").await?;
    trust::keep_signature(signature.as_deref(), &output)?;
    let value = json!({ "digest": digest.to_string(), "size": size, "file": output });
    screen.answer(&value, || format!("checkpoint {digest}: {size} bytes in {}", output.display()))
}

/// The digest that a run offers now.
fn newest(run: &RunStatus, reference: bool) -> Result<Digest> {
    let (text, what) = if reference {
        (run.round.as_ref().map_or("", |round| round.reference_digest.as_str()), "no reference yet")
    } else {
        (run.global_digest.as_str(), "no global model yet")
    };
    text.parse().map_err(|_| {
        Error::failed(what, format_args!("run {}", run.run_id), "wait until a round is published")
    })
}

#[cfg(test)]
mod tests;
