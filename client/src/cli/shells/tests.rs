use clap::{Command, ValueEnum as _};

use super::*;

/// `fedbasin-admin-watch` and all others.
fn names(command: &Command, name: &str, found: &mut Vec<String>) {
    found.push(name.to_owned());
    for command in command.get_subcommands() {
        names(command, &format!("{name}-{}", command.get_name()), found);
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("man/man1");
    man(&place, &Screen::silent()).unwrap();
    let mut all = Vec::new();
    names(&Cli::command(), "fedbasin", &mut all);
    assert!(all.len() > 50 && all.contains(&"fedbasin-admin-profile-add".to_owned()), "{all:?}");
    for name in all {
        let page = fs::read_to_string(place.join(format!("{name}.1"))).unwrap_or_default();
        assert!(page.contains(".SH NAME"), "{name}: {page}");
    }
}

#[test]
fn every_shell_has_a_script_that_knows_the_commands() {
    for shell in Shell::value_variants() {
        let script = script(*shell).unwrap();
        assert!(script.contains("until") && script.contains("watch"), "{shell}");
    }
}
