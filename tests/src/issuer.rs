//! An identity provider for one test: publishes keys, signs tokens, and misbehaves on demand.

mod desk;
mod key;

use std::{
    collections::HashMap,
    fmt, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use serde_json::{Value, json};

pub use desk::Desk;
use desk::{AUTHORIZE, Reply, TOKEN};
pub use key::IssuerKey;

use crate::PATIENCE;

const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/keys";

/// Seconds since 1970, as tokens say times.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "an issuer has a clock of its own")]
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the end of time")
}

/// A running identity provider; ended when dropped.
#[derive(Debug)]
pub struct Issuer {
    /// What it calls itself.
    pub url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Its certificate, where it speaks TLS.
    pub ca_file: Option<PathBuf>,
    _folder: tempfile::TempDir,
}

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<HashMap<String, Said>>,
    /// Where persons sign in, if they can.
    desk: Mutex<Option<Desk>>,
    discoveries: AtomicUsize,
    ended: AtomicBool,
}

/// What it says to who asks for a path.
#[derive(Clone)]
enum Said {
    Json(Value),
    /// As it stands on the wire, head and all.
    Raw(Vec<u8>),
    /// A body without an end.
    Endless,
    /// Nothing, while the line stays open.
    Silence,
    /// The line is cut.
    Nothing,
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Said")
    }
}

impl Shared {
    fn answers(&self) -> MutexGuard<'_, HashMap<String, Said>> {
        self.answers.lock().expect("no test panics in it")
    }

    fn desk(&self) -> MutexGuard<'_, Option<Desk>> {
        self.desk.lock().expect("no test panics in it")
    }
}

impl Issuer {
    /// One that speaks clear text on this machine and publishes no key yet.
    ///
    /// # Panics
    /// Where there is no free port.
    #[must_use]
    pub fn start() -> Self {
        Self::begin(None)
    }

