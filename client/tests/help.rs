//! The texts of `--help` are a contract: a change shows in the diff of `tests/help/`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{fs, path::Path, process::Command};

const COMMANDS: [&str; 58] = [
    "",
    "site",
    "site run",
    "site request",
    "site status",
    "site upload",
    "site download",
    "site withdraw",
    "admin",
    "admin enrol",
    "admin sites",
    "admin token",
    "admin tokens",
    "admin revoke",
    "admin certificates",
    "admin revoke-certificate",
    "admin checkpoint",
    "admin graph",
    "admin create-run",
    "admin runs",
    "admin run",
    "admin rounds",
    "admin round",
    "admin watch",
    "admin pause",
    "admin resume",
    "admin cancel",
    "admin model",
    "admin remerge",
    "admin audit",
    "admin audit-export",
    "admin profile",
    "admin profile list",
    "admin profile add",
    "admin profile use",
    "admin profile remove",
    "admin profile show",
    "admin keys",
    "admin webhooks",
    "admin webhooks list",
    "admin webhooks retry",
    "admin webhooks test",
    "audit",
    "audit verify",
    "completions",
    "man",
    "verify-model",
    "spec",
    "spec mlp",
    "spec conv",
    "spec derive",
    "spec verify",
    "spec check",
    "permute",
    "scale",
    "align",
    "merge",
    "barrier",
];

#[expect(clippy::disallowed_methods, reason = "how whoever means a change says so")]
#[test]
fn help_texts_are_as_kept() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let update = std::env::var_os("FEDBASIN_UPDATE_HELP").is_some();
    let mut changed = Vec::new();
    for command in COMMANDS {
        let output = Command::new(env!("CARGO_BIN_EXE_fedbasin"))
            .args(command.split_whitespace())
            .arg("--help")
            .env_remove("COLUMNS")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}");
        let text = String::from_utf8(output.stdout).unwrap();
        let name = if command.is_empty() { "fedbasin".to_owned() } else { command.replace(' ', "-") };
        let path = folder.join(format!("{name}.txt"));
        if update {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            changed.push(format!("fedbasin {command} --help now says:\n{text}"));
        }
    }
    assert!(
        changed.is_empty(),
        "{}\nif that is meant: FEDBASIN_UPDATE_HELP=1 cargo test -p fedbasin-client",
        changed.join("\n")
    );
}
