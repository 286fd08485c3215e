//! A volume that is full: a file system of its own, in a mount namespace that only the server is in.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
};

use fedbasin_tests::{
    Admin, Site, assert_refused,
    checkpoint::{f32s, file},
    chunks, eventually,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::place::{Foreground, Place, said};

/// Larger than what is wanted free at the least, by some models.
const VOLUME: &str = "112m";
/// What stays free where rows have room and models have none.
const LITTLE: u64 = 2 << 20;

/// A server whose data folder is a volume, and a path on it.
fn server(place: &Place) -> (Foreground, PathBuf) {
    said(&place.types("fedbasin-server init \"$PLACE/server\" --behind-proxy; mkdir \"$PLACE/server/data\""));
    let settings = place.path("server/fedbasin.toml");
    let text =
        fs::read_to_string(&settings).expect("settings").replace(":50051", ":0").replace(":8080", ":0");
    fs::write(&settings, text).expect("written");
    let inside = format!(
        "mount -t tmpfs -o size={VOLUME} volume \"$PLACE/server/data\"; echo $$ > \"$PLACE/id\"; \
         exec fedbasin-server serve --config \"$PLACE/server/fedbasin.toml\""
    );
    // As root of a namespace of users, or as root.
    let script = format!(
        "if unshare -rm true; then exec unshare -rm sh -euc '{inside}'; else exec unshare -m sh -euc '{inside}'; fi"
    );
    let server = Foreground::serves(place.shell(&place.path("elsewhere"), &script));
    let id = fs::read_to_string(place.path("id")).expect("the server's process");
    let data = place.path("server/data");
    let path = PathBuf::from(format!("/proc/{}/root", id.trim()));
    (server, path.join(data.strip_prefix("/").expect("absolute")))
}

/// Takes all room but so much.
fn fill(filler: &PathBuf, left: u64) {
    let mut file = File::create(filler).expect("a file on the volume");
    while file.write_all(&[0; 1 << 16]).is_ok() {}
    let size = file.metadata().expect("its size").len();
    file.set_len(size.saturating_sub(left)).expect("a shorter file");
}

fn disk(admin: &Admin) -> (u16, Value) {
    let answer = admin.get("/readyz");
    let checks = answer.json()["checks"].as_array().cloned().unwrap_or_default();
    (answer.status, checks.into_iter().find(|check| check["what"] == "disk").expect("a check of the disk"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_volume_refuses_and_says_so_and_takes_everything_once_there_is_room() {
    let place = Place::new();
    let (server, volume) = server(&place);
    let token = fs::read_to_string(place.path("server/admin-token")).expect("a token");
    let admin = Admin::new(&server.http, token.trim());
    let site = Site::new("a", &server.grpc, &admin.enrol("a"));
    let run = admin.create_run(&json!({
        "strategy": "mean", "cohort": ["a"], "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    admin.round_becomes(&run, 1, "collecting").await;
    assert_eq!(disk(&admin), (200, json!({ "what": "disk", "ok": true })));
    let numbers = 2 << 20;
    let bytes = file(&[f32s("counted", &[numbers], &vec![1.0; numbers])]);

    let filler = volume.join("filler");
    fill(&filler, LITTLE);
    let begun = site.begin(&run, 1, &bytes, 1).await.expect("rows have room");
    let refused = site.send(chunks(&begun.update_id, &bytes, 0)).await;
    let why = assert_refused(refused, Code::Unavailable, "unavailable");
    assert_eq!(why, "the server's storage cannot answer now; try again in a few seconds");
    let (status, check) =
        eventually("readyz says it", || Some(disk(&admin)).filter(|found| found.0 != 200)).await;
    let detail = check["detail"].as_str().unwrap_or_default().to_owned();
    assert!(status == 503 && detail.ends_with(" MiB are free in the data folder, less than 64"), "{check}");

    // No room for a row either.
    fill(&filler, 0);
    let answer = admin.post("/v1/sites", &json!({ "id": "b" }));
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("unavailable")), "{:?}", answer.json());

    fs::remove_file(&filler).expect("removed");
    site.upload(&run, 1, &bytes, 1).await.expect("a receipt");
    admin.round_becomes(&run, 1, "published").await;
    eventually("readyz is well", || Some(()).filter(|()| disk(&admin).0 == 200)).await;
    let _ = admin.enrol("b");
}
