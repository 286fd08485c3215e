//! One process: both edges, the reconciler and the worker.

use std::{
    fs::{File, TryLockError},
    io::{IsTerminal as _, Write as _},
    path::Path,
};

use fedbasin_proto::CERTIFICATE_WARNING_DAYS;
use futures::{FutureExt as _, future::FusedFuture as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    admission::Admission,
    auth::People,
    config::{Config, Log, Tls},
    error::{Code, Error, Result},
    files::read_given,
    grpc, http,
    model::days_left,
    sessions::Sessions,
    signing::Signer,
    store::{Store, make_folder},
    tls,
    traces::Traces,
    webhooks::Receivers,
    worker,
};

/// How long edges may take to end. Container engines kill after ten seconds by default.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(8);

/// Begins logging to standard error.
///
/// # Errors
/// A level that is none.
pub fn init_logging(settings: &Log) -> Result<()> {
    let unusable = |error| Error::invalid(format!("log.level: {:?} is no filter: {error}", settings.level));
    let filter = EnvFilter::try_new(&settings.level).map_err(unusable)?;
    // These warn of what a peer sent, as often as it sends it: a peer could fill the disk. Who names them gets them.
    let of_peers = ["h2", "hyper"].into_iter().filter(|name| !settings.level.contains(name));
    let quiet = of_peers.filter_map(|name| format!("{name}=error").parse().ok());
    let filter = quiet.fold(filter, EnvFilter::add_directive);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second server in one process (tests) keeps the first one's logging.
    let _ = if settings.json { builder.json().try_init() } else { builder.try_init() };
    Ok(())
}

/// Serves until the process is told to end (SIGTERM, Ctrl-C), then lets requests and work under way finish.
///
/// Prints one line on standard output once both addresses listen:
/// `listening grpc=http://127.0.0.1:50051 http=http://127.0.0.1:8080`.
///
/// # Errors
/// What of the settings cannot be used, and what to do.
pub async fn serve(config: Config) -> Result<()> {
    if config.is_clear_text() && !config.allow_clear_text {
        return Err(Error::invalid(format!(
            "grpc.listen, http.listen: {} and {} are not both of this machine alone, and there is no [tls]: tokens and models would \
             travel in clear text; set [tls], or allow_clear_text = true (--allow-clear-text) where a proxy ends TLS before this server",
            config.grpc.listen, config.http.listen
        )));
    }
    look_at_files(&config)?;
    let _folder = hold_folder(&config.data_dir)?;
    open_many_files();
    let store = Store::open(&config).await?;
    let people = People::from_config(&config)?;
    let signer = Signer::open(&config, &store).await?;
    let store = store.encrypting(&signer.storage_key());
    let receivers = Receivers::from_config(&config)?;
    let (traces, exporter) = Traces::from_config(&config, &store).await?;
    let store = store.tracing(traces);

    let grpc_listener = tokio::net::TcpListener::bind(config.grpc.listen)
        .await
        .map_err(|error| cannot_listen("grpc.listen", config.grpc.listen, &error))?;
    let http_listener = tokio::net::TcpListener::bind(config.http.listen)
        .await
        .map_err(|error| cannot_listen("http.listen", config.http.listen, &error))?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let (grpc_at, http_at) = (grpc_listener.local_addr()?, http_listener.local_addr()?);
    if config.is_clear_text() {
        tracing::warn!(
            "listening beyond this machine in clear text, as allow_clear_text says: a proxy has to end TLS before this server"
        );
    }

    let stop = CancellationToken::new();
    let failed = CancellationToken::new();
    let edges = edges(&store, &signer, people, (grpc_listener, http_listener), &config, &stop, &failed);
    let mut tasks = JoinSet::new();
    if let Some(exporter) = exporter {
        tasks.spawn(exporter.export(stop.clone()));
    }
    tasks.spawn(worker::reconcile(store.clone(), config.work.clone(), stop.clone()));
    if let Some(tls) = config.tls.clone() {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(warn_of_expiry(&store, &tls)).await });
    }
    if config.work.in_serve {
        tasks.spawn(worker::work(store.clone(), signer.clone(), config.work.clone(), stop.clone()));
        if let Some(receivers) = receivers {
            tasks.spawn(receivers.tell(store.clone(), stop.clone()));
        }
    }

    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening grpc={scheme}://{grpc_at} http={scheme}://{http_at}")
        .and_then(|()| stdout.flush())?;
    tracing::info!(grpc.address = %grpc_at, http.address = %http_at, "listening");

    let edges = edges.fuse();
    tokio::pin!(edges);
    tokio::select! {
        () = &mut edges => {}
        () = told_to_end() => tracing::info!("told to end: no new requests, work under way is finished or given back"),
        () = failed.cancelled() => {}
        // Both go on until they are stopped. Edges without them would take updates that nobody merges.
        Some(ended) = tasks.join_next() => {
            tracing::error!(error.message = ?ended.err(), "the worker ended");
            failed.cancel();
        }
    }
    stop.cancel();
    let edges_end = async {
        // A peer that does not read keeps its stream open for ever.
        if !edges.is_terminated() && tokio::time::timeout(GOODBYE, edges).await.is_err() {
            tracing::warn!("connections that did not end in time are cut");
        }
    };
    let tasks_end = async { while tasks.join_next().await.is_some() {} };
    tokio::join!(edges_end, tasks_end);
    if failed.is_cancelled() {
        return Err(Error::new(Code::Unavailable, "a part of the server ended; the log says why"));
    }
    Ok(())
}

