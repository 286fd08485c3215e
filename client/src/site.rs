//! A site's whole life in one run: wait, train, upload, report, again.
//!
//! Nothing is decided from memory: after every piece of work the run is read again, and what is missing is done. So it does
//! not matter whether this process, the server or the line between them was restarted meanwhile.

mod command;
mod evaluate;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod receipts;
mod tell;
mod trainer;
mod watch;
mod workdir;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use fedbasin_proto::v1::{Receipt, RoundState, RoundStatus, RunState, RunStatus, Update, UpdateState};
use rebasin::{Digest, Source as _};

use crate::{
    connect::{Address, Client, Token, connect},
    download::download,
    error::{Error, Result},
    files::{Checked, check_checkpoint, open_checkpoint},
    offline::{self, AlignJob},
    progress::Screen,
    retry::Patience,
    trust::{self, Trust, TrustOptions},
    upload::{Announcement, Outcome, upload},
};

pub use evaluate::Evaluator;
use tell::Told;
pub use tell::alignment_line;
pub(crate) use trainer::{METRIC_NAME_RULE, bad_metric_name, limit_metrics};
use trainer::{Metrics, Trainer};
use watch::Watch;
use workdir::{RoundDir, Ticket, WorkDir};

/// What a site's life needs.
#[derive(Debug, Clone)]
pub struct SiteOptions {
    /// The server.
    pub address: Address,
    /// This site's token, where it shows one.
    pub token: Option<Token>,
    /// The run to take part in.
    pub run_id: String,
    /// The trainer: a command for `sh -c`.
    pub train: String,
    /// What tries published models, if anything does.
    pub evaluate: Option<Evaluator>,
    /// Where everything is kept.
    pub work_dir: PathBuf,
    /// Number of training examples, where the trainer writes none.
    pub num_examples: Option<u64>,
    /// How long the server may be away.
    pub patience: Patience,
    /// How long to wait for a run that the server does not know.
    pub wait_for_run: Duration,
    /// A spec's file: what was trained is aligned to the reference here, before it is sent.
    pub align: Option<PathBuf>,
    /// How the server is trusted.
    pub trust: TrustOptions,
}

/// How a run ended that is complete.
#[derive(Debug, Clone)]
pub struct Completed {
    /// The run.
    pub run_id: String,
    /// How many rounds were published.
    pub rounds_published: u32,
    /// The last model, and the file that holds it; nothing where no round was published.
    pub global: Option<(Digest, PathBuf)>,
}

/// Takes part in a run until it ends.
///
/// Nothing is trained twice: what a round produced stays in `work_dir/round-N/`, and a later call goes on from there. When
/// the run is complete its last model is in `work_dir/global.safetensors`.
///
/// # Errors
/// The run failed or was cancelled, the trainer failed or wrote no usable checkpoint, the server rejected the update or
/// stayed away for longer than patience lasts. A certificate that has ended, before anything is sent.
pub async fn run(options: SiteOptions, screen: &Screen) -> Result<Completed> {
    let client = connect(&options.address, options.token.as_ref())?;
    let Some(certificate) = options.address.certificate()? else {
        return take_part(options, client, screen).await;
    };
    tokio::select! {
        completed = take_part(options, client, screen) => completed,
        never = certificate.warn(screen) => match never {},
    }
}

