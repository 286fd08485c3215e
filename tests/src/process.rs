//! Processes by their id: what a test tells them, and how they are.

use std::{fs, process::Command};

/// Sends a signal, `STOP` for instance.
///
/// # Panics
/// Where there is no such process.
pub fn tell(id: u32, signal: &str) {
    let told = Command::new("kill").arg(format!("-{signal}")).arg(id.to_string()).status();
    assert!(told.expect("kill runs").success(), "process {id} can be told");
}

/// Whether a process was stopped (SIGSTOP) and does not go on yet; false where there is none.
#[must_use]
pub fn is_stopped(id: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // `id (name) state …`; the name may hold anything.
    status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}
