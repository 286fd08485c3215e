//! A site whose network lets nothing out but through an HTTP proxy: only that proxy knows where the server's name leads.

use std::{collections::HashMap, fs, process::Command, time::Duration};

use fedbasin_tests::{
    Admin, Database, HttpProxy, Options, ProxyRules, Server, checkpoint::one_hot, eventually,
};
use serde_json::json;

use crate::place::{Foreground, Place, said};

/// What the proxy wants to be told, and how a variable says it.
const CREDENTIALS: &str = "ada:p@ss word";
const IN_A_VARIABLE: &str = "ada:p%40ss%20word";
/// What it looks like on the line.
const ON_THE_LINE: &str = "YWRhOnBAc3Mgd29yZA==";

/// A server by the name `fed.example`, which leads nowhere but at the proxy.
struct Scene {
    place: Place,
    server: Server,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        said(
            &place.types("fedbasin-server pki init --dir \"$PLACE/pki\" --host fed.example --host localhost --host 127.0.0.1"),
        );
        let files = ["server.pem", "server.key"].map(|name| place.path("pki").join(name)).into();
        let server =
            Server::start_with(Database::sqlite(), Options { tls: Some(files), ..Options::default() });
        Self { place, server }
    }

    fn ways(&self) -> HashMap<String, String> {
        let behind = |url: &str| url.trim_start_matches("https://").to_owned();
        HashMap::from([
            ("fed.example:50051".to_owned(), behind(&self.server.grpc)),
            ("fed.example:8080".to_owned(), behind(&self.server.http)),
        ])
    }

    fn admin(&self) -> Admin {
        let authority = fs::read_to_string(self.place.path("pki/authority.pem")).expect("a file");
        self.server.admin().trusting(&authority)
    }

    /// A call of the client, with these variables.
    fn client(&self, variables: &[(&str, &str)], script: &str) -> Command {
        let mut shell = self.place.shell(&self.place.path("elsewhere"), &format!("fedbasin {script}"));
        shell.envs(variables.iter().copied());
        shell
    }

    fn operator(&self, variables: &[(&str, &str)], command: &str) -> Result<String, String> {
        let token = self.server.data_dir().join("admin-token");
        let reach = "--server https://fed.example:8080 --ca \"$PLACE/pki/authority.pem\"";
        outcome(self.client(variables, &format!("admin {reach} --token-file {} {command}", token.display())))
    }

    fn site(&self, variables: &[(&str, &str)], id: &str, command: &str) -> Command {
        let reach = "--server https://fed.example:50051 --ca \"$PLACE/pki/authority.pem\"";
        self.client(variables, &format!("site {command} {reach} --token-file {id}.token"))
    }
}

/// What was said on standard output where it did well, otherwise the error.
fn outcome(mut command: Command) -> Result<String, String> {
    let output = command.output().expect("a shell");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (answer, error) = (said(&output.stdout), said(&output.stderr));
    for secret in [CREDENTIALS, IN_A_VARIABLE, ON_THE_LINE, "p@ss"] {
        assert!(!answer.contains(secret) && !error.contains(secret), "it shows a password: {answer}{error}");
    }
    if output.status.success() { Ok(answer) } else { Err(error) }
}

