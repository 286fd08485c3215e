//! What sites say of published models is kept, with its means and its record, and marks the best model.

use fedbasin_proto::v1::{self, EvaluatedModel};
use fedbasin_tests::{
    Database, Server, Site, assert_refused,
    checkpoint::{Mlp, mlp, one_hot, one_hot_spec},
    digest, on_both_databases,
};
use serde_json::{Value, json};
use tonic::{Code, Status};

struct Scene {
    server: Server,
    run: String,
    sites: [Site; 2],
}

impl Scene {
    fn new(database: Database, rounds: u32) -> Self {
        let server = Server::start(database);
        let sites = ["a", "b"].map(|id| server.site(id));
        let run = server.admin().create_run(&json!({
            "spec": one_hot_spec(), "strategy": "mean", "cohort": ["a", "b"],
            "policy": { "rounds": rounds, "quorum": 2, "deadline_seconds": 600 },
        }));
        Self { server, run, sites }
    }

    /// Both sites send; gives the digest of what is published.
    async fn published(&self, round: u32) -> String {
        let admin = self.server.admin();
        admin.round_becomes(&self.run, round, "collecting").await;
        for (i, site) in self.sites.iter().enumerate() {
            site.upload(&self.run, round, &one_hot(i, 2), 1).await.expect("a receipt");
        }
        let record = admin.round_becomes(&self.run, round, "published").await;
        record["global_digest"].as_str().expect("a digest").to_owned()
    }

    async fn says(&self, i: usize, round: u32, evaluations: &[v1::Evaluation]) -> Result<(), Status> {
        let request = v1::ReportEvaluationRequest {
            run_id: self.run.clone(),
            round,
            evaluations: evaluations.to_vec(),
        };
        self.sites[i].client.clone().report_evaluation(request).await.map(drop)
    }

    /// The records of what was reported, oldest first.
    fn records(&self) -> Vec<Value> {
        let log = self.server.admin().get("/v1/audit?limit=1000").json();
        let records = log["records"].as_array().expect("a list").clone();
        records.into_iter().filter(|record| record["action"] == "evaluation.reported").collect()
    }
}

fn of(model: EvaluatedModel, digest: &str, examples: u64, loss: f64, accuracy: f64) -> v1::Evaluation {
    v1::Evaluation {
        model: model.into(),
        digest: digest.to_owned(),
        num_examples: examples,
        loss: Some(loss),
        accuracy: Some(accuracy),
        path: Vec::new(),
    }
}

/// A path of losses at places of equal distance.
fn path(losses: &[f64]) -> Vec<v1::PathPoint> {
    let last = (losses.len() - 1) as f64;
    let point =
        |(place, loss): (usize, &f64)| v1::PathPoint { t: place as f64 / last, loss: *loss, accuracy: None };
    losses.iter().enumerate().map(point).collect()
}

on_both_databases!(
    means_are_weighted_by_examples_and_the_newest_word_counts,
    the_round_with_the_least_mean_loss_is_marked,
    what_is_no_evaluation_of_a_published_model_is_refused,
    paths_to_the_global_model_are_kept_with_their_mean_and_bad_ones_refused,
    a_site_changes_its_word_only_so_often,
    a_run_that_asks_has_the_plain_mean_of_its_newest_round,
    a_naive_mean_goes_with_an_update_that_is_withdrawn,
);

