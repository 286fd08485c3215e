//! Specs from a network's graph, derived and verified in a process of their own.
//!
//! A graph is a stranger's program. It is read and run by this same executable, started anew with a memory and a processor limit, no
//! environment, and a clock that ends it; whatever it does there, the server only reads an answer.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use fedbasin_graph::{Graph, VerifyOptions, derive, verify};
use rebasin::{Digest, Hasher, Spec};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{io::AsyncReadExt as _, process::Command, sync::Semaphore};

use crate::{
    config::Limits,
    error::{Code, Error, Result},
};

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
#[cfg(test)]
mod tests;

/// The hidden subcommand.
pub(crate) const SUBCOMMAND: &str = "verify-graph";

/// An answer larger than this is none.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// What a graph came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// SHA-256 of the file.
    pub(crate) digest: Digest,
    /// The spec as derived.
    pub(crate) spec: Spec,
    /// How it was verified.
    pub(crate) certificate: Value,
    /// Each axis that stays, and why.
    pub(crate) pinned: Value,
}

/// What the other process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Verified(Box<Verified>),
    Refused(String),
}

/// Who derives and verifies: one graph at a time.
#[derive(Debug, Clone)]
pub(crate) struct Graphs {
    one_at_a_time: Arc<Semaphore>,
    memory: u64,
    seconds: u64,
}

impl Graphs {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            one_at_a_time: Arc::new(Semaphore::new(1)),
            memory: limits.max_graph_memory_bytes,
            seconds: limits.max_graph_seconds,
        }
    }

    /// Derives the spec of an ONNX file and verifies it.
    ///
    /// # Errors
    /// [`Code::InvalidGraph`] with the reason for a graph that is refused or does not come to an end within the limits.
    pub(crate) async fn verify(&self, file: &Path) -> Result<Verified> {
        let _turn = self.one_at_a_time.acquire().await.map_err(Error::internal)?;
        let digest = digest_of(file).await?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SUBCOMMAND)
            .arg(self.memory.to_string())
            .arg(self.seconds.to_string())
            .env_clear()
            .stdin(std::fs::File::open(file)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut output = child.stdout.take().ok_or_else(|| Error::internal("a child without an output"))?;
        let mut answer = Vec::new();
        let work = async {
            (&mut output).take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
            child.wait().await
        };
        let ended = tokio::time::timeout(Duration::from_secs(self.seconds), work).await;
        match ended {
            // Dropping the child ends it.
            Err(_) => refused(format!(
                "deriving and verifying it took longer than the {} s of limits.max_graph_seconds; export a smaller one, with few units \
                 a layer: the spec's form does not depend on them",
                self.seconds
            )),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(status)) if !status.success() => refused(format!(
                "deriving and verifying it ended with {status}; most likely it needs more than the {} bytes of \
                 limits.max_graph_memory_bytes",
                self.memory
            )),
            Ok(Ok(_)) => read_answer(&answer, &digest),
        }
    }
}

fn refused<T>(why: impl std::fmt::Display) -> Result<T> {
    Err(Error::new(Code::InvalidGraph, format!("graph: {why}")))
}

/// Read by parts: the file may be larger than what the server should hold.
async fn digest_of(file: &Path) -> Result<Digest> {
    let file = file.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let (mut file, mut hasher) = (std::fs::File::open(file)?, Hasher::new());
        let mut part = vec![0; 64 << 10];
        loop {
            match file.read(&mut part)? {
                0 => return Ok::<_, std::io::Error>(hasher.finish()),
                length => hasher.update(&part[..length]),
            }
        }
    });
    Ok(read.await.map_err(Error::internal)??)
}

/// What the other process said of the file of that digest. A stranger's graph may have taken it over: what it says is not believed of
/// another file, and its spec is read as any other.
fn read_answer(text: &[u8], digest: &Digest) -> Result<Verified> {
    let wrong =
        |why: &dyn std::fmt::Display| Err(Error::internal(format_args!("the verifier's answer: {why}")));
    match serde_json::from_slice(text) {
        Ok(Answer::Refused(why)) => refused(why),
        Ok(Answer::Verified(verified)) if verified.digest != *digest => wrong(&"is of another file"),
        Ok(Answer::Verified(verified)) => match Spec::from_json(&verified.spec.to_json()) {
            Ok(_) => Ok(*verified),
            Err(error) => wrong(&error),
        },
        Err(error) => wrong(&error),
    }
}

/// The other process: reads the file from standard input, answers on standard output.
pub(crate) fn child(memory: u64, seconds: u64) -> ExitCode {
    let outcome = confine(memory, seconds).and_then(|()| {
        let mut file = Vec::new();
        std::io::stdin().lock().read_to_end(&mut file)?;
        let text = serde_json::to_vec(&answer(&file)).map_err(std::io::Error::other)?;
        let mut out = std::io::stdout().lock();
        out.write_all(&text)?;
        out.flush()
    });
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn answer(file: &[u8]) -> Answer {
    let verified = || -> std::result::Result<Verified, String> {
        let graph = Graph::read(file).map_err(|error| error.to_string())?;
        let derived = derive(&graph).map_err(|error| error.to_string())?;
        let certificate =
            verify(&graph, &derived.spec, &VerifyOptions::default()).map_err(|error| error.to_string())?;
        let pinned = derived.pinned.iter().map(|pinned| {
            serde_json::json!({ "tensor": pinned.tensor, "axis": pinned.axis, "reason": pinned.reason })
        });
        Ok(Verified {
            digest: graph.digest(),
            certificate: serde_json::to_value(&certificate).map_err(|error| error.to_string())?,
            pinned: pinned.collect(),
            spec: derived.spec,
        })
    };
    match verified() {
        Ok(verified) => Answer::Verified(Box::new(verified)),
        Err(why) => Answer::Refused(why),
    }
}

/// No more memory, processor time, files or processes than deriving needs.
#[cfg(unix)]
fn confine(memory: u64, seconds: u64) -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::As, limit(memory))?;
    // The clock of the server counts; this is for when the server is gone. Every thread's time counts here.
    setrlimit(Resource::Cpu, limit(seconds.saturating_mul(64)))?;
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::Fsize, limit(0))?;
    // The server's own limit may be high.
    setrlimit(Resource::Nofile, limit(64))?;
    Ok(())
}

#[cfg(not(unix))]
fn confine(_: u64, _: u64) -> std::io::Result<()> {
    Ok(())
}
