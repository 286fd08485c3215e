//! What a site takes back is erased, counts no more, and stays on record; a round is merged again without it.

use fedbasin_proto::v1;
use fedbasin_tests::{
    Database, Server, Site, assert_refused,
    checkpoint::{f32s, file, one_hot, one_hot_spec, read_f32},
    chunks, digest, eventually, on_both_databases,
};
use serde_json::{Value, json};
use tonic::Code;

const SITES: [&str; 3] = ["a", "b", "c"];

struct Scene {
    server: Server,
    run: String,
    sites: [Site; 3],
}

impl Scene {
    fn new(database: Database, rounds: u32, quorum: u32) -> Self {
        let server = Server::start(database);
        let sites = SITES.map(|id| server.site(id));
        let run = server.admin().create_run(&json!({
            "spec": one_hot_spec(), "strategy": "mean", "cohort": SITES,
            "policy": { "rounds": rounds, "quorum": quorum, "deadline_seconds": 600 },
        }));
        Self { server, run, sites }
    }

    /// Site `i` sends the one-hot tensor `i` of three; gives its update's id.
    async fn sends(&self, i: usize, round: u32) -> String {
        // A round opens a moment after the one before is published.
        self.server.admin().round_becomes(&self.run, round, "collecting").await;
        let sent = self.sites[i].upload(&self.run, round, &one_hot(i, 3), 1).await;
        sent.expect("a receipt").update_id
    }

    async fn withdraws(&self, i: usize, update: &str) -> Result<v1::Update, tonic::Status> {
        let request = v1::WithdrawUpdateRequest { update_id: update.to_owned() };
        let answer = self.sites[i].client.clone().withdraw_update(request).await?;
        Ok(answer.into_inner().update.expect("the update"))
    }

    fn entry(&self, round: u32, site: &str) -> Value {
        let record = self.server.admin().round(&self.run, round);
        let sites = record["sites"].as_array().expect("a list").clone();
        sites.into_iter().find(|entry| entry["site"] == site).expect("a site of the cohort")
    }

    async fn counted(&self, round: u32) -> Vec<f32> {
        self.server.admin().round_becomes(&self.run, round, "published").await;
        read_f32(&self.server.admin().model(&self.run, round), "counted")
    }

    /// Whether a file below the data folder holds these bytes.
    fn is_stored(&self, i: usize) -> bool {
        let name = digest(&one_hot(i, 3));
        let folder = self.server.data_dir().join("objects").join("checkpoints");
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files.into_iter().any(|file| file.file_name().to_string_lossy().contains(&name))
    }

    fn remerge(&self, round: u32) -> fedbasin_tests::Answer {
        let path = format!("/v1/runs/{}/rounds/{round}/remerge?reason=a+site+left", self.run);
        self.server.admin().request("POST", &path, &[], b"")
    }
}

/// Whether a file below a folder holds these bytes.
fn lies_in(folder: &std::path::Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).any(|path| match path
        .is_dir()
    {
        true => lies_in(&path, bytes),
        false => std::fs::read(&path).is_ok_and(|held| held.windows(bytes.len()).any(|found| found == bytes)),
    })
}

on_both_databases!(
    an_update_lies_encrypted_from_its_first_byte_on,
    an_update_that_is_withdrawn_while_its_round_collects_does_not_count,
    an_update_of_a_round_that_is_over_is_erased_and_its_record_stays,
    a_round_is_merged_again_without_what_was_withdrawn,
    merging_again_twice_counts_once_and_never_comes_back_to_what_was_withdrawn,
    what_cannot_be_merged_again_is_refused_with_the_reason,
);

