//! Named points where a test ends a site's process, as a power cut would. Compiled in under the feature `failpoints` only; without it
//! `failpoint!` is nothing.

/// Ends the process here where `FEDBASIN_FAILPOINT` names this point.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reached($name);
    };
}

/// All points, in the order in which a site comes to them.
#[cfg(feature = "failpoints")]
pub const POINTS: &[&str] = &[
    // a checkpoint arrives: a round's reference, or the last model
    "fetch.received",
    "fetch.verified",
    "fetch.renamed",
    // a round is trained
    "train.ended",
    "train.kept",
    "train.recorded",
    // what was trained is sent
    "send.begun",
    "send.noted",
    "send.chunk",
    "send.all",
    "send.receipt",
    "send.recorded",
    // a file that is whole or not there has its bytes, and not its name yet
    "site.written",
    // the run is over
    "site.ended",
];

/// `FEDBASIN_FAILPOINT=NAME` ends the process when it first comes to that point, `NAME:N` the n-th time.
#[cfg(feature = "failpoints")]
pub(crate) fn reached(name: &'static str) {
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};
    static TIMES: AtomicU32 = AtomicU32::new(0);
    assert!(POINTS.contains(&name), "{name} is not in the list of points");
    #[expect(clippy::disallowed_methods, reason = "no setting: it is not there in a client that is used")]
    let Ok(wanted) = std::env::var("FEDBASIN_FAILPOINT") else { return };
    let (point, time) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if point == name && TIMES.fetch_add(1, Ordering::Relaxed) + 1 == time.parse().unwrap_or(1) {
        // SIGKILL: nothing is flushed, dropped or said.
        let _ = kill_process(getpid(), Signal::KILL);
        // The signal may reach another thread first.
        loop {
            std::thread::park();
        }
    }
}
