//! The audit log and what is signed, on both edges, from outside: by the programs that sites and operators have.

use std::{fs, path::Path};

use fedbasin_proof::{PublicKeys, Record, SignedHead, export, model::ModelStatement};
use fedbasin_tests::{
    Answer, Database, Options, Server, Site, SiteProgram,
    checkpoint::{one_hot, one_hot_spec},
    client_binary, on_both_databases,
};
use serde_json::{Value, json};
use sqlx::Connection as _;

fn get(server: &Server, path: &str) -> Answer {
    let answer = server.admin().request("GET", path, &[], b"");
    assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
    answer
}

fn text_of(server: &Server, path: &str) -> String {
    String::from_utf8(get(server, path).body).expect("text")
}

fn fedbasin(arguments: &[&str]) -> (bool, String) {
    let output =
        std::process::Command::new(client_binary()).args(arguments).output().expect("the client runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A run of one round of two sites, published.
async fn published(server: &Server, policy: Value) -> (String, [Site; 2]) {
    let sites = ["a", "b"].map(|id| Site::new(id, &server.grpc, &server.admin().enrol(id)));
    let mut all = json!({ "rounds": 1, "quorum": 2, "deadline_seconds": 600 });
    all.as_object_mut().expect("an object").extend(policy.as_object().expect("an object").clone());
    let id = server.admin().create_run(&json!({
        "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a", "b"], "policy": all,
    }));
    for (index, site) in sites.iter().enumerate() {
        site.upload(&id, 1, &one_hot(index, 2), 1 + 2 * index as u64).await.expect("a receipt");
    }
    server.admin().round_becomes(&id, 1, "published").await;
    (id, sites)
}

fn keys_of(server: &Server) -> PublicKeys {
    let keys = get(server, "/v1/keys").json();
    PublicKeys::from_pem(keys["keys"].as_str().expect("PEM")).expect("keys")
}

fn exported(server: &Server, folder: &Path) -> String {
    let file = folder.join("export.jsonl");
    fs::write(&file, text_of(server, "/v1/audit/export")).expect("written");
    file.to_str().expect("a plain path").to_owned()
}

fn records(server: &Server) -> Vec<Record> {
    let text = text_of(server, "/v1/audit/export");
    let lines: Vec<&str> = text.lines().collect();
    lines[1..lines.len() - 1].iter().map(|line| Record::from_line(line).expect("a record")).collect()
}

on_both_databases!(every_change_is_on_record_with_who_asked_for_it);

async fn every_change_is_on_record_with_who_asked_for_it(database: Database) {
    let server = Server::start(database);
    let (id, sites) = published(&server, json!({})).await;
    // Nobody learns the digest of one site's update, not even as a founding round's reference.
    let bundle = text_of(&server, &format!("/v1/runs/{id}/rounds/1/model/signature"));
    let provenance = ModelStatement::open(&bundle, &keys_of(&server)).expect("signed").provenance;
    assert_eq!((&provenance["participants"], &provenance["reference"]), (&json!(2), &Value::Null));
    let records = fedbasin_tests::eventually("the run ends", || {
        let records = records(&server);
        records.iter().any(|record| record.action == "run.complete").then_some(records)
    })
    .await;
    let actions: Vec<&str> = records.iter().map(|record| record.action.as_str()).collect();
    for (action, times) in [
        ("log.keys-noted", 1),
        ("site.enrolled", 2),
        ("token.made", 2),
        ("run.created", 1),
        ("round.opened", 1),
        ("update.announced", 2),
        ("update.accepted", 2),
        ("update.aligned", 2),
        ("round.merging", 1),
        ("round.merged", 1),
        ("round.published", 1),
        ("run.complete", 1),
    ] {
        assert_eq!(actions.iter().filter(|found| **found == action).count(), times, "{action}: {actions:?}");
    }
    let find = |action: &str, site: Option<&str>| {
        let found = records.iter().find(|record| record.action == action && record.site.as_deref() == site);
        found.unwrap_or_else(|| panic!("{action} of {site:?}"))
    };
    assert_eq!(find("run.created", None).who.credential.as_deref(), Some("admin-token"));
    assert!(find("run.created", None).request.is_some());
    let accepted = find("update.accepted", Some("b"));
    assert_eq!((accepted.who.kind.as_str(), accepted.who.name.as_deref()), ("site", Some("b")));
    let token = find("token.made", Some("b")).object.clone();
    assert_eq!(accepted.who.credential, token, "it names the token by its id");
    let round = server.admin().round(&id, 1);
    let published = find("round.published", None);
    assert_eq!(published.who.kind, "server");
    assert_eq!(published.after.as_deref(), round["global_digest"].as_str());
    assert_eq!(published.before.as_deref(), round["reference_digest"].as_str());
    let secret = sites[0].token.clone();
    assert!(!text_of(&server, "/v1/audit/export").contains(&secret), "no token is in it");
}

on_both_databases!(a_log_that_was_changed_in_the_database_is_found_out);

async fn a_log_that_was_changed_in_the_database_is_found_out(database: Database) {
    let server = Server::start(database);
    published(&server, json!({})).await;
    let (whole, said) = server.says(&["audit", "verify"]);
    assert!(whole && said.contains("whole"), "{said}");
    let mut rows = server.rows().await;
    for statement in [
        "UPDATE audit_records SET line = replace(line, 'update.accepted', 'update.rejected')",
        "DELETE FROM audit_records WHERE seq = 3",
        "UPDATE audit_nodes SET hash = 'aa'",
        "DELETE FROM audit_nodes",
        "DELETE FROM audit_head",
        "UPDATE audit_head SET size = 0, frontier = ''",
        "UPDATE audit_head SET keys = NULL",
        "UPDATE audit_head SET origin = 'another'",
    ] {
        let error = sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut rows).await;
        let error = error.expect_err("records are kept").to_string();
        let kept = error.contains("neither changed nor removed") || error.contains("only grows");
        assert!(kept, "{statement}: {error}");
    }
    // Whoever owns the database can take that guard away; what was signed remains.
    let postgres = server.database_url().is_some();
    for table in ["records", "nodes"] {
        let drops = match postgres {
            true => vec![format!("DROP TRIGGER audit_{table}_are_kept ON audit_{table}")],
            false => ["update", "delete"]
                .map(|op| format!("DROP TRIGGER audit_{table}_are_kept_from_{op}"))
                .to_vec(),
        };
        for statement in drops {
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut rows).await.expect("the owner may");
        }
    }
    sqlx::query(
        "UPDATE audit_records SET line = replace(line, 'update.accepted', 'update.rejected') WHERE seq > 3",
    )
    .execute(&mut rows)
    .await
    .expect("the owner may");
    let (whole, said) = server.says(&["audit", "verify"]);
    assert!(!whole && said.contains("audit log"), "{said}");
    rows.close().await.expect("closed");
}