async fn an_update_lies_encrypted_from_its_first_byte_on(database: Database) {
    let scene = Scene::new(database, 1, 1);
    let (admin, folder) = (scene.server.admin(), scene.server.data_dir());
    let model = |first: f32| {
        let values: Vec<f32> = (0..1000_u16).map(|i| first + f32::from(i) / 7.0).collect();
        (
            file(&[f32s("w", &[1000], &values)]),
            values[500].to_le_bytes().into_iter().chain(values[501].to_le_bytes()),
        )
    };
    let ((seed, of_seed), (update, of_update)) = (model(1.0), model(2000.0));
    let (of_seed, of_update): (Vec<u8>, Vec<u8>) = (of_seed.collect(), of_update.collect());
    let run = admin.create_run(&json!({
        "strategy": "mean", "cohort": ["a", "b"], "seed_digest": admin.upload(&seed),
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600, "max_magnitude_factor": 0 },
    }));
    assert!(lies_in(&folder, &of_seed), "a seed lies as it came, and is found");
    // All but the end of it, durable.
    let begun = scene.sites[0].begin(&run, 1, &update, 1).await.expect("begun");
    let most = &update[..update.len() - 100];
    let durable = scene.sites[0].send(chunks(&begun.update_id, most, 0)).await.expect("progress");
    assert_eq!(durable, most.len() as u64);
    assert!(!lies_in(&folder, &of_update), "while it arrives");
    scene.sites[0].upload(&run, 1, &update, 1).await.expect("a receipt");
    assert!(!lies_in(&folder, &of_update), "once it is accepted");
    scene.sites[1].upload(&run, 1, &update, 1).await.expect("a receipt of the same bytes");
    admin.round_becomes(&run, 1, "published").await;
    assert_eq!(
        read_f32(&admin.model(&run, 1), "w"),
        read_f32(&update, "w"),
        "and it is read where it counts"
    );
}

async fn an_update_that_is_withdrawn_while_its_round_collects_does_not_count(database: Database) {
    let scene = Scene::new(database, 1, 2);
    scene.server.admin().round_becomes(&scene.run, 1, "collecting").await;
    let first = scene.sends(0, 1).await;
    assert!(scene.is_stored(0));
    let withdrawn = scene.withdraws(0, &first).await.expect("withdrawn");
    assert_eq!(withdrawn.state(), v1::UpdateState::Declined);
    assert!(withdrawn.withdrawn_at_ms.is_some() && withdrawn.reason.contains("withdrawn"));
    assert!(!scene.is_stored(0), "its bytes are erased");
    assert_eq!(scene.withdraws(0, &first).await.expect("twice is as once"), withdrawn);
    let again = scene.sends(0, 1).await;
    assert_ne!(again, first, "the site may send another");
    scene.withdraws(0, &again).await.expect("withdrawn");
    // Somebody else's is nobody's.
    let of_b = scene.sends(1, 1).await;
    assert_refused(scene.withdraws(0, &of_b).await, Code::NotFound, "not-found");
    scene.sends(2, 1).await;
    scene.sends(0, 1).await;
    assert_eq!(scene.counted(1).await, [1.0 / 3.0; 3]);
}

async fn an_update_of_a_round_that_is_over_is_erased_and_its_record_stays(database: Database) {
    let scene = Scene::new(database, 1, 3);
    let mut updates = Vec::new();
    for i in 0..3 {
        updates.push(scene.sends(i, 1).await);
    }
    let model = scene.counted(1).await;
    scene.withdraws(1, &updates[1]).await.expect("withdrawn");
    assert!(!scene.is_stored(1) && scene.is_stored(0), "its bytes are erased, and no others");
    let entry = scene.entry(1, "b");
    assert_eq!(
        (entry["state"].as_str(), entry["update_id"].as_str()),
        (Some("accepted"), Some(updates[1].as_str()))
    );
    assert!(
        entry["withdrawn_at"].is_string() && entry["digest"].is_string(),
        "that it took part stays: {entry}"
    );
    assert!(scene.entry(1, "a")["withdrawn_at"].is_null());
    assert_eq!(scene.counted(1).await, model, "a published model is what it was");
    let (holds, said) = scene.server.fsck();
    assert!(holds, "{said}");
    let (whole, said) = scene.server.says(&["audit", "verify"]);
    assert!(whole, "{said}");
    let audit = scene
        .server
        .admin()
        .request("GET", &format!("/v1/audit?run={}&limit=1000", scene.run), &[], b"")
        .json();
    let record = audit["records"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|record| record["action"] == "update.withdrawn");
    let record = record.expect("a record");
    assert_eq!((&record["who"]["name"], &record["object"]), (&json!("b"), &json!(updates[1])));
}

