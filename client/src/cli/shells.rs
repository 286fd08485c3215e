//! What the command line says of itself to shells and to `man`.

use std::{fs, path::Path};

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;

use super::args::Cli;
use crate::{
    error::{Error, Result},
    files::write_error,
    progress::Screen,
};

/// A script that completes this program's commands and options.
pub(super) fn completions(shell: Shell, screen: &Screen) -> Result<()> {
    let script = script(shell)?;
    screen.answer(&json!({ "shell": shell.to_string(), "script": script }), || script.clone())
}

/// A page of each command, in a folder.
pub(super) fn man(folder: &Path, screen: &Screen) -> Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|error| write_error(folder, &error))?;
    let first = folder.join("fedbasin.1");
    screen.answer(&json!({ "folder": folder, "first": first }), || {
        format!("manual pages in {}; the first one: {}", folder.display(), first.display())
    })
}

fn script(shell: Shell) -> Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fedbasin", &mut script);
    String::from_utf8(script)
        .map_err(|error| Error::failed(error, "the script", "this is a defect, report it"))
}

#[cfg(test)]
mod tests;
