//! What a model's signature says that the model was made from, by the network's own arithmetic; and that signatures of before still count.

use std::fs;

use fedbasin_proof::{PublicKeys, SigningKeys, model::ModelStatement};
use fedbasin_tests::{
    Database, Server,
    checkpoint::{Mlp, mlp},
    client_binary, digest, on_both_databases,
};
use serde_json::{Value, json};

/// The orders in which the hidden units of the three sites stand: the first one's is that of the reference.
const ORDERS: [[[usize; 4]; 2]; 3] =
    [[[0, 1, 2, 3], [0, 1, 2, 3]], [[2, 0, 3, 1], [1, 2, 3, 0]], [[3, 2, 1, 0], [0, 2, 1, 3]]];
/// 61 of 100 are the reference's.
const NUM_EXAMPLES: [u64; 3] = [61, 10, 29];

/// What the signature of a round of three sites says, founded by the first one unless all start from a seed.
async fn provenance(server: &Server, strategy: &str, seed: Option<&Mlp>, named: bool) -> Value {
    let spec = if strategy == "mean" { Value::Null } else { Mlp::spec() };
    provenance_by(&spec, server, strategy, seed, named).await
}

async fn provenance_by(
    spec: &Value,
    server: &Server,
    strategy: &str,
    seed: Option<&Mlp>,
    named: bool,
) -> Value {
    let admin = server.admin();
    let sites = ["hospital-a", "hospital-b", "hospital-c"];
    let sites: Vec<_> = sites.iter().map(|id| server.site(id)).collect();
    let cohort: Vec<&str> = sites.iter().map(|site| site.id.as_str()).collect();
    let id = admin.create_run(&json!({
        "spec": spec, "strategy": strategy, "cohort": cohort,
        "seed_digest": seed.map(|seed| admin.upload(&seed.file())),
        "policy": { "rounds": 1, "quorum": 3, "deadline_seconds": 600, "name_participants": named },
    }));
    for (i, site) in sites.iter().enumerate() {
        site.upload(&id, 1, &sent(i, seed.is_some()).file(), NUM_EXAMPLES[i]).await.expect("a receipt");
    }
    admin.round_becomes(&id, 1, "published").await;
    let bundle = admin.get(&format!("/v1/runs/{id}/rounds/1/model/signature")).body;
    let keys = admin.get("/v1/keys").json();
    let keys = PublicKeys::from_pem(keys["keys"].as_str().expect("PEM")).expect("keys");
    let bundle = String::from_utf8(bundle).expect("text");
    ModelStatement::open(&bundle, &keys).expect("signed").provenance
}

/// What a site sends: sites of a seed have its order.
fn sent(site: usize, seeded: bool) -> Mlp {
    let network = mlp(site as u64 + 1);
    if seeded { network } else { network.permuted(ORDERS[site]) }
}

/// The distance of two networks by the length of the first one.
fn relative(reference: &Mlp, other: &Mlp) -> f64 {
    let square =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>();
    let differences = square(&mut reference.values().iter().zip(other.values()).map(|(a, b)| a - b));
    (differences / square(&mut reference.values().into_iter())).sqrt()
}

#[track_caller]
fn is_near(said: &Value, wanted: f64) {
    let said = said.as_f64().expect("a number");
    assert!((said - wanted).abs() <= 6e-4 * wanted.abs(), "{said} is not {wanted}");
}

on_both_databases!(a_signature_tells_what_alignment_did_to_each_participant_where_they_are_named);

async fn a_signature_tells_what_alignment_did_to_each_participant_where_they_are_named(database: Database) {
    let server = Server::start(database);
    let said = provenance(&server, "aligned", None, true).await;
    let reference = mlp(1);
    let (mut before, mut after) = (0.0, 0.0);
    for (i, moved) in [0.0, 1.0, 0.75].into_iter().enumerate() {
        let participant = &said["participants"][i];
        let (network, own) = (mlp(i as u64 + 1), sent(i, false));
        assert_eq!(participant["digest"], digest(&own.file()), "{participant}");
        assert_eq!(participant["moved"], moved, "{participant}");
        assert_eq!(participant["identity_certified"], i == 0, "{participant}");
        is_near(&participant["distance_before"], relative(&reference, &own));
        is_near(&participant["distance_after"], relative(&reference, &network));
        before += relative(&reference, &own) / 3.0;
        after += relative(&reference, &network) / 3.0;
    }
    let all = &said["alignment"];
    assert_eq!(
        (&all["updates"], &all["nothing_moved"], &all["identity_certified"]),
        (&json!(3), &json!(1), &json!(1))
    );
    assert_eq!((&all["moved_most"], &all["refined"]), (&json!(1.0), &json!(false)));
    is_near(&all["moved_mean"], 1.75 / 3.0);
    is_near(&all["distance_before_mean"], before);
    is_near(&all["distance_after_mean"], after);
    assert!(before > 0.5 && after < 0.02, "the test's own figures: {before}, {after}");
}

