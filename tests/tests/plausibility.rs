//! What becomes of updates that are out of line: values of an absurd size are refused as they arrive, and what stands apart from the
//! other updates of its round is on record, or rejected, by the run's policy.

use std::path::Path;

use fedbasin_server::round::{Implausible, Plausibility};
use fedbasin_tests::{
    Database, Server, Site, assert_refused,
    checkpoint::{f32s, file, read_f32},
    chunks, eventually, on_both_databases,
};
use rebasin::{BytesSource, Checkpoint, Digest, Input, MatchOptions, Spec, Standing, Tensor, align};
use serde_json::{Value, json};
use tonic::Code;

on_both_databases!(
    a_value_of_an_absurd_size_is_refused_before_the_rest_of_the_bytes,
    what_grows_from_nothing_is_taken,
    a_poisoned_update_is_named_in_the_record_and_merged_by_default,
    a_poisoned_update_is_rejected_and_the_others_are_merged_without_it,
    a_quorum_that_rejecting_breaks_fails_the_round,
);

const SITES: [&str; 4] = ["a", "b", "c", "d"];
const WIDTH: usize = 1024;

/// A number between -1 and 1 that depends on both.
fn noise(seed: usize, at: usize) -> f32 {
    let mixed = (seed as u64 * 7919 + at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 40) as f32 / (1_u64 << 23) as f32) - 1.0
}

/// What all begin with.
fn seed() -> Vec<f32> {
    (0..WIDTH).map(|at| 0.5 * noise(0, at)).collect()
}

/// What an honest site sends: a step that all have in common, and one of its own.
fn honest(site: usize) -> Vec<f32> {
    let step = |at| 0.05 * noise(100, at) + 0.05 * noise(site + 1, at);
    seed().iter().enumerate().map(|(at, value)| value + step(at)).collect()
}

/// What an attacker makes of its honest update's step.
fn poisoned(site: usize, poison: &str) -> Vec<f32> {
    let (seed, honest) = (seed(), honest(site));
    let step = |at: usize| match poison {
        "sign flip" => seed[at] - honest[at],
        "x1000" => 1000.0 * (honest[at] - seed[at]),
        "noise" => 5.0 * noise(99, at),
        other => panic!("no poison {other}"),
    };
    seed.iter().enumerate().map(|(at, value)| value + step(at)).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    file(&[f32s("w", &[WIDTH], values)])
}

fn spec() -> Value {
    json!({ "format": "fedbasin.spec/1", "groups": {}, "tensors": { "w": [null] } })
}

/// A run of one round.
struct Scene<'s> {
    server: &'s Server,
    run: String,
    sites: &'s [Site],
}

fn sites(server: &Server) -> Vec<Site> {
    SITES.iter().map(|id| server.site(id)).collect()
}

impl<'s> Scene<'s> {
    fn new(
        server: &'s Server,
        sites: &'s [Site],
        strategy: &str,
        quorum: usize,
        plausibility: &Value,
    ) -> Self {
        let admin = server.admin();
        let run = admin.create_run(&json!({
            "spec": spec(), "strategy": strategy, "cohort": SITES, "seed_digest": admin.upload(&bytes(&seed())),
            "policy": { "rounds": 1, "quorum": quorum, "deadline_seconds": 600, "failed_rounds_allowed": 0,
                        "plausibility": plausibility },
        }));
        Self { server, run, sites }
    }

    /// All but `d` send what is honest, and `d` what is poisoned; gives the round's record once it is in that state.
    async fn round(&self, poison: &str, state: &str) -> Value {
        for (index, site) in self.sites.iter().enumerate() {
            let values = if index == 3 { poisoned(index, poison) } else { honest(index) };
            site.upload(&self.run, 1, &bytes(&values), 10).await.expect("a receipt");
        }
        self.server.admin().round_becomes(&self.run, 1, state).await
    }

    fn mean(sites: &[Vec<f32>]) -> Vec<f32> {
        (0..WIDTH).map(|at| sites.iter().map(|site| site[at]).sum::<f32>() / sites.len() as f32).collect()
    }

    fn published(&self, expected: &[f32]) {
        let model = read_f32(&self.server.admin().model(&self.run, 1), "w");
        let off = model.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-3, "the model is off by {off}");
    }
}

fn entry<'r>(record: &'r Value, site: &str) -> &'r Value {
    let sites = record["sites"].as_array().expect("sites");
    sites.iter().find(|entry| entry["site"] == site).unwrap_or_else(|| panic!("no {site} in {record}"))
}

