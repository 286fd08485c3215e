//! `fedbasin spec derive` and `spec verify`, as a person calls them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../graph/zoo").join(name)
}

fn trained(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../rebasin/tests/data").join(name)
}

fn fedbasin(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fedbasin")).current_dir(folder).args(args).output().expect("runs")
}

fn well(folder: &Path, args: &[&str]) -> String {
    let output = fedbasin(folder, args);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn badly(folder: &Path, args: &[&str]) -> String {
    let output = fedbasin(folder, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "one line: {said}");
    said
}

#[test]
fn a_derived_spec_is_verified_and_aligns_trained_checkpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, site0, site1) =
        (zoo("convbn8.onnx"), trained("convbn8-site0.safetensors"), trained("convbn8-site1.safetensors"));
    let [model, site0, site1] = [&model, &site0, &site1].map(|path| path.to_str().expect("UTF-8"));
    let derived = well(folder.path(), &["spec", "derive", model, "--checkpoint", site0, "-o", "net.json"]);
    assert!(derived.contains("not verified yet"), "{derived}");
    let check = well(folder.path(), &["spec", "check", "net.json", site0]);
    assert!(check.contains("this spec was not verified"), "{check}");
    let verified = well(folder.path(), &["spec", "verify", "net.json", model]);
    assert!(verified.contains("were noticed"), "{verified}");
    let check = well(folder.path(), &["spec", "check", "net.json", site0]);
    assert!(!check.contains("not verified"), "{check}");
    let align = ["align", "--spec", "net.json", "--reference", site0, site1, "-o", "aligned.safetensors"];
    let aligned = well(folder.path(), &align);
    assert!(aligned.contains("units moved") && !aligned.contains("not verified"), "{aligned}");
    // The certificate is of that spec, not of any.
    let text = std::fs::read_to_string(folder.path().join("net.json")).expect("the spec");
    std::fs::write(folder.path().join("net.json"), text.replace("fedbasin.spec/1\",", "fedbasin.spec/1\", "))
        .expect("written");
    assert!(
        !well(folder.path(), &["spec", "check", "net.json", site0]).contains("not verified"),
        "the same spec"
    );
}

#[test]
fn a_wrong_spec_is_found_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = zoo("convbn8.onnx");
    let model = model.to_str().expect("UTF-8");
    well(folder.path(), &["spec", "derive", model, "-o", "net.json"]);
    let path = folder.path().join("net.json");
    let mut spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("the spec")).expect("JSON");
    // A norm's gain that does not follow its channels.
    let tensors = spec["tensors"].as_object_mut().expect("tensors");
    let (_, axes) = tensors
        .iter_mut()
        .find(|(name, axes)| {
            name.ends_with("weight")
                && axes.as_array().is_some_and(|axes| axes.len() == 1 && !axes[0].is_null())
        })
        .expect("a norm");
    axes[0] = serde_json::Value::Null;
    std::fs::write(&path, spec.to_string()).expect("written");
    let said = badly(folder.path(), &["spec", "verify", "net.json", model]);
    assert!(said.contains("do not use this spec"), "{said}");
    assert!(!folder.path().join("net.certificate.json").exists());
}

#[test]
fn a_checkpoint_with_more_than_the_graph_explains_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, other) = (zoo("convbn8.onnx"), trained("mlp128-site0.safetensors"));
    let [model, other] = [&model, &other].map(|path| path.to_str().expect("UTF-8"));
    let said = badly(folder.path(), &["spec", "derive", model, "--checkpoint", other, "-o", "net.json"]);
    assert!(said.contains("the graph does not use") && said.contains("--pin"), "{said}");
    let said = badly(folder.path(), &["spec", "derive", other, "-o", "net.json"]);
    assert!(said.contains("not an ONNX graph"), "{said}");
}

#[test]
fn an_alignment_is_bounded_and_a_checkpoint_balanced() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, site0, site1) =
        (zoo("convbn8.onnx"), trained("convbn8-site0.safetensors"), trained("convbn8-site1.safetensors"));
    let [model, site0, site1] = [&model, &site0, &site1].map(|path| path.to_str().expect("UTF-8"));
    well(folder.path(), &["spec", "derive", model, "--checkpoint", site0, "-o", "net.json"]);
    assert!(well(folder.path(), &["spec", "verify", "net.json", model]).contains("scales alone"));
    let align =
        ["align", "--spec", "net.json", "--reference", site0, site1, "-o", "out", "--report", "r.json"];
    assert!(well(folder.path(), &align).contains("no alignment has an objective above"));
    let report = || -> serde_json::Value {
        let text = std::fs::read(folder.path().join("r.json")).expect("the report");
        serde_json::from_slice(&text).expect("JSON")
    };
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let found = report();
    let [after, bound, gap] = ["objective_after", "upper_bound", "gap"].map(|name| number(&found[name]));
    assert!(bound >= after && (gap - (bound - after)).abs() < 1e-6 * bound, "{after} {bound} {gap}");
    let groups = found["groups"].as_array().expect("groups");
    let sum: f64 = groups.iter().map(|group| number(&group["bounded"]["gap"])).sum();
    assert!(!groups.is_empty() && (sum - gap).abs() < 1e-6 * bound, "{sum} {gap}");
    assert!(
        groups.iter().all(|group| (0.0..=1.0).contains(&number(&group["margins"]["best"]))),
        "{groups:?}"
    );
    well(folder.path(), &[&align[..], &["--no-bound"]].concat());
    assert!(report().get("upper_bound").is_none());

    let balanced = well(folder.path(), &["scale", "--spec", "net.json", site0, "-o", "balanced.safetensors"]);
    assert!(balanced.contains("units balanced"), "{balanced}");
    let again = well(folder.path(), &["scale", "--spec", "net.json", "balanced.safetensors", "-o", "again"]);
    assert!(again.contains("factors 1.000 to 1.000"), "{again}");
    let mlp = trained("mlp128-site0.safetensors");
    let mlp = mlp.to_str().expect("UTF-8");
    well(folder.path(), &["spec", "mlp", mlp, "-o", "mlp.json"]);
    let said = badly(folder.path(), &["scale", "--spec", "mlp.json", mlp, "-o", "none"]);
    assert!(said.contains("no unit that can be scaled"), "{said}");
    assert!(!folder.path().join("none").exists());
}