/// Says once a day which certificates, of the server or of a site, have fewer days left than [`CERTIFICATE_WARNING_DAYS`].
async fn warn_of_expiry(store: &Store, tls: &Tls) {
    loop {
        match (
            store.now().await,
            store.certificates().await,
            tls::expires_at(tls),
            tls::authority_expires_at(tls),
        ) {
            (Ok(now), Ok(of_sites), Ok(own), Ok(authority)) => {
                let left = |expires| days_left(expires, now);
                for (holder, expires) in [("server", Some(own)), ("authority", authority)] {
                    if let Some(expires) = expires.filter(|&at| left(at) < CERTIFICATE_WARNING_DAYS)
                        && let Err(error) = store.announce_expiry(holder, expires, now).await
                    {
                        tracing::warn!(
                            error.message = error.message(),
                            "webhooks cannot be told of a certificate"
                        );
                    }
                }
                if left(own) < CERTIFICATE_WARNING_DAYS {
                    tracing::warn!(
                        tls.days_left = left(own),
                        "the server's certificate expires soon, or has expired"
                    );
                }
                if let Some(days) = authority.map(left).filter(|&days| days < CERTIFICATE_WARNING_DAYS) {
                    tracing::warn!(
                        authority.days_left = days,
                        "an authority of sites' certificates expires soon, or has expired: give their sites certificates of another one"
                    );
                }
                for certificate in of_sites.iter().filter(|certificate| certificate.revoked_at_ms.is_none()) {
                    let Some(days) = certificate.expires_at_ms.map(left) else { continue };
                    // Of one that has long expired enough was said.
                    if (-CERTIFICATE_WARNING_DAYS..CERTIFICATE_WARNING_DAYS).contains(&days) {
                        tracing::warn!(
                            site.id = certificate.site,
                            certificate.fingerprint = certificate.fingerprint,
                            certificate.days_left = days,
                            "a site's certificate expires soon, or has expired"
                        );
                    }
                }
            }
            (Err(error), ..) | (_, Err(error), ..) | (_, _, Err(error), _) | (.., Err(error)) => {
                tracing::warn!(error.message = error.message(), "it is not known how long certificates last");
            }
        }
        tokio::time::sleep(std::time::Duration::from_secs(24 * 3600)).await;
    }
}

/// Serves both edges until `stop` is cancelled and what is under way there ended; cancels `failed` where one ends by itself.
async fn edges(
    store: &Store,
    signer: &Signer,
    people: People,
    (grpc_listener, http_listener): (tokio::net::TcpListener, tokio::net::TcpListener),
    config: &Config,
    stop: &CancellationToken,
    failed: &CancellationToken,
) {
    let watched = |name: &'static str, outcome: Result<()>| {
        if let Err(error) = outcome {
            tracing::error!(error.message = error.message(), edge = name, "an edge ended");
            failed.cancel();
        }
    };
    let (tls, admission) = (config.tls.as_ref(), &Admission::new(&config.limits, store.telemetry()));
    let sessions = Sessions::default();
    let current = stop.run_until_cancelled(async {
        tokio::join!(sessions.keep_current(store), signer.keep_current(store))
    });
    let shared = (sessions.clone(), signer.clone());
    let grpc = grpc::serve(store.clone(), shared.clone(), grpc_listener, tls, admission, stop.clone());
    let http = http::serve(
        store.clone(),
        people,
        shared,
        http_listener,
        (tls, config.is_clear_text()),
        admission,
        stop.clone(),
    );
    tokio::join!(async { watched("grpc", grpc.await) }, async { watched("http", http.await) }, current);
}