async fn take_part(options: SiteOptions, client: Client, screen: &Screen) -> Result<Completed> {
    let mut watch = Watch::new(client.clone(), &options.run_id, options.patience, screen.clone())
        .waiting_for_run(options.wait_for_run);
    // No folder is made for a run that does not exist.
    let mut status = watch.next().await?;
    let dir = WorkDir::open(&options.work_dir, &options.run_id)?;
    let unsettled = dir.rounds()?;
    let mut trust =
        Trust::establish(&client, &options.trust, Some(&options.work_dir), options.patience, screen).await?;
    trust.log(&client, None).await?;
    let (screen, told) = (screen.clone(), Told::default());
    let mut site = Site {
        options,
        client,
        dir,
        trust,
        unproved: None,
        screen,
        told,
        passed: None,
        unsettled,
        most: u64::MAX,
        evaluated: None,
        global: None,
    };
    loop {
        // Servers before there was that figure sent none.
        site.most = if status.max_checkpoint_bytes == 0 { u64::MAX } else { status.max_checkpoint_bytes };
        site.tell(&status).await?;
        site.settle().await?;
        if let Some(published) = site.to_evaluate(&status) {
            // As below: it takes a while, and much may change meanwhile.
            watch.close();
            site.evaluate(published).await?;
            status = watch.next().await?;
            continue;
        }
        match status.state() {
            RunState::Complete => return site.end(&status).await,
            RunState::Failed | RunState::Cancelled => return Err(site.ended_badly(&status)),
            RunState::Open | RunState::Unspecified => {}
        }
        if let Some(round) = &status.round
            && site.has_work(round)
        {
            // The stream would fill up meanwhile; a new one begins with the present state.
            watch.close();
            site.work(round, status.max_checkpoint_bytes).await?;
        }
        status = watch.next().await?;
    }
}

struct Site {
    options: SiteOptions,
    client: Client,
    dir: WorkDir,
    trust: Trust,
    /// A receipt whose record was not looked for in the log yet.
    unproved: Option<Receipt>,
    screen: Screen,
    told: Told,
    /// The newest round that this site has nothing more to do in.
    passed: Option<u32>,
    /// Rounds in which an earlier process may have been ended between sending and keeping the receipt.
    unsettled: Vec<u32>,
    /// The largest checkpoint that the server takes, in bytes.
    most: u64,
    /// The newest round whose models were tried.
    evaluated: Option<u32>,
    /// The global model that is here.
    global: Option<Digest>,
}

impl Site {
    /// Whether this round still needs an update of ours.
    fn has_work(&self, round: &RoundStatus) -> bool {
        let own = round.own_update.as_ref().map(Update::state);
        round.state() == RoundState::Collecting
            && self.passed.is_none_or(|passed| passed < round.number)
            && !matches!(own, Some(UpdateState::Accepted | UpdateState::Aligned | UpdateState::Declined))
    }

    /// One round's work: reference, training, upload.
    async fn work(&mut self, round: &RoundStatus, most: u64) -> Result<()> {
        let number = round.number;
        self.prove().await?;
        let dir = self.dir.round(number)?;
        let reference = match parse_reference(round)? {
            None => None,
            Some(digest) => {
                let path = dir.reference();
                let label = format!("round {number}");
                let limit = if most == 0 { u64::MAX } else { most.max(round.reference_size) };
                let signature = self.trust.model(&self.client, digest, Some(&self.options.run_id)).await?;
                if self.global == Some(digest) && !path.exists() {
                    // It was tried already. What does not come over is downloaded.
                    let _ = std::fs::copy(self.dir.global(), &path);
                }
                download(&self.client, digest, &path, limit, self.options.patience, &self.screen, &label)
                    .await?;
                trust::keep_signature(signature.as_deref(), &path)?;
                Some(path)
            }
        };
        let mut ticket = self.ticket(&dir, round)?;
        if !ticket.trained {
            let trainer = Trainer {
                command: &self.options.train,
                run_id: &self.options.run_id,
                round: number,
                reference: reference.as_deref(),
                dir: &dir,
                for_a_program: self.screen.is_for_a_program(),
            };
            self.screen.say(format_args!("round {number}: training"));
            let mut end = Watch::new(
                self.client.clone(),
                &self.options.run_id,
                Patience::lasting(Duration::MAX),
                Screen::silent(),
            );
            let seconds = tokio::select! {
                seconds = trainer.run() => seconds?,
                status = end.end() => {
                    if status.state() != RunState::Complete {
                        return Err(self.ended_badly(&status));
                    }
                    self.screen.say(format_args!("round {number}: the run is complete, training is stopped"));
                    self.passed = Some(number);
                    return Ok(());
                }
            };
            self.screen.say(format_args!("round {number}: trained in {seconds:.1} s"));
            ticket.trained = true;
            dir.save(&ticket)?;
            failpoint!("train.recorded");
        }
        let mut checked = self.check_output(&dir, reference.as_deref(), most)?;
        if let (Some(spec), Some(reference)) = (&self.options.align, &reference) {
            self.align(spec, reference, &dir.output()).await?;
            checked = self.check_output(&dir, Some(reference), most)?;
        }
        let metrics = self.metrics(&dir, number)?;
        self.send(&dir, ticket, checked, metrics).await
    }

