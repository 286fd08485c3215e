//! Class: a checkpoint's values. Numbers that are none are found as they arrive. Numbers that are odd are numbers: what becomes of
//! them is said, and nothing breaks.

use fedbasin_tests::{
    Database, Options, Site,
    checkpoint::{Entry, Mlp, file, mlp},
    eventually, on_both_databases,
};
use serde_json::json;

use crate::{
    corpus::{Answer, Case, Ground, Tried, case, entries, of_kind},
    headers::send,
};

on_both_databases!(numbers_that_are_none_are_refused_and_odd_ones_break_nothing);

pub(crate) async fn numbers_that_are_none_are_refused_and_odd_ones_break_nothing(
    database: Database,
) -> Vec<Tried> {
    let ground = Ground::new(database, Options::default()).await;
    let honest = ground.server.site("y");
    ground
        .try_all(cases(), async |ground, how| match how {
            How::Written(tensor, at, bytes) => send(ground, &written(tensor, *at, bytes)).await,
            How::Merged(made) => merged(ground, &honest, made()).await,
        })
        .await
}

pub(crate) fn names() -> Vec<&'static str> {
    crate::corpus::names(cases())
}

enum How {
    /// A good file with these bytes in this tensor, from this byte on.
    Written(&'static str, usize, &'static [u8]),
    /// An update of a run that aligns: taken, aligned and merged with an honest one, or rejected and left out.
    Merged(fn() -> Vec<u8>),
}

fn written(tensor: &str, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut entries: Vec<Entry> = entries([0.0, 1.0]);
    let entry = entries.iter_mut().find(|entry| entry.name == tensor).expect("a tensor");
    entry.data[at..at + bytes.len()].copy_from_slice(bytes);
    file(&entries)
}

/// A round of a run of its own, of site `x` and an honest one: it ends by being published, with the odd update, or with another one of
/// the same site in its place. The answer is what the record says of the odd one.
async fn merged(ground: &Ground, honest: &Site, odd: Vec<u8>) -> Answer {
    let admin = &ground.admin;
    let id = admin.create_run(&json!({
        "spec": Mlp::spec(), "strategy": "aligned", "cohort": ["x", "y"], "seed_digest": admin.upload(&mlp(9).file()),
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 3600 },
    }));
    if let Err(status) = ground.x.upload(&id, 1, &odd, 1).await {
        return Answer::from(Err::<(), _>(status));
    }
    let record = eventually("the odd update is aligned or rejected", || {
        let site = admin.round_site(&id, 1, "x");
        (site["state"] != "accepted").then_some(site)
    })
    .await;
    let is_rejected = record["state"] == "rejected";
    if is_rejected {
        ground.x.upload(&id, 1, &mlp(1).file(), 1).await.expect("a good update in its place");
    }
    honest.upload(&id, 1, &mlp(2).file(), 1).await.expect("an honest update beside it");
    admin.round_becomes(&id, 1, "published").await;
    let model = Mlp::read(&admin.model(&id, 1));
    assert!(model.values().iter().all(|value| value.is_finite()), "{model:?}");
    if is_rejected {
        let message = record["reason"].as_str().unwrap_or_default().to_owned();
        return Answer { code: "rejected".into(), grpc: None, http: None, message };
    }
    let figures = ["objective_before", "objective_after", "l2_before", "l2_after", "moved"];
    let are_numbers = figures.iter().all(|figure| record["alignment"][figure].is_number());
    assert!(are_numbers, "{record}");
    Answer::taken(record)
}

/// A network of the run's layout with each value changed.
fn changed(change: impl Fn(f32) -> f32) -> Vec<u8> {
    mlp(9).changed(change).file()
}

fn cases() -> Vec<Case<How>> {
    let mut cases = of_kind("what is no number", numbers());
    cases.extend(of_kind("odd networks, in a round of their own", networks()));
    cases
}

fn numbers() -> Vec<Case<How>> {
    let bad = |name, tensor, at, bytes, says| {
        case(name, How::Written(tensor, at, bytes), "invalid-checkpoint", says)
    };
    vec![
        bad("NaN first", "counted", 0, &[0, 0, 0xc0, 0x7f], "counted"),
        bad("NaN last", "fc.weight", 20, &[0, 0, 0xc0, 0x7f], "fc.weight"),
        bad("NaN that signals", "fc.weight", 8, &[1, 0, 0x80, 0x7f], "fc.weight"),
        bad("NaN with a sign and a message", "fc.weight", 8, &[0xef, 0xbe, 0xed, 0xff], "fc.weight"),
        bad("infinity", "fc.bias", 0, &[0, 0, 0x80, 0x7f], "fc.bias"),
        bad("minus infinity", "fc.bias", 4, &[0, 0, 0x80, 0xff], "fc.bias"),
        bad("NaN in bf16", "half", 2, &[0xc1, 0x7f], "half"),
        bad("infinity in bf16", "half", 0, &[0x80, 0xff], "half"),
        bad("NaN in f16", "low", 2, &[0x01, 0x7c], "low"),
        bad("infinity in f16", "low", 0, &[0x00, 0xfc], "low"),
        bad("NaN in f64", "double", 0, &[0, 0, 0, 0, 0, 0, 0xf8, 0x7f], "double"),
        bad("a truth value of 2", "on", 3, &[2], "on"),
        bad("a truth value of 255", "on", 0, &[255], "on"),
    ]
}

fn networks() -> Vec<Case<How>> {
    use How::Merged;
    vec![
        case("all zero", Merged(|| changed(|_| 0.0)), "taken", ""),
        case("all minus zero", Merged(|| changed(|_| -0.0)), "taken", ""),
        case("all equal", Merged(|| changed(|_| 0.25)), "taken", ""),
        case("all below the normal numbers", Merged(|| changed(|_| f32::from_bits(1))), "taken", ""),
        case(
            "a million times as large",
            Merged(|| changed(|value| value * 1e6)),
            "invalid-checkpoint",
            "max_magnitude_factor",
        ),
        case(
            "in the other byte order",
            Merged(|| {
                changed(|value| {
                    let swapped = f32::from_bits(value.to_bits().swap_bytes());
                    if swapped.is_finite() { swapped } else { 0.0 }
                })
            }),
            "invalid-checkpoint",
            "max_magnitude_factor",
        ),
        case(
            "as large as numbers are",
            Merged(|| changed(|_| f32::MAX)),
            "invalid-checkpoint",
            "max_magnitude_factor",
        ),
        case(
            "as large as numbers are, with signs",
            Merged(|| changed(|value| f32::MAX.copysign(value))),
            "invalid-checkpoint",
            "max_magnitude_factor",
        ),
    ]
}