/// Works until the process is told to end: closes and opens rounds, aligns, merges, publishes. Has no edges.
///
/// Prints one line on standard output once storage answers: `working`.
///
/// # Errors
/// What of the settings cannot be used, and what to do.
pub async fn work(config: Config) -> Result<()> {
    let _folder = hold_folder(&config.data_dir)?;
    open_many_files();
    let store = Store::open(&config).await?;
    let signer = Signer::open(&config, &store).await?;
    let store = store.encrypting(&signer.storage_key());
    let receivers = Receivers::from_config(&config)?;
    let (traces, exporter) = Traces::from_config(&config, &store).await?;
    let store = store.tracing(traces);
    if !store.is_shared() {
        tracing::warn!(
            "objects is not set: this worker finds only what lies in its own data folder; give serve and work one [objects]"
        );
    }
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    if let Some(exporter) = exporter {
        tasks.spawn(exporter.export(stop.clone()));
    }
    if let Some(listen) = config.work.metrics_listen {
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .map_err(|error| cannot_listen("work.metrics_listen", listen, &error))?;
        tracing::info!(metrics.address = %listener.local_addr()?, "telling figures");
        let (store, stop) = (store.clone(), stop.clone());
        tasks.spawn(async move {
            if let Some(Err(error)) = stop.run_until_cancelled(http::serve_own(store, listener)).await {
                tracing::error!(error.message = error.message(), "figures cannot be told");
            }
        });
    }
    tasks.spawn(worker::reconcile(store.clone(), config.work.clone(), stop.clone()));
    if let Some(receivers) = receivers {
        tasks.spawn(receivers.tell(store.clone(), stop.clone()));
    }
    tasks.spawn(worker::work(store, signer, config.work, stop.clone()));
    let mut stdout = std::io::stdout();
    writeln!(stdout, "working").and_then(|()| stdout.flush())?;
    tracing::info!("working");
    let ended = tokio::select! {
        () = told_to_end() => None,
        ended = tasks.join_next() => Some(ended),
    };
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    match ended {
        None => Ok(()),
        Some(_) => Err(Error::new(Code::Unavailable, "a part of the worker ended; the log says why")),
    }
}

/// Whether the files that the settings name can be used, before anything is made or opened.
fn look_at_files(config: &Config) -> Result<()> {
    let tls = config.tls.as_ref();
    for (setting, path) in [
        ("admin_token_file", config.admin_token_file.as_ref().filter(|_| config.admin_token.is_none())),
        ("signing_key_file", config.signing_key_file.as_ref()),
        ("tls.cert_file", tls.map(|tls| &tls.cert_file)),
        ("tls.key_file", tls.map(|tls| &tls.key_file)),
        ("tls.client_ca_file", tls.and_then(|tls| tls.client_ca_file.as_ref())),
    ] {
        path.map_or(Ok(()), |path| read_given(setting, path).map(|_| ()))?;
    }
    tls.map_or(Ok(()), tls::check)
}

/// Takes the data folder for this process: uploads under way are files there that one process writes and sweeps. The system gives it
/// back when the process ends, however it does.
fn hold_folder(folder: &Path) -> Result<File> {
    let unavailable = |what: std::fmt::Arguments<'_>| {
        Error::new(Code::Unavailable, format!("data_dir: {}: {what}", folder.display()))
    };
    make_folder(folder).map_err(|error| unavailable(format_args!("cannot be made: {error}")))?;
    let path = folder.join("in-use");
    let held = File::options().create(true).truncate(false).write(true).open(path).map_err(|error| {
        unavailable(format_args!(
            "in-use cannot be opened: {error}; the folder must belong to the server's user"
        ))
    })?;
    match held.try_lock() {
        Ok(()) => Ok(held),
        Err(TryLockError::WouldBlock) => Err(unavailable(format_args!(
            "another process of fedbasin-server uses it; give each its own, with one database and one [objects] for all"
        ))),
        Err(TryLockError::Error(error)) => Err(unavailable(format_args!(
            "cannot be locked: {error}; take a folder on a disk of this machine"
        ))),
    }
}

/// Takes as many open files as the system grants: connections are files, and so is each update of a round that is merged. What
/// most systems give at first, 1,024, is for programs that `select`.
fn open_many_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let granted = getrlimit(Resource::Nofile);
        if granted.current == granted.maximum {
            return;
        }
        match setrlimit(Resource::Nofile, Rlimit { current: granted.maximum, ..granted }) {
            Ok(()) => tracing::debug!(files = ?granted.maximum, "open files"),
            Err(error) => tracing::warn!(
                error.message = %error,
                files = ?granted.current,
                "the limit of open files could not be raised: a round of more updates than that cannot be merged"
            ),
        }
    }
}

fn cannot_listen(setting: &str, address: std::net::SocketAddr, error: &std::io::Error) -> Error {
    Error::invalid(format!("{setting}: cannot listen on {address}: {error}; choose another address or port"))
}

async fn told_to_end() {
    let interrupt = tokio::signal::ctrl_c();
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(error) => {
            tracing::warn!(error.message = %error, "cannot listen for SIGTERM");
            // Without Ctrl-C either there is nothing to wait for: serve on.
            if interrupt.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
