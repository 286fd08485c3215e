//! `fedbasin admin watch`, `profile` and what every call of `fedbasin admin` answers: the real program against the real server.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use fedbasin_tests::{
    Database, Server, Site,
    checkpoint::{one_hot, one_hot_spec},
    client_binary, eventually, on_both_databases,
};
use serde_json::{Value, json};

on_both_databases!(a_run_is_watched_to_its_end_over_a_restart_of_the_server);

/// `fedbasin admin ...` at a server, with the admin token.
fn program(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(client_binary());
    command
        .args(["admin", "--server", &server.http, "--token-file"])
        .arg(server.data_dir().join("admin-token"))
        .args(arguments)
        .env("FEDBASIN_STATE_DIR", server.operators_dir())
        .env("XDG_CONFIG_HOME", server.folder.path())
        .stdin(Stdio::null());
    command
}

fn run(server: &Server, sites: &[&Site], policy: &Value) -> String {
    let cohort: Vec<&str> = sites.iter().map(|site| site.id.as_str()).collect();
    let mut all = json!({ "rounds": 1, "quorum": cohort.len(), "deadline_seconds": 600 });
    for (name, value) in policy.as_object().expect("a policy") {
        all[name] = value.clone();
    }
    server.admin().create_run(&json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": cohort, "policy": all,
    }))
}

/// A watch that goes on beside the test; killed when dropped.
struct Watching {
    child: Child,
    folder: tempfile::TempDir,
}

impl Watching {
    fn start(server: &Server, arguments: &[&str]) -> Self {
        Self::of(server, &[&["watch"], arguments].concat())
    }

    /// Any command that goes on.
    fn of(server: &Server, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| File::create(folder.path().join(name)).expect("a file");
        let child = program(server, arguments)
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .expect("the client's program starts");
        Self { child, folder }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).expect("what it said")
    }

    /// Whole lines of JSON that it wrote so far.
    fn lines(&self) -> Vec<Value> {
        let text = self.read("out");
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    async fn says(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.lines().into_iter().find(|line| is(line))).await
    }

    async fn ends(&mut self) -> Option<i32> {
        eventually("the watch ends", || self.child.try_wait().expect("its status")).await.code()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- the watch said ----\n{}{}", self.read("out"), self.read("err"));
        }
    }
}

fn site_is(line: &Value, site: &str, state: &str) -> bool {
    line["change"] == "site" && line["site"] == site && line["state"] == state
}

