//! `fedbasin admin`, an operator's calls: the real program against the real server.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use fedbasin_tests::{
    Database, Options, Server, Site,
    checkpoint::{Mlp, mlp, one_hot, one_hot_spec},
    client_binary, digest, eventually, on_both_databases,
};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

/// `fedbasin admin ...` in `folder`, which holds the admin token.
fn admin(server: &Server, address: &str, folder: &Path, arguments: &[&str]) -> Output {
    let token = server.data_dir().join("admin-token");
    Command::new(client_binary())
        .args(["admin", "--server", address, "--token-file"])
        .arg(token)
        .args(arguments)
        .env("FEDBASIN_STATE_DIR", server.operators_dir())
        .current_dir(folder)
        .output()
        .expect("the client's program runs")
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_goes_into_a_new_private_file_or_nowhere() {
    let server = Server::start(Database::sqlite());
    let folder = tempfile::tempdir().expect("a folder");
    let enrol =
        |site: &str, file: &str| admin(&server, &server.http, folder.path(), &["enrol", site, "-o", file]);
    let output = enrol("a", "a.token");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("fbs_"), "the token is shown too");
    let file = folder.path().join("a.token");
    let token = fs::read_to_string(&file).expect("the token");
    assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);

    // The same again: neither is the file touched, nor a second site enrolled under another name.
    assert!(error(&enrol("a", "a.token")).contains("a.token"));
    assert!(error(&enrol("b", "a.token")).contains("move this one away"));
    assert_eq!(fs::read_to_string(&file).expect("the token"), token);
    assert!(enrol("b", "b.token").status.success(), "b was not enrolled before");
    // What the server refuses leaves no file.
    assert!(error(&enrol("a", "again.token")).contains("fedbasin admin sites"));
    assert!(!folder.path().join("again.token").exists());

    let status = Command::new(client_binary())
        .args(["site", "status", "--server", &server.grpc, "--token-file", "a.token"])
        .current_dir(folder.path())
        .output()
        .expect("the client's program runs");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grpc_port_is_named_where_the_http_port_is_meant() {
    let server = Server::start(Database::sqlite());
    let folder = tempfile::tempdir().expect("a folder");
    let output = admin(&server, &server.grpc, folder.path(), &["runs"]);
    assert!(error(&output).contains("is this the server's gRPC port?"), "{}", error(&output));
}

/// What an operator's program keeps of a server.
fn kept_of(server: &Server) -> PathBuf {
    let address = server.http.strip_prefix("http://").expect("clear text").replace(':', "_");
    server.operators_dir().join(address)
}

