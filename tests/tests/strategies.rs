//! What each strategy makes of sites whose hidden units stand in different orders.

use fedbasin_tests::{
    Database, Server,
    checkpoint::{Mlp, mlp},
    on_both_databases,
};
use serde_json::{Value, json};

on_both_databases!(
    aligned_sites_merge_as_if_their_units_had_never_been_reordered,
    merging_many_gives_the_same_network_in_some_frame,
    the_plain_mean_of_reordered_sites_is_another_network,
    sites_in_the_frame_of_the_reference_move_no_unit,
);

const ORDERS: [[[usize; 4]; 2]; 3] =
    [[[0, 1, 2, 3], [0, 1, 2, 3]], [[2, 0, 3, 1], [1, 2, 3, 0]], [[3, 2, 1, 0], [0, 2, 1, 3]]];
const NUM_EXAMPLES: [u64; 3] = [4, 1, 3];

/// The mean, with shares, of the three networks before their units were reordered.
fn wanted() -> Vec<Vec<f32>> {
    let inputs = [[1.0, 0.0, 0.0], [0.5, -1.0, 2.0], [0.0, 0.3, 0.7]];
    let mean = mean_of(&[mlp(1), mlp(2), mlp(3)]);
    inputs.map(|input| mean.output(input)).to_vec()
}

/// The mean through files, with the shares of [`NUM_EXAMPLES`]: plain sums, no code of ours.
fn mean_of(networks: &[Mlp]) -> Mlp {
    let total: u64 = NUM_EXAMPLES.iter().sum();
    let shares = NUM_EXAMPLES.map(|n| n as f32 / total as f32);
    Mlp::weighted_sum(networks, &shares)
}

fn outputs(network: &Mlp) -> Vec<Vec<f32>> {
    [[1.0, 0.0, 0.0], [0.5, -1.0, 2.0], [0.0, 0.3, 0.7]].map(|input| network.output(input)).to_vec()
}

fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// One founding round of three sites; returns the record and the global model.
async fn round(server: &Server, strategy: &str, spec: Value) -> (Value, Mlp) {
    let admin = server.admin();
    let sites = ["a", "b", "c"].map(|id| server.site(id));
    let id = admin.create_run(&json!({
        "spec": spec, "strategy": strategy, "cohort": ["a", "b", "c"],
        "policy": { "rounds": 1, "quorum": 3, "deadline_seconds": 600 },
    }));
    for (i, site) in sites.iter().enumerate() {
        let bytes = mlp(i as u64 + 1).permuted(ORDERS[i]).file();
        site.upload(&id, 1, &bytes, NUM_EXAMPLES[i]).await.expect("a receipt");
    }
    let record = admin.round_becomes(&id, 1, "published").await;
    (record, Mlp::read(&admin.model(&id, 1)))
}

fn moved(record: &Value, site: &str) -> f64 {
    let sites = record["sites"].as_array().expect("sites");
    let entry = sites.iter().find(|entry| entry["site"] == site).expect("the site");
    entry["alignment"]["moved"].as_f64().unwrap_or_else(|| panic!("an alignment in {entry}"))
}

async fn aligned_sites_merge_as_if_their_units_had_never_been_reordered(database: Database) {
    let server = Server::start(database);
    let (record, global) = round(&server, "aligned", Mlp::spec()).await;
    // The reference is site a, whose units were not reordered: the frame is the original one.
    assert!(global.distance(&mean_of(&[mlp(1), mlp(2), mlp(3)])) < 1e-5, "{global:?}");
    assert_eq!(moved(&record, "a"), 0.0, "the reference itself");
    assert_eq!(moved(&record, "b"), 1.0, "both orders move every unit");
    assert_eq!(moved(&record, "c"), 0.75, "four of four and two of four");
}

async fn merging_many_gives_the_same_network_in_some_frame(database: Database) {
    let server = Server::start(database);
    let (_, global) = round(&server, "merge-many", Mlp::spec()).await;
    let difference = difference(&outputs(&global), &wanted());
    assert!(difference < 1e-4, "outputs differ by {difference}");
}

async fn the_plain_mean_of_reordered_sites_is_another_network(database: Database) {
    let server = Server::start(database);
    let (_, global) = round(&server, "mean", Value::Null).await;
    let reordered: Vec<Mlp> = (0..3).map(|i| mlp(i as u64 + 1).permuted(ORDERS[i])).collect();
    assert!(global.distance(&mean_of(&reordered)) < 1e-5, "exactly the mean of what was sent");
    assert!(difference(&outputs(&global), &wanted()) > 0.5, "and not the network that alignment finds");
}

async fn sites_in_the_frame_of_the_reference_move_no_unit(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let sites = ["a", "b"].map(|id| server.site(id));
    let id = admin.create_run(&json!({
        "spec": Mlp::spec(), "strategy": "aligned", "cohort": ["a", "b"], "seed_digest": admin.upload(&mlp(9).file()),
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
    }));
    for (i, site) in sites.iter().enumerate() {
        site.upload(&id, 1, &mlp(i as u64 + 1).file(), 1).await.expect("a receipt");
    }
    let record = admin.round_becomes(&id, 1, "published").await;
    assert_eq!((moved(&record, "a"), moved(&record, "b")), (0.0, 0.0));
}
