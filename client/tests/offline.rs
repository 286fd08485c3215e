//! The offline commands, end to end, through the binary.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rebasin::Checkpoint;
use serde_json::Value;

/// Layer widths of the test network.
const WIDTHS: [usize; 4] = [5, 8, 7, 3];

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// A folder with two networks `a` and `b`, and a's spec.
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(bench.path("a"), network(1)).unwrap();
        fs::write(bench.path("b"), network(2)).unwrap();
        bench.ok(&["spec", "mlp", "a", "-o", "spec.json"]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_fedbasin"))
            .args(args)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail: with this code, one line, and nothing written to `out`.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {line}");
        assert!(line.starts_with("fedbasin: "), "{line}");
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.matches(": ").count() >= 2, "what, where, what to do: {line}");
        assert!(!self.path("out").exists(), "{args:?} wrote something");
        line
    }

    fn checkpoint(&self, name: &str) -> Checkpoint {
        Checkpoint::from_bytes(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }
}

/// A multilayer perceptron with weights from a small generator, as a safetensors file written by hand.
fn network(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    let mut tensors = Vec::new();
    for (i, pair) in WIDTHS.windows(2).enumerate() {
        let (inputs, outputs) = (pair[0], pair[1]);
        tensors.push((format!("fc{}.weight", i + 1), vec![outputs, inputs]));
        tensors.push((format!("fc{}.bias", i + 1), vec![outputs]));
    }
    let tensors = tensors.into_iter().map(|(name, shape)| {
        let count = shape.iter().product();
        (name, shape, (0..count).map(|_| next()).collect())
    });
    safetensors(&tensors.collect::<Vec<_>>())
}