/// `fedbasin admin sites`, which changes nothing: what it says beside its answer.
fn looks(server: &Server) -> Result<String, String> {
    let output = admin(server, &server.http, server.folder.path(), &["sites"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("first time"), "an answer may go into a pipe");
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_restored_from_an_older_copy_is_refused_until_the_operator_says_why() {
    let mut server = Server::start(Database::sqlite());
    let folder = tempfile::tempdir().expect("a folder");
    let _ = server.admin().enrol("a");
    let said = looks(&server).expect("trusted as it comes");
    assert!(said.contains("seen for the first time") && said.contains("fedbasin-log-"), "{said}");
    assert_eq!(looks(&server).expect("known"), "");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&kept_of(&server)), 0o700);

    let copy = folder.path().join("rows");
    let mut rows = server.rows().await;
    rows.execute(sqlx::AssertSqlSafe(format!("VACUUM INTO '{}'", copy.display()))).await.expect("a copy");
    rows.close().await.expect("closed");
    let head = || fs::read_to_string(kept_of(&server).join("log-head.txt")).expect("a head");
    let before = head();
    assert!(admin(&server, &server.http, folder.path(), &["enrol", "b", "-o", "b.token"]).status.success());
    eventually("the head with it is seen", || {
        looks(&server).expect("it grew");
        (head() != before).then_some(())
    })
    .await;
    let seen = head();

    server.kill();
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(server.data_dir().join(format!("fedbasin.sqlite{end}")));
    }
    fs::copy(copy, server.data_dir().join("fedbasin.sqlite")).expect("restored");
    server.start_again();
    let output = admin(&server, &server.http, folder.path(), &["enrol", "c", "-o", "c.token"]);
    let refused = error(&output);
    let place = kept_of(&server);
    assert!(refused.contains("rolled back") && refused.contains("backup"), "{refused}");
    assert!(refused.contains(&format!("remove {}", place.display())), "{refused}");
    assert_eq!(server.admin().get("/v1/sites").json()["sites"].as_array().map(Vec::len), Some(1), "not sent");
    assert!(!folder.path().join("c.token").exists());

    // As many records as before, and more: they are others.
    for site in ["x", "y", "z"] {
        let _ = server.admin().enrol(site);
    }
    let refused = looks(&server).expect_err("another past");
    assert!(refused.contains("the past was changed"), "{refused}");
    assert_eq!(fs::read_to_string(place.join("log-head.txt")).expect("a head"), seen, "what was seen stays");
    fs::remove_dir_all(place).expect("the operator knows why");
    assert!(looks(&server).expect("trusted anew").contains("seen for the first time"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_at_a_known_address_is_refused() {
    let first = Server::start(Database::sqlite());
    looks(&first).expect("trusted as it comes");
    let refused = |other: &Server| {
        // As if it answered at the first one's address.
        fs::create_dir_all(other.operators_dir()).expect("a folder");
        fs::rename(kept_of(&first), kept_of(other)).expect("moved");
        let refused = looks(other).expect_err("another server");
        fs::rename(kept_of(other), kept_of(&first)).expect("moved back");
        refused
    };
    let same_keys = Server::start(Database::sqlite());
    assert!(refused(&same_keys).contains("another log"), "{}", refused(&same_keys));
    let own_keys = Server::start_with(Database::sqlite(), Options { own_keys: true, ..Options::default() });
    assert!(refused(&own_keys).contains("signs with the keys"), "{}", refused(&own_keys));
    assert_eq!(looks(&first).expect("the one that is known"), "");
    fs::write(kept_of(&first).join("log-head.txt"), "nonsense").expect("written");
    assert!(looks(&first).expect_err("no head").contains("log-head.txt"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_an_operator_acts_is_said_on_the_command_line_and_shown_with_the_log() {
    let server = Server::start(Database::sqlite());
    let folder = tempfile::tempdir().expect("a folder");
    let act = |arguments: &[&str]| admin(&server, &server.http, folder.path(), arguments);
    let why = "joins study 7 & \u{201c}8\u{201d}, 100 %";
    assert!(act(&["enrol", "a", "-o", "a.token", "--reason", why]).status.success());
    let shown = act(&["audit"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let row = shown.lines().find(|line| line.contains("site.enrolled")).expect("its record");
    assert!(row.contains(why), "{shown}");

    let refused = error(&act(&["enrol", "b", "-o", "b.token", "--reason", &"x".repeat(501)]));
    assert!(refused.contains("reason: 1 to 500 characters") && !refused.contains("xxx"), "{refused}");
    // What to do is said as without a reason.
    let again = error(&act(&["enrol", "a", "-o", "b.token", "--reason", "again"]));
    assert!(again.contains("fedbasin admin sites"), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_orders_is_done_and_shown() {
    let server = Server::start(Database::sqlite());
    let (api, a) = (server.admin(), server.site("a"));
    let folder = tempfile::tempdir().expect("a folder");
    let act = |arguments: &[&str]| -> Value {
        let output = admin(&server, &server.http, folder.path(), &[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON and nothing else")
    };
    let count = |arguments: &[&str], list: &str| act(arguments)[list].as_array().expect("a list").len();
    api.create_run(&json!({
        "id": "pilot", "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600, "keep_models": 3, "max_magnitude_factor": 9.0 },
    }));
    let policy = |run: &str| api.get(&format!("/v1/runs/{run}")).json()["policy"].clone();
    act(&["extend", "pilot", "--rounds", "1"]);
    assert_eq!(policy("pilot")["rounds"], 2);
    act(&["clone", "pilot", "--as", "second", "--rounds", "1", "--deadline-seconds", "500"]);
    let mut expected = policy("pilot");
    (expected["rounds"], expected["deadline_seconds"]) = (json!(1), json!(500));
    assert_eq!(policy("second"), expected, "all else as the run has it");

    // Both runs publish the same bytes.
    for run in ["pilot", "second"] {
        api.round_becomes(run, 1, "collecting").await;
        a.upload(run, 1, &one_hot(0, 8), 1).await.expect("a receipt");
        api.round_becomes(run, 1, "published").await;
    }
    let model = api.round("second", 1)["global_digest"].as_str().expect("a digest").to_owned();
    assert_eq!(api.round("pilot", 1)["global_digest"], model.as_str());
    let unsaid = error(&admin(&server, &server.http, folder.path(), &["models", "promote", &model]));
    assert!(unsaid.contains("pilot") && unsaid.contains("second"), "{unsaid}");
    let why = ["--run", "second", "--reason", "study 7"];
    act(&[&["models", "promote", model.as_str()], &why[..]].concat());
    for published in api.get(&format!("/v1/models/{model}")).json()["published"].as_array().expect("a list") {
        assert_eq!(published["promoted"], published["run"] == "second", "{published}");
    }
    act(&["models", "tag", &model, "best"]);
    assert_eq!(count(&["models", "list", "--tag", "best"], "models"), 1);
    act(&["models", "untag", &model, "best"]);
    assert_eq!(count(&["models", "list", "--tag", "best"], "models"), 0);
    act(&["models", "download", &model, "-o", "m.safetensors"]);
    assert_eq!(digest(&fs::read(folder.path().join("m.safetensors")).expect("the model")), model);

    assert_eq!(
        count(&["updates", "pilot", "--round", "1", "--site", "a", "--state", "aligned"], "updates"),
        1
    );
    assert_eq!(count(&["updates", "pilot", "--state", "rejected"], "updates"), 0);
    api.run_becomes("second", "complete").await;
    assert_eq!(act(&["runs", "--state", "complete", "--site", "a"])["runs"][0]["id"], "second");
    assert_eq!(count(&["rounds", "pilot", "--state", "published"], "rounds"), 1);
    assert_eq!(
        (count(&["sites", "--matching", "a"], "sites"), count(&["sites", "--matching", "b"], "sites")),
        (1, 0)
    );

    let states = || {
        let tokens = api.get("/v1/sites/a").json()["tokens"].clone();
        let mut states: Vec<String> = Vec::new();
        for token in tokens.as_array().expect("a list") {
            states.push(token["state"].as_str().expect("a state").to_owned());
        }
        states
    };
    assert_eq!(states(), ["alive"]);
    act(&["site", "rotate", "a", "--old-tokens-seconds", "0"]);
    assert_eq!(states().iter().filter(|state| *state == "alive").count(), 1, "{:?}", states());
    assert_eq!(states().len(), 2);
    act(&["site", "revoke", "a"]);
    assert!(states().iter().all(|state| state != "alive"), "{:?}", states());
}

on_both_databases!(how_surely_units_are_matched_is_told_of_each_group_to_operators_and_to_the_site);

async fn how_surely_units_are_matched_is_told_of_each_group_to_operators_and_to_the_site(database: Database) {
    let server = Server::start(database);
    let folder = tempfile::tempdir().expect("a folder");
    let sites = ["a", "b"].map(|id| Site::new(id, &server.grpc, &server.admin().enrol(id)));
    let seed = server.admin().upload(&mlp(1).file());
    let run = server.admin().create_run(&json!({
        "spec": Mlp::spec(), "strategy": "aligned", "cohort": ["a", "b"], "seed_digest": seed,
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
    }));
    server.admin().round_becomes(&run, 1, "collecting").await;
    // The first has to be searched, the second is the reference itself.
    let reordered = mlp(2).permuted([[2, 0, 3, 1], [1, 2, 3, 0]]).file();
    let mut updates = Vec::new();
    for (site, update) in sites.iter().zip([reordered, mlp(1).file()]) {
        updates.push(site.upload(&run, 1, &update, 1).await.expect("a receipt").update_id);
    }
    server.admin().round_becomes(&run, 1, "published").await;

    let groups = |site: &str| server.admin().round_site(&run, 1, site)["alignment"]["groups"].clone();
    let (of_a, of_b) = (groups("a"), groups("b"));
    assert_eq!(of_a.as_array().map(Vec::len), Some(2), "{of_a}");
    let told = sites[0].update(&updates[0]).await.expect("an update").alignment.expect("an alignment").groups;
    let mut least: f64 = 1.0;
    for (group, told) in of_a.as_array().expect("a list").iter().zip(told) {
        let margins = told.margins.expect("they were searched");
        for (name, figure) in [("best", margins.best), ("p5", margins.p5), ("median", margins.median)] {
            assert_eq!(group["margins"][name], json!(figure), "{group}");
        }
        assert!((0.0..=1.0).contains(&margins.best) && margins.p5 <= margins.median, "{margins:?}");
        assert!(margins.median > 0.0, "{margins:?}");
        least = least.min(margins.best);
    }
    let nothing = |group: &Value| group["margins"].is_null();
    assert!(of_b.as_array().expect("a list").iter().all(nothing), "nothing was searched: {of_b}");
    let of_b = sites[1].update(&updates[1]).await.expect("an update").alignment.expect("an alignment");
    assert!(of_b.groups.iter().all(|group| group.margins.is_none()), "{of_b:?}");

    let shown = |more: &[&str]| {
        let output = admin(&server, &server.http, folder.path(), &[&["round", &run, "1"], more].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let round = shown(&[]);
    let lines: Vec<Vec<String>> = round.lines().map(cells).collect();
    let column = lines.iter().find_map(|line| line.iter().position(|cell| cell == "best partner"));
    let of = |site: &str| {
        &lines.iter().find(|line| line.get(1).is_some_and(|cell| cell == site)).expect("a row")
            [column.expect("a column")]
    };
    assert_eq!((of("a"), of("b")), (&format!("{:.1} %", 100.0 * least), &String::new()), "{round}");
    assert!(!round.contains("median margin"), "{round}");
    let groups = shown(&["--groups"]);
    let table: Vec<&str> =
        groups.lines().skip_while(|line| !line.contains("median margin")).skip(2).collect();
    assert_eq!(table.len(), 4, "two groups of two sites: {groups}");
    for (line, group) in table.iter().zip(of_a.as_array().expect("a list")) {
        let median = format!("{:.3}", group["margins"]["median"].as_f64().expect("a number"));
        let cells = cells(line);
        assert_eq!(
            (cells[1].as_str(), cells[2].as_str()),
            ("a", group["name"].as_str().expect("a name")),
            "{groups}"
        );
        assert_eq!(cells[8], median, "{groups}");
    }
}
