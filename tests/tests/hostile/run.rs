//! Of the admin API: runs that cannot work, or say more than a run says.

use serde_json::{Value, json};

use crate::{
    admin::How,
    corpus::{Case, case, of_kind},
};

pub(crate) fn cases() -> Vec<Case<How>> {
    let mut cases = of_kind("runs: fields", fields());
    cases.extend(of_kind("runs: policies", policies()));
    cases.extend(of_kind("runs: specs", specs()));
    cases
}

fn fields() -> Vec<Case<How>> {
    let run = |name, change: fn(&mut Value), code, says| case(name, How::Run(change), code, says);
    let invalid = "invalid-argument";
    vec![
        run("an unknown strategy", |r| r["strategy"] = "median".into(), invalid, "median"),
        run("a strategy in another case", |r| r["strategy"] = "Aligned".into(), invalid, ""),
        run(
            "no strategy",
            |r| drop(r.as_object_mut().expect("an object").remove("strategy")),
            invalid,
            "strategy",
        ),
        run("an empty cohort", |r| r["cohort"] = json!([]), invalid, "cohort"),
        run("a site twice", |r| r["cohort"] = json!(["h", "h"]), invalid, "twice"),
        run("a site that there is not", |r| r["cohort"] = json!(["h", "nobody"]), "not-found", "nobody"),
        run("a site with a zero", |r| r["cohort"] = json!(["h", "a\0"]), invalid, "cohort"),
        run("a site with a newline", |r| r["cohort"] = json!(["h", "a\nINJECTED"]), invalid, "cohort"),
        run("a site that is a number", |r| r["cohort"] = json!(["h", 7]), invalid, ""),
        run("a cohort that is a text", |r| r["cohort"] = "h".into(), invalid, ""),
        run(
            "more sites than are taken",
            |r| r["cohort"] = (0..1025).map(|i| format!("s{i}")).collect(),
            invalid,
            "1024",
        ),
        run("an unknown seed", |r| r["seed_digest"] = "0".repeat(64).into(), "not-found", "seed_digest"),
        run("a seed digest that is none", |r| r["seed_digest"] = "abc".into(), invalid, "seed_digest"),
        run(
            "a seed digest that climbs",
            |r| r["seed_digest"] = "../../admin-token".into(),
            invalid,
            "seed_digest",
        ),
        run(
            "an unknown graph",
            |r| {
                r["spec"] = Value::Null;
                r["graph_digest"] = "0".repeat(64).into();
            },
            "not-found",
            "graph_digest",
        ),
        run("a graph and a spec", |r| r["graph_digest"] = "0".repeat(64).into(), invalid, "graph_digest"),
        run("an id that climbs", |r| r["id"] = "../x".into(), invalid, "id"),
        run("an id of 64 characters", |r| r["id"] = "x".repeat(64).into(), invalid, "id"),
        run("an empty id", |r| r["id"] = "".into(), invalid, "id"),
        run("an id with a zero", |r| r["id"] = "a\0".into(), invalid, "id"),
        run("an id with a newline", |r| r["id"] = "a\nINJECTED".into(), invalid, "id"),
        run("an id with SQL", |r| r["id"] = "x'); DROP TABLE runs; --".into(), invalid, "id"),
        run("an id that is a number", |r| r["id"] = 7.into(), invalid, ""),
        run("a misspelt field", |r| r["polizy"] = json!({}), invalid, "polizy"),
        run("a state of its own", |r| r["state"] = "complete".into(), invalid, "state"),
        run(
            "rounds that are published already",
            |r| r["rounds_published"] = 7.into(),
            invalid,
            "rounds_published",
        ),
        run(
            "a model that is published already",
            |r| r["global_digest"] = "0".repeat(64).into(),
            invalid,
            "global_digest",
        ),
        run(
            "a spec that calls itself verified",
            |r| r["spec_verified"] = true.into(),
            invalid,
            "spec_verified",
        ),
        run("a store of its own", |r| r["endpoint"] = "http://169.254.169.254/".into(), invalid, "endpoint"),
        run("a hook to be called", |r| r["webhook"] = "http://127.0.0.1:1/".into(), invalid, "webhook"),
    ]
}