#[tokio::test]
async fn an_export_is_checked_offline_and_whatever_was_changed_is_seen() {
    let server = Server::start(Database::sqlite());
    published(&server, json!({})).await;
    let folder = tempfile::tempdir().expect("a folder");
    let export = exported(&server, folder.path());
    let keys = folder.path().join("keys.pem");
    fs::write(&keys, keys_of(&server).to_pem()).expect("written");
    let keys = keys.to_str().expect("a plain path");
    let (fine, said) = fedbasin(&["audit", "verify", &export, "--server-keys", keys]);
    assert!(fine && said.contains("whole"), "{said}");
    let text = fs::read_to_string(&export).expect("text");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    let seen = folder.path().join("seen");
    fs::write(&seen, last["head"].as_str().expect("a note")).expect("written");
    fs::write(&export, text.replacen("run.created", "run.paused!", 1)).expect("written");
    let (fine, said) = fedbasin(&["audit", "verify", &export, "--server-keys", keys]);
    assert!(!fine && said.contains("changed"), "{said}");
    // A server that lost its log and began another has the same keys; who saw the first one is not deceived.
    let other = Server::start(Database::sqlite());
    let export = exported(&other, folder.path());
    let seen = seen.to_str().expect("a plain path");
    let (fine, said) = fedbasin(&["audit", "verify", &export, "--server-keys", keys, "--seen", seen]);
    assert!(!fine && said.contains("log"), "{said}");
}