async fn means_are_weighted_by_examples_and_the_newest_word_counts(database: Database) {
    let scene = Scene::new(database, 1);
    let admin = scene.server.admin();
    let global = scene.published(1).await;
    let round = || admin.round(&scene.run, 1);
    assert_eq!(round()["evaluations"]["sites"], json!([]), "nobody said anything yet");
    assert!(round()["evaluations"]["global"].is_null() && round()["best"] == false);

    let of_a = [
        of(EvaluatedModel::Global, &global, 1, 0.5, 0.75),
        of(EvaluatedModel::Own, &digest(&one_hot(0, 2)), 1, 2.0, 0.25),
    ];
    scene.says(0, 1, &of_a).await.expect("taken");
    let loss_alone = v1::Evaluation { accuracy: None, ..of(EvaluatedModel::Global, &global, 3, 1.5, 0.0) };
    scene.says(1, 1, &[loss_alone]).await.expect("taken");
    let found = round()["evaluations"].clone();
    // (1 * 0.5 + 3 * 1.5) / 4; the accuracy is site a's alone.
    let expected = json!({ "sites": 2, "num_examples": 4, "loss": 1.25, "accuracy": 0.75, "path": null });
    assert_eq!(found["global"], expected);
    assert_eq!(
        found["own"],
        json!({ "sites": 1, "num_examples": 1, "loss": 2.0, "accuracy": 0.25, "path": null })
    );
    assert!(found["naive"].is_null());
    let said: Vec<(&Value, &Value)> = found["sites"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (&entry["site"], &entry["model"]))
        .collect();
    let (a, b, own, all) = (json!("a"), json!("b"), json!("own"), json!("global"));
    assert_eq!(said, [(&a, &all), (&b, &all), (&a, &own)]);
    assert_eq!(scene.records().len(), 3);

    scene.says(0, 1, &of_a).await.expect("the same again is as once");
    assert_eq!(scene.records().len(), 3);
    scene.says(0, 1, &[of(EvaluatedModel::Global, &global, 1, 0.1, 0.75)]).await.expect("taken");
    let loss = round()["evaluations"]["global"]["loss"].as_f64().expect("a number");
    assert!((loss - (0.1 + 4.5) / 4.0).abs() < 1e-12, "{loss}");
    let list = admin.get(&format!("/v1/runs/{}/rounds", scene.run)).json();
    let listed = &list["rounds"][0]["evaluations"];
    assert!(listed["sites"].is_null(), "means alone: {listed}");
    assert_eq!(listed["global"], round()["evaluations"]["global"]);

    let records = scene.records();
    assert_eq!(records.len(), 4, "what was said before stays on record");
    let (first, last) = (&records[0], &records[3]);
    assert_eq!((&first["object"], &first["after"]), (&last["object"], &json!(global)));
    assert_eq!((&first["site"], &first["who"]["name"], &first["round"]), (&a, &a, &json!(1)));
    assert_eq!(
        last["details"],
        json!({ "model": "global", "num_examples": 1, "loss": 0.1, "accuracy": 0.75 })
    );
    let (whole, said) = scene.server.says(&["audit", "verify"]);
    assert!(whole, "{said}");

    // A row that says what no site said.
    let mut rows = scene.server.rows().await;
    let query = "UPDATE evaluations SET loss = 0.0 WHERE site_id = 'b'";
    sqlx::query(query).execute(&mut rows).await.expect("the row is changed");
    let (whole, said) = scene.server.says(&["audit", "verify"]);
    assert!(!whole && said.contains("evaluation"), "{said}");
}

