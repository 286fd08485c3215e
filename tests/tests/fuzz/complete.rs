//! Every target has its seeds, is replayed, and stands in the list; and whoever adds a parser says there by which target it is tried.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// What stands between `before` and the next `after`, wherever it does.
fn between(text: &str, before: &str, after: char) -> BTreeSet<String> {
    text.split(before).skip(1).filter_map(|rest| Some(rest.split_once(after)?.0.to_owned())).collect()
}

/// What stands between backquotes.
fn quoted(row: &str) -> impl Iterator<Item = String> {
    row.split('`').skip(1).step_by(2).map(str::to_owned)
}

fn metadata(manifest: &str) -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join(manifest)).no_deps().other_options(["--offline".to_owned()]);
    command.exec().expect("cargo metadata")
}

fn targets() -> BTreeSet<String> {
    let fuzz = metadata("fuzz/Cargo.toml");
    let bins = fuzz.packages[0].targets.iter().filter(|target| target.is_bin());
    bins.map(|target| target.name.clone()).collect()
}

#[test]
fn every_target_has_seeds_is_replayed_and_is_listed_and_nothing_else_is() {
    let targets = targets();
    assert!(targets.len() >= 27, "{targets:?}");
    let files = names("fuzz/targets").iter().map(|name| name.trim_end_matches(".rs").to_owned()).collect();
    assert_eq!(targets, files, "targets and their files");
    for target in &targets {
        let file = text(&format!("fuzz/targets/{target}.rs"));
        assert!(file.contains(&format!("fedbasin_fuzz::{target}(bytes)")), "{target} tries something else");
    }
    assert_eq!(targets, names("fuzz/corpus"), "targets and their seeds");
    for target in &targets {
        for seed in names(&format!("fuzz/corpus/{target}")) {
            let size =
                fs::metadata(root().join("fuzz/corpus").join(target).join(&seed)).expect("a file").len();
            assert!(size <= 16384, "{target}/{seed} has {size} bytes; a seed is small");
        }
    }
    let replays = ["graph", "proof", "demo", "tests"].map(|room| text(&format!("{room}/tests/fuzz.rs")));
    let replayed = between(&replays.concat(), "replay(\"", '"');
    assert_eq!(targets, replayed, "targets and what the plain tests replay");
    let readme = text("fuzz/README.md");
    assert_eq!(targets, between(&readme, "\n| `", '`'), "targets and the list in fuzz/README.md");
}

/// What calls a parser.
const PARSERS: [&str; 13] = [
    "serde_json::from_",
    "serde_json::Deserializer",
    "toml::from_",
    "pem::parse",
    "::from_pem",
    "pem_file",
    "::from_der",
    "parse_x509",
    ".decode(",
    "jsonwebtoken::decode",
    "extract::Query",
    "typed_get",
    "GzDecoder::new",
];

#[test]
fn every_file_that_parses_something_is_listed_with_the_target_that_tries_it() {
    let readme = text("fuzz/README.md");
    let (_, list) = readme.split_once("## Parsers").expect("the list of parsers");
    let rows: Vec<&str> = list.lines().filter(|line| line.contains(".rs`")).collect();
    let listed: BTreeSet<String> =
        rows.iter().flat_map(|row| quoted(row)).filter(|name| name.ends_with(".rs")).collect();
    for file in &listed {
        assert!(root().join(file).is_file(), "fuzz/README.md lists {file}, which is not there");
    }
    let mut files = Vec::new();
    for room in ["rebasin", "graph", "proof", "cipher", "server", "client", "demo"] {
        collect(&root().join(room).join("src"), &mut files);
    }
    let (mut found, mut missing) = (0, Vec::new());
    for file in files {
        let source = fs::read_to_string(&file).expect("a source file");
        let file = file.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
        let is_test =
            ["tests.rs", "fuzzed.rs"].iter().any(|end| file.ends_with(end)) || file.contains("/tests/");
        let Some(parser) = PARSERS.iter().find(|parser| !is_test && source.contains(**parser)) else {
            continue;
        };
        found += 1;
        if !listed.contains(&file) {
            missing.push(format!("{file} ({parser})"));
        }
    }
    assert!(
        missing.is_empty(),
        "{missing:?} call a parser: say in fuzz/README.md, under Parsers, whose bytes they read and which target tries it"
    );
    assert!(found > 20, "only {found} files: does the test look in the right place?");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of source") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// A lock file that does not know a new dependency would stop `fuzz/run` before it began.
#[test]
fn the_lock_file_there_knows_what_our_packages_depend_on() {
    let lock = text("fuzz/Cargo.lock");
    let mut compared = 0;
    for package in metadata("Cargo.toml").packages {
        let name = format!("name = \"{}\"\n", package.name);
        let Some(locked) = lock.split("[[package]]").find(|locked| locked.contains(&name)) else { continue };
        compared += 1;
        // Where two versions are at hand, the version stands behind the name.
        let known: BTreeSet<&str> =
            locked.lines().filter_map(|line| line.strip_prefix(" \"")?.split([' ', '"']).next()).collect();
        let wanted = package.dependencies.iter().filter(|wanted| {
            !wanted.optional && matches!(wanted.kind, DependencyKind::Normal | DependencyKind::Build)
        });
        let missing: Vec<&str> =
            wanted.map(|wanted| &*wanted.name).filter(|name| !known.contains(name)).collect();
        assert!(
            missing.is_empty(),
            "fuzz/Cargo.lock: {} lacks {missing:?}; run `cargo metadata` in fuzz/",
            package.name
        );
    }
    assert!(compared >= 7, "only {compared} packages of ours");
}
