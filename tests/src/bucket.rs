//! An S3-compatible server for one test, from a Python package.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Options, PATIENCE};

const VARIABLE: &str = "FEDBASIN_TEST_S3_SERVER";
const NAME: &str = "fedbasin";

/// A running server with an empty bucket; ended when dropped.
#[derive(Debug)]
pub struct Bucket {
    server: Child,
    address: SocketAddr,
    agent: ureq::Agent,
    _log: tempfile::TempDir,
}

impl Bucket {
    /// Starts one.
    ///
    /// # Panics
    /// Where `FEDBASIN_TEST_S3_SERVER` names no program, or it does not answer: a test that needs a bucket must not pass without.
    #[must_use]
    pub fn start() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "how tests/run hands over the program that it installed"
        )]
        let program = std::env::var(VARIABLE).unwrap_or_else(|_| {
            panic!("{VARIABLE} is not set: run `tests/run tests`, which installs one, or name a moto_server")
        });
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log_path = folder.path().join("s3.log");
        // Free a moment ago; the server says so in its log where another took it meanwhile.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let address = address.expect("a free port");
        let server = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log_path).expect("a log file"))
            .spawn();
        let server = server.unwrap_or_else(|error| panic!("{program}: {error}"));
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        let mut bucket = Self { server, address, agent: agent.build().into(), _log: folder };
        let log = || fs::read_to_string(&log_path).unwrap_or_default();
        assert!(bucket.answers(), "{program} does not answer: {}", log());
        bucket.put("", &[]);
        bucket
    }

    /// Options of a server that keeps its bytes here.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options_under("all")
    }

    /// The same with a prefix of its own, so that one bucket serves many.
    #[must_use]
    pub fn options_under(&self, prefix: &str) -> Options {
        let given =
            [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")];
        Options {
            config: format!(
                "[objects]\nurl = \"s3://{NAME}/{prefix}\"\nendpoint = \"http://{}\"\n",
                self.address
            ),
            environment: given.map(|(name, value)| (name, value.to_owned())).to_vec(),
            ..Options::default()
        }
    }

    /// An object's bytes, by plain HTTP; nothing where there is none of that name.
    ///
    /// # Panics
    /// Where the S3 server does not answer, or otherwise.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let mut answer = self.agent.get(self.url(name)).call().expect("an answer");
        match answer.status().as_u16() {
            200 => Some(answer.body_mut().with_config().limit(1 << 30).read_to_vec().expect("an object")),
            404 => None,
            status => panic!("{name}: {status}"),
        }
    }

    /// Stores an object, by plain HTTP.
    ///
    /// # Panics
    /// Where the S3 server does not take it.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let request = self.agent.put(self.url(name)).header("content-type", "application/octet-stream");
        let status = request.send(bytes).expect("an answer").status();
        assert!(status.is_success(), "{name}: {status}");
    }

    /// Removes an object, by plain HTTP.
    ///
    /// # Panics
    /// Where the S3 server does not.
    pub fn delete(&self, name: &str) {
        let status = self.agent.delete(self.url(name)).call().expect("an answer").status();
        assert!(status.is_success(), "{name}: {status}");
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{NAME}/{name}", self.address)
    }

    fn answers(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if TcpStream::connect(self.address).is_ok() {
                return true;
            }
            if !matches!(self.server.try_wait(), Ok(None)) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