async fn the_round_with_the_least_mean_loss_is_marked(database: Database) {
    let scene = Scene::new(database, 4);
    let admin = scene.server.admin();
    let best = || admin.run(&scene.run)["best_round"].clone();
    for (round, [of_a, of_b], expected) in [
        (1, [(0.5, 0.5), (0.5, 0.5)], 1),
        (2, [(0.2, 0.1), (0.4, 0.1)], 2),
        // The same mean loss, more accuracy.
        (3, [(0.4, 0.8), (0.2, 0.8)], 3),
    ] {
        let global = scene.published(round).await;
        for (i, (loss, accuracy)) in [of_a, of_b].into_iter().enumerate() {
            let said = of(EvaluatedModel::Global, &global, 1, loss, accuracy);
            scene.says(i, round, &[said]).await.expect("taken");
        }
        assert_eq!(best(), json!(expected), "after round {round}");
    }
    let text = String::from_utf8(admin.get("/metrics").body).expect("text");
    let told = |name: &str| -> f64 {
        let name = format!("fedbasin_{name}{{run=\"{}\"}} ", scene.run);
        let value = text.lines().find_map(|line| line.strip_prefix(name.as_str()));
        value.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().expect("a number")
    };
    let newest = [told("evaluated_round"), told("evaluated_loss"), told("evaluated_accuracy")];
    for (found, expected) in newest.into_iter().zip([3.0, 0.3, 0.8]) {
        assert!((found - expected).abs() < 1e-9, "{newest:?}");
    }
    let global = scene.published(4).await;
    assert_eq!(best(), json!(3), "nobody evaluated the last one");
    let own = of(EvaluatedModel::Own, &global, 1, 0.0, 1.0);
    scene.says(0, 4, &[own]).await.expect("taken once the run is over");
    let list = admin.get(&format!("/v1/runs/{}/rounds", scene.run)).json();
    let rounds = list["rounds"].as_array().expect("a list");
    let marked: Vec<bool> = rounds.iter().map(|round| round["best"] == true).collect();
    assert_eq!(marked, [false, false, true, false]);
    assert_eq!(admin.get("/v1/runs").json()["runs"][0]["best_round"], json!(3));
}

async fn what_is_no_evaluation_of_a_published_model_is_refused(database: Database) {
    let scene = Scene::new(database, 2);
    let other = scene.server.site("c");
    scene.server.admin().round_becomes(&scene.run, 1, "collecting").await;
    let none = "0".repeat(64);
    let early = scene.says(0, 1, &[of(EvaluatedModel::Global, &none, 1, 0.5, 0.5)]).await;
    let why = assert_refused(early, Code::FailedPrecondition, "not-published");
    assert!(why.contains("round 1") && why.contains("collecting"), "{why}");
    let global = scene.published(1).await;
    let good = of(EvaluatedModel::Global, &global, 1, 0.5, 0.5);
    for (evaluations, what) in [
        (vec![], "evaluations"),
        (vec![good.clone(), good.clone()], "two are of the global model"),
        (vec![v1::Evaluation { model: 0, ..good.clone() }], "model"),
        (vec![v1::Evaluation { model: 9, ..good.clone() }], "model"),
        (vec![v1::Evaluation { digest: none, ..good.clone() }], "not the round's global model"),
        (vec![v1::Evaluation { digest: "x".into(), ..good.clone() }], "digest"),
        (vec![v1::Evaluation { num_examples: 0, ..good.clone() }], "num_examples"),
        (vec![v1::Evaluation { num_examples: 1_000_000_000_001, ..good.clone() }], "num_examples"),
        (vec![v1::Evaluation { loss: None, accuracy: None, ..good.clone() }], "neither"),
        (vec![v1::Evaluation { loss: Some(f64::NAN), ..good.clone() }], "loss"),
        (vec![v1::Evaluation { loss: Some(f64::INFINITY), ..good.clone() }], "loss"),
        (vec![v1::Evaluation { loss: Some(-1e31), ..good.clone() }], "loss"),
        (vec![v1::Evaluation { accuracy: Some(1.01), ..good.clone() }], "accuracy"),
        (vec![v1::Evaluation { accuracy: Some(f64::NAN), ..good.clone() }], "accuracy"),
        (vec![v1::Evaluation { model: EvaluatedModel::Naive.into(), ..good.clone() }], "naive"),
    ] {
        let refused = scene.says(0, 1, &evaluations).await;
        let why = assert_refused(refused, Code::InvalidArgument, "invalid-argument");
        assert!(why.contains(what), "{evaluations:?}: {why}");
    }
    assert_refused(scene.says(0, 9, std::slice::from_ref(&good)).await, Code::NotFound, "not-found");
    let request =
        v1::ReportEvaluationRequest { run_id: scene.run.clone(), round: 1, evaluations: vec![good.clone()] };
    let of_others = other.client.clone().report_evaluation(request).await;
    assert_refused(of_others, Code::NotFound, "not-found");
    assert!(scene.records().is_empty(), "nothing of it was taken");
    // The largest figures that are taken have a mean.
    for i in 0..2 {
        let large = of(EvaluatedModel::Global, &global, 1_000_000_000_000, 1e30, 1.0);
        scene.says(i, 1, &[large]).await.expect("taken");
    }
    let mean = scene.server.admin().round(&scene.run, 1)["evaluations"]["global"].clone();
    assert_eq!(mean["num_examples"], json!(2_000_000_000_000_u64));
    assert!((mean["loss"].as_f64().expect("a number") / 1e30 - 1.0).abs() < 1e-12, "{mean}");
}

