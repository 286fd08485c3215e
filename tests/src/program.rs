//! A site as an operator would run it: the real program, with a shell script as trainer.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    Server,
    checkpoint::{Mlp, one_hot, one_hot_spec},
    client_binary, eventually,
};

/// Writes the checkpoint that lies beside it for this round; notes what it was given.
const TRAINER: &str = r#"
set -e
echo "round=$FEDBASIN_ROUND reference=$(basename "${FEDBASIN_REFERENCE:-none}") size=$( [ -z "$FEDBASIN_REFERENCE" ] || wc -c < "$FEDBASIN_REFERENCE" )" >> seen.txt
cp mine.safetensors "$FEDBASIN_OUTPUT"
printf '{"num_examples": %s, "loss": 0.25}' "$(cat num_examples)" > "$FEDBASIN_METRICS"
"#;

/// `fedbasin site run` of the run `pilot`, in a folder of its own; killed when dropped.
#[derive(Debug)]
pub struct SiteProgram {
    /// The process.
    pub child: Child,
    /// Where it runs: `log`, `seen.txt` (a line each training), the work folder `fedbasin-pilot`.
    pub folder: tempfile::TempDir,
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
        let folder = tempfile::Builder::new().prefix("fedbasin-site-").tempdir().expect("a folder");
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("a file");
        write("mine.safetensors", mine);
        write("spec.json", Mlp::spec().to_string().as_bytes());
        write("num_examples", num_examples.to_string().as_bytes());
        write("token", format!("{token}\n").as_bytes());
        write("train.sh", TRAINER.as_bytes());
        let child = spawn(folder.path(), grpc, more);
        Self { child, folder }
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

fn spawn(folder: &Path, grpc: &str, more: &[&str]) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log");
    Command::new(client_binary())
        .args(["site", "run", "--server", grpc, "--run", "pilot", "--token-file", "token"])
        .args(["--train", "sh train.sh"])
        .args(more)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
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
