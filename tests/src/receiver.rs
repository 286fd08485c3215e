//! A receiver of webhooks for one test: keeps what it is told, and answers what the test wants.

use std::{
    collections::{HashMap, VecDeque},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;
use serde_json::Value;

use crate::{PATIENCE, eventually};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Told {
    /// `POST /path`.
    pub line: String,
    /// Headers, their names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Told {
    /// A header's value, empty where it is absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Whether it is signed with a secret (`whsec_…`), as Standard Webhooks has it.
    ///
    /// # Panics
    /// Where the secret is none.
    #[must_use]
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let bytes = STANDARD.decode(secret.strip_prefix("whsec_").expect("a prefix")).expect("base64");
        let (id, time) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let signed = [format!("{id}.{time}.").as_bytes(), &self.body].concat();
        let signature = self.header("webhook-signature").strip_prefix("v1,").unwrap_or_default();
        let Ok(tag) = STANDARD.decode(signature) else { return false };
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), &signed, &tag).is_ok()
    }
}

/// A running receiver; ended when dropped.
#[derive(Debug)]
pub struct Receiver {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    told: Mutex<Vec<Told>>,
    /// What it answers next; 200 once that is empty.
    answers: Mutex<VecDeque<u16>>,
    ended: AtomicBool,
}

impl Receiver {
    /// One that takes everything.
    ///
    /// # Panics
    /// Where there is no free port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let shared = Arc::new(Shared::default());
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if shared.ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    // Who calls may hang up at any time.
                    std::thread::spawn(move || _ = answer(&shared, stream));
                }
            }
        });
        Self { url, shared }
    }

    /// Answers these statuses first, one a request.
    ///
    /// # Panics
    /// Never: no test panics while it holds the answers.
    pub fn answer_first(&self, statuses: impl IntoIterator<Item = u16>) {
        self.shared.answers.lock().expect("no test panics in it").extend(statuses);
    }

    /// All that it was told so far.
    ///
    /// # Panics
    /// Never: no test panics while it holds them.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        self.shared.told.lock().expect("no test panics in it").clone()
    }

    /// Waits until it was told so often, and gives all.
    pub async fn was_told(&self, times: usize) -> Vec<Told> {
        eventually(&format!("{times} requests came"), || Some(self.told()).filter(|told| told.len() >= times))
            .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the loop.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

fn answer(shared: &Shared, stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut headers = HashMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let status = shared.answers.lock().expect("no test panics in it").pop_front().unwrap_or(200);
        let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
        shared.told.lock().expect("no test panics in it").push(Told { line, headers, body });
        let more = if (300..400).contains(&status) { "location: /elsewhere\r\n" } else { "" };
        let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n{more}\r\n");
        reader.get_mut().write_all(head.as_bytes())?;
    }
}