/// The threshold that finds each poison.
const POISONS: [(&str, &str); 3] =
    [("sign flip", "min_cosine"), ("x1000", "max_distance_ratio"), ("noise", "max_distance_ratio")];

async fn a_poisoned_update_is_named_in_the_record_and_merged_by_default(database: Database) {
    let server = Server::start(database);
    let sites = sites(&server);
    for (strategy, (poison, threshold)) in ["aligned", "mean", "merge-many"].into_iter().zip(POISONS) {
        let scene = Scene::new(&server, &sites, strategy, 4, &json!({}));
        let record = scene.round(poison, "published").await;
        for site in ["a", "b", "c"] {
            let plausibility = &entry(&record, site)["plausibility"];
            assert_eq!(plausibility["warnings"], json!([]), "{poison}: {plausibility}");
            assert_eq!(plausibility["others"], 3, "{plausibility}");
        }
        let plausibility = &entry(&record, "d")["plausibility"];
        let warnings = plausibility["warnings"].as_array().expect("warnings");
        assert!(
            warnings.iter().any(|text| text.as_str().expect("a text").contains(threshold)),
            "{plausibility}"
        );
        let steps =
            poisoned(3, poison).into_iter().zip(seed()).map(|(to, from)| f64::from(to) - f64::from(from));
        let distance = steps.map(|step| step.powi(2)).sum::<f64>().sqrt();
        let found = plausibility["distance"].as_f64().expect("a distance");
        assert!((found - distance).abs() < 1e-6 * distance, "{found} is not {distance}");
        let all: Vec<Vec<f32>> = (0..3).map(honest).chain([poisoned(3, poison)]).collect();
        scene.published(&Scene::mean(&all));
        assert!(scene.server.log().contains("an update is implausible"), "{}", scene.server.log());
    }
}

async fn a_poisoned_update_is_rejected_and_the_others_are_merged_without_it(database: Database) {
    let server = Server::start(database);
    let sites = sites(&server);
    for (strategy, (poison, threshold)) in ["mean", "merge-many", "aligned"].into_iter().zip(POISONS) {
        let scene = Scene::new(&server, &sites, strategy, 3, &json!({ "action": "reject" }));
        let record = scene.round(poison, "published").await;
        let rejected = entry(&record, "d");
        assert_eq!(rejected["state"], "rejected", "{rejected}");
        assert!(rejected["reason"].as_str().expect("a reason").contains(threshold), "{rejected}");
        assert_eq!(rejected["plausibility"]["others"], 3, "its figures stay on record: {rejected}");
        assert!(rejected["share"].is_null(), "{rejected}");
        for site in ["a", "b", "c"] {
            let held = entry(&record, site);
            assert_eq!(held["plausibility"]["others"], 2, "beside those that were merged: {held}");
            assert_eq!(held["plausibility"]["warnings"], json!([]), "{held}");
        }
        scene.published(&Scene::mean(&(0..3).map(honest).collect::<Vec<_>>()));
        let update = rejected["update_id"].as_str().expect("an id");
        let seen = scene.sites[3].update(update).await.expect("the site asks");
        assert!(seen.reason.contains(threshold), "the site is told: {seen:?}");
    }
}

async fn a_quorum_that_rejecting_breaks_fails_the_round(database: Database) {
    let server = Server::start(database);
    let sites = sites(&server);
    let scene =
        Scene::new(&server, &sites, "mean", 4, &json!({ "action": "reject", "max_distance_ratio": 20 }));
    let record = scene.round("x1000", "failed").await;
    let reason = record["reason"].as_str().expect("a reason");
    assert!(reason.contains("3 of at least 4"), "{reason}");
    assert_eq!(entry(&record, "d")["state"], "rejected");
    eventually("the run fails", || (scene.server.admin().run(&scene.run)["state"] == "failed").then_some(()))
        .await;
}

/// Two tensors, of which the file has the first one first.
fn two(first: &[f32], second: &[f32]) -> Vec<u8> {
    file(&[f32s("first", &[first.len()], first), f32s("second", &[second.len()], second)])
}

/// Longer than what a server reads at once.
const LONG: usize = 1 << 20;

