//! What a site does to the model by reordering its hidden units, which changes nothing of what its network computes: nothing. By
//! rescaling them, where the run's spec says that this changes nothing either: no more than rounding. Where the spec does not say so, it is
//! seen in the record.

use std::path::Path;

use fedbasin_tests::{
    Database, Server, Site,
    checkpoint::{Mlp, mlp},
    on_both_databases,
};
use rebasin::{Alignment, CheckedSpec, Checkpoint, Dtype, Layout, Spec, Tensor, TensorInfo, rescale};
use serde_json::{Value, json};

#[path = "../../../rebasin/tests/common/forms.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of it is used here")]
mod forms;

on_both_databases!(
    reordering_hidden_units_does_not_change_one_byte_of_the_model,
    nor_does_it_for_networks_that_started_elsewhere,
    rescaling_them_changes_no_more_than_rounding_where_it_is_legal,
);

async fn reordering_hidden_units_does_not_change_one_byte_of_the_model(database: Database) {
    let server = Server::start(database);
    let sites = ["honest", "other"].map(|id| server.site(id));
    for network in networks() {
        reordering_changes_nothing(&server, &sites, &network, 0.5).await;
    }
}

/// Of these a search finds one of many good alignments: always the same one, for it does not see how the units stand.
async fn nor_does_it_for_networks_that_started_elsewhere(database: Database) {
    let server = Server::start(database);
    let sites = ["honest", "other"].map(|id| server.site(id));
    for mut network in networks() {
        network.updates[1] = match network.name {
            "trained perceptron" | "trained perceptron with its scales" => {
                fixture("mlp128-site1.safetensors")
            }
            "trained BatchNorm" => fixture("convbn8-site1.safetensors"),
            _ => of_other_numbers(&network.reference),
        };
        reordering_changes_nothing(&server, &sites, &network, 0.0).await;
    }
}

/// `least`: the part of all units that is moved at the least.
async fn reordering_changes_nothing(server: &Server, sites: &[Site; 2], network: &Network, least: f64) {
    let Network { name, spec, reference, updates: [honest, other], .. } = network;
    for strategy in ["aligned", "merge-many"] {
        let (_, plain) = merged(server, sites, network, strategy, [honest, other]).await;
        for seed in 1..=3 {
            let scrambled = Alignment::random(spec, seed).apply(spec, other).expect("applies");
            assert!(scrambled != *other, "{name}: something moved");
            let (record, model) = merged(server, sites, network, strategy, [honest, &scrambled]).await;
            assert!(
                model == plain,
                "{name}, {strategy}, seed {seed}: another model; the record says {record}"
            );
            assert!(
                moved(&record, "other") >= least,
                "{name}: the record says that it was brought back: {record}"
            );
        }
        assert!(plain != reference.to_bytes(), "{name}: the updates count");
    }
}

async fn rescaling_them_changes_no_more_than_rounding_where_it_is_legal(database: Database) {
    let server = Server::start(database);
    let sites = ["honest", "other"].map(|id| server.site(id));
    for mut network in networks().into_iter().filter(|network| !network.spec.scales().is_empty()) {
        for stranger in [false, true] {
            if stranger {
                network.updates[1] = fixture("mlp128-site1.safetensors");
            }
            for strategy in ["aligned", "merge-many"] {
                rescaling_changes_nothing(&server, &sites, &network, strategy).await;
            }
        }
    }
}

async fn rescaling_changes_nothing(server: &Server, sites: &[Site; 2], network: &Network, strategy: &str) {
    let Network { name, spec, updates: [honest, other], .. } = network;
    let (plain, model) = merged(server, sites, network, strategy, [honest, other]).await;
    let expected = Checkpoint::from_bytes(&model).expect("a model");
    for seed in 1..=2 {
        let scaled = rescale(spec, other, &factors(spec, seed)).expect("scaled");
        let scrambled = Alignment::random(spec, seed).apply(spec, &scaled).expect("applies");
        let (record, model) = merged(server, sites, network, strategy, [honest, &scrambled]).await;
        let apart = difference(&Checkpoint::from_bytes(&model).expect("a model"), &expected);
        assert!(apart < 1e-5, "{name}, {strategy}, seed {seed}: {apart}; the record says {record}");
        let distance = |record| alignment(record, "other")["l2_after"].as_f64().expect("a figure");
        assert!((distance(&record) / distance(&plain) - 1.0).abs() < 1e-3, "no distance comes of it");
    }
}

