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
    assert!(well(folder.path(), &["spec", "verify", "net.json", model]).contains("scales one by one"));
    let align =
        ["align", "--spec", "net.json", "--reference", site0, site1, "-o", "out", "--report", "r.json"];
    assert!(well(folder.path(), &align).contains("no alignment by this spec has an objective above"));
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

/// Examples for `convbn8.onnx`: drawn images, and the classes that a checkpoint gives them.
fn examples(folder: &Path, model: &str, site: &str) {
    let graph = fedbasin_graph::Graph::read(&std::fs::read(model).expect("the graph")).expect("reads");
    let site = rebasin::Checkpoint::from_bytes(&std::fs::read(site).expect("the checkpoint")).expect("reads");
    let mut state = 3_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    let (count, shape) = (37, vec![37, 1, 28, 28]);
    let values: Vec<f32> = (0..count * 28 * 28).map(|_| next()).collect();
    let name = input_name(&graph);
    let input = fedbasin_graph::InputData::Floats { shape: shape.clone(), values: values.clone() };
    let inputs = std::collections::BTreeMap::from([(name.clone(), input)]);
    let evaluation = fedbasin_graph::Evaluation::new(&graph, inputs).expect("fits");
    let output = evaluation.run(&site).expect("runs");
    assert_eq!((evaluation.examples(), output.width), (count, 10));
    let labels = output.values.chunks(10).map(|row| {
        let best = (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("ten classes");
        i64::try_from(best).expect("small")
    });
    let info = |name: &str, dtype, shape| rebasin::TensorInfo { name: name.into(), dtype, shape };
    let images = info(&name, rebasin::Dtype::F32, shape);
    let classes = info("labels", rebasin::Dtype::I64, vec![count]);
    let tensors = vec![
        rebasin::Tensor::from_f32(&images, &values).expect("finite"),
        rebasin::Tensor::from_bytes(&classes, labels.flat_map(i64::to_le_bytes).collect())
            .expect("eight bytes each"),
    ];
    let layout = rebasin::Layout::new(vec![images, classes]).expect("a layout");
    let data = rebasin::Checkpoint::new(layout, tensors).expect("fits");
    std::fs::write(folder.join("data.safetensors"), data.to_bytes()).expect("written");
}

/// The graph's one input, as the complaint about its absence names it.
fn input_name(graph: &fedbasin_graph::Graph) -> String {
    let Err(error) = fedbasin_graph::Evaluation::new(graph, std::collections::BTreeMap::new()) else {
        panic!("without inputs");
    };
    let fedbasin_graph::GraphError::Input { name, why } = error else { panic!("{error}") };
    assert_eq!(why, "it is not given");
    name
}

#[test]
fn the_path_to_a_permuted_copy_is_flat_once_it_is_aligned() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, site) = (zoo("convbn8.onnx"), trained("convbn8-site0.safetensors"));
    let [model, site] = [&model, &site].map(|path| path.to_str().expect("UTF-8"));
    well(folder.path(), &["spec", "derive", model, "--checkpoint", site, "-o", "net.json"]);
    well(folder.path(), &["permute", "--spec", "net.json", "--seed", "4", site, "-o", "other.safetensors"]);
    examples(folder.path(), model, site);
    let args = [
        "barrier",
        "--spec",
        "net.json",
        "--onnx",
        model,
        "--data",
        "data.safetensors",
        "--points",
        "7",
        site,
    ];
    let args = [&args[..], &["other.safetensors", "-o", "path.svg", "--report", "r.json", "--json"]].concat();
    let said = well(folder.path(), &args);
    let answer: serde_json::Value = serde_json::from_str(&said).expect("JSON and nothing else");
    let kept = std::fs::read(folder.path().join("r.json")).expect("the report");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&kept).expect("JSON"), answer);
    let losses = |path: &str| -> Vec<f64> {
        let list = answer[path]["losses"].as_array().expect("losses");
        list.iter().map(|loss| loss.as_f64().expect("a number")).collect()
    };
    let (as_is, aligned) = (losses("as_is"), losses("aligned"));
    assert_eq!((as_is.len(), aligned.len()), (7, 7));
    // Both ends compute the same, and the whole aligned path does; the plain one does not.
    let (first, last) = (aligned[0], as_is[6]);
    assert!(
        (first - last).abs() < 1e-4 && aligned.iter().all(|loss| (loss - first).abs() < 1e-4),
        "{aligned:?}"
    );
    assert_eq!(answer["aligned"]["accuracies"][3], 1.0);
    assert!(answer["aligned"]["barrier"].as_f64().expect("a number") < 1e-4);
    assert!(answer["as_is"]["barrier"].as_f64().expect("a number") > 0.1, "{as_is:?}");
    assert_eq!(answer["running_statistics"], true);
    let plot = std::fs::read_to_string(folder.path().join("path.svg")).expect("the plot");
    assert!(plot.starts_with("<svg") && plot.matches("<circle").count() == 14);

    // For people; and what does not fit is named.
    let lines = well(folder.path(), &args[..args.len() - 1]);
    assert!(lines.contains("as it is: barrier") && lines.contains("running statistics"), "{lines}");
    let mlp = trained("mlp128-site0.safetensors");
    let wrong = [
        "barrier",
        "--spec",
        "net.json",
        "--onnx",
        model,
        "--data",
        mlp.to_str().expect("UTF-8"),
        site,
        site,
    ];
    let said = badly(folder.path(), &wrong);
    assert!(said.contains("neither labels nor targets"), "{said}");
}

