//! The drill of deploy/README.md: a backup is taken while a round collects, the machine is lost, and everything goes on from the copy.

use std::{fs, path::Path, process::Command};

use fedbasin_tests::{
    Database, Options, Server, Site,
    checkpoint::{one_hot, one_hot_spec, read_f32},
    on_both_databases, postgres_program,
};
use serde_json::json;
use sqlx::Executor as _;

/// Servers on a folder of stored bytes. A lease that a backup holds runs out soon after it is restored.
fn in_folder(folder: &Path) -> Options {
    let options = Options::in_folder(folder);
    Options { config: format!("{}[work]\nlease_seconds = 2\n", options.config), own_keys: true, ..options }
}

const KEYS: &str = "signing-key.pem";

on_both_databases!(a_backup_is_restored_and_the_round_goes_on_from_it);

async fn a_backup_is_restored_and_the_round_goes_on_from_it(database: Database) {
    let backup = tempfile::tempdir().expect("a folder");
    let objects = tempfile::tempdir().expect("a folder");
    let (receipt, id, tokens, token) = {
        let server = Server::start_with(database.clone(), in_folder(objects.path()));
        let tokens = ["a", "b"].map(|id| server.admin().enrol(id));
        let [a, b] = sites(&server, &tokens);
        let id = server.admin().create_run(&json!({
            "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a", "b"],
            "policy": { "rounds": 2, "quorum": 2, "deadline_seconds": 600 },
        }));
        a.upload(&id, 1, &one_hot(0, 2), 3).await.expect("a receipt");
        b.upload(&id, 1, &one_hot(1, 2), 1).await.expect("a receipt");
        server.admin().round_becomes(&id, 2, "collecting").await;
        let receipt = a.upload(&id, 2, &one_hot(0, 2), 3).await.expect("a receipt");

        // First the rows, then the bytes: what a row tells of is there before it.
        back_up_rows(&server, backup.path()).await;
        fs::copy(server.data_dir().join(KEYS), backup.path().join(KEYS)).expect("the keys that it made");
        copy(objects.path(), &backup.path().join("objects"));
        // What comes after it is lost with the machine, and sent again.
        b.upload(&id, 2, &one_hot(1, 2), 1).await.expect("a receipt");
        (receipt, id, tokens, server.admin_token())
    };

    // Another machine, another empty database.
    let database = match database.url() {
        Some(_) => Database::postgres().await,
        None => Database::sqlite(),
    };
    let options = Options { admin_token: Some(token), ..in_folder(&backup.path().join("objects")) };
    let server = Server::start_restored(database, options, |url, data_dir| {
        restore_rows(url, data_dir, backup.path());
        fs::create_dir_all(data_dir).expect("the data folder");
        fs::copy(backup.path().join(KEYS), data_dir.join(KEYS)).expect("the keys");
    });
    let (holds, said) = server.fsck();
    assert!(holds && said.contains("0 damaged; 0 orphans"), "{said}");
    let [a, b] = sites(&server, &tokens);
    assert_eq!(
        a.upload(&id, 2, &one_hot(0, 2), 3).await.expect("the receipt"),
        receipt,
        "it holds what it held"
    );
    server.admin().round_becomes(&id, 2, "collecting").await;
    b.upload(&id, 2, &one_hot(1, 2), 1).await.expect("a receipt");
    server.admin().round_becomes(&id, 2, "published").await;
    for round in [1, 2] {
        assert_eq!(read_f32(&server.admin().model(&id, round), "counted"), [0.75, 0.25], "round {round}");
    }
}

fn sites(server: &Server, tokens: &[String; 2]) -> [Site; 2] {
    ["a", "b"].map(|id| Site::new(id, &server.grpc, &tokens[usize::from(id == "b")]))
}

async fn back_up_rows(server: &Server, folder: &Path) {
    match server.database_url() {
        Some(url) => succeeds(
            Command::new(postgres_program("pg_dump"))
                .args(["--format=custom", "--file"])
                .arg(folder.join("rows"))
                .arg(url),
        ),
        None => {
            let vacuum = format!("VACUUM INTO '{}'", folder.join("rows").display());
            server.rows().await.execute(sqlx::AssertSqlSafe(vacuum)).await.expect("a copy of the rows");
        }
    }
}

fn restore_rows(url: Option<&str>, data_dir: &Path, folder: &Path) {
    match url {
        Some(url) => succeeds(
            Command::new(postgres_program("pg_restore"))
                .args(["--no-owner", "--dbname", url])
                .arg(folder.join("rows")),
        ),
        None => {
            fs::create_dir_all(data_dir).expect("the data folder");
            fs::copy(folder.join("rows"), data_dir.join("fedbasin.sqlite")).expect("the rows");
        }
    }
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let place = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), &place).expect("copied");
        }
    }
}
