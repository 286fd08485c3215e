//! How soon a site's open stream ends once what opened it is revoked: at the server that was told, and at another one on the same database.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use fedbasin_proto::v1::{self, fed_basin_client::FedBasinClient};
use fedbasin_server::pki::{Authority, Kit};
use fedbasin_tests::{Admin, Database, Options, PATIENCE, Server};
use serde_json::json;
use tokio::time::sleep;
use tonic::{
    Code, Request, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// How often each is revoked.
const TIMES: u32 = 20;
/// When a server is to have ended what it opened.
const BUDGET: Duration = Duration::from_secs(5);
/// Servers look at their rows every so often: what is revoked comes at any time between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// What a site shows.
enum Shown {
    Token(String),
    /// The kit's folder.
    Certificate(PathBuf),
}

/// How long streams went on, at both servers.
pub(crate) struct Ends {
    what: &'static str,
    times: [Vec<Duration>; 2],
}

/// Two servers, and who asks them.
struct Scene {
    folder: tempfile::TempDir,
    authority: Authority,
    pem: String,
    servers: [Server; 2],
    admin: Admin,
    run: String,
}

pub(crate) async fn measure() -> Result<Vec<Ends>> {
    let scene = Scene::start().await?;
    let mut all = Vec::new();
    for what in ["token", "certificate"] {
        println!("Revocation: {what}");
        let mut ends = Ends { what, times: [Vec::new(), Vec::new()] };
        for time in 0..TIMES {
            let (shown, path) = match what {
                "token" => scene.token()?,
                _ => scene.certificate(time)?,
            };
            for (times, took) in ends.times.iter_mut().zip(scene.revoked(&shown, &path, time).await?) {
                times.push(took);
            }
        }
        all.push(ends);
    }
    Ok(all)
}

/// A table, and whether all ended in time.
pub(crate) fn write(text: &mut String, all: &[Ends]) -> bool {
    let _ = writeln!(
        text,
        "\n## Revocation\n\nA site watches its run at two servers on one Postgres, with one token or certificate; an operator revokes that at \
         the first one. Times are from the operator's POST until the site's stream ends, {TIMES} times each, at any moment between the \
         servers' looks at their rows (every {} s).\n\n\
         | revoked | stream at | times | median s | longest s | budget {} s |\n|---|---|---|---|---|---|",
        BETWEEN_LOOKS.as_secs(),
        BUDGET.as_secs()
    );
    let mut all_kept = true;
    for ends in all {
        for (place, times) in ["the same server", "another server"].into_iter().zip(&ends.times) {
            let (median, longest) = crate::median_and_longest(&mut times.clone());
            let kept = times.iter().all(|&time| time <= BUDGET);
            all_kept &= kept;
            let verdict = if kept { "kept" } else { "**missed**" };
            let _ = writeln!(
                text,
                "| {} | {place} | {} | {:.2} | {:.2} | {verdict} |",
                ends.what,
                times.len(),
                median / 1e3,
                longest / 1e3
            );
        }
    }
    all_kept
}

impl Scene {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::init(&folder.path().join("pki"), "of a benchmark")?;
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let tls = authority.issue_server(&hosts, 90)?;
        let options = Options {
            tls: Some(tls),
            more_tls: format!(
                "client_ca_file = {:?}\nclient_certificates = \"accepted\"\n",
                authority.certificate()
            ),
            ..Options::in_folder(&folder.path().join("objects"))
        };
        fs::create_dir(folder.path().join("objects"))?;
        let first = Server::start_with(Database::postgres().await, options);
        let second = first.beside(false);
        let pem = fs::read_to_string(authority.certificate())?;
        let admin = first.admin().trusting(&pem);
        // What shows a certificate needs no token.
        let _ = admin.enrol("a");
        let run = admin.create_run(&json!({
            "spec": null, "strategy": "mean", "cohort": ["a"],
            "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 24 * 3600 },
        }));
        admin.round_becomes(&run, 1, "collecting").await;
        Ok(Self { folder, authority, pem, servers: [first, second], admin, run })
    }

    /// A new token of the site, and where it is revoked.
    fn token(&self) -> Result<(Shown, String)> {
        let made = self.admin.post("/v1/sites/a/tokens", &json!({})).json();
        let text = |name: &str| made[name].as_str().map(str::to_owned).context("a token");
        Ok((Shown::Token(text("token")?), format!("/v1/tokens/{}/revoke", text("id")?)))
    }

    /// A new certificate of the site, and where it is revoked.
    fn certificate(&self, number: u32) -> Result<(Shown, String)> {
        let kit =
            Kit { server: self.servers[0].grpc.clone(), run: None, keys: None, authorities: Vec::new() };
        let folder = self.folder.path().join(format!("kit-{number}"));
        let fingerprint = self.authority.issue_site("a", &kit, None, 90, &folder)?;
        Ok((Shown::Certificate(folder), format!("/v1/certificates/{fingerprint}/revoke")))
    }

    /// Revokes what was shown to both servers; how long their streams went on.
    async fn revoked(&self, shown: &Shown, path: &str, time: u32) -> Result<[Duration; 2]> {
        let [first, second] = &self.servers;
        let (mut here, mut there) = (self.watch(first, shown).await?, self.watch(second, shown).await?);
        sleep(BETWEEN_LOOKS * time / TIMES).await;
        let (admin, path) = (self.admin.clone(), path.to_owned());
        let begun = Instant::now();
        let told = tokio::task::spawn_blocking(move || admin.post(&path, &json!({})).status);
        let (here, there, told) = tokio::join!(end(&mut here, begun), end(&mut there, begun), told);
        ensure!(told? == 200, "it could not be revoked");
        Ok([here?, there?])
    }

    /// A stream that has begun.
    async fn watch(&self, server: &Server, shown: &Shown) -> Result<Streaming<v1::RunStatus>> {
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.pem)).domain_name("localhost");
        let mut request = Request::new(v1::WatchRunRequest { run_id: self.run.clone() });
        match shown {
            Shown::Token(token) => {
                request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
            }
            Shown::Certificate(kit) => {
                let read = |name: &str| fs::read(Path::join(kit, name));
                tls = tls.identity(Identity::from_pem(read("site.pem")?, read("site.key")?));
            }
        }
        let endpoint = Endpoint::from_shared(server.grpc.clone())?.connect_timeout(PATIENCE);
        let channel: Channel = endpoint.tls_config(tls)?.connect().await?;
        let mut stream = FedBasinClient::new(channel).watch_run(request).await?.into_inner();
        stream.message().await?.context("the run's state")?;
        Ok(stream)
    }
}

/// Waits until a stream ends.
async fn end<T>(stream: &mut Streaming<T>, begun: Instant) -> Result<Duration> {
    let ended = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => bail!("the stream ended as if all were well"),
                Err(status) => return Ok(status),
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, ended).await.context("the stream goes on")??;
    ensure!(status.code() == Code::Unauthenticated, "the stream ended with {status:?}");
    Ok(begun.elapsed())
}
