//! Child processes that never outlive the demo.
//!
//! Each is ended by its handle when that is dropped: at the end, on an error, on Ctrl-C. If the demo itself is killed and
//! can drop nothing, the pipe to a child's standard input closes and the child's [`end_with_parent`] notices. A trainer,
//! which is a site's child and not ours, watches the [`Leash`] file for the same purpose.

use std::{
    ffi::OsStr,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

#[cfg(test)]
mod tests;

/// A running child of the demo; dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts this very program again with other arguments. Its standard error goes to `log`, and standard output too unless
    /// `piped`. Variables named `FEDBASIN_…` are not inherited: the demo is the same whatever the shell has set.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        log: &Path,
        piped: bool,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &OsStr)],
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let file = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stderr(file.try_clone()?);
        command.stdout(if piped { Stdio::piped() } else { Stdio::from(file) });
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("FEDBASIN_") {
                command.env_remove(variable);
            }
        }
        command.envs(environment.iter().copied());
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The child's standard output; `None` if it was not piped or already taken.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If it ended with anything but success; the message holds the end of its log.
    pub fn check(&mut self) -> anyhow::Result<bool> {
        match self.child.try_wait().with_context(|| format!("cannot ask after {}", self.name))? {
            None => Ok(true),
            Some(status) if status.success() => Ok(false),
            Some(status) => Err(self.failure(status)),
        }
    }

    /// Waits for its end with success, for `patience` at most, asking `go_on` meanwhile.
    ///
    /// # Errors
    /// As [`Process::check`]; patience is over; what `go_on` says.
    pub fn wait(
        &mut self,
        patience: Duration,
        go_on: &mut dyn FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.check()? {
            go_on()?;
            if begun.elapsed() > patience {
                bail!("{} did not end within {} s{}", self.name, patience.as_secs(), self.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn failure(&self, status: ExitStatus) -> anyhow::Error {
        anyhow::anyhow!("{} ended early ({status}){}", self.name, self.last_words())
    }

    /// The last lines of the log, for an error message.
    fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(3)..];
        let short: Vec<String> = last.iter().map(|line| line.chars().take(300).collect()).collect();
        if short.is_empty() { String::new() } else { format!("; its last words: {}", short.join(" | ")) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a child of the demo: ends this process, with its leash, when the demo is gone. Returns at once.
pub fn end_with_parent(leash: Option<PathBuf>) {
    std::thread::spawn(move || {
        let mut byte = [0; 1];
        // Nobody writes: this returns when the demo's end of the pipe closes.
        while matches!(std::io::stdin().read(&mut byte), Ok(count) if count > 0) {}
        if let Some(leash) = leash {
            let _ = std::fs::remove_file(leash);
        }
        std::process::exit(1);
    });
}

/// In a trainer: ends this process soon after its leash is gone. Returns at once.
pub fn end_without(leash: PathBuf) {
    std::thread::spawn(move || {
        while leash.exists() {
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("{} is gone: the demo has ended, and so does its trainer", leash.display());
        std::process::exit(1);
    });
}

/// A file that exists as long as trainers shall go on; removed when dropped.
#[derive(Debug)]
pub struct Leash(PathBuf);

impl Leash {
    /// Makes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(path: PathBuf) -> anyhow::Result<Self> {
        std::fs::write(&path, "trainers stop when this file is gone\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        // Its folder may be gone already; then trainers see that too.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Quotes one word for `sh -c`.
#[must_use]
pub fn shell_word(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