#[test]
fn every_answer_can_be_had_as_json_alone_on_standard_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, site0, site1) =
        (zoo("convbn8.onnx"), trained("convbn8-site0.safetensors"), trained("convbn8-site1.safetensors"));
    let [model, site0, site1] = [&model, &site0, &site1].map(|path| path.to_str().expect("UTF-8"));
    let mlp = trained("mlp128-site0.safetensors");
    let mlp = mlp.to_str().expect("UTF-8");
    let json = |args: &[&str]| -> serde_json::Value {
        let said = well(folder.path(), &[args, &["--json"]].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{args:?}: {error}: {said}"))
    };
    let derived = json(&["spec", "derive", model, "--checkpoint", site0, "-o", "net.json"]);
    assert!(derived["groups"].as_u64() > Some(0) && derived["verified"] == false, "{derived}");
    // Not verified: people are told on standard error.
    assert_eq!(json(&["spec", "check", "net.json", site0])["verified"], false);
    assert!(json(&["spec", "verify", "net.json", model])["noticed"].is_array());
    let check = json(&["spec", "check", "net.json", site0]);
    assert_eq!(check["verified"], true);
    assert!(check["tensors"].as_object().is_some_and(|tensors| tensors.len() > 10), "{check}");
    assert!(json(&["spec", "mlp", mlp, "-o", "mlp.json"])["groups"].is_array());
    assert_eq!(json(&["permute", "--spec", "net.json", "--seed", "1", site0, "-o", "p"])["seed"], 1);
    assert!(json(&["scale", "--spec", "net.json", site0, "-o", "s"])["units"].as_u64() > Some(0));
    let aligned = json(&["align", "--spec", "net.json", "--reference", site0, site1, "-o", "a"]);
    assert_eq!(aligned["spec_verified"], true);
    let merged = json(&["merge", "--spec", "net.json", "--method", "merge-many", site0, site1, "-o", "m"]);
    let passes = merged["iterations"].as_array().expect("passes");
    let mut last = merged["objective_before"].as_f64().expect("a number");
    for pass in passes {
        let objective = pass["objective"].as_f64().expect("a number");
        assert!(objective >= last * (1.0 - 1e-9), "{merged}");
        last = objective;
    }
    assert!(!passes.is_empty() && merged["objective_after"] == last, "{merged}");
}

/// A network's graph, by its path, and a trained checkpoint of it.
fn convbn8() -> (String, rebasin::Checkpoint) {
    let bytes = std::fs::read(trained("convbn8-site0.safetensors")).expect("the checkpoint");
    (zoo("convbn8.onnx").display().to_string(), rebasin::Checkpoint::from_bytes(&bytes).expect("reads"))
}

/// A checkpoint with tensors beyond those of another.
fn with_more(site: &rebasin::Checkpoint, more: Vec<rebasin::Tensor>, to: &Path) {
    let tensors = [site.tensors().to_vec(), more].concat();
    let infos = tensors.iter().map(|tensor| tensor.info().clone()).collect();
    let layout = rebasin::Layout::new(infos).expect("a layout");
    let whole = rebasin::Checkpoint::new(layout, tensors).expect("a checkpoint");
    std::fs::write(to, whole.to_bytes()).expect("written");
}

