//! One real run: a server process, four site processes, their trainers, and one more trainer with all data.
//!
//! The demo is an operator here: it enrols the sites, creates the run, watches the rounds and downloads what was published,
//! all through the server's HTTP API. The models travel between sites and server only.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use fedbasin_client::{
    admin::{
        Admin,
        types::{NewRun, Policy, Round},
    },
    connect::{Address, Token},
};
use rebasin::{Checkpoint, Digest, Spec};

use crate::{
    cli::DemoArgs,
    dataset::{self, Dataset},
    model::Mlp,
    process::{Leash, Process},
    site_training::initial_seed,
    split::{self, SITES},
};

mod watch;
mod words;

pub(crate) use watch::units_moved;

/// The run's id on its server.
const RUN: &str = "fashion";
/// How long the server may take to start, and sites to end once the run is complete.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a finished run left, for the figures. Dropping it removes the temporary folder.
#[derive(Debug)]
pub struct Finished {
    /// The server, where it is to stay up. First, so that it has ended before its folder goes.
    pub served: Option<Served>,
    /// When the demo began.
    pub begun: Instant,
    /// The folder of everything.
    pub folder: Folder,
    /// Training images of all sites.
    pub train: Dataset,
    /// Test images, which no site has.
    pub test: Dataset,
    /// Each site's images: indices into `train`.
    pub shares: [Vec<usize>; SITES],
    /// The spec that the run was created with.
    pub spec: Spec,
    /// The server's records of the rounds, in order.
    pub rounds: Vec<Round>,
    /// Seconds from opening to publishing of each round.
    pub round_seconds: Vec<f64>,
}

/// A server that stays up when its run is over.
#[derive(Debug)]
pub struct Served {
    server: Process,
    /// Where the dashboard is.
    pub http: String,
    /// The file of the token that it is signed in with.
    pub token_file: PathBuf,
}