#[tokio::test]
async fn where_participants_are_not_named_a_signature_tells_of_all_together() {
    let server = Server::start(Database::sqlite());
    let said = provenance(&server, "aligned", None, false).await;
    let fields: Vec<&str> = said.as_object().expect("an object").keys().map(String::as_str).collect();
    let wanted = [
        "alignment",
        "greatest_share_at_most",
        "kind",
        "log_record",
        "num_examples",
        "participants",
        "reference",
        "round",
        "run",
        "software",
        "strategy",
    ];
    assert_eq!(fields, wanted);
    assert_eq!((&said["participants"], &said["greatest_share_at_most"]), (&json!(3), &json!(0.7)));
    assert_eq!((&said["reference"], &said["alignment"]["updates"]), (&Value::Null, &json!(3)));
    let text = said.to_string();
    assert!(!text.contains("hospital") && !text.contains("0.61"), "{text}");
    for i in 0..3 {
        assert!(!text.contains(&digest(&sent(i, false).file())), "{text}");
    }
    // Figures of all: none of them is one site's, but the most that one moved.
    assert!(
        said["alignment"]
            .as_object()
            .expect("an object")
            .values()
            .all(|value| !value.is_array() && !value.is_object())
    );
}

#[tokio::test]
async fn a_signature_says_where_nothing_moved_and_where_nothing_was_aligned_or_all_was_refined() {
    let server = Server::start(Database::sqlite());
    let reference = mlp(9);
    let said = provenance(&server, "aligned", Some(&reference), true).await;
    let all = &said["alignment"];
    assert_eq!((&all["nothing_moved"], &all["identity_certified"]), (&json!(3), &json!(3)), "{all}");
    assert_eq!((&all["moved_mean"], &all["moved_most"]), (&json!(0.0), &json!(0.0)), "{all}");
    assert_eq!(all["distance_before_mean"], all["distance_after_mean"]);
    is_near(&all["distance_after_mean"], (1..=3).map(|i| relative(&reference, &mlp(i)) / 3.0).sum());
    assert_eq!(said["reference"], digest(&reference.file()));

    let plain = Server::start(Database::sqlite());
    let said = provenance(&plain, "mean", None, true).await;
    assert_eq!(said["alignment"], Value::Null);
    assert_eq!(said["participants"][0].as_object().expect("an object").len(), 3, "site, digest, share");

    let many = Server::start(Database::sqlite());
    let said = provenance(&many, "merge-many", None, false).await;
    assert_eq!((&said["alignment"]["refined"], &said["alignment"]["updates"]), (&json!(true), &json!(3)));
}

/// Whoever scales the reference's units does not choose the figures that are signed.
#[tokio::test]
async fn where_the_spec_tells_scales_distances_are_of_both_at_one_scale() {
    let mut spec = Mlp::spec();
    spec["scales"] = json!([
        { "group": "h0", "up": { "fc1.weight": 0, "fc1.bias": 0 }, "down": { "fc2.weight": 1 } },
        { "group": "h1", "up": { "fc2.weight": 0, "fc2.bias": 0 }, "down": { "fc3.weight": 1 } },
    ]);
    let reference = mlp(9);
    let mut said = Vec::new();
    for seed in [reference.clone(), reference.rescaled([4.0, 0.25, 2.0, 0.5])] {
        let server = Server::start(Database::sqlite());
        said.push(provenance_by(&spec, &server, "aligned", Some(&seed), true).await);
    }
    let figure = |said: &Value, name: &str| said["alignment"][name].as_f64().expect("a figure");
    for name in ["distance_before_mean", "distance_after_mean"] {
        is_near(&said[1]["alignment"][name], figure(&said[0], name));
    }
    let range = |said: &Value| figure(said, "scaled_most") / figure(said, "scaled_least");
    assert!(range(&said[1]) > 8.0 * range(&said[0]), "how far units were scaled is told: {said:?}");
    assert!(said[1]["participants"][0]["scaled_most"].as_f64().expect("a figure") > 1.0);
}

/// A model, its signature and the keys, as a server gave them before signatures told of alignments.
#[test]
fn a_signature_of_before_still_verifies() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    fs::write(place("model.safetensors"), include_bytes!("data/before-alignment.safetensors"))
        .expect("written");
    fs::write(place("model.safetensors.sig"), include_str!("data/before-alignment.sig")).expect("written");
    fs::write(place("keys.pem"), include_str!("data/before-alignment.pem")).expect("written");
    let verify = || {
        let mut program = std::process::Command::new(client_binary());
        let output =
            program.args(["verify-model", "--json"]).arg(place("model.safetensors")).arg("--server-keys");
        output.arg(place("keys.pem")).output().expect("the client runs")
    };
    let output = verify();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["provenance"]["participants_that_were_moved"], 1, "{said}");
    // By other keys it does not.
    let other = SigningKeys::from_pem(&SigningKeys::generate().expect("random")).expect("keys");
    fs::write(place("keys.pem"), other.public().to_pem()).expect("written");
    assert!(!verify().status.success());
}