fn named(tensor: &rebasin::Tensor, name: &str, bytes: Vec<u8>) -> rebasin::Tensor {
    let info = rebasin::TensorInfo { name: name.to_owned(), ..tensor.info().clone() };
    rebasin::Tensor::from_bytes(&info, bytes).expect("fits")
}

#[test]
fn a_tensor_is_tied_only_where_its_content_says_to_which() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, site) = convbn8();
    let model = model.as_str();
    let gains: Vec<&rebasin::Tensor> = site
        .tensors()
        .iter()
        .filter(|tensor| tensor.info().shape.len() == 1 && tensor.info().name.ends_with("weight"))
        .collect();
    let (gain, other) = (
        gains[0],
        gains.iter().find(|other| {
            other.bytes().len() == gains[0].bytes().len() && other.info().name != gains[0].info().name
        }),
    );
    let to = folder.path().join("more.safetensors");
    let derive = ["spec", "derive", model, "--checkpoint", "more.safetensors", "-o", "net.json"];

    // A copy of a trained gain moves as that does.
    with_more(&site, vec![named(gain, "copy.weight", gain.bytes().to_vec())], &to);
    well(folder.path(), &derive);
    let text = std::fs::read(folder.path().join("net.json")).expect("the spec");
    let spec: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(spec["tensors"]["copy.weight"], spec["tensors"][gain.info().name.as_str()]);
    assert!(spec["tensors"]["copy.weight"][0].is_string(), "{spec}");

    // Fresh gains are all the same, whatever they belong to.
    let ones: Vec<u8> = 1_f32.to_le_bytes().repeat(gain.bytes().len() / 4);
    let fresh = vec![named(gain, "fresh.weight", ones.clone())];
    with_more(&site, fresh, &to);
    let said = badly(folder.path(), &derive);
    assert!(said.contains("the graph does not use fresh.weight"), "{said}");

    // The same content on two tensors that move apart says nothing either.
    let other = other.expect("two gains of one length");
    let twin = site.tensors().iter().map(|tensor| {
        let same = tensor.info().name == other.info().name;
        if same { named(tensor, &tensor.info().name, gain.bytes().to_vec()) } else { tensor.clone() }
    });
    let twin = rebasin::Checkpoint::new(site.layout().clone(), twin.collect()).expect("fits");
    with_more(&twin, vec![named(gain, "copy.weight", gain.bytes().to_vec())], &to);
    let said = badly(folder.path(), &derive);
    assert!(said.contains("copy.weight") && said.contains("does not say which tensor"), "{said}");
    well(folder.path(), &[&derive[..], &["--pin", "copy.weight"]].concat());
}

#[test]
fn a_graph_that_a_normalisation_was_folded_into_is_not_the_checkpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, site) = convbn8();
    let model = model.as_str();
    let variance = site.tensors().iter().find(|tensor| tensor.info().name.ends_with("running_var"));
    let variance = variance.expect("a normalisation");
    let norm = |module: &str| -> Vec<rebasin::Tensor> {
        ["weight", "running_mean", "running_var"]
            .map(|name| named(variance, &format!("{module}.{name}"), variance.bytes().to_vec()))
            .to_vec()
    };
    let outer = variance.info().name.split('.').next().expect("a name");
    let folded = format!("{outer}.99");
    with_more(&site, norm(&folded), &folder.path().join("more.safetensors"));
    let pins: Vec<String> =
        ["weight", "running_mean", "running_var"].iter().map(|name| format!("{folded}.{name}")).collect();
    let mut derive = vec!["spec", "derive", model, "--checkpoint", "more.safetensors", "-o", "net.json"];
    derive.extend(pins.iter().flat_map(|name| ["--pin", name]));
    let said = badly(folder.path(), &derive);
    assert!(
        said.contains(&folded) && said.contains("other weights") && said.contains("optimize=False"),
        "{said}"
    );

    // One in a branch that inference does not run has no neighbours in the graph, and may be pinned.
    with_more(&site, norm("aux.norm"), &folder.path().join("more.safetensors"));
    let mut derive = vec!["spec", "derive", model, "--checkpoint", "more.safetensors", "-o", "net.json"];
    derive.extend(
        ["aux.norm.weight", "aux.norm.running_mean", "aux.norm.running_var"]
            .iter()
            .flat_map(|name| ["--pin", name]),
    );
    well(folder.path(), &derive);
}