impl Served {
    /// Waits until whoever started the demo has seen enough.
    ///
    /// # Errors
    /// The server ended by itself.
    pub fn until(&mut self, interrupted: &AtomicBool) -> anyhow::Result<()> {
        while !interrupted.load(Ordering::Relaxed) {
            // A terminal tells the server, too: then it may be gone first.
            if !self.server.check()? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Where things lie.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Whether the folder stays when this is dropped.
    keep: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // A trainer, which is a site's child, may still write for a moment after its leash is gone.
        let begun = Instant::now();
        while std::fs::remove_dir_all(&self.path).is_err()
            && self.path.exists()
            && begun.elapsed() < Duration::from_secs(5)
        {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Folder {
    fn new(keep: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = keep else {
            let temporary =
                tempfile::Builder::new().prefix("fedbasin-demo-").tempdir().context("no temporary folder")?;
            return Ok(Self { path: temporary.keep(), keep: false });
        };
        let hint = || format!("--keep {}", path.display());
        std::fs::create_dir_all(path).with_context(hint)?;
        if std::fs::read_dir(path).with_context(hint)?.next().is_some() {
            bail!("--keep {}: the folder is not empty; name a new one", path.display());
        }
        // Children have the same current folder, but absolute paths are safe in any.
        Ok(Self { path: path.canonicalize().with_context(hint)?, keep: true })
    }

    /// The model that `--same-init` starts from; otherwise it only gives the layout.
    #[must_use]
    pub fn initial_model(&self) -> PathBuf {
        self.path.join("initial.safetensors")
    }

    /// What a site uploaded in a round: its own copy, kept by its client.
    #[must_use]
    pub fn update(&self, site: usize, round: u32) -> PathBuf {
        self.site(site).join(format!("round-{round}")).join("output.safetensors")
    }

    /// What the server published in a round.
    #[must_use]
    pub fn global_model(&self, round: u32) -> PathBuf {
        self.path.join(format!("global-{round}.safetensors"))
    }

    /// The model of all data.
    #[must_use]
    pub fn all_data_model(&self) -> PathBuf {
        self.path.join("all-data.safetensors")
    }

    fn site(&self, site: usize) -> PathBuf {
        self.path.join(site_id(site))
    }

    fn progress(&self, lane: usize) -> PathBuf {
        self.path.join(format!("progress-{lane}.json"))
    }

    fn admin_token(&self) -> PathBuf {
        self.path.join("server").join("admin-token")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.log"))
    }
}

/// A site's id.
#[must_use]
pub fn site_id(site: usize) -> String {
    format!("site-{site}")
}

/// An error if the user wants to end.
///
/// # Errors
/// Then.
pub fn go_on(interrupted: &AtomicBool) -> anyhow::Result<()> {
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted; all processes of the demo are ended");
    }
    Ok(())
}

/// Runs everything that trains and travels; ends every process before it returns, but for a server that is to stay up.
///
/// # Errors
/// Data that cannot be read, a process that failed, a run that did not complete, or an interruption.
pub fn run(args: &DemoArgs, interrupted: &AtomicBool) -> anyhow::Result<Finished> {
    let begun = Instant::now();
    let (train, test) = (dataset::load_train(&args.data)?, dataset::load_test(&args.data)?);
    let shares = split::split(&train.labels, args.seed);
    let folder = Folder::new(args.keep.as_deref())?;
    let leash = Leash::new(folder.path.join("leash"))?;
    let initial = folder.initial_model();
    Mlp::random(initial_seed(args.seed, SITES))?.save(&initial)?;
    let spec = Spec::mlp(Checkpoint::from_bytes(&std::fs::read(&initial)?)?.layout())?;

    let (mut server, grpc, http) = start_server(&folder)?;
    let admin = admin(&folder, http.clone())?;
    let tokens: Vec<String> = (0..SITES)
        .map(|site| Ok(admin.enrol(&site_id(site), None)?.token))
        .collect::<anyhow::Result<_>>()
        .context("cannot enrol the sites")?;
    create_run(args, &admin, &spec, &initial)?;
    let mut sites = Vec::with_capacity(SITES);
    for (site, token) in tokens.iter().enumerate() {
        sites.push(start_site(args, &folder, &leash, &grpc, site, token)?);
    }
    let mut all_data = start_all_data(args, &folder, &leash)?;

    let mut watch = watch::Watch::new(&folder);
    watch.screen.say(format_args!(
        "server {grpc}, {SITES} sites with {} images, run {RUN:?} of {} rounds, strategy aligned, {}",
        shares.each_ref().map(|share| share.len().to_string()).join(" + "),
        args.rounds,
        if args.same_init { "all from one initial model" } else { "each from its own random initialisation" }
    ));
    if args.serve {
        let file = folder.admin_token();
        watch.screen.say(format_args!("dashboard {http}/, sign in with the token in {}", file.display()));
    }
    let rounds = loop {
        go_on(interrupted)?;
        if !server.check()? {
            bail!("the server ended before the run did");
        }
        for site in &mut sites {
            site.check()?;
        }
        let all_data_runs = all_data.check()?;
        // The state first: if it says complete, the rounds read after it are complete too.
        let run = admin.run(RUN)?;
        let rounds = admin.rounds(RUN, None)?;
        watch.show(&rounds, all_data_runs);
        match run.state.as_str() {
            "complete" => break rounds,
            "open" => std::thread::sleep(Duration::from_millis(150)),
            state => bail!("the run is {state}: {}", run.reason.unwrap_or_default()),
        }
    };
    let round_seconds = watch.round_seconds(rounds.len());
    let mut go_on = || go_on(interrupted);
    for site in &mut sites {
        site.wait(PATIENCE, &mut go_on)?;
    }
    for round in &rounds {
        let path = folder.global_model(round.number);
        admin.model(RUN, round.number, &path, &fedbasin_client::progress::Screen::silent())?;
    }
    check_copies(&folder, &rounds)?;
    check_evaluations(&admin.rounds(RUN, None)?)?;
    let served = args.serve.then(|| Served { server, http, token_file: folder.admin_token() });
    // Trains beside the sites and is rarely the last.
    all_data.wait(Duration::from_secs(3600), &mut || {
        watch.show(&rounds, true);
        go_on()
    })?;
    watch.show(&rounds, false);
    watch.screen.clear();
    Ok(Finished { served, begun, folder, train, test, shares, spec, rounds, round_seconds })
}

/// A server with everything built in: SQLite, a folder, free ports. Returns its gRPC and HTTP addresses.
fn start_server(folder: &Folder) -> anyhow::Result<(Process, String, String)> {
    let data = folder.path.join("server");
    let mut arguments: Vec<&OsStr> =
        ["server", "serve", "--grpc-listen", "127.0.0.1:0"].map(OsStr::new).to_vec();
    arguments.extend(["--http-listen", "127.0.0.1:0", "--data-dir"].map(OsStr::new));
    arguments.push(data.as_os_str());
    let mut server = Process::start("the server", &folder.log("server"), true, arguments, &[])?;
    let stdout = server.take_stdout().context("the server's output is not piped")?;
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Reads to the end, so that the server never writes into a closed pipe.
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(addresses) = parse_listening(&line) {
                let _ = send.send(addresses);
            }
        }
    });
    let begun = Instant::now();
    loop {
        match receive.recv_timeout(Duration::from_millis(100)) {
            Ok((grpc, http)) => return Ok((server, grpc, http)),
            Err(_) if server.check()? && begun.elapsed() < PATIENCE => {}
            Err(_) => bail!("the server did not say where it listens within {} s", PATIENCE.as_secs()),
        }
    }
}

/// `listening grpc=URL http=URL`.
fn parse_listening(line: &str) -> Option<(String, String)> {
    let mut words = line.strip_prefix("listening ")?.split_ascii_whitespace();
    let grpc = words.next()?.strip_prefix("grpc=")?;
    let http = words.next()?.strip_prefix("http=")?;
    Some((grpc.to_owned(), http.to_owned()))
}

fn admin(folder: &Folder, url: String) -> anyhow::Result<Admin> {
    // The server makes a token where none is given, and writes it before it listens.
    let path = folder.admin_token();
    let token = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Admin::new(Address { url, ca: None, insecure: false, identity: None }, Token::new(token.trim()))?)
}

