//! The table of who may use what stays true.

use std::{fs, path::Path};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use fedbasin_tests::rooms::{
    DIRECTION, REBASIN_DEPENDENCIES, UNSAFE, breaches, unsafe_lines, wrong_direction,
};

fn metadata() -> Metadata {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata")
}

#[test]
fn packages_depend_on_each_other_only_in_the_directions_of_the_table() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let dependencies: Vec<&str> =
            package.dependencies.iter().map(|dependency| &*dependency.name).collect();
        wrong.extend(wrong_direction(&package.name, &dependencies));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(metadata.packages.len(), DIRECTION.len(), "the table lists every package, and no other");
}

#[test]
fn the_pure_room_depends_only_on_what_was_decided() {
    let metadata = metadata();
    let rebasin = metadata.packages.iter().find(|package| &*package.name == "rebasin").expect("rebasin");
    let normal = rebasin.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
    let others: Vec<&str> = normal
        .map(|dependency| &*dependency.name)
        .filter(|name| !REBASIN_DEPENDENCIES.contains(name))
        .collect();
    assert!(others.is_empty(), "decide about {others:?} before rebasin uses them");
}

#[test]
fn no_source_file_mentions_what_its_room_must_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for room in ["rebasin/src", "graph/src", "proof/src", "cipher/src", "server/src", "client/src"] {
        list(&root.join(room), &mut files);
    }
    assert!(
        files.len() > 20,
        "only {} files were found: does the test look in the right place?",
        files.len()
    );
    let mut found = Vec::new();
    for file in files {
        let source = fs::read_to_string(&file).expect("a source file");
        let path =
            file.strip_prefix(&root).expect("a path below the root").to_string_lossy().replace('\\', "/");
        found.extend(breaches(&path, &source));
    }
    assert!(found.is_empty(), "{} breaches:\n{}", found.len(), found.join("\n"));
}

#[test]
fn unsafe_stands_in_one_file_alone_and_every_other_library_forbids_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository");
    let (mut files, mut found) = (Vec::new(), Vec::new());
    let metadata = metadata();
    let ours = metadata.packages.iter().filter_map(|package| package.manifest_path.parent());
    for package in ours.map(std::path::PathBuf::from).chain([root.join("fuzz")]) {
        list(&package, &mut files);
        let library = fs::read_to_string(package.join("src/lib.rs")).expect("a library");
        assert!(
            package.ends_with("rebasin") || library.contains("\n#![forbid(unsafe_code)]\n"),
            "{}/src/lib.rs does not begin with #![forbid(unsafe_code)]",
            package.display()
        );
    }
    for file in files {
        let path =
            file.strip_prefix(&root).expect("a path below the root").to_string_lossy().replace('\\', "/");
        let lines = unsafe_lines(&fs::read_to_string(&file).expect("a source file"));
        if path == UNSAFE {
            assert!(!lines.is_empty(), "{UNSAFE} needs its exception no more");
        } else if !path.contains("/target/") {
            found.extend(lines.iter().map(|line| format!("{path}:{line}")));
        }
    }
    assert!(found.is_empty(), "unsafe stands in {UNSAFE} alone, but also in {}", found.join(", "));
}

fn list(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of source") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