    /// What an earlier process did in this round, or a new ticket.
    fn ticket(&self, dir: &RoundDir, round: &RoundStatus) -> Result<Ticket> {
        let number = round.number;
        let new = Ticket {
            run_id: self.options.run_id.clone(),
            round: number,
            reference: round.reference_digest.clone(),
            ..Ticket::default()
        };
        let Some(old) = dir.ticket()? else { return Ok(new) };
        if old.run_id != new.run_id || old.reference != new.reference {
            return Err(Error::failed(
                "holds the work of another run with this name (its reference is another)",
                dir.path().display(),
                "give another --work-dir, or move this folder away",
            ));
        }
        if old.receipt.is_some() && round.own_update.is_none() {
            return Err(Error::failed(
                format_args!(
                    "holds the receipt of update {} which this server does not know: another run of the same name?",
                    old.update_id.as_deref().unwrap_or("")
                ),
                dir.path().display(),
                "give another --work-dir; or remove its ticket.json to train this round anew",
            ));
        }
        if old.rejected.is_some() || !old.trained || !dir.output().exists() {
            return Ok(new);
        }
        self.screen.say(format_args!(
            "round {number}: was trained already, sending what is in {}",
            dir.path().display()
        ));
        Ok(old)
    }

    /// What the trainer wrote must be a finite checkpoint of the reference's layout. If it is not, training is due again.
    fn check_output(&self, dir: &RoundDir, reference: Option<&Path>, most: u64) -> Result<Checked> {
        let expected = match reference {
            Some(path) => Some(open_checkpoint(path)?.header().layout().clone()),
            None => None,
        };
        let checked = check_checkpoint(&dir.output(), expected.as_ref()).and_then(|checked| {
            if most > 0 && checked.size > most {
                return Err(Error::failed(
                    format_args!("has {} bytes, more than the {most} that the server takes", checked.size),
                    dir.output().display(),
                    "write a smaller dtype or ask whoever runs the server",
                ));
            }
            Ok(checked)
        });
        if checked.is_err() {
            dir.forget()?;
        }
        checked
    }

    /// Brings what was trained into the reference's frame, as the server would: there is nothing left to move for it then. Done
    /// again it changes nothing.
    async fn align(&self, spec: &Path, reference: &Path, output: &Path) -> Result<()> {
        let job = AlignJob {
            spec: spec.to_owned(),
            reference: reference.to_owned(),
            input: output.to_owned(),
            output: output.to_owned(),
            report: None,
            seed: None,
            starts: None,
            bound: false,
        };
        let screen = self.screen.clone();
        let aligned = tokio::task::spawn_blocking(move || offline::align(&job, &screen)).await;
        aligned.map_err(|error| Error::failed(error, output.display(), "this is a defect, report it"))?
    }

    fn metrics(&self, dir: &RoundDir, number: u32) -> Result<Metrics> {
        let (metrics, left_out) = Metrics::read(&dir.metrics(), self.options.num_examples)?;
        if !left_out.no_numbers.is_empty() {
            self.screen.say(format_args!(
                "round {number}: left out, because they are no finite numbers: {}",
                few_names(&left_out.no_numbers)
            ));
        }
        if left_out.over_limits > 0 {
            self.screen.say(format_args!(
                "round {number}: {} metrics are left out: at most 64 are sent",
                left_out.over_limits
            ));
        }
        Ok(metrics)
    }