/// The run; with `--same-init` the initial model is its seed, otherwise its first round is a founding round.
fn create_run(args: &DemoArgs, admin: &Admin, spec: &Spec, initial: &Path) -> anyhow::Result<()> {
    let seed_digest = if args.same_init { Some(admin.put_checkpoint(initial)?.digest) } else { None };
    let sites = SITES as u32;
    admin.create_run(&NewRun {
        id: Some(RUN.to_owned()),
        spec: Some(serde_json::from_str(&spec.to_json())?),
        graph_digest: None,
        strategy: "aligned".to_owned(),
        seed_digest,
        cohort: (0..SITES).map(site_id).collect(),
        policy: Policy { rounds: args.rounds, quorum: sites, deadline_seconds: 3600, ..Policy::default() },
    })?;
    Ok(())
}

/// `fedbasin site run`, with the trainer and what tries models as its commands. One thread each: four sites share the machine.
fn start_site(
    args: &DemoArgs,
    folder: &Folder,
    leash: &Leash,
    grpc: &str,
    site: usize,
    token: &str,
) -> anyhow::Result<Process> {
    let train = words::shell(words::train(args, folder, leash, Some(site))?)?;
    let evaluate = words::shell(words::evaluate(args, leash, site)?)?;
    let work_dir = folder.site(site);
    let mut arguments: Vec<&OsStr> = vec![OsStr::new("site"), leash.path().as_os_str()];
    let client = ["site", "run", "--server", grpc, "--run", RUN, "--train", &train, "--evaluate", &evaluate];
    arguments.extend(client.map(OsStr::new));
    arguments.push(OsStr::new("--work-dir"));
    arguments.push(work_dir.as_os_str());
    let environment = [("FEDBASIN_TOKEN", OsStr::new(token)), ("RAYON_NUM_THREADS", OsStr::new("1"))];
    let name = site_id(site);
    Process::start(&name, &folder.log(&name), false, arguments, &environment)
}

/// The same trainer on the images of all sites, for comparison; no server knows of it.
fn start_all_data(args: &DemoArgs, folder: &Folder, leash: &Leash) -> anyhow::Result<Process> {
    let (initial, output, metrics) =
        (folder.initial_model(), folder.all_data_model(), folder.path.join("all-data.json"));
    let reference = if args.same_init { initial.as_os_str() } else { OsStr::new("") };
    let environment: BTreeMap<&str, &OsStr> = [
        ("FEDBASIN_ROUND", OsStr::new("1")),
        ("FEDBASIN_REFERENCE", reference),
        ("FEDBASIN_OUTPUT", output.as_os_str()),
        ("FEDBASIN_METRICS", metrics.as_os_str()),
        ("RAYON_NUM_THREADS", OsStr::new("1")),
    ]
    .into();
    let environment: Vec<(&str, &OsStr)> = environment.into_iter().collect();
    let words = words::train(args, folder, leash, None)?;
    Process::start("the trainer on all data", &folder.log("all-data"), false, words, &environment)
}

/// Every site tried the model of every round, and what it sent itself.
fn check_evaluations(rounds: &[Round]) -> anyhow::Result<()> {
    for round in rounds {
        let known = &round.evaluations;
        for (model, mean) in [("global", &known.global), ("own", &known.own)] {
            let sites = mean.as_ref().map_or(0, |mean| mean.sites);
            if usize::try_from(sites).ok() != Some(SITES) {
                bail!(
                    "round {}: {sites} of {SITES} sites evaluated its {model} model; see their logs",
                    round.number
                );
            }
        }
    }
    Ok(())
}

/// Every file that figures are computed from is the one that went through the server: its digest is the record's.
fn check_copies(folder: &Folder, rounds: &[Round]) -> anyhow::Result<()> {
    let check = |path: &Path, recorded: Option<&str>, what: &str| -> anyhow::Result<()> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let found = Digest::of(&bytes).to_string();
        if recorded != Some(found.as_str()) {
            bail!("{what}: the digest is {found}, but the server recorded {}", recorded.unwrap_or("none"));
        }
        Ok(())
    };
    for round in rounds {
        let number = round.number;
        if round.state != "published" {
            let reason = round.reason.as_deref().unwrap_or("no reason given");
            bail!("round {number} is {} ({reason}); run the demo again", round.state);
        }
        let global = round.global_digest.as_deref();
        check(&folder.global_model(number), global, &format!("global model of round {number}"))?;
        for site in 0..SITES {
            let record = round.sites.iter().find(|record| record.site == site_id(site));
            let record = record.with_context(|| format!("round {number} does not name {}", site_id(site)))?;
            let what = format!("update of {} in round {number}", record.site);
            check(&folder.update(site, number), record.digest.as_deref(), &what)?;
        }
    }
    // The model came back: each site holds the last one.
    let last = rounds.last().and_then(|round| round.global_digest.as_deref());
    for site in 0..SITES {
        let what = format!("last global model at {}", site_id(site));
        check(&folder.site(site).join("global.safetensors"), last, &what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