on_both_databases!(receipts_and_models_are_signed_and_prove_what_they_say);

async fn receipts_and_models_are_signed_and_prove_what_they_say(database: Database) {
    let server = Server::start(database);
    let (id, sites) = published(&server, json!({ "name_participants": true })).await;
    let keys = keys_of(&server);
    // Receipts: those of the same update are the same to the byte.
    let receipts = [
        sites[1].upload(&id, 1, &one_hot(1, 2), 3).await.expect("the receipt again"),
        sites[1].upload(&id, 1, &one_hot(1, 2), 3).await.expect("the receipt again"),
    ];
    assert_eq!(receipts[0], receipts[1]);
    assert_eq!(receipts[0].signature.len(), 64);
    let record = records(&server).into_iter().find(|record| Some(record.seq) == receipts[0].log_record);
    assert_eq!(record.expect("its record").object.as_deref(), Some(receipts[0].update_id.as_str()));
    // The model: what it was made from, by names where the policy says so.
    let bundle = text_of(&server, &format!("/v1/runs/{id}/rounds/1/model/signature"));
    let statement = ModelStatement::open(&bundle, &keys).expect("signed");
    let round = server.admin().round(&id, 1);
    assert_eq!(Some(statement.digest.as_str()), round["global_digest"].as_str());
    let provenance = &statement.provenance;
    assert_eq!((&provenance["run"], &provenance["round"]), (&json!(id), &json!(1)));
    assert_eq!(provenance["participants"][1]["site"], "b");
    assert_eq!(provenance["participants"][1]["share"], 0.75);
    assert_eq!(provenance["reference"], round["reference_digest"]);
    let place = provenance["log_record"].as_u64().expect("a place");
    let record = &records(&server)[usize::try_from(place).expect("small")];
    assert_eq!(
        (record.action.as_str(), record.after.as_deref()),
        ("round.published", Some(statement.digest.as_str()))
    );
}

