//! Named points where a test ends the process, as a power cut would, or stops it. Compiled in under the feature `failpoints` only; without it
//! `failpoint!` is nothing.

/// Ends or stops the process here where `FEDBASIN_FAILPOINT` names this point.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reached($name);
    };
}

/// Lets the disk fail here, as [`failpoint::disk_fails`](crate::failpoint::disk_fails) says: gives an `io::Result<()>`.
macro_rules! disk {
    ($action:literal, $path:expr) => {{
        #[cfg(feature = "failpoints")]
        let outcome = $crate::failpoint::disk_fails($action, $path);
        #[cfg(not(feature = "failpoints"))]
        let outcome = std::io::Result::Ok(());
        outcome
    }};
}

/// All points, in the order in which a round comes to them.
#[cfg(feature = "failpoints")]
pub const POINTS: &[&str] = &[
    // a run's rounds
    "round.locked",
    "round.opened",
    "round.closed",
    "round.run-ended",
    "round.committed",
    // an update arrives
    "upload.announced",
    "upload.begun",
    "upload.appended",
    "upload.durable",
    "upload.acknowledged",
    "upload.sealed",
    "upload.wanted",
    "upload.linked",
    "upload.stored",
    "upload.wanted-still",
    "upload.layout-fixed",
    "upload.checkpoint-recorded",
    "upload.accepted",
    "upload.committed",
    "upload.discarded",
    // it is aligned
    "align.leased",
    "align.begun",
    "align.computed",
    "align.written",
    "align.committed",
    // the round is merged
    "merge.leased",
    "merge.begun",
    "merge.opened",
    "merge.written",
    "merge.sealed",
    // and published
    "publish.stored",
    "publish.released",
    "publish.checkpoint-recorded",
    "publish.saved",
    "publish.signed",
    "publish.committed",
    // the audit log says so
    "audit.held",
    "audit.appended",
    // what is left over is swept
    "sweep.upload-found",
    "sweep.upload-removed",
    "sweep.object-found",
    "sweep.object-removed",
    // what a run keeps no longer is removed
    "retire.marked",
    "retire.recorded",
    "retire.removed",
];

/// `FEDBASIN_FAILPOINT=NAME` ends the process when it first comes to that point, `NAME:N` the n-th time; `NAME:N:stop` lets it sleep
/// there (SIGSTOP) until somebody wakes it.
#[cfg(feature = "failpoints")]
pub(crate) fn reached(name: &'static str) {
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};
    static TIMES: AtomicU32 = AtomicU32::new(0);
    assert!(POINTS.contains(&name), "{name} is not in the list of points");
    #[expect(clippy::disallowed_methods, reason = "no setting: it is not there in a server that is used")]
    let Ok(wanted) = std::env::var("FEDBASIN_FAILPOINT") else { return };
    let mut parts = wanted.split(':');
    let (point, time, action) = (parts.next(), parts.next().unwrap_or("1"), parts.next());
    if point != Some(name) || TIMES.fetch_add(1, Ordering::Relaxed) + 1 != time.parse().unwrap_or(1) {
        return;
    }
    if action == Some("stop") {
        let _ = kill_process(getpid(), Signal::STOP);
        // The signal may reach another thread first: this one does nothing before it stops too.
        std::thread::sleep(std::time::Duration::from_millis(200));
        return;
    }
    // SIGKILL: nothing is flushed, dropped or said.
    let _ = kill_process(getpid(), Signal::KILL);
    // The signal may reach another thread first.
    loop {
        std::thread::park();
    }
}

/// `FEDBASIN_DISK_FAILS` names a file of a test's. While that is there and says `write NAME` or `sync NAME`, writing to files whose
/// names begin so finds the disk full, or making them durable finds it broken.
#[cfg(feature = "failpoints")]
pub(crate) fn disk_fails(action: &str, path: &std::path::Path) -> std::io::Result<()> {
    use std::io;
    #[expect(clippy::disallowed_methods, reason = "no setting: it is not there in a server that is used")]
    let Some(file) = std::env::var_os("FEDBASIN_DISK_FAILS") else { return Ok(()) };
    let Ok(wanted) = std::fs::read_to_string(file) else { return Ok(()) };
    let (wanted, name) = wanted.trim_end().split_once(' ').unwrap_or((&wanted, ""));
    let own = path.file_name().unwrap_or_default().to_string_lossy();
    match action {
        _ if wanted != action || !own.starts_with(name) => Ok(()),
        "write" => Err(io::Error::from(io::ErrorKind::StorageFull)),
        _ => Err(rustix::io::Errno::IO.into()),
    }
}
