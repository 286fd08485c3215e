//! A server, a run, and what its sites do in a round.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use fedbasin_client::{
    connect::{Address, Client, Token, connect},
    download::download,
    files::{Checked, check_checkpoint},
    progress::Screen,
    retry::{Backoff, Patience},
    upload::{Announcement, Outcome, upload},
};
use fedbasin_proto::v1::{RunState, RunStatus, WatchRunRequest};
use fedbasin_tests::{Database, Options, Server};
use rebasin::Digest;
use serde_json::json;
use tempfile::TempDir;
use tonic::Status;

use crate::model::{Author, Model};

/// Longer than any step of any case takes where nothing is broken.
pub const LONGEST: Duration = Duration::from_secs(1800);

/// The client's own default.
const PATIENCE: Patience = Patience::lasting(Duration::from_secs(600));

/// The one run of each server here.
const RUN: &str = "load";

/// A server that holds a run, and the sites of it.
pub struct Scene {
    pub server: Server,
    pub sites: Arc<Sites>,
}

/// The sites of a run, all in this process; each has a connection of its own.
pub struct Sites {
    pub model: Model,
    pub clients: Vec<Client>,
    folder: TempDir,
}

impl Scene {
    /// Starts a server with `config`, enrols sites and creates a run of them that starts from the seed.
    pub fn start(model: Model, sites: usize, strategy: &str, rounds: u32, config: &str) -> Result<Self> {
        let options = Options { config: config.to_owned(), ..Options::default() };
        let server = Server::start_with(Database::sqlite(), options);
        let admin = server.admin();
        // As many digits for each, so that they are merged in the order of their numbers.
        let ids: Vec<String> = (0..sites).map(|site| format!("site-{site:04}")).collect();
        let mut clients = Vec::with_capacity(sites);
        for id in &ids {
            let address = Address { url: server.grpc.clone(), ca: None, insecure: false, identity: None };
            clients.push(connect(&address, Some(&Token::new(admin.enrol(id))))?);
        }
        let mut seed = Vec::with_capacity(usize::try_from(model.size())?);
        model.write(Author::SEED, &mut seed)?;
        admin.create_run(&json!({
            "id": RUN, "spec": model.spec(), "strategy": strategy, "cohort": ids, "seed_digest": admin.upload(&seed),
            "policy": { "rounds": rounds, "quorum": sites, "deadline_seconds": 24 * 3600 },
        }));
        let folder = tempfile::tempdir()?;
        Ok(Self { server, sites: Arc::new(Sites { model, clients, folder }) })
    }

    /// Waits until a round takes updates.
    pub async fn opens(&self, round: u32) -> Result<()> {
        let admin = self.server.admin();
        until(&format!("round {round} opens"), || Ok(admin.run(RUN)["current_round"] == round)).await
    }