async fn paths_to_the_global_model_are_kept_with_their_mean_and_bad_ones_refused(database: Database) {
    let scene = Scene::new(database, 1);
    let admin = scene.server.admin();
    let global = scene.published(1).await;
    let own = |site: usize| of(EvaluatedModel::Own, &digest(&one_hot(site, 2)), [1, 3][site], 1.0, 0.5);
    let with = |site: usize, losses: &[f64]| v1::Evaluation { path: path(losses), ..own(site) };
    let t = |t: f64, loss: f64| v1::PathPoint { t, loss, accuracy: None };
    let right = |accuracy: f64| v1::PathPoint { accuracy: Some(accuracy), ..t(0.0, 1.0) };
    let of_global =
        v1::Evaluation { path: path(&[1.0, 1.0]), ..of(EvaluatedModel::Global, &global, 1, 1.0, 0.5) };
    let bad = |path: Vec<v1::PathPoint>| v1::Evaluation { path, ..own(0) };
    for (evaluation, what) in [
        (of_global, "the global model has none"),
        (with(0, &[0.5; 34]), "34 points"),
        (bad(vec![t(0.0, 0.5)]), "1 points"),
        (bad(vec![t(0.5, 0.5), t(0.25, 0.5)]), "path.t: does not grow"),
        (bad(vec![t(0.5, 0.5), t(0.5, 0.5)]), "path.t: does not grow"),
        (bad(vec![t(0.0, 0.5), t(1.01, 0.5)]), "path.t: not a number"),
        (bad(vec![t(f64::NAN, 0.5), t(1.0, 0.5)]), "path.t: not a number"),
        (bad(vec![t(0.0, f64::NAN), t(1.0, 0.5)]), "path.loss"),
        (bad(vec![t(0.0, 0.5), t(1.0, f64::NEG_INFINITY)]), "path.loss"),
        (bad(vec![right(1.5), t(1.0, 0.5)]), "path.accuracy"),
    ] {
        let why =
            assert_refused(scene.says(0, 1, &[evaluation]).await, Code::InvalidArgument, "invalid-argument");
        assert!(why.contains(what), "{why}");
    }
    assert!(scene.records().is_empty(), "nothing of it was taken");

    scene.says(0, 1, &[with(0, &[1.0, 3.0, 0.5])]).await.expect("taken");
    scene.says(0, 1, &[with(0, &[1.0, 3.0, 0.5])]).await.expect("the same again is as once");
    scene.says(1, 1, &[with(1, &[2.0, 7.0, 1.5])]).await.expect("taken");
    let found = admin.round(&scene.run, 1)["evaluations"].clone();
    // (1 * 1 + 3 * 2) / 4, and so on.
    let point = |t: f64, loss: f64| json!({ "t": t, "loss": loss, "accuracy": null });
    let mean = json!([point(0.0, 1.75), point(0.5, 6.0), point(1.0, 1.25)]);
    assert_eq!(found["own"]["path"], json!({ "sites": 2, "num_examples": 4, "points": mean }));
    assert_eq!(found["sites"][0]["path"], json!([point(0.0, 1.0), point(0.5, 3.0), point(1.0, 0.5)]));
    let list = admin.get(&format!("/v1/runs/{}/rounds", scene.run)).json();
    assert!(list["rounds"][0]["evaluations"]["own"]["path"].is_null(), "in lists there is none: {list}");
    let records = scene.records();
    assert_eq!(records.len(), 2, "{records:?}");
    assert!(
        records.iter().all(|record| record["details"]["path"].as_str().is_some_and(|path| path.len() == 64))
    );

    // Another path alone is news, and none takes the place of one.
    scene.says(1, 1, &[own(1)]).await.expect("taken");
    assert_eq!(scene.records().len(), 3);
    let found = admin.round(&scene.run, 1)["evaluations"].clone();
    assert_eq!((&found["own"]["path"]["sites"], &found["sites"][1]["path"]), (&json!(1), &Value::Null));
    let (whole, said) = scene.server.says(&["audit", "verify"]);
    assert!(whole, "{said}");

    // A path that no site measured.
    let mut rows = scene.server.rows().await;
    let query = "UPDATE evaluations SET path = REPLACE(path, '3.0', '0.1') WHERE site_id = 'a'";
    sqlx::query(query).execute(&mut rows).await.expect("the row is changed");
    let (whole, said) = scene.server.says(&["audit", "verify"]);
    assert!(!whole && said.contains("evaluation"), "{said}");
}

