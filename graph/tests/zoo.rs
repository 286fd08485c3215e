//! The networks of `zoo/`: each derives a spec, and the spec is verified by running the network.

use std::{collections::BTreeMap, fs, path::Path};

use fedbasin_graph::{Graph, GraphError, VerifyOptions, derive, verify};
use serde_json::Value;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/zoo"))
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .expect("the folder")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".onnx").map(str::to_owned))
        // Functions of a model's own are refused, which another test shows.
        .filter(|name| !name.ends_with(".fn"))
        .collect();
    names.sort();
    names
}

fn read(name: &str) -> Vec<u8> {
    fs::read(folder().join(format!("{name}.onnx"))).expect("a file of the zoo")
}

fn options(zoo: &Value, name: &str) -> VerifyOptions {
    let mut ranges = BTreeMap::new();
    if let Some(inputs) = zoo[name]["inputs"].as_object() {
        for (input, info) in inputs {
            if let (Some(low), Some(high)) = (info["low"].as_f64(), info["high"].as_f64()) {
                ranges.insert(input.clone(), (low, high));
            }
        }
    }
    VerifyOptions { ranges, ..VerifyOptions::default() }
}

fn zoo() -> Value {
    serde_json::from_slice(&fs::read(folder().join("zoo.json")).expect("zoo.json")).expect("JSON")
}

#[test]
fn every_network_derives_a_spec_that_holds() {
    let zoo = zoo();
    let mut failed = Vec::new();
    println!("network | axes | parameters | groups | residual");
    for name in names() {
        let outcome = Graph::read(&read(&name)).and_then(|graph| {
            let derived = derive(&graph)?;
            let c = &derived.coverage;
            let all = c.permutable_axes + c.pinned_axes.len();
            println!(
                "{name} | {}/{all} | {}/{} | {}",
                c.permutable_axes,
                c.permutable_parameters,
                c.parameters,
                derived.spec.groups().len()
            );
            let certificate = verify(&graph, &derived.spec, &options(&zoo, &name))?;
            println!(
                "{name} | residual {:.1e} | unnoticed {}",
                certificate.residual,
                certificate.unnoticed.len()
            );
            Ok::<(), GraphError>(())
        });
        if let Err(error) = outcome {
            println!("{name} | FAILED {error}");
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