/// Up to 8, or an eighth.
fn factors(spec: &CheckedSpec, seed: u64) -> Vec<Vec<f64>> {
    let of_scale = |(at, scale): (usize, &rebasin::Scale)| {
        let numbers = noise(31 * seed + at as u64, spec.groups()[scale.group].units);
        numbers.into_iter().map(|number| f64::exp2(3.0 * number)).collect()
    };
    spec.scales().iter().enumerate().map(of_scale).collect()
}

/// The largest difference of two checkpoints, relative to the largest weight of each tensor.
fn difference(a: &Checkpoint, b: &Checkpoint) -> f64 {
    let of = |a: &Tensor, b: &Tensor| {
        let (a, b) = (a.to_f64(), b.to_f64());
        let size = a.iter().fold(f64::MIN_POSITIVE, |size, value| size.max(value.abs()));
        a.iter().zip(&b).fold(0.0_f64, |most, (a, b)| most.max((a - b).abs() / size))
    };
    a.tensors().iter().zip(b.tensors()).fold(0.0, |most, (a, b)| most.max(of(a, b)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_spec_tells_no_scales_rescaling_is_in_the_record_by_its_distance() {
    let server = Server::start(Database::sqlite());
    let sites = ["honest", "other"].map(|id| server.site(id));
    let network = networks().remove(0);
    let [honest, other] = &network.updates;
    let other = Mlp::read(&other.to_bytes());
    // Powers of two: not one bit of what the network computes changes.
    let rescaled = other.rescaled([1.0, 8.0, 0.25, 2.0]);
    for input in [[1.0, 0.0, 0.0], [0.5, -1.0, 2.0], [0.0, 0.3, 0.7]] {
        assert_eq!(other.output(input), rescaled.output(input));
    }
    let sent = |network: &Mlp| Checkpoint::from_bytes(&network.file()).expect("a checkpoint");
    let (plain, model) = merged(&server, &sites, &network, "aligned", [honest, &sent(&other)]).await;
    let (record, rescaled) = merged(&server, &sites, &network, "aligned", [honest, &sent(&rescaled)]).await;
    let distance = |record: &Value| alignment(record, "other")["l2_after"].as_f64().expect("a figure");
    let (near, far) = (distance(&plain), distance(&record));
    println!("distance to the reference {near:.3}, rescaled {far:.3}");
    assert!(far > 5.0 * near, "whoever reads the record sees it: {near} and {far}");
    assert!(model != rescaled, "nobody said that the functions between the layers allow it");
}

fn moved(record: &Value, site: &str) -> f64 {
    alignment(record, site)["moved"].as_f64().expect("a figure")
}

fn alignment<'a>(record: &'a Value, site: &str) -> &'a Value {
    let sites = record["sites"].as_array().expect("sites");
    &sites.iter().find(|entry| entry["site"] == site).expect("the site")["alignment"]
}

/// A spec, a reference, and two updates; as they are made here, trained from it.
struct Network {
    name: &'static str,
    json: Value,
    spec: CheckedSpec,
    reference: Checkpoint,
    updates: [Checkpoint; 2],
}

impl Network {
    fn new(name: &'static str, spec: &Spec, reference: Checkpoint) -> Self {
        let json = serde_json::from_str(&spec.to_json()).expect("JSON");
        let spec = spec.check(reference.layout()).expect("fits");
        let updates = [1, 2].map(|seed| with_noise(&reference, seed));
        Self { name, json, spec, reference, updates }
    }

    fn of(name: &'static str, (json, tensors): forms::Form) -> Self {
        let layout = layout(tensors);
        let tensors = layout.tensors().iter().map(|info| {
            let values = noise(info.name.len() as u64 + 17, info.num_elements());
            Tensor::from_f64(info, &values).expect("finite")
        });
        let reference = Checkpoint::new(layout.clone(), tensors.collect()).expect("fits");
        Self::new(name, &Spec::from_json(json).expect("a spec"), reference)
    }
}

fn layout(tensors: &[(&str, &[usize])]) -> Layout {
    let info = |&(name, shape): &(&str, &[usize])| TensorInfo {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    Layout::new(tensors.iter().map(info).collect()).expect("a layout")
}

fn networks() -> Vec<Network> {
    let perceptron = fixture("mlp128-site0.safetensors");
    let convolutions = fixture("convbn8-site0.safetensors");
    let small = Checkpoint::from_bytes(&mlp(9).file()).expect("a checkpoint");
    vec![
        Network::new("small perceptron", &Spec::from_json(&Mlp::spec().to_string()).expect("a spec"), small),
        Network::new(
            "trained perceptron with its scales",
            &forms::relu_chain(perceptron.layout()),
            perceptron.clone(),
        ),
        Network::new("trained perceptron", &Spec::mlp(perceptron.layout()).expect("a chain"), perceptron),
        Network::new(
            "trained BatchNorm",
            &Spec::conv_net(convolutions.layout()).expect("a chain"),
            convolutions,
        ),
        Network::of("attention heads", forms::HEADS),
        Network::of("grouped convolution", forms::GROUPED),
        Network::of("recurrent gates", forms::RECURRENT),
    ]
}

fn fixture(name: &str) -> Checkpoint {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rebasin/tests/data").join(name);
    Checkpoint::from_bytes(&std::fs::read(path).expect("a fixture")).expect("a checkpoint")
}

/// So many numbers between -1 and 1.
fn noise(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(state >> 33).expect("31 bits")) / f64::from(1_u32 << 30) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// As a site's training changes a model: each parameter by up to a tenth of its tensor's size.
fn with_noise(model: &Checkpoint, seed: u64) -> Checkpoint {
    let tensors = model.tensors().iter().enumerate().map(|(at, tensor)| {
        if !tensor.info().dtype.is_float() {
            return tensor.clone();
        }
        let values = tensor.to_f64();
        let size = (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt();
        let change = noise(seed * 1000 + at as u64, values.len());
        let values: Vec<f64> =
            values.iter().zip(change).map(|(value, change)| value + 0.1 * size * change).collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    Checkpoint::new(model.layout().clone(), tensors.collect()).expect("fits")
}

/// As another start gives them: numbers of the same size that have nothing to do with these.
fn of_other_numbers(model: &Checkpoint) -> Checkpoint {
    let tensors = model.tensors().iter().enumerate().map(|(at, tensor)| {
        if !tensor.info().dtype.is_float() {
            return tensor.clone();
        }
        let most = tensor.to_f64().iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        let values = noise(7000 + at as u64, tensor.info().num_elements());
        let values: Vec<f64> = values.iter().map(|value| value * most).collect();
        Tensor::from_f64(tensor.info(), &values).expect("finite")
    });
    Checkpoint::new(model.layout().clone(), tensors.collect()).expect("fits")
}

/// One round of both sites: the record and the model.
async fn merged(
    server: &Server,
    sites: &[Site; 2],
    network: &Network,
    strategy: &str,
    updates: [&Checkpoint; 2],
) -> (Value, Vec<u8>) {
    let admin = server.admin();
    let run = admin.create_run(&json!({
        "spec": network.json, "strategy": strategy, "cohort": ["honest", "other"],
        "seed_digest": admin.upload(&network.reference.to_bytes()),
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
    }));
    for (site, update) in sites.iter().zip(updates) {
        site.upload(&run, 1, &update.to_bytes(), 100).await.expect("a receipt");
    }
    let record = admin.round_becomes(&run, 1, "published").await;
    (record, admin.model(&run, 1))
}