async fn a_site_changes_its_word_only_so_often(database: Database) {
    let scene = Scene::new(database, 1);
    let global = scene.published(1).await;
    let says =
        async |loss: u32| scene.says(0, 1, &[of(EvaluatedModel::Global, &global, 1, loss.into(), 0.5)]).await;
    for loss in 1..=20 {
        says(loss).await.expect("taken");
    }
    assert_refused(says(21).await, Code::AlreadyExists, "conflict");
    says(20).await.expect("the same again changes nothing");
    assert_eq!(scene.records().len(), 20, "the log does not grow with it");
    assert_eq!(scene.server.admin().round(&scene.run, 1)["evaluations"]["global"]["loss"], 20.0);
}

impl Scene {
    /// A run that aligns, from a seed.
    fn aligned(database: Database, asks: bool) -> Self {
        let server = Server::start(database);
        let sites = ["a", "b"].map(|id| server.site(id));
        let seed = server.admin().upload(&mlp(1).file());
        let run = server.admin().create_run(&json!({
            "spec": Mlp::spec(), "strategy": "aligned", "cohort": ["a", "b"], "seed_digest": seed,
            "policy": { "rounds": 2, "quorum": 2, "deadline_seconds": 600, "evaluate_naive": asks },
        }));
        Self { server, run, sites }
    }

    /// Both sites send, the second of three times as many examples and with its units in another order; gives the digest of what is
    /// published, that of the naive mean, and the second site's update.
    async fn published_aligned(&self, round: u32, noise: u64) -> (String, String, String) {
        let admin = self.server.admin();
        admin.round_becomes(&self.run, round, "collecting").await;
        let [a, b] = sent(noise);
        self.sites[0].upload(&self.run, round, &a.file(), 1).await.expect("a receipt");
        let receipt = self.sites[1].upload(&self.run, round, &b.file(), 3).await.expect("a receipt");
        admin.round_becomes(&self.run, round, "published").await;
        let status = self.sites[0].status(&self.run).await.expect("a status");
        assert_eq!(status.global_round, round);
        (status.global_digest, status.naive_digest, receipt.update_id)
    }

