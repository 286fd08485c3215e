//! A site as an operator would run it: the real program, with a shell script as trainer.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    Server,
    checkpoint::{Mlp, one_hot, one_hot_spec},
    client_binary, eventually,
};

/// Writes the checkpoint that lies beside it, the round's own if there is one; notes what it was given.
const TRAINER: &str = r#"
set -e
echo "round=$FEDBASIN_ROUND reference=$(basename "${FEDBASIN_REFERENCE:-none}") size=$( [ -z "$FEDBASIN_REFERENCE" ] || wc -c < "$FEDBASIN_REFERENCE" )" >> seen.txt
mine=mine-$FEDBASIN_ROUND.safetensors
[ -e "$mine" ] || mine=mine.safetensors
cp "$mine" "$FEDBASIN_OUTPUT"
echo "what a trainer prints"
printf '{"num_examples": %s, "loss": 0.25}' "$(cat num_examples)" > "$FEDBASIN_METRICS"
"#;

/// `fedbasin site run` of the run `pilot`, in a folder of its own; killed when dropped.
#[derive(Debug)]
pub struct SiteProgram {
    /// The process.
    pub child: Child,
    /// Where it runs: `log`, with `--json` also `answer` (standard output), `seen.txt` (a line each training), the work folder `fedbasin-pilot`.
    pub folder: tempfile::TempDir,
    grpc: String,
    more: Vec<String>,
}

impl SiteProgram {
    /// The run of two sites, `a` and `b`, that they take part in.
    #[must_use]
    pub fn run(rounds: u32) -> Value {
        json!({
            "id": "pilot", "spec": one_hot_spec(), "strategy": "aligned", "cohort": ["a", "b"],
            "policy": { "rounds": rounds, "quorum": 2, "deadline_seconds": 600 },
        })
    }

    /// Starts an enrolled site whose checkpoint is the one-hot tensor `i` of two.
    ///
    /// # Panics
    /// Where the program does not start.
    #[must_use]
    pub fn start(server: &Server, token: &str, i: usize, num_examples: u64) -> Self {
        Self::start_with(&server.grpc, token, &one_hot(i, 2), num_examples, &[])
    }

    /// The same at another address, with another checkpoint and more arguments.
    ///
    /// # Panics
    /// Where the program does not start.
    #[must_use]
    pub fn start_with(grpc: &str, token: &str, mine: &[u8], num_examples: u64, more: &[&str]) -> Self {
        let more = more.iter().map(ToString::to_string).collect();
        Self::begin(grpc, token, &[("mine.safetensors".to_owned(), mine)], num_examples, more, None)
    }

    /// The same with a checkpoint for each round, from the first one on, and a point where it ends itself (`FEDBASIN_FAILPOINT`).
    ///
    /// # Panics
    /// Where the program does not start.
    #[must_use]
    pub fn start_until(
        grpc: &str,
        token: &str,
        mine: &[Vec<u8>],
        num_examples: u64,
        failpoint: Option<&str>,
    ) -> Self {
        let mut files = Vec::new();
        for (index, bytes) in mine.iter().enumerate() {
            files.push((format!("mine-{}.safetensors", index + 1), bytes.as_slice()));
        }
        Self::begin(grpc, token, &files, num_examples, Vec::new(), failpoint)
    }

    fn begin(
        grpc: &str,
        token: &str,
        mine: &[(String, &[u8])],
        num_examples: u64,
        more: Vec<String>,
        failpoint: Option<&str>,
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("fedbasin-site-").tempdir().expect("a folder");
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("a file");
        for (name, bytes) in mine {
            write(name, bytes);
        }
        write("spec.json", Mlp::spec().to_string().as_bytes());
        write("num_examples", num_examples.to_string().as_bytes());
        write("token", format!("{token}\n").as_bytes());
        write("train.sh", TRAINER.as_bytes());
        let child = spawn(folder.path(), grpc, &more, failpoint);
        Self { child, folder, grpc: grpc.to_owned(), more }
    }

    /// Whether its process was ended by SIGKILL, so that it can be started again.
    ///
    /// # Panics
    /// Where the system does not say.
    #[must_use]
    pub fn was_killed(&mut self) -> bool {
        let status = self.child.try_wait().expect("its status");
        status.is_some_and(|status| status.signal() == Some(9))
    }

    /// Starts the same command again, without a point where it ends.
    ///
    /// # Panics
    /// Where the program does not start.
    pub fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), &self.grpc, &self.more, None);
    }

    /// A file of its folder; empty where there is none.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(Path::join(self.folder.path(), name)).unwrap_or_default()
    }

    /// Waits for its end and returns its exit code.
    ///
    /// # Panics
    /// Where it does not end in time, with its log.
    pub async fn ends(&mut self) -> Option<i32> {
        eventually("the site ends", || self.child.try_wait().expect("its status")).await.code()
    }
}

fn spawn(folder: &Path, grpc: &str, more: &[String], failpoint: Option<&str>) -> Child {
    let file = |name: &str| {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join(name))
            .expect("a file for what it says")
    };
    Command::new(client_binary())
        .args(["site", "run", "--server", grpc, "--run", "pilot", "--token-file", "token"])
        .args(["--train", "sh train.sh"])
        .args(more)
        .envs(failpoint.map(|point| ("FEDBASIN_FAILPOINT", point)))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(file(if more.iter().any(|argument| argument == "--json") { "answer" } else { "log" }))
        .stderr(file("log"))
        .spawn()
        .expect("the client's program starts")
}

impl Drop for SiteProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- a site's log ----\n{}", self.read("log"));
        }
    }
}
