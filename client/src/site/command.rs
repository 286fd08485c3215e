//! A command of the site's own: told by its environment what to do, and ended with everything it started.

use std::{
    ffi::OsString,
    path::{Path, absolute},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::process::{Child, Command};

use crate::{
    error::{Error, Result},
    files::read_error,
};

/// One call of a command.
pub(super) struct Call<'a> {
    /// For `sh -c`.
    pub(super) command: &'a str,
    /// What it is called in errors.
    pub(super) place: &'a str,
    /// Variables of its environment.
    pub(super) environment: &'a [(&'static str, OsString)],
    /// Whether standard output is for an answer that a program reads.
    pub(super) for_a_program: bool,
}

/// A path for the environment of a command that may go to another folder.
///
/// # Errors
/// The present folder is not known.
pub(super) fn full(path: &Path) -> Result<OsString> {
    absolute(path).map(OsString::from).map_err(|error| read_error(path, &error))
}

impl Call<'_> {
    /// Runs the command to its end. Its output goes where our lines go. Dropping the future ends it and what it started.
    ///
    /// # Errors
    /// It cannot be started, or exits with something else than 0.
    pub(super) async fn run(&self) -> Result<()> {
        let mut command = Command::new("sh");
        // A group of its own, so that all of it can be ended.
        #[cfg(unix)]
        command.process_group(0);
        let child = command
            .arg("-c")
            .arg(self.command)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // It has no business with the server.
            .env_remove("FEDBASIN_TOKEN")
            .stdin(Stdio::null())
            .stdout(if self.for_a_program { Stdio::from(std::io::stderr()) } else { Stdio::inherit() })
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Error::failed(format_args!("cannot be started: {error}"), self.place, "is `sh` in PATH?")
            })?;
        let mut running = Running { child, over: false };
        let status = running.child.wait().await;
        running.over = true;
        let status = status.map_err(|error| {
            Error::failed(format_args!("cannot be waited for: {error}"), self.place, "start again")
        })?;
        if status.success() {
            return Ok(());
        }
        Err(Error::failed(
            format_args!("ended with {status}"),
            self.place,
            "see its output above, mend it, and start the same command again",
        ))
    }
}

/// A command that is ended with everything it started, unless it is over.
struct Running {
    child: Child,
    over: bool,
}

/// How long a command may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(2);

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.end();
        }
    }
}

impl Running {
    /// Asks the command's whole group to end (SIGTERM), waits for [`GRACE`], then ends it (SIGKILL).
    #[cfg(unix)]
    fn end(&mut self) {
        use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
        let group = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(group) = group else { return };
        // A group that is gone already is what we want.
        let _ = kill_process_group(group, Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < GRACE {
            // Reaps the shell: until then it counts as a member.
            let _ = self.child.try_wait();
            if test_kill_process_group(group).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = kill_process_group(group, Signal::KILL);
    }

    /// `kill_on_drop` ends the shell.
    #[cfg(not(unix))]
    fn end(&mut self) {}
}