fn policies() -> Vec<Case<How>> {
    let policy = |name, change: fn(&mut Value), says| case(name, How::Run(change), "invalid-argument", says);
    vec![
        policy("no rounds", |r| r["policy"]["rounds"] = 0.into(), "rounds"),
        policy("rounds below 0", |r| r["policy"]["rounds"] = (-1).into(), ""),
        policy("rounds beyond 32 bits", |r| r["policy"]["rounds"] = (1_u64 << 32).into(), ""),
        policy("a hundred thousand rounds and one", |r| r["policy"]["rounds"] = 100_001.into(), "rounds"),
        policy("rounds that are a fraction", |r| r["policy"]["rounds"] = 1.5.into(), ""),
        policy("rounds that are a text", |r| r["policy"]["rounds"] = "1".into(), ""),
        policy("a quorum of 0", |r| r["policy"]["quorum"] = 0.into(), "quorum"),
        policy("a quorum above the cohort", |r| r["policy"]["quorum"] = 3.into(), "quorum"),
        policy("a quorum below 0", |r| r["policy"]["quorum"] = (-2).into(), ""),
        policy("a quorum of nothing", |r| r["policy"]["quorum"] = Value::Null, ""),
        policy("a deadline of 0", |r| r["policy"]["deadline_seconds"] = 0.into(), "deadline"),
        policy("a deadline below 0", |r| r["policy"]["deadline_seconds"] = (-1).into(), ""),
        policy(
            "a deadline in a thousand years",
            |r| r["policy"]["deadline_seconds"] = (32_u64 << 30).into(),
            "deadline",
        ),
        policy("the largest deadline", |r| r["policy"]["deadline_seconds"] = u64::MAX.into(), "deadline"),
        policy("fewer updates than the quorum", |r| r["policy"]["max_updates"] = 1.into(), "max_updates"),
        policy("more updates than sites", |r| r["policy"]["max_updates"] = 3.into(), "max_updates"),
        policy(
            "open longer than its deadline",
            |r| r["policy"]["min_open_seconds"] = 601.into(),
            "min_open_seconds",
        ),
        policy("no models kept", |r| r["policy"]["keep_models"] = 0.into(), "keep_models"),
        policy(
            "the best of all models kept",
            |r| r["policy"]["keep_best"] = json!({ "metric": "loss", "goal": "lowest" }),
            "keep_best",
        ),
        policy(
            "the best by a metric with a newline",
            |r| {
                r["policy"]["keep_models"] = 1.into();
                r["policy"]["keep_best"] = json!({ "metric": "a\nINJECTED", "goal": "lowest" });
            },
            "metric",
        ),
        policy("a misspelt policy", |r| r["policy"]["qourum"] = 1.into(), "qourum"),
        policy("a policy that is a list", |r| r["policy"] = json!([1, 2, 600]), ""),
        policy("no policy", |r| r["policy"] = Value::Null, ""),
    ]
}

fn specs() -> Vec<Case<How>> {
    let spec = |name, change: fn(&mut Value), code, says| case(name, How::Run(change), code, says);
    let (invalid, misfit) = ("invalid-argument", "invalid-checkpoint");
    vec![
        spec("no spec, and a strategy that aligns", |r| r["spec"] = Value::Null, invalid, "spec"),
        spec("a spec that is a text", |r| r["spec"] = "mlp".into(), invalid, "spec"),
        spec(
            "a spec without tensors",
            |r| drop(r["spec"].as_object_mut().expect("an object").remove("tensors")),
            invalid,
            "spec",
        ),
        spec(
            "a spec of another format",
            |r| r["spec"]["format"] = "fedbasin.spec/999".into(),
            invalid,
            "format",
        ),
        spec("a spec with a field more", |r| r["spec"]["exec"] = "rm -rf /".into(), invalid, "exec"),
        spec(
            "a spec that lacks a tensor of the seed",
            |r| drop(r["spec"]["tensors"].as_object_mut().expect("an object").remove("half")),
            misfit,
            "half",
        ),
        spec("a spec with a tensor more", |r| r["spec"]["tensors"]["more"] = json!([null]), misfit, "more"),
        spec(
            "a group of another size",
            |r| {
                r["spec"]["groups"] = json!({ "g": { "size": 5, "kind": "symmetric" } });
                r["spec"]["tensors"]["fc.bias"] = json!(["g"]);
            },
            misfit,
            "fc.bias",
        ),
        spec("a group that there is not", |r| r["spec"]["tensors"]["fc.bias"] = json!(["g"]), invalid, "g"),
        spec(
            "a group of no units",
            |r| r["spec"]["groups"] = json!({ "g": { "size": 0, "kind": "symmetric" } }),
            invalid,
            "g",
        ),
        spec(
            "a group of more units than memory",
            |r| r["spec"]["groups"] = json!({ "g": { "size": u64::MAX, "kind": "symmetric" } }),
            invalid,
            "",
        ),
        spec(
            "a group within itself",
            |r| r["spec"]["groups"] = json!({ "g": { "size": 2, "kind": "symmetric", "within": "g" } }),
            invalid,
            "within",
        ),
        spec(
            "a group of no kind",
            |r| r["spec"]["groups"] = json!({ "g": { "size": 2, "kind": "cyclic" } }),
            invalid,
            "cyclic",
        ),
        spec(
            "an axis that is a truth value",
            |r| r["spec"]["tensors"]["fc.bias"] = json!([true]),
            invalid,
            "spec",
        ),
        spec(
            "an axis of factors that overflow",
            |r| r["spec"]["tensors"]["fc.bias"] = json!([[u64::MAX, u64::MAX]]),
            misfit,
            "fc.bias",
        ),
        spec(
            "more axes than the tensor has",
            |r| r["spec"]["tensors"]["fc.bias"] = json!([null, null]),
            misfit,
            "fc.bias",
        ),
    ]
}