    /// Waits until a round is published. Asks for little, and seldom: answering is not what is measured.
    pub async fn publishes(&self, round: u32) -> Result<Digest> {
        let admin = self.server.admin();
        let begun = Instant::now();
        while admin.run(RUN)["rounds_published"].as_u64() < Some(round.into()) {
            ensure!(
                begun.elapsed() < LONGEST,
                "waited {} s in vain: round {round} is published",
                LONGEST.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let round = admin.round(RUN, round);
        ensure!(round["state"] == "published", "the round did not end as it should: {round}");
        round["global_digest"].as_str().unwrap_or_default().parse().context("a published round's digest")
    }

    /// Makes sure that each update of a published round was aligned, and that nothing of it moved.
    pub fn check_alignments(&self, round: u32) -> Result<()> {
        let round = self.server.admin().round(RUN, round);
        for site in round["sites"].as_array().context("a list of sites")? {
            let there = site["state"] == "aligned" && site["alignment"]["moved"] == 0.0;
            ensure!(there, "an update was not found in place: {site}");
        }
        Ok(())
    }

    /// How long each `event` took that the server's log tells of, in seconds, in order.
    pub fn logged(&self, event: &str) -> Vec<f64> {
        let log = self.server.log();
        let lines = log.lines().filter(|line| line.contains(event));
        let ms = lines.filter_map(|line| line.split_once("duration_ms=")?.1.split_whitespace().next());
        ms.filter_map(|ms| ms.parse::<f64>().ok()).map(|ms| ms / 1000.0).collect()
    }
}

/// Asks `has_come` again and again until it has.
pub async fn until(what: &str, mut has_come: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !has_come()? {
        ensure!(begun.elapsed() < LONGEST, "waited {} s in vain: {what}", LONGEST.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// How many examples a site has. They differ, so that a mean that forgets them is found wrong.
fn examples(site: usize) -> u64 {
    1 + site as u64 % 3
}

impl Sites {
    /// How many.
    pub fn count(&self) -> usize {
        self.clients.len()
    }

    /// What a site trained in a round. Blocks while it is written, and read again as a site does before it announces it.
    pub fn part(&self, site: usize, round: u32) -> Result<Part> {
        let path = self.folder.path().join(format!("update-{round}-{site}"));
        self.model.save(Author::site(site, round), &path)?;
        let begun = Instant::now();
        let Checked { digest, size } = check_checkpoint(&path, None)?;
        Ok(Part {
            client: self.clients[site].clone(),
            update: Announcement {
                run_id: RUN.to_owned(),
                round,
                digest,
                size,
                num_examples: examples(site),
                metrics: [("loss".to_owned(), 0.5)].into(),
            },
            path,
            global: self.global(site, round),
            check_seconds: begun.elapsed().as_secs_f64(),
        })
    }

    /// Where a site puts the model that a round published.
    pub fn global(&self, site: usize, round: u32) -> PathBuf {
        self.folder.path().join(format!("global-{round}-{site}"))
    }

    /// Downloads a model as the first site does; gives its file.
    pub async fn fetch(&self, digest: Digest, round: u32) -> Result<PathBuf> {
        let path = self.global(0, round);
        fetch(&self.clients[0], digest, &path).await?;
        Ok(path)
    }

    /// Whether a file holds the mean of all sites' updates of a round.
    pub fn check(&self, round: u32, global: &Path) -> Result<()> {
        let authors: Vec<_> =
            (0..self.count()).map(|site| (Author::site(site, round), examples(site))).collect();
        self.model.check_mean(global, &authors)
    }
}

async fn fetch(client: &Client, digest: Digest, path: &Path) -> Result<()> {
    download(client, digest, path, u64::MAX, PATIENCE, &Screen::silent(), "the model").await?;
    Ok(())
}

/// What had to be tried again.
#[derive(Debug, Default)]
pub struct Tally {
    /// Uploads that were begun again after sending or finishing failed.
    pub uploads: AtomicU64,
    /// Streams that watch the run.
    pub watches: AtomicU64,
}

/// When the last of some sites had come so far, in seconds since the round began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// It had its receipt.
    pub accepted: f64,
    /// It knew of the published model.
    pub published: f64,
    /// It held that, synced.
    pub downloaded: f64,
}

impl Times {
    /// The later of two, step by step.
    pub fn latest(self, other: Self) -> Self {
        Self {
            accepted: self.accepted.max(other.accepted),
            published: self.published.max(other.published),
            downloaded: self.downloaded.max(other.downloaded),
        }
    }
}

/// One site's part in one round: an update that lies in its file.
pub struct Part {
    client: Client,
    update: Announcement,
    path: PathBuf,
    /// Where the site puts the model that the round publishes.
    pub global: PathBuf,
    /// How long the site read, checked and hashed its own file.
    pub check_seconds: f64,
}

impl Part {
    /// Size of the update's file.
    pub fn size(&self) -> u64 {
        self.update.size
    }

    /// All of it, as `fedbasin site run` does it, but for the training.
    pub async fn take(&self, begun: Instant, tally: &Tally) -> Result<Times> {
        self.send(tally).await?;
        let accepted = begun.elapsed().as_secs_f64();
        let digest = self.watch(tally).await?;
        let published = begun.elapsed().as_secs_f64();
        self.fetch(digest).await?;
        Ok(Times { accepted, published, downloaded: begun.elapsed().as_secs_f64() })
    }

    /// Uploads until there is a receipt.
    pub async fn send(&self, tally: &Tally) -> Result<()> {
        let mut begun = 0_u64;
        let count = |_: &str| {
            begun += 1;
            Ok(())
        };
        let sent = upload(&self.client, &self.update, &self.path, PATIENCE, &Screen::silent(), count).await;
        tally.uploads.fetch_add(begun.saturating_sub(1), Ordering::Relaxed);
        match sent? {
            Outcome::Accepted(_) => Ok(()),
            Outcome::Declined(why) => bail!("an update was declined: {why}"),
        }
    }

    /// Watches the run until the round is published.
    pub async fn watch(&self, tally: &Tally) -> Result<Digest> {
        let mut backoff = Backoff::new(PATIENCE);
        loop {
            let status = match self.follow().await {
                Ok(run) if run.rounds_published >= self.update.round => {
                    return run.global_digest.parse().context("a published model's digest");
                }
                Ok(run) => bail!("the run ended before its round was published: {}", run.reason),
                Err(status) => status,
            };
            ensure!(backoff.allows(&status), "watching failed: {status}");
            tally.watches.fetch_add(1, Ordering::Relaxed);
            ensure!(backoff.wait().await, "watching went on failing: {status}");
        }
    }

    /// One stream, until the round is published or the run is over.
    async fn follow(&self) -> Result<RunStatus, Status> {
        let request = WatchRunRequest { run_id: self.update.run_id.clone() };
        let mut stream = self.client.clone().watch_run(request).await?.into_inner();
        while let Some(run) = stream.message().await? {
            if run.rounds_published >= self.update.round || run.state() != RunState::Open {
                return Ok(run);
            }
        }
        Err(Status::unavailable("the server ended the stream"))
    }

    /// Downloads a model to the site's file.
    pub async fn fetch(&self, digest: Digest) -> Result<()> {
        fetch(&self.client, digest, &self.global).await
    }

    /// Removes the update's file.
    pub fn forget(&self) -> Result<()> {
        Ok(fs::remove_file(&self.path)?)
    }
}