    /// One that speaks TLS as `localhost`, with a certificate that only `ca_file` vouches for.
    ///
    /// # Panics
    /// Where there is no free port.
    #[must_use]
    pub fn start_tls() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a certificate and its key");
        Self::begin(Some((Arc::new(config), made.cert.pem())))
    }

    fn begin(tls: Option<(Arc<ServerConfig>, String)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shared = Arc::new(Shared::default());
        let (url, ca_file, config) = match tls {
            None => (format!("http://{address}/realm"), None, None),
            Some((config, pem)) => {
                let file = folder.path().join("ca.pem");
                fs::write(&file, pem).expect("a file");
                (format!("https://localhost:{}/realm", address.port()), Some(file), Some(config))
            }
        };
        std::thread::spawn({
            let shared = shared.clone();
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if shared.ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let (shared, config) = (shared.clone(), config.clone());
                    std::thread::spawn(move || {
                        // Who asks may hang up at any time.
                        let _ = match config {
                            None => answer(&shared, stream),
                            Some(config) => ServerConnection::new(config)
                                .map_err(std::io::Error::other)
                                .and_then(|connection| answer(&shared, StreamOwned::new(connection, stream))),
                        };
                    });
                }
            }
        });
        let issuer = Self { url, address, shared, ca_file, _folder: folder };
        issuer.describe(&json!({ "issuer": issuer.url, "jwks_uri": issuer.at(KEYS) }));
        issuer.publish(&[]);
        issuer
    }

    /// The address of one of its pages.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url.trim_end_matches("/realm"))
    }

    /// `[oidc]` of a server that trusts it; `more` are further lines.
    #[must_use]
    pub fn settings(&self, more: &str) -> String {
        format!(
            "[oidc]\nissuer = {:?}\naudience = \"fedbasin\"\nroles_claim = [\"realm_access\", \"roles\"]\n{more}\n\
             [oidc.roles]\nsee = \"viewer\"\nrun = \"operator\"\nall = \"admin\"\n",
            self.url
        )
    }

    /// Claims that open everything to the holder of these roles for five minutes.
    #[must_use]
    pub fn claims(&self, roles: &[&str]) -> Value {
        json!({
            "iss": self.url, "aud": "fedbasin", "sub": "8f14e45f", "exp": now() + 300, "iat": now(),
            "realm_access": { "roles": roles },
        })
    }

    /// Publishes these keys from now on, and no others.
    pub fn publish(&self, keys: &[Value]) {
        self.says(KEYS, Said::Json(json!({ "keys": keys })));
    }

    /// Describes itself so from now on.
    pub fn describe(&self, discovery: &Value) {
        self.says(&format!("/realm{DISCOVERY}"), Said::Json(discovery.clone()));
    }

    /// Answers with this where its keys are asked for: all of it, head and body.
    pub fn answers_for_keys(&self, text: &[u8]) {
        self.says(KEYS, Said::Raw(text.to_vec()));
    }

    /// Answers with a body without an end where its keys are asked for.
    pub fn never_ends(&self) {
        self.says(KEYS, Said::Endless);
    }

    /// Takes calls and says nothing.
    pub fn falls_silent(&self) {
        self.says(&format!("/realm{DISCOVERY}"), Said::Silence);
    }

    /// Cuts every line.
    pub fn goes_away(&self) {
        self.says(&format!("/realm{DISCOVERY}"), Said::Nothing);
    }

    /// Is what it was at first.
    pub fn comes_back(&self) {
        self.describe(&json!({ "issuer": self.url, "jwks_uri": self.at(KEYS) }));
    }

    /// Signs persons in from now on, at an address that browsers take for another site's.
    pub fn opens(&self, desk: Desk) {
        *self.shared.desk() = Some(desk);
        let elsewhere = self.at(AUTHORIZE).replace("127.0.0.1", "localhost");
        self.describe(&json!({
            "issuer": self.url, "jwks_uri": self.at(KEYS),
            "authorization_endpoint": elsewhere, "token_endpoint": self.at(TOKEN),
        }));
    }

    /// Changes something about how it signs persons in.
    ///
    /// # Panics
    /// Where it signs nobody in.
    pub fn at_its_desk(&self, change: impl FnOnce(&mut Desk)) {
        change(self.shared.desk().as_mut().expect("it is open"));
    }

    /// How often somebody asked for its description, whatever the answer was.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.shared.discoveries.load(Ordering::SeqCst)
    }

    fn says(&self, path: &str, said: Said) {
        self.shared.answers().insert(path.to_owned(), said);
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes who listens.
        let _ = TcpStream::connect(self.address);
    }
}

/// Reads one request and answers it.
fn answer(shared: &Shared, mut stream: impl Read + Write) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    if path.starts_with(AUTHORIZE) || path == TOKEN {
        let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let reply = match shared.desk().as_mut() {
            Some(desk) if path == TOKEN => {
                desk.token(header(&head, "authorization"), &String::from_utf8_lossy(&body))
            }
            Some(desk) => desk.page(&path),
            None => Reply::missing(),
        };
        stream.write_all(reply.text().as_bytes())?;
        return stream.flush();
    }
    if path.ends_with(DISCOVERY) {
        shared.discoveries.fetch_add(1, Ordering::SeqCst);
    }
    let said = shared.answers().get(&path).cloned();
    match said {
        None => {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
        }
        Some(Said::Json(value)) => {
            let text = value.to_string();
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length";
            stream.write_all(format!("{head}: {}\r\n\r\n{text}", text.len()).as_bytes())?;
        }
        Some(Said::Raw(text)) => stream.write_all(&text)?,
        Some(Said::Endless) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"keys\": [")?;
            while !shared.ended.load(Ordering::SeqCst) {
                stream.write_all(&[b' '; 4096])?;
            }
        }
        Some(Said::Silence) => {
            let begun = std::time::Instant::now();
            while !shared.ended.load(Ordering::SeqCst) && begun.elapsed() < PATIENCE {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        Some(Said::Nothing) => return Ok(()),
    }
    stream.flush()
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