async fn a_value_of_an_absurd_size_is_refused_before_the_rest_of_the_bytes(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let (a, seed) = (server.site("a"), two(&[0.5; 8], &[0.25; LONG]));
    let spec = json!({ "format": "fedbasin.spec/1", "groups": {}, "tensors": { "first": [null], "second": [null] } });
    let run = |policy: Value| {
        let mut whole = json!({ "rounds": 2, "quorum": 1, "deadline_seconds": 600 });
        whole.as_object_mut().expect("an object").extend(policy.as_object().expect("an object").clone());
        admin.create_run(&json!({
            "spec": spec, "strategy": "aligned", "cohort": ["a"], "seed_digest": admin.upload(&seed), "policy": whole,
        }))
    };
    let id = run(json!({}));
    let mut first = [0.5; 8];
    first[5] = -5001.0;
    let bad = two(&first, &[0.25; LONG]);
    let begun = a.begin(&id, 1, &bad, 1).await.expect("begun");
    // The stream stays open, and nothing follows.
    let mut sending = a.open_stream(&chunks(&begun.update_id, &bad, 0)[..1]).await;
    let message = assert_refused(sending.acknowledged().await, Code::InvalidArgument, "invalid-checkpoint");
    for part in ["tensor first", "element 5", "-5001.0", "5000.0", "max_magnitude_factor"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    let entry = admin.round_site(&id, 1, "a");
    assert_eq!((&entry["state"], &entry["reason"]), (&json!("rejected"), &json!(message)));
    drop(sending);

    first[5] = -4999.0;
    a.upload(&id, 1, &two(&first, &[0.25; LONG]), 1).await.expect("below the bound");
    admin.round_becomes(&id, 1, "published").await;
    admin.round_becomes(&id, 2, "collecting").await;
    // The model is the reference now, and a single large value makes a tensor's mean square large: 4999 / sqrt(8).
    first[5] = 1.7e7;
    a.upload(&id, 2, &two(&first, &[0.25; LONG]), 1).await.expect("below the next round's bound");

    let id = run(json!({ "max_magnitude_factor": 0 }));
    first[5] = 1e30;
    a.upload(&id, 1, &two(&first, &[0.25; LONG]), 1).await.expect("any finite number");
    let id = run(json!({ "max_magnitude_factor": 2.0 }));
    let refused = a.upload(&id, 1, &two(&[1.5; 8], &[0.25; LONG]), 1).await;
    assert_refused(refused, Code::InvalidArgument, "invalid-checkpoint");
}

async fn what_grows_from_nothing_is_taken(database: Database) {
    let server = Server::start(database);
    let admin = server.admin();
    let sites = ["a", "b"].map(|id| server.site(id));
    let model = |scale: f32, mean: f32, variance: f32, last: f32| {
        let counted = fedbasin_tests::checkpoint::Entry {
            dtype: "I64".into(),
            data: i64::MAX.to_le_bytes().to_vec(),
            ..f32s("bn.num_batches_tracked", &[1], &[])
        };
        file(&[
            counted,
            f32s("bn.running_mean", &[2], &[mean, -mean]),
            f32s("bn.running_var", &[2], &[variance, variance]),
            f32s("last.weight", &[2], &[last, last]),
            f32s("layer_scale", &[2], &[scale, scale]),
            f32s("w", &[2], &[0.03, -0.02]),
        ])
    };
    let id = admin.create_run(&json!({
        "strategy": "mean", "cohort": ["a", "b"], "seed_digest": admin.upload(&model(1e-6, 0.0, 1.0, 0.0)),
        "policy": { "rounds": 2, "quorum": 2, "deadline_seconds": 600 },
    }));
    for round in [1, 2] {
        // A round opens a moment after the one before is published.
        admin.round_becomes(&id, round, "collecting").await;
        for (site, factor) in sites.iter().zip([1.0, 30.0]) {
            // Raw prices, and a scale that begins near nothing.
            let update = model(0.7, 1e5 * factor, 1e10 * factor * factor, 2.0);
            site.upload(&id, round, &update, 1)
                .await
                .unwrap_or_else(|status| panic!("round {round}: {status}"));
        }
        admin.round_becomes(&id, round, "published").await;
    }
}

// What real networks make of the figures.

fn load(site: usize) -> (Checkpoint, Digest) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rebasin/tests/data");
    let bytes = std::fs::read(folder.join(format!("mlp128-site{site}.safetensors"))).expect("a fixture");
    (Checkpoint::from_bytes(&bytes).expect("valid"), Digest::of(&bytes))
}