    async fn send(
        &mut self,
        dir: &RoundDir,
        mut ticket: Ticket,
        checked: Checked,
        metrics: Metrics,
    ) -> Result<()> {
        let number = ticket.round;
        let update = Announcement {
            run_id: ticket.run_id.clone(),
            round: number,
            digest: checked.digest,
            size: checked.size,
            num_examples: metrics.num_examples,
            metrics: metrics.metrics,
        };
        ticket.digest = Some(checked.digest.to_string());
        ticket.num_examples = Some(metrics.num_examples);
        let result =
            upload(&self.client, &update, &dir.output(), self.options.patience, &self.screen, |id| {
                failpoint!("send.begun");
                ticket.update_id = Some(id.to_owned());
                dir.save(&ticket)?;
                failpoint!("send.noted");
                Ok(())
            })
            .await;
        match result {
            Ok(Outcome::Accepted(receipt)) => {
                failpoint!("send.receipt");
                self.trust.receipt(&receipt)?;
                self.unproved = Some(receipt.clone());
                self.screen.say(format_args!(
                    "round {number}: accepted, receipt {} digest {} examples {}",
                    receipt.update_id, receipt.digest, receipt.num_examples
                ));
                self.told.unaligned.push((number, receipt.update_id.clone()));
                ticket.receipt = Some(receipt.into());
            }
            Ok(Outcome::Declined(reason)) => {
                self.screen.say(format_args!(
                    "round {number}: the update was not needed: {reason}; going on to the next round"
                ));
                ticket.declined = Some(reason);
            }
            Err(error) => {
                if matches!(error.code(), Some("invalid-checkpoint" | "conflict")) {
                    ticket.rejected = Some(error.to_string());
                    dir.save(&ticket)?;
                }
                return Err(error);
            }
        }
        self.passed = Some(number);
        dir.save(&ticket)?;
        failpoint!("send.recorded");
        Ok(())
    }

    /// Looks at the log again: it only grew, and holds the record of the newest receipt.
    async fn prove(&mut self) -> Result<()> {
        self.trust.log(&self.client, self.unproved.take().as_ref()).await
    }

    /// The run is complete: keep its last model.
    async fn end(&mut self, status: &RunStatus) -> Result<Completed> {
        self.prove().await?;
        let mut global = None;
        if let Ok(digest) = status.global_digest.parse::<Digest>() {
            global = Some((digest, self.fetch_global(digest).await?));
        }
        failpoint!("site.ended");
        Ok(Completed { run_id: status.run_id.clone(), rounds_published: status.rounds_published, global })
    }

    fn ended_badly(&self, status: &RunStatus) -> Error {
        let place = format!("run {}", self.options.run_id);
        match status.state() {
            RunState::Cancelled => Error::failed("was cancelled", place, "ask whoever runs the server"),
            _ => {
                Error::failed(format_args!("failed: {}", status.reason), place, "ask whoever runs the server")
            }
        }
    }
}

/// Names on one line, however many there are and however long they are.
fn few_names(names: &[String]) -> String {
    const MOST: usize = 8;
    let mut parts: Vec<String> =
        names.iter().take(MOST).map(|name| name.chars().take(64).collect()).collect();
    if names.len() > MOST {
        parts.push(format!("and {} more", names.len() - MOST));
    }
    parts.join(", ")
}

/// The digest of a round's reference; `None` in a founding round.
fn parse_reference(round: &RoundStatus) -> Result<Option<Digest>> {
    if round.reference_digest.is_empty() {
        return Ok(None);
    }
    round.reference_digest.parse().map(Some).map_err(|_| {
        Error::failed(
            "the reference's digest is none",
            format_args!("round {}", round.number),
            "this is a defect of the server, report it",
        )
    })
}

/// Metrics by name.
pub(crate) type MetricMap = BTreeMap<String, f64>;

#[cfg(test)]
mod tests;
