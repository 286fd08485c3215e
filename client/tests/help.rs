//! The texts of `--help` are a contract: a change shows in the diff of `tests/help/`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{fs, path::Path, process::Command};

/// What a command says of itself.
fn help(command: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_fedbasin"))
        .args(command)
        .arg("--help")
        .env_remove("COLUMNS")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands within one, as its help lists them.
fn within(text: &str) -> impl Iterator<Item = &str> {
    let (_, list) = text.split_once("\nCommands:\n").unwrap_or_default();
    // What goes on over a line begins further in.
    let lines = list.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    lines.filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty() && *name != "help")
}

/// Every command with its help, and those within it.
fn walk(command: &[String], each: &mut impl FnMut(&[String], &str)) {
    let text = help(command);
    for name in within(&text) {
        walk(&[command, &[name.to_owned()]].concat(), each);
    }
    each(command, &text);
}

#[expect(clippy::disallowed_methods, reason = "how whoever means a change says so")]
#[test]
fn help_texts_are_as_kept() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let update = std::env::var_os("FEDBASIN_UPDATE_HELP").is_some();
    let mut changed = Vec::new();
    let mut kept = Vec::new();
    walk(&[], &mut |command, text| {
        let name = if command.is_empty() { "fedbasin".to_owned() } else { command.join("-") };
        let path = folder.join(format!("{name}.txt"));
        if update {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, text).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            changed.push(format!("fedbasin {} --help now says:\n{text}", command.join(" ")));
        }
        kept.push(path);
    });
    assert!(kept.len() > 65, "{} commands: does the test still read the lists?", kept.len());
    for file in fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()) {
        assert!(kept.contains(&file), "{}: there is no such command any more", file.display());
    }
    assert!(
        changed.is_empty(),
        "{}\nif that is meant: FEDBASIN_UPDATE_HELP=1 cargo test -p fedbasin-client",
        changed.join("\n")
    );
}
