//! The commands of a site: this very program, as its trainer and as what tries models.

use std::ffi::OsString;

use anyhow::Context;

use super::{Folder, SITES};
use crate::{
    cli::DemoArgs,
    process::{Leash, shell_word},
};

/// What trains, of one site or on all data.
pub(super) fn train(
    args: &DemoArgs,
    folder: &Folder,
    leash: &Leash,
    site: Option<usize>,
) -> anyhow::Result<Vec<OsString>> {
    let mut words = common("train", args, leash)?;
    words.extend(["--progress".into(), folder.progress(site.unwrap_or(SITES)).into()]);
    for (name, value) in [("--epochs", args.epochs), ("--later-epochs", args.later_epochs)] {
        words.extend([name.into(), value.to_string().into()]);
    }
    if let Some(site) = site {
        words.extend(["--site".into(), site.to_string().into()]);
    }
    Ok(words)
}

/// What tries the models that a site gets and makes.
pub(super) fn evaluate(args: &DemoArgs, leash: &Leash, site: usize) -> anyhow::Result<Vec<OsString>> {
    let mut words = common("evaluate", args, leash)?;
    words.extend(["--site".into(), site.to_string().into()]);
    Ok(words)
}

fn common(role: &str, args: &DemoArgs, leash: &Leash) -> anyhow::Result<Vec<OsString>> {
    let data = args.data.canonicalize().with_context(|| args.data.display().to_string())?;
    let mut words: Vec<OsString> = vec![role.into(), "--data".into(), data.into()];
    words.extend(["--leash".into(), leash.path().into()]);
    words.extend(["--seed".into(), args.seed.to_string().into()]);
    Ok(words)
}

/// This program with these words, as one command of a shell.
pub(super) fn shell(words: Vec<OsString>) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("cannot find this program's own file")?.into_os_string();
    let mut command = Vec::with_capacity(words.len() + 1);
    for word in std::iter::once(program).chain(words) {
        let word = word.to_str().context("paths must be UTF-8 to pass through a shell command")?;
        command.push(shell_word(word));
    }
    Ok(command.join(" "))
}