/// Long enough for the site's question whether the server is still there, every 10 s; a connection that is quiet for longer is cut.
const IDLE: Duration = Duration::from_millis(12_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_round_goes_through_the_proxy_and_a_quiet_watch_is_kept_alive() {
    let scene = Scene::new();
    let rules = ProxyRules {
        ways: scene.ways(),
        credentials: Some(CREDENTIALS.into()),
        idle: Some(IDLE),
        ..ProxyRules::default()
    };
    let proxy = HttpProxy::start(rules).await;
    let variable = format!("http://{IN_A_VARIABLE}@{}", proxy.address);
    let through = [("HTTPS_PROXY", variable.as_str())];
    for site in ["a", "b"] {
        scene.operator(&through, &format!("enrol {site} -o {site}.token")).expect("enrolled");
    }
    scene.admin().create_run(&json!({
        "id": "pilot", "spec": null, "strategy": "mean", "cohort": ["a", "b"],
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
    }));

    // Not without it, and not where NO_PROXY says to go directly.
    for more in [vec![], vec![through[0], ("NO_PROXY", "other, .example")]] {
        let error = outcome(scene.site(&more, "a", "status --patience-seconds 0"))
            .expect_err("nobody knows the name");
        assert!(error.contains("failed to lookup address information"), "{error}");
    }
    assert!(proxy.asked().iter().all(|asked| asked == "fed.example:8080 200"), "{:?}", proxy.asked());

    let run = |site: &str, unit: usize| {
        let file = scene.place.path(&format!("{site}.safetensors"));
        fs::write(&file, one_hot(unit, 2)).expect("a file");
        let train =
            format!("--train 'cp \"$PLACE/{site}.safetensors\" \"$FEDBASIN_OUTPUT\"' --num-examples 1");
        scene.site(&through, site, &format!("run --run pilot --work-dir {site} {train}"))
    };
    let a = Foreground::starts(run("a", 0));
    let admin = scene.admin();
    eventually("the update of a is accepted", || {
        let round = admin.get("/v1/runs/pilot/rounds/1").json();
        let sites = round["sites"].as_array().cloned().unwrap_or_default();
        sites.iter().any(|site| site["site"] == "a" && site["state"] == "accepted").then_some(())
    })
    .await;
    tokio::time::sleep(IDLE + Duration::from_millis(1500)).await;
    let tunnels = || proxy.asked().iter().filter(|asked| *asked == "fed.example:50051 200").count();
    assert_eq!(tunnels(), 1, "the one of a, which was quiet and is open yet: {:?}", proxy.asked());

    Foreground::starts(run("b", 1)).ends().await;
    a.ends().await;
    assert_eq!(tunnels(), 2, "{:?}", proxy.asked());
    let model = fs::read(scene.place.path("elsewhere/a/global.safetensors")).expect("the model");
    assert_eq!(model, scene.admin().model("pilot", 1));
    let listed = scene.operator(&through, "rounds pilot").expect("listed");
    assert!(listed.contains("published"), "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_refuses_is_named_with_its_variable_and_what_to_do() {
    let scene = Scene::new();
    fs::write(scene.place.path("elsewhere/a.token"), "fbs_of_nobody_at_all").expect("a file");
    let both = async |rules: ProxyRules, user: &str, variable: &str| {
        let proxy = HttpProxy::start(rules).await;
        let value = format!("http://{user}{}", proxy.address);
        let through = [(variable, value.as_str())];
        let site = outcome(scene.site(&through, "a", "status")).expect_err("refused");
        let admin = scene.operator(&through, "sites").expect_err("refused");
        (proxy.address.clone(), site, admin)
    };
    let closed =
        ProxyRules { ways: scene.ways(), credentials: Some(CREDENTIALS.into()), ..ProxyRules::default() };
    let wants = "407 Proxy Authentication Required";
    for (user, variable, remedy) in [
        (
            "",
            "HTTPS_PROXY",
            "it wants a user and a password: write them into that variable, http://USER:PASSWORD@HOST:PORT",
        ),
        ("ada:wrong@", "all_proxy", "it does not take the user and password of that variable: correct them"),
    ] {
        let (address, site, admin) = both(closed.clone(), user, variable).await;
        assert!(
            site.contains(&format!(
                "the proxy {address} ({variable}) refused the way to fed.example:50051: {wants}: "
            )) && site.ends_with(&format!(": {remedy}\n")),
            "{site}"
        );
        assert!(
            admin.contains(&format!(
                "the proxy {address} ({variable}) refused the way to fed.example:8080: {wants}: "
            )) && admin.ends_with(&format!(": {remedy}\n")),
            "{admin}"
        );
    }
    let (address, site, admin) = both(ProxyRules::default(), "", "https_proxy").await;
    for (said, to) in [(site, "fed.example:50051"), (admin, "fed.example:8080")] {
        assert!(
            said.contains(&format!("the proxy {address} (https_proxy) refused the way to {to}: 403 Forbidden: "))
                && said.ends_with(": ask whoever runs the proxy to let CONNECT to this host and port through, or name the host in NO_PROXY\n"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_away_is_tried_again_and_one_that_is_none_is_said() {
    let scene = Scene::new();
    fs::write(scene.place.path("elsewhere/a.token"), "fbs_of_nobody_at_all").expect("a file");
    let gone = HttpProxy::start(ProxyRules::default()).await.address.clone();
    let through = [("ALL_PROXY", gone.as_str())];
    let said = outcome(scene.site(&through, "a", "status --patience-seconds 1")).expect_err("away");
    assert!(
        said.contains("gave up: ")
            && said.contains(&format!("the proxy {gone} (ALL_PROXY) cannot be reached: ")),
        "{said}"
    );
    let said = scene.operator(&through, "sites").expect_err("away");
    assert!(said.contains(&format!("(through the proxy {gone} (ALL_PROXY))")), "{said}");

    // The server's own port where a proxy should be.
    let server = scene.server.http.trim_start_matches("https://").to_owned();
    let said = outcome(scene.site(&[("HTTPS_PROXY", &server)], "a", "status")).expect_err("no proxy");
    assert!(
        said.contains(&format!("the proxy {server} (HTTPS_PROXY) gave no answer that a proxy gives: ")),
        "{said}"
    );

    let said = outcome(scene.site(&[("HTTPS_PROXY", "socks5://ada:p%40ss%20word@p:1")], "a", "status"))
        .expect_err("none");
    assert_eq!(
        said,
        "fedbasin: names a proxy that is called in another way than http://: the variable HTTPS_PROXY: write http://HOST:PORT, with user and \
         password http://USER:PASSWORD@HOST:PORT (%40 for @), or name the server's host in NO_PROXY\n"
    );
}