async fn a_run_is_watched_to_its_end_over_a_restart_of_the_server(database: Database) {
    let mut server = Server::start(database);
    let (a, b) = (server.site("a"), server.site("b"));
    let id = run(&server, &[&a, &b], &json!({ "rounds": 2 }));
    let mut watch = Watching::start(&server, &[&id, "--json"]);
    watch.says("b is silent", |line| site_is(line, "b", "silent")).await;
    let lines = watch.lines();
    assert_eq!(lines[0]["change"], "run", "{lines:?}");
    assert_eq!((&lines[0]["state"], &lines[0]["rounds"]), (&json!("open"), &json!(2)), "{lines:?}");
    assert_eq!((&lines[1]["change"], &lines[1]["state"]), (&json!("round"), &json!("collecting")));
    assert!(lines[1]["seconds_left"].as_u64().is_some_and(|left| left <= 600), "{lines:?}");

    a.upload(&id, 1, &one_hot(0, 2), 3).await.expect("a receipt");
    watch.says("a is there", |line| site_is(line, "a", "accepted")).await;
    server.kill();
    watch.says("the server is away", |line| line["change"] == "server" && line["answers"] == false).await;
    server.start_again();
    watch.says("it is there again", |line| line["change"] == "server" && line["answers"] == true).await;

    b.upload(&id, 1, &one_hot(1, 2), 1).await.expect("a receipt");
    let published = server.admin().round_becomes(&id, 1, "published").await;
    let is_published = |line: &Value, round: u32| {
        line["change"] == "round" && line["round"] == round && line["state"] == "published"
    };
    let told = watch.says("round 1 is published", |line| is_published(line, 1)).await;
    assert_eq!(told["global_digest"], published["global_digest"]);
    assert_eq!(told["global_size"], published["global_size"]);
    watch.says("round 2", |line| line["round"] == 2 && line["state"] == "collecting").await;
    for (site, i) in [(&a, 0), (&b, 1)] {
        site.upload(&id, 2, &one_hot(i, 2), 1).await.expect("a receipt");
    }
    assert_eq!(watch.ends().await, Some(0));
    let lines = watch.lines();
    for site in ["a", "b"] {
        let aligned = lines.iter().find(|line| site_is(line, site, "aligned") && line["round"] == 1);
        let aligned = aligned.unwrap_or_else(|| panic!("{site} is aligned: {lines:?}"));
        assert_eq!(aligned["moved_units"], 0, "{aligned}");
    }
    let last: Vec<&Value> = lines.iter().rev().take(2).collect();
    assert!(is_published(last[1], 2), "{lines:?}");
    assert_eq!((&last[0]["change"], &last[0]["state"]), (&json!("run"), &json!("complete")), "{lines:?}");
    assert_eq!(watch.read("err").matches("seen for the first time").count(), 1, "{}", watch.read("err"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_run_ended_is_the_exit_code_and_a_watch_may_end_before() {
    let server = Server::start(Database::sqlite());
    let site = server.site("a");
    let watch = |arguments: &[&str]| -> Output {
        program(&server, &[&["watch"], arguments].concat()).output().expect("the client's program runs")
    };
    let long = run(&server, &[&site], &json!({ "rounds": 2 }));
    let once = watch(&[&long, "--once"]);
    assert_eq!(once.status.code(), Some(0));
    let text = String::from_utf8_lossy(&once.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("run {long}: open, 0 of 2 rounds published"), "{text}");
    assert!(lines[1].starts_with("round 1: collecting, 1 sites, quorum 1, until "), "{text}");
    assert_eq!(lines[2], "round 1, site a: silent", "{text}");

    let mut until = Watching::start(&server, &[&long, "--until", "published", "--json"]);
    until.says("a is silent", |line| site_is(line, "a", "silent")).await;
    site.upload(&long, 1, &one_hot(0, 2), 1).await.expect("a receipt");
    assert_eq!(until.ends().await, Some(0));
    assert!(until.lines().iter().any(|line| line["state"] == "published"), "{:?}", until.lines());

    assert!(program(&server, &["cancel", &long]).status().expect("the client's program runs").success());
    assert_eq!(watch(&[&long]).status.code(), Some(4));
    let short = run(&server, &[&site], &json!({ "deadline_seconds": 1, "failed_rounds_allowed": 0 }));
    let failed = watch(&[&short]);
    assert_eq!(failed.status.code(), Some(3), "{}", String::from_utf8_lossy(&failed.stdout));
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("it is failed") && said.contains("fedbasin admin rounds"), "{said}");
    assert_eq!(watch(&["nothing"]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_answers_after_a_loss_is_held_to_what_was_seen_before() {
    let mut server = Server::start(Database::sqlite());
    let site = server.site("a");
    let id = run(&server, &[&site], &json!({}));
    let mut watch = Watching::start(&server, &[&id, "--json"]);
    watch.says("a is silent", |line| site_is(line, "a", "silent")).await;
    server.kill();
    watch.says("the server is away", |line| line["answers"] == false).await;
    // As if another server had been seen there.
    let name = server.http.strip_prefix("http://").expect("clear text").replace(':', "_");
    let head = server.operators_dir().join(name).join("log-head.txt");
    let seen = fs::read_to_string(&head).expect("a head");
    fs::write(&head, seen.replacen("fedbasin-log-", "fedbasin-log-0", 1)).expect("written");
    server.start_again();
    assert_eq!(watch.ends().await, Some(1));
    assert!(watch.read("err").contains("log-head.txt"), "{}", watch.read("err"));
}

/// `fedbasin admin ...` of an operator who keeps profiles in `home`.
fn operator(home: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(client_binary())
        .arg("admin")
        .args(arguments)
        .envs(variables.iter().copied())
        .env("XDG_CONFIG_HOME", home)
        .env("FEDBASIN_STATE_DIR", home.join("state"))
        .output()
        .expect("the client's program runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_says_where_and_as_whom_unless_something_nearer_does() {
    let mut server = Server::start(Database::sqlite());
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path();
    let token = server.data_dir().join("admin-token").display().to_string();
    let add = |name: &str, server: &str| {
        operator(home, &[], &["profile", "add", name, "--server", server, "--token-file", &token])
    };
    assert!(add("here", &server.http).status.success());
    assert!(add("gone", "http://127.0.0.1:1").status.success());
    let config: PathBuf = home.join("fedbasin/config.toml");
    assert_eq!(fs::metadata(&config).expect("the file").permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&config).expect("the file").contains(&server.admin_token()));

    // The first one is the default.
    assert!(operator(home, &[], &["sites"]).status.success());
    let gone = operator(home, &[("FEDBASIN_PROFILE", "gone")], &["sites"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(said(&gone).contains(&format!("by profile gone of {}", config.display())), "{}", said(&gone));
    // The environment goes before a profile, what is typed before both.
    let elsewhere = [("FEDBASIN_ADMIN_SERVER", "http://127.0.0.1:2"), ("FEDBASIN_ADMIN_TOKEN", "fba_x")];
    let by_variable = said(&operator(home, &elsewhere, &["sites"]));
    assert!(by_variable.contains("http://127.0.0.1:2/") && by_variable.contains("FEDBASIN_ADMIN_SERVER"));
    assert!(operator(home, &elsewhere, &["sites", "--profile", "here"]).status.success());
    let typed = ["sites", "--server", &server.http, "--token-file", &token];
    assert!(operator(home, &elsewhere, &typed).status.success());
    // A profile's token is not shown to another server.
    let other = operator(home, &[], &["sites", "--server", "http://127.0.0.1:2"]);
    assert_eq!(other.status.code(), Some(2), "{}", said(&other));

    let list = |arguments: &[&str]| said(&operator(home, &[], &[&["profile"], arguments].concat()));
    let all: Value = serde_json::from_str(&list(&["list", "--json"])).expect("JSON");
    assert_eq!(all["profiles"].as_array().map(Vec::len), Some(2), "{all}");
    assert!(list(&["list"]).contains("| here "), "{}", list(&["list"]));
    assert!(operator(home, &[], &["profile", "use", "gone"]).status.success());
    assert_eq!(operator(home, &[], &["sites"]).status.code(), Some(1));
    assert!(list(&["show", "--json"]).contains("http://127.0.0.1:1"), "{}", list(&["show", "--json"]));
    assert!(operator(home, &[], &["profile", "remove", "gone"]).status.success());
    assert_eq!(operator(home, &[], &["profile", "use", "gone"]).status.code(), Some(2));

    server.kill();
    let away = said(&operator(home, &[], &["sites", "--profile", "here"]));
    assert!(away.contains("by profile here of "), "{away}");
    fs::write(&config, "[profiles.x]\nserver = \"http://127.0.0.1:1\"\ntoken = \"fba_secret\"\n")
        .expect("written");
    let refused = operator(home, &[], &["sites"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("no token stands in this file") && !said(&refused).contains("fba_secret")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_an_operator_answers_as_text_and_in_json() {
    let server = Server::start(Database::sqlite());
    let site = server.site("a");
    let id = run(&server, &[&site], &json!({}));
    site.upload(&id, 1, &one_hot(0, 2), 1).await.expect("a receipt");
    let model = server.admin().round_becomes(&id, 1, "published").await["global_digest"].clone();
    let model = model.as_str().expect("a digest");
    let open = run(&server, &[&site], &json!({ "rounds": 2 }));
    let calls: [&[&str]; 23] = [
        &["extend", &open, "--rounds", "1"],
        &["clone", &id, "--rounds", "3"],
        &["updates", &id],
        &["models", "list"],
        &["models", "show", model],
        &["models", "tag", model, "best"],
        &["models", "promote", model],
        &["models", "untag", model, "best"],
        &["site", "show", "a"],
        &["webhooks", "list"],
        &["runs", "--state", "open", "--site", "a"],
        &["rounds", &id, "--state", "published"],
        &["sites"],
        &["tokens"],
        &["certificates"],
        &["runs"],
        &["run", &id],
        &["rounds", &id],
        &["round", &id, "1"],
        &["audit"],
        &["keys"],
        &["profile", "list"],
        &["watch", &id, "--once"],
    ];
    for call in calls {
        let text = program(&server, call).output().expect("the client's program runs");
        assert!(text.status.success() && !text.stdout.is_empty(), "{call:?}: {}", said(&text));
        assert!(serde_json::from_slice::<Value>(&text.stdout).is_err(), "{call:?}: a text for people");
        let json =
            program(&server, &[call, &["--json"]].concat()).output().expect("the client's program runs");
        let values = serde_json::Deserializer::from_slice(&json.stdout).into_iter::<Value>();
        let values: Vec<Value> = values.collect::<Result<_, _>>().expect("JSON and nothing else");
        assert!(!values.is_empty() && values.iter().all(Value::is_object), "{call:?}: {values:?}");
    }

    // It goes on until it is ended.
    let told = Watching::of(&server, &["events", "--after", "0"]);
    let line = eventually("an event as text", || told.read("out").lines().next().map(str::to_owned)).await;
    assert!(serde_json::from_str::<Value>(&line).is_err(), "{line}: a text for people");
    let told = Watching::of(&server, &["events", "--after", "0", "--json"]);
    told.says("the round's event", |line| line["event"] == "round.published").await;
}