/// The first network, and the three others as aligned to it.
fn networks() -> (Checkpoint, Vec<Checkpoint>) {
    let (reference, digest) = load(0);
    let spec = Spec::mlp(reference.layout()).expect("a chain").check(reference.layout()).expect("fits");
    let aligned = (1..4).map(|site| {
        let (update, of_update) = load(site);
        let options = MatchOptions {
            seed: rebasin::seed_from_digests(&[digest, of_update]),
            ..MatchOptions::default()
        };
        let found = align(&spec, &reference, &update, &options, &mut rebasin::quietly).expect("aligned");
        found.alignment.apply(&spec, &update).expect("applies")
    });
    let aligned = aligned.collect();
    (reference, aligned)
}

/// `from + factor * (to - from)`, or, with noise, each step replaced by one of the same size on average and a random sign.
fn towards(from: &Checkpoint, to: &Checkpoint, factor: f64, noisy: bool) -> Checkpoint {
    let tensors = from.tensors().iter().zip(to.tensors()).map(|(a, b)| {
        let steps: Vec<f64> = a.to_f64().iter().zip(b.to_f64()).map(|(a, b)| factor * (b - a)).collect();
        let length = steps.iter().map(|step| step * step).sum::<f64>() / steps.len() as f64;
        let values = a.to_f64().into_iter().zip(&steps).enumerate().map(|(at, (a, step))| match noisy {
            true => a + 1.7 * length.sqrt() * f64::from(noise(7, at)),
            false => a + step,
        });
        Tensor::from_f64(a.info(), &values.collect::<Vec<_>>()).expect("finite")
    });
    Checkpoint::new(from.layout().clone(), tensors.collect()).expect("fits")
}

fn standings(reference: &Checkpoint, updates: &[Checkpoint]) -> Vec<Standing> {
    let source = |model: &Checkpoint| {
        let bytes = model.to_bytes();
        let mut reader = &bytes[..];
        let header = rebasin::Header::read(&mut reader, bytes.len() as u64).expect("a header");
        BytesSource::new(bytes, header)
    };
    let (sources, reference) = (updates.iter().map(source).collect::<Vec<_>>(), source(reference));
    let share = 1.0 / updates.len() as f64;
    let inputs: Vec<Input<'_>> =
        sources.iter().map(|source| Input { source, alignment: None, share }).collect();
    let mut out = Vec::new();
    let measured = rebasin::merge_measured(None, &inputs, &reference, &mut out, &mut |_, _| {});
    measured.expect("merged").standings()
}

/// Which of the updates would be rejected by default thresholds.
fn rejected(reference: &Checkpoint, updates: &[Checkpoint]) -> Vec<bool> {
    let policy = Plausibility { action: Implausible::Reject, ..Plausibility::default() };
    let standings = standings(reference, updates);
    println!("{standings:?}");
    policy.judge(&standings).iter().map(|verdict| verdict.rejected).collect()
}

#[test]
fn honest_trained_networks_are_plausible_and_poisoned_ones_are_not() {
    let (reference, aligned) = networks();
    let founding = [&[reference.clone()][..], &aligned].concat();
    assert_eq!(rejected(&reference, &founding), [false; 4], "a founding round");
    let mean = rebasin::mean(None, &founding.iter().collect::<Vec<_>>(), None, &[0.25; 4]).expect("a mean");
    assert_eq!(rejected(&mean, &founding), [false; 4], "all pull at the mean, each its way");
    for (poison, factor, noisy) in [("x1000", 1000.0, false), ("noise", 30.0, true)] {
        let mut all = founding.clone();
        all[3] = towards(&reference, &all[3], factor, noisy);
        assert_eq!(rejected(&reference, &all), [false, false, false, true], "founding, {poison}");
    }

    // A later round: each goes a part of its way from the reference, and some further than others.
    let honest: Vec<Checkpoint> =
        aligned.iter().zip([0.05, 0.1, 0.2]).map(|(to, part)| towards(&reference, to, part, false)).collect();
    let all = [&honest[..], &[towards(&reference, &aligned[0], 0.12, false)]].concat();
    assert_eq!(rejected(&reference, &all), [false; 4]);
    for (poison, factor, noisy) in [("sign flip", -0.1, false), ("x1000", 100.0, false), ("noise", 5.0, true)]
    {
        let all = [&honest[..], &[towards(&reference, &aligned[0], factor, noisy)]].concat();
        assert_eq!(rejected(&reference, &all), [false, false, false, true], "{poison}");
    }
}