#[tokio::test]
async fn the_head_travels_with_answers_and_grows_into_the_next() {
    let server = Server::start(Database::sqlite());
    let keys = keys_of(&server);
    let head = |server: &Server| {
        let word = get(server, "/v1/runs").header("fedbasin-log-head").to_owned();
        SignedHead::from_word(&word, &keys)
    };
    // The first one is signed a moment after the start.
    let first = fedbasin_tests::eventually("a head travels", || head(&server).ok()).await;
    let head = |server: &Server| head(server).expect("signed");
    published(&server, json!({})).await;
    let second = fedbasin_tests::eventually("the head grows", || {
        let now = head(&server);
        (now.head.size > first.head.size).then_some(now)
    })
    .await;
    let (old, new) = (&first.head, &second.head);
    let growth = get(&server, &format!("/v1/audit/growth?first={}&second={}", old.size, new.size)).json();
    let hashes: Vec<[u8; 32]> = growth["hashes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|hash| hex::decode(hash.as_str().expect("hex")).expect("hex").try_into().expect("32 bytes"))
        .collect();
    let consistent = fedbasin_proof::merkle::verify_consistency;
    assert!(consistent((old.size, &old.root), (new.size, &new.root), &hashes));
    assert!(!consistent((old.size, &new.root), (new.size, &new.root), &hashes));
}

#[tokio::test]
async fn a_second_process_with_other_keys_does_not_start() {
    let database = Database::postgres().await;
    let objects = tempfile::tempdir().expect("a folder");
    let options = Options { own_keys: true, ..Options::in_folder(objects.path()) };
    let first = Server::start_with(database.clone(), options.clone());
    assert!(first.data_dir().join("signing-key.pem").is_file(), "it made its own");
    let error = Server::try_start(database, options).expect_err("other keys");
    assert!(error.contains("signing_key_file") && error.contains("the same file"), "{error}");
}

#[tokio::test]
async fn a_site_refuses_a_server_whose_keys_or_log_changed() {
    let server = Server::start(Database::sqlite());
    let token = server.admin().enrol("a");
    server.admin().create_run(&json!({
        "id": "pilot", "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a"],
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    let mut site = SiteProgram::start(&server, &token, 0, 3);
    assert_eq!(site.ends().await, Some(0), "{}", site.read("log"));
    let work_dir = site.folder.path().join("fedbasin-pilot");
    let kept = fs::read_to_string(work_dir.join("server-keys.pem")).expect("the first keys are kept");
    assert_eq!(kept, keys_of(&server).to_pem());
    assert!(work_dir.join("global.safetensors.sig").is_file());
    assert!(work_dir.join("log-head.txt").is_file());
    // Other keys: as if somebody else answered.
    let other =
        fedbasin_proof::SigningKeys::from_pem(&fedbasin_proof::SigningKeys::generate().expect("random"));
    let other = other.expect("keys").public().to_pem();
    fs::write(work_dir.join("server-keys.pem"), other).expect("written");
    site.start_again();
    assert_eq!(site.ends().await, Some(1));
    assert!(site.read("log").contains("signature"), "{}", site.read("log"));
    fs::write(work_dir.join("server-keys.pem"), kept).expect("written");
    // A longer log than the server has: it was rolled back since.
    let secret = fs::read_to_string(fedbasin_tests::signing_keys()).expect("the keys of tests");
    let secret = fedbasin_proof::SigningKeys::from_pem(&secret).expect("keys");
    let note = fs::read_to_string(work_dir.join("log-head.txt")).expect("a note");
    let mut head = SignedHead::open(&note, &secret.public()).expect("signed").head;
    head.size += 1000;
    fs::write(work_dir.join("log-head.txt"), head.clone().sign(&secret).note()).expect("written");
    site.start_again();
    assert_eq!(site.ends().await, Some(1));
    assert!(site.read("log").contains("rolled back"), "{}", site.read("log"));
    // The same length and another past.
    head.size -= 1000;
    head.root[0] ^= 1;
    fs::write(work_dir.join("log-head.txt"), head.sign(&secret).note()).expect("written");
    site.start_again();
    assert_eq!(site.ends().await, Some(1));
    assert!(site.read("log").contains("the past was changed"), "{}", site.read("log"));
}

#[tokio::test]
async fn a_role_of_postgres_that_is_no_owner_serves_and_cannot_touch_the_log() {
    let database = Database::postgres().await;
    let role = database.role().await;
    let objects = tempfile::tempdir().expect("a folder");
    {
        let owner = Server::start_with(database.clone(), Options::in_folder(objects.path()));
        let (granted, said) = owner.says(&["migrate", "--grant-to", &role.name]);
        assert!(granted, "{said}");
    }
    let environment = vec![("FEDBASIN_DATABASE_URL", role.url.clone())];
    let server = Server::start_with(database, Options { environment, ..Options::in_folder(objects.path()) });
    published(&server, json!({})).await;
    let mut rows = sqlx::PgConnection::connect(&role.url).await.expect("the role connects");
    for statement in [
        "UPDATE audit_records SET line = ''",
        "DELETE FROM audit_records",
        "TRUNCATE audit_records",
        "UPDATE audit_nodes SET hash = ''",
        "DELETE FROM audit_head",
        "DROP TRIGGER audit_records_are_kept ON audit_records",
        "ALTER TABLE audit_records DISABLE TRIGGER ALL",
        "DROP TABLE audit_records",
        "UPDATE audit_head SET size = size - 1",
        "INSERT INTO audit_records (seq, line, hash, action) SELECT size, '', '', '' FROM audit_head",
    ] {
        let error = sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut rows).await;
        let error = error.expect_err("it may not").to_string();
        let refused = ["permission denied", "must be owner", "only grows", "comes with its head"];
        assert!(refused.iter().any(|words| error.contains(words)), "{statement}: {error}");
    }
    assert!(export::verify(&mut text_of(&server, "/v1/audit/export").as_bytes(), None, None).is_ok());
}