fn safetensors(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape, values) in tensors {
        let begin = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header.insert(
            name.clone(),
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    file
}

/// The network's output for one input.
fn forward(checkpoint: &Checkpoint, input: &[f32]) -> Vec<f32> {
    let mut values = input.to_vec();
    for layer in 1..WIDTHS.len() {
        let weight = checkpoint.get(&format!("fc{layer}.weight")).unwrap().to_f32();
        let bias = checkpoint.get(&format!("fc{layer}.bias")).unwrap().to_f32();
        values = weight
            .chunks(values.len())
            .zip(&bias)
            .map(|(row, bias)| row.iter().zip(&values).map(|(w, x)| w * x).sum::<f32>() + bias)
            .map(|sum| if layer + 1 < WIDTHS.len() { sum.max(0.0) } else { sum })
            .collect();
    }
    values
}

fn same_function(a: &Checkpoint, b: &Checkpoint) -> bool {
    [[1.0, -2.0, 0.5, 3.0, -1.0], [0.1, 0.2, -0.3, 0.4, 2.0]]
        .iter()
        .all(|input| forward(a, input).iter().zip(forward(b, input)).all(|(x, y)| (x - y).abs() < 1e-4))
}

fn values(checkpoint: &Checkpoint) -> Vec<f32> {
    let names = checkpoint.layout().tensors().iter().map(|info| info.name.clone()).collect::<Vec<_>>();
    names.iter().flat_map(|name| checkpoint.get(name).unwrap().to_f32()).collect()
}

fn assert_close(a: &Checkpoint, b: &Checkpoint) {
    for (x, y) in values(a).iter().zip(values(b)) {
        assert!((x - y).abs() < 1e-5, "{x} {y}");
    }
}

#[test]
fn a_permuted_network_computes_the_same_and_is_another_file() {
    let bench = Bench::new();
    bench.ok(&["permute", "--spec", "spec.json", "--seed", "7", "a", "-o", "p"]);
    assert_ne!(values(&bench.checkpoint("a")), values(&bench.checkpoint("p")));
    assert!(same_function(&bench.checkpoint("a"), &bench.checkpoint("p")));
    bench.ok(&["permute", "--spec", "spec.json", "--seed", "7", "a", "-o", "again"]);
    assert_eq!(fs::read(bench.path("p")).unwrap(), fs::read(bench.path("again")).unwrap());
}

#[test]
fn aligning_a_permuted_network_restores_it() {
    let bench = Bench::new();
    bench.ok(&["permute", "--spec", "spec.json", "--seed", "7", "a", "-o", "p"]);
    bench.ok(&["align", "--spec", "spec.json", "--reference", "a", "p", "-o", "out", "--report", "r.json"]);
    assert_eq!(values(&bench.checkpoint("a")), values(&bench.checkpoint("out")));

    let report = bench.json("r.json");
    let number =
        |value: &Value, name: &str| value[name].as_f64().unwrap_or_else(|| panic!("{name} in {value}"));
    for part in std::iter::once(&report).chain(report["groups"].as_array().unwrap()) {
        for name in ["objective_before", "objective_after", "l2_before", "l2_after", "moved", "sweeps"] {
            number(part, name);
        }
    }
    assert!(number(&report, "seconds") > 0.0);
    assert_eq!(report["groups"].as_array().unwrap().len(), 2);
    assert!(number(&report, "moved") > 0.0);
    assert!(number(&report, "objective_after") > number(&report, "objective_before"));
    assert!(number(&report, "l2_after") < 1e-6);
}

#[test]
fn a_network_aligned_to_itself_does_not_move() {
    let bench = Bench::new();
    let text = bench.ok(&[
        "align",
        "--spec",
        "spec.json",
        "--reference",
        "a",
        "a",
        "-o",
        "out",
        "--report",
        "r.json",
    ]);
    assert!(text.contains("0 units moved"), "{text}");
    assert_eq!(bench.json("r.json")["moved"], 0.0);
    assert_eq!(values(&bench.checkpoint("a")), values(&bench.checkpoint("out")));
}

#[test]
fn an_aligned_network_still_computes_its_own_function() {
    let bench = Bench::new();
    bench.ok(&["align", "--spec", "spec.json", "--reference", "a", "b", "-o", "out"]);
    assert!(same_function(&bench.checkpoint("b"), &bench.checkpoint("out")));
}

#[test]
fn the_mean_counts_each_by_its_examples_and_needs_no_spec() {
    let bench = Bench::new();
    bench.ok(&[
        "merge",
        "--method",
        "mean",
        "--num-examples",
        "1,3",
        "a",
        "b",
        "-o",
        "out",
        "--report",
        "r.json",
    ]);
    let (a, b) = (values(&bench.checkpoint("a")), values(&bench.checkpoint("b")));
    for ((a, b), merged) in a.iter().zip(&b).zip(values(&bench.checkpoint("out"))) {
        assert!((0.25 * a + 0.75 * b - merged).abs() < 1e-6);
    }
    let report = bench.json("r.json");
    assert_eq!(report["method"], "mean");
    assert_eq!(report["inputs"][1]["share"], 0.75);
}

#[test]
fn both_aligned_merges_of_one_network_in_many_frames_are_that_network() {
    let bench = Bench::new();
    for (seed, name) in [("7", "p"), ("8", "q")] {
        bench.ok(&["permute", "--spec", "spec.json", "--seed", seed, "a", "-o", name]);
    }
    bench.ok(&[
        "merge",
        "--spec",
        "spec.json",
        "--method",
        "aligned",
        "a",
        "p",
        "q",
        "-o",
        "aligned",
        "--report",
        "r.json",
    ]);
    assert_close(&bench.checkpoint("a"), &bench.checkpoint("aligned"));
    let report = bench.json("r.json");
    assert!(report["alignments"][0].is_null() && report["alignments"][2]["moved"].as_f64().unwrap() > 0.0);
    bench.ok(&["merge", "--spec", "spec.json", "--method", "merge-many", "a", "p", "q", "-o", "many"]);
    assert!(same_function(&bench.checkpoint("a"), &bench.checkpoint("many")));
    bench.ok(&["merge", "--spec", "spec.json", "--method", "mean", "a", "p", "q", "-o", "mean"]);
    assert!(!same_function(&bench.checkpoint("a"), &bench.checkpoint("mean")));
}

#[test]
fn an_output_may_replace_an_input() {
    let bench = Bench::new();
    let before = bench.checkpoint("a");
    bench.ok(&["permute", "--spec", "spec.json", "--seed", "7", "a", "-o", "a"]);
    assert!(same_function(&before, &bench.checkpoint("a")));
    assert_ne!(values(&before), values(&bench.checkpoint("a")));
}

#[test]
fn a_derived_spec_says_that_it_wants_a_check() {
    let bench = Bench::new();
    let text = bench.ok(&["spec", "mlp", "a", "-o", "again.json"]);
    assert!(text.contains("prove it with `fedbasin spec verify`"), "{text}");
}

#[test]
fn checking_a_spec_says_what_may_move_and_what_is_pinned() {
    let bench = Bench::new();
    let text = bench.ok(&["spec", "check", "spec.json", "a"]);
    assert!(text.contains("fc1.weight") && text.contains("pinned"), "{text}");
    assert!(text.contains("fits"), "{text}");
}

#[test]
fn files_that_are_no_checkpoint_are_refused() {
    let bench = Bench::new();
    let whole = fs::read(bench.path("a")).unwrap();
    fs::write(bench.path("short"), &whole[..whole.len() - 3]).unwrap();
    fs::write(bench.path("long"), [&whole[..], &[0]].concat()).unwrap();
    fs::write(bench.path("text"), "not a checkpoint").unwrap();
    fs::write(bench.path("empty"), "").unwrap();
    let mut nan = whole.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(bench.path("nan"), nan).unwrap();
    for bad in ["short", "long", "text", "empty", "nan", "absent", "."] {
        bench.fails(1, &["align", "--spec", "spec.json", "--reference", "a", bad, "-o", "out"]);
        bench.fails(1, &["align", "--spec", "spec.json", "--reference", bad, "a", "-o", "out"]);
        bench.fails(1, &["permute", "--spec", "spec.json", "--seed", "1", bad, "-o", "out"]);
        for method in ["mean", "aligned", "merge-many"] {
            bench.fails(1, &["merge", "--spec", "spec.json", "--method", method, "a", bad, "-o", "out"]);
        }
    }
}

#[test]
fn a_spec_of_another_network_is_refused() {
    let bench = Bench::new();
    let spec = fs::read_to_string(bench.path("spec.json")).unwrap();
    fs::write(bench.path("renamed.json"), spec.replace("fc2.bias", "fc9.bias")).unwrap();
    fs::write(bench.path("broken.json"), &spec[..spec.len() / 2]).unwrap();
    let small = safetensors(&[("fc1.weight".into(), vec![2, 2], vec![1.0; 4])]);
    fs::write(bench.path("small"), small).unwrap();
    for spec in ["renamed.json", "broken.json", "absent.json"] {
        bench.fails(1, &["permute", "--spec", spec, "--seed", "1", "a", "-o", "out"]);
        bench.fails(1, &["spec", "check", spec, "a"]);
    }
    bench.fails(1, &["spec", "check", "spec.json", "small"]);
    let line = bench.fails(1, &["align", "--spec", "spec.json", "--reference", "a", "small", "-o", "out"]);
    assert!(line.contains("small"), "{line}");
    bench.fails(1, &["merge", "--method", "mean", "a", "small", "-o", "out"]);
}

#[test]
fn wrong_usage_exits_with_two() {
    let bench = Bench::new();
    for args in [
        &[][..],
        &["nonsense"],
        &["merge", "--method", "median", "a", "-o", "out"],
        &["merge", "--method", "mean", "-o", "out"],
        &["merge", "--method", "aligned", "a", "b", "-o", "out"],
        &["merge", "--method", "mean", "--num-examples", "1,2,3", "a", "b", "-o", "out"],
        &["merge", "--method", "mean", "--num-examples", "1,0", "a", "b", "-o", "out"],
        &["merge", "--method", "mean", "--num-examples", "1,-2", "a", "b", "-o", "out"],
        &["permute", "--spec", "spec.json", "a", "-o", "out"],
        &["permute", "--spec", "spec.json", "--seed", "x", "a", "-o", "out"],
        &["align", "--spec", "spec.json", "a", "-o", "out"],
        &["site", "run", "--server", "http://10.1.2.3:1", "--run", "r", "--train", "true"],
        &["site", "status", "--server", "nowhere"],
    ] {
        bench.fails(2, args);
    }
}

#[test]
fn wrong_usage_names_the_help_of_the_command_that_was_meant() {
    let bench = Bench::new();
    for (args, help) in [
        (&["permute", "--spec", "spec.json", "a"][..], "see `fedbasin permute --help`"),
        (&["site", "run", "--run", "r"], "see `fedbasin site run --help`"),
        (&["admin", "create-run", "--rounds", "1"], "see `fedbasin admin create-run --help`"),
        (&["site"], "see `fedbasin site --help`"),
        (&[], "see `fedbasin --help`"),
    ] {
        let line = bench.fails(2, args);
        assert!(line.contains(help), "{line}");
    }
}

#[test]
fn an_id_that_no_run_can_have_is_refused_before_anything_is_asked() {
    let bench = Bench::new();
    // Nobody listens there: with another id it would be tried for ten minutes.
    let server = ["--server", "http://127.0.0.1:9"];
    for id in ["PI LOT", "", "pilot_1", "-pilot"] {
        let run = format!("--run={id}");
        for call in [&["site", "run", "--train", "true"][..], &["site", "status"]] {
            let line = bench.fails(2, &[call, &server, &[run.as_str()]].concat());
            assert!(line.contains("no run can have this id"), "{line}");
        }
    }
}

#[test]
fn a_file_of_torch_save_is_recognised() {
    let bench = Bench::new();
    fs::write(bench.path("model.pt"), [&b"PK\x03\x04\0\0\x08\x08"[..], &[0; 100]].concat()).unwrap();
    let admin =
        ["admin", "--token-file", "token", "--server", "http://127.0.0.1:9", "checkpoint", "model.pt"];
    fs::write(bench.path("token"), "fba_x").unwrap();
    for args in [
        &["spec", "mlp", "model.pt", "-o", "out"][..],
        &["permute", "--spec", "spec.json", "--seed", "1", "model.pt", "-o", "out"],
        &admin,
    ] {
        let line = bench.fails(1, args);
        assert!(line.contains("torch.save") && line.contains("safetensors.torch.save_file"), "{line}");
    }
}

#[test]
fn a_file_that_is_no_spec_is_said_to_be_none() {
    let bench = Bench::new();
    fs::write(bench.path("token"), "fba_x").unwrap();
    fs::write(bench.path("bytes"), [0xff; 50]).unwrap();
    for spec in ["a", "bytes"] {
        for args in [
            &["permute", "--spec", spec, "--seed", "1", "a", "-o", "out"][..],
            &[
                "admin",
                "--token-file",
                "token",
                "create-run",
                "--spec",
                spec,
                "--cohort",
                "x",
                "--rounds",
                "1",
                "--quorum",
                "1",
                "--deadline-seconds",
                "9",
            ],
        ] {
            let line = bench.fails(1, args);
            assert!(line.contains("this is no spec") && line.contains("fedbasin spec derive"), "{line}");
        }
    }
}

#[test]
fn an_output_in_no_folder_is_named() {
    let bench = Bench::new();
    let line = bench.fails(1, &["permute", "--spec", "spec.json", "--seed", "1", "a", "-o", "no/out"]);
    assert!(line.contains("no/out") && line.contains("folder"), "{line}");
    assert!(!Path::new("no").exists());
}

#[cfg(unix)]
#[test]
fn a_new_file_gets_the_mode_that_the_umask_leaves() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    for (umask, expected) in [("077", 0o600), ("027", 0o640), ("002", 0o664)] {
        let script = format!("umask {umask}; \"$0\" spec mlp a -o umask-{umask}.json");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_fedbasin")])
            .current_dir(bench.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made = fs::metadata(bench.path(&format!("umask-{umask}.json"))).unwrap();
        assert_eq!(made.permissions().mode() & 0o777, expected, "umask {umask}");
    }
}