    async fn is_gone(&self, digest: &str) {
        for _ in 0..200 {
            if self.sites[0].download(digest, 0).await.is_err() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_refused(self.sites[0].download(digest, 0).await, Code::NotFound, "not-found");
    }
}

fn sent(noise: u64) -> [Mlp; 2] {
    [mlp(noise), mlp(noise + 1).permuted([[2, 0, 3, 1], [1, 2, 3, 0]])]
}

async fn a_run_that_asks_has_the_plain_mean_of_its_newest_round(database: Database) {
    let scene = Scene::aligned(database, true);
    let (global, naive, _) = scene.published_aligned(1, 2).await;
    assert_ne!(global, naive, "units were moved");
    let bytes = scene.sites[1].download(&naive, 0).await.expect("a site may have it");
    assert_eq!(digest(&bytes), naive);
    let [a, b] = sent(2);
    let mean: Vec<f32> = a
        .values()
        .into_iter()
        .zip(b.values())
        .map(|(a, b)| (0.25 * f64::from(a) + 0.75 * f64::from(b)) as f32)
        .collect();
    assert_eq!(Mlp::read(&bytes).values(), mean);
    let other = scene.server.site("c");
    assert_refused(other.download(&naive, 0).await, Code::NotFound, "not-found");

    let of_another = scene.says(0, 1, &[of(EvaluatedModel::Naive, &global, 1, 0.5, 0.5)]).await;
    let why = assert_refused(of_another, Code::InvalidArgument, "invalid-argument");
    assert!(why.contains("not the round's naive mean"), "{why}");
    for (i, loss) in [1.0, 2.0].into_iter().enumerate() {
        scene.says(i, 1, &[of(EvaluatedModel::Naive, &naive, 1, loss, 0.5)]).await.expect("taken");
    }
    let found = scene.server.admin().round(&scene.run, 1)["evaluations"].clone();
    assert_eq!(
        found["naive"],
        json!({ "sites": 2, "num_examples": 2, "loss": 1.5, "accuracy": 0.5, "path": null })
    );
    assert!(found["global"].is_null(), "{found}");

    let (_, next, _) = scene.published_aligned(2, 4).await;
    assert_ne!(naive, next);
    scene.is_gone(&naive).await;
    scene.server.admin().run_becomes(&scene.run, "complete").await;
    scene.sites[0].download(&next, 0).await.expect("the last one is there yet");
    let (whole, said) = scene.server.says(&["audit", "verify"]);
    assert!(whole, "{said}");
    let (whole, said) = scene.server.says(&["fsck"]);
    assert!(whole, "{said}");
}

async fn a_naive_mean_goes_with_an_update_that_is_withdrawn(database: Database) {
    let scene = Scene::aligned(database, true);
    let (global, naive, update) = scene.published_aligned(1, 2).await;
    let request = v1::WithdrawUpdateRequest { update_id: update };
    scene.sites[1].client.clone().withdraw_update(request).await.expect("withdrawn");
    assert_refused(scene.sites[0].download(&naive, 0).await, Code::NotFound, "not-found");
    scene.sites[0].download(&global, 0).await.expect("the model stays");
    assert_eq!(scene.sites[0].status(&scene.run).await.expect("a status").naive_digest, "");
    let (whole, said) = scene.server.says(&["audit", "verify"]);
    assert!(whole, "{said}");
    let mut rows = scene.server.rows().await;
    let query = "UPDATE rounds SET naive_retired_at_ms = NULL";
    sqlx::query(query).execute(&mut rows).await.expect("the row is changed");
    let (whole, said) = scene.server.says(&["audit", "verify"]);
    assert!(!whole && said.contains("naive-mean.retired"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_does_not_ask_has_no_naive_mean() {
    let scene = Scene::aligned(Database::sqlite(), false);
    let (global, naive, _) = scene.published_aligned(1, 2).await;
    assert_eq!(naive, "");
    let refused = scene.says(0, 1, &[of(EvaluatedModel::Naive, &global, 1, 0.5, 0.5)]).await;
    let why = assert_refused(refused, Code::InvalidArgument, "invalid-argument");
    assert!(why.contains("does not ask for one"), "{why}");
}