async fn a_round_is_merged_again_without_what_was_withdrawn(database: Database) {
    let scene = Scene::new(database, 2, 2);
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for round in 1..=2 {
        for i in 0..3 {
            let update = scene.sends(i, round).await;
            match i {
                0 => of_a.push(update),
                1 => of_b.push(update),
                _ => {}
            }
        }
        assert_eq!(scene.counted(round).await, [1.0 / 3.0; 3]);
    }
    let admin = scene.server.admin();
    eventually("the run is complete", || (admin.run(&scene.run)["state"] == "complete").then_some(())).await;
    scene.withdraws(1, &of_b[1]).await.expect("withdrawn");
    let opened = scene.remerge(2);
    assert_eq!(opened.status, 201);
    assert_eq!((&opened.json()["number"], &opened.json()["remerge_of"]), (&json!(3), &json!(2)));
    assert_eq!(scene.counted(3).await, [0.5, 0.0, 0.5], "without site b");
    let log = admin.get("/v1/audit?limit=1000").json();
    let again = |record: &&Value| record["action"] == "round.opened" && record["round"] == 3;
    let record =
        log["records"].as_array().and_then(|records| records.iter().find(again)).expect("its record");
    assert_eq!(record["reason"], "merged again without what was withdrawn: a site left", "both whys");
    let run = eventually("the run is complete again", || {
        let run = admin.run(&scene.run);
        (run["state"] == "complete").then_some(run)
    })
    .await;
    assert_eq!(run["rounds_published"], 2);
    assert_eq!(run["global_digest"], admin.round(&scene.run, 3)["global_digest"]);
    assert_eq!(scene.entry(3, "b")["state"], "silent", "it took no part in this one");
    // Another site takes back what was carried over, by the id that its receipt says.
    scene.withdraws(0, &of_a[1]).await.expect("withdrawn");
    assert!(!scene.entry(3, "a")["withdrawn_at"].is_null(), "where it was carried to, too");
    assert!(scene.remerge(3).assert_problem(409, "conflict").contains("the quorum is 2"));
    let (whole, said) = scene.server.says(&["audit", "verify"]);
    assert!(whole, "{said}");
}

async fn merging_again_twice_counts_once_and_never_comes_back_to_what_was_withdrawn(database: Database) {
    let scene = Scene::new(database, 1, 1);
    let mut updates = Vec::new();
    for i in 0..3 {
        updates.push(scene.sends(i, 1).await);
    }
    scene.counted(1).await;
    let admin = scene.server.admin();
    scene.withdraws(0, &updates[0]).await.expect("withdrawn");
    assert_eq!(scene.remerge(1).status, 201);
    assert_eq!(scene.counted(2).await, [0.0, 0.5, 0.5]);
    scene.withdraws(1, &updates[1]).await.expect("withdrawn");
    assert_eq!(scene.remerge(2).status, 201);
    // While the first one may still be under way: as if its answer had been lost.
    let again = scene.remerge(2);
    let newest = if again.status == 201 { 4 } else { 3 };
    assert_eq!(scene.counted(newest).await, [0.0, 0.0, 1.0]);
    let run = eventually("the run is complete", || {
        let run = admin.run(&scene.run);
        (run["state"] == "complete").then_some(run)
    })
    .await;
    assert_eq!(run["rounds_published"], 1, "{run}");
    assert_eq!(run["global_digest"], admin.round(&scene.run, newest)["global_digest"]);
}

async fn what_cannot_be_merged_again_is_refused_with_the_reason(database: Database) {
    let scene = Scene::new(database, 2, 3);
    let mut updates = Vec::new();
    for i in 0..3 {
        updates.push(scene.sends(i, 1).await);
    }
    scene.counted(1).await;
    let why = |round: u32, status: u16, code: &str| scene.remerge(round).assert_problem(status, code);
    assert!(why(1, 409, "conflict").contains("nothing of it was withdrawn"));
    scene.withdraws(0, &updates[0]).await.expect("withdrawn");
    assert!(why(1, 409, "conflict").contains("the quorum is 3"));
    scene.server.admin().round_becomes(&scene.run, 2, "collecting").await;
    assert!(why(2, 409, "conflict").contains("collecting"));
    why(9, 404, "not-found");
    for i in 0..3 {
        scene.sends(i, 2).await;
    }
    scene.counted(2).await;
    assert!(why(1, 409, "conflict").contains("round 2 was published since"));
}
