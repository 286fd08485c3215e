//! What a browser is shown.

use fedbasin_proto::v1::{
    self, BeginUpdateRequest, EvaluatedModel, Evaluation, PathPoint, ReportEvaluationRequest,
};
use fedbasin_tests::{
    Server, Site,
    checkpoint::{Mlp, mlp},
    chunks, digest,
};
use serde_json::json;
use tonic::Status;

/// Creates a run of perceptrons that founds itself, and makes the naive mean of each round, too.
pub(crate) fn create(server: &Server, name: &str, sites: &[&str]) -> String {
    server.admin().create_run(&json!({
        "id": name, "spec": Mlp::spec(), "strategy": "aligned", "cohort": sites,
        "policy": { "rounds": 4, "quorum": sites.len(), "deadline_seconds": 3600, "evaluate_naive": true },
    }))
}

/// A site says how good the newest round's models are, and those on the way to the global one: the first round's sites began apart.
pub(crate) async fn evaluate(site: &Site, run: &str, round: u32, place: u32) {
    let status = site.status(run).await.expect("a status");
    assert_eq!(status.global_round, round);
    let best = 0.55 / f64::from(round) + 0.03 * f64::from(place);
    let says = |model: EvaluatedModel, digest: String, loss: f64, barrier: f64| {
        let at = |place: u32| {
            let t = f64::from(place) / 10.0;
            let loss = loss + t * (best - loss) + barrier * (std::f64::consts::PI * t).sin();
            PathPoint { t, loss, accuracy: Some(1.0 - 0.4 * loss) }
        };
        let path = if model == EvaluatedModel::Global { Vec::new() } else { (0..=10).map(at).collect() };
        let (loss, accuracy) = (Some(loss), Some(1.0 - 0.4 * loss));
        let num_examples = 300 - 60 * u64::from(place);
        Evaluation { model: model.into(), digest, num_examples, loss, accuracy, path }
    };
    let apart = if round == 1 { 0.9 } else { 0.05 };
    let evaluations = vec![
        says(EvaluatedModel::Global, status.global_digest, best, 0.0),
        says(EvaluatedModel::Naive, status.naive_digest, best + apart, 0.0),
        says(EvaluatedModel::Own, "0".repeat(64), best + 0.2, apart),
    ];
    let request = ReportEvaluationRequest { run_id: run.to_owned(), round, evaluations };
    site.client.clone().report_evaluation(request).await.expect("taken");
}

/// What a site says of an update before it sends it: a loss that falls from round to round.
pub(crate) fn announcement(
    run: &str,
    round: u32,
    checkpoint: &[u8],
    num_examples: u64,
) -> BeginUpdateRequest {
    let loss = 0.9 / f64::from(round) + 30.0 / num_examples as f64;
    BeginUpdateRequest {
        run_id: run.to_owned(),
        round,
        digest: digest(checkpoint),
        size: checkpoint.len() as u64,
        num_examples,
        metrics: [("loss".to_owned(), loss), ("accuracy".to_owned(), 1.0 - loss / 2.0)].into(),
    }
}

/// Announces, sends and ends an update.
pub(crate) async fn upload(
    site: &Site,
    run: &str,
    round: u32,
    checkpoint: &[u8],
    num_examples: u64,
) -> Result<v1::Receipt, Status> {
    let begun = site.begin_as(announcement(run, round, checkpoint, num_examples)).await?;
    site.send(chunks(&begun.update_id, checkpoint, begun.offset)).await?;
    site.finish(&begun.update_id).await
}

/// A run of three sites with three rounds that are published and one that collects: an update is here, one is rejected, one site is
/// silent.
pub(crate) async fn course(server: &Server) -> String {
    let sites = [("hospital-north", 900_u64), ("hospital-south", 400), ("clinic-east", 250)];
    let connected: Vec<(Site, u64)> = sites.iter().map(|(id, count)| (server.site(id), *count)).collect();
    let run = create(server, "thorax", &sites.map(|(id, _)| id));
    let orders = [[[0, 1, 2, 3]; 2], [[2, 0, 3, 1], [1, 3, 0, 2]], [[3, 2, 1, 0], [0, 2, 1, 3]]];
    for round in 1..=3 {
        server.admin().round_becomes(&run, round, "collecting").await;
        for (place, (site, count)) in connected.iter().enumerate() {
            let network = mlp(u64::from(round) * 10 + place as u64);
            let network = if round == 1 || place == 2 { network.permuted(orders[place]) } else { network };
            upload(site, &run, round, &network.file(), *count).await.expect("a receipt");
        }
        server.admin().round_becomes(&run, round, "published").await;
        for (place, (site, _)) in (0..).zip(&connected) {
            evaluate(site, &run, round, place).await;
        }
    }
    server.admin().round_becomes(&run, 4, "collecting").await;
    upload(&connected[0].0, &run, 4, &mlp(41).file(), 900).await.expect("a receipt");
    let bad = mlp(42).changed(|_| f32::NAN).file();
    upload(&connected[1].0, &run, 4, &bad, 400).await.expect_err("no number");
    run
}
