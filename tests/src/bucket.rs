//! An S3-compatible server for one test, from a Python package.

use std::{
    fs,
    io::{Read as _, Write as _},
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
        let mut bucket = Self { server, address, _log: folder };
        let log = || fs::read_to_string(&log_path).unwrap_or_default();
        assert!(bucket.answers(), "{program} does not answer: {}", log());
        let made = bucket.ask("PUT", &format!("/{NAME}"));
        assert!(made.starts_with("HTTP/1.1 200"), "the bucket is not made: {made}; {}", log());
        bucket
    }

    /// Options of a server that keeps its bytes here.
    #[must_use]
    pub fn options(&self) -> Options {
        let given =
            [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")];
        Options {
            config: format!("[objects]\nurl = \"s3://{NAME}/all\"\nendpoint = \"http://{}\"\n", self.address),
            environment: given.map(|(name, value)| (name, value.to_owned())).to_vec(),
            ..Options::default()
        }
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

    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("the S3 server");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
