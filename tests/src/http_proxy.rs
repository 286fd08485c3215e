//! Proxies in this process that understand what passes: one that a site's network has before it lets anything out (CONNECT), and one that
//! ends TLS before a server.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

/// What a [`HttpProxy`] does with who asks.
#[derive(Debug, Clone, Default)]
pub struct ProxyRules {
    /// The only names and ports that it knows, and where they are.
    pub ways: HashMap<String, String>,
    /// `user:password` that it wants to be told.
    pub credentials: Option<String>,
    /// It answers this to everybody.
    pub refuses: Option<u16>,
    /// It cuts a connection on which nothing passed for so long.
    pub idle: Option<Duration>,
}

/// An HTTP proxy that connects by CONNECT, and nothing else.
#[derive(Debug)]
pub struct HttpProxy {
    /// Where it listens, `127.0.0.1:PORT`.
    pub address: String,
    asked: Arc<Mutex<Vec<String>>>,
    accepting: AbortHandle,
}

impl HttpProxy {
    /// Starts one.
    ///
    /// # Panics
    /// Where it cannot listen.
    pub async fn start(rules: ProxyRules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (rules, seen) = (Arc::new(rules), Arc::clone(&asked));
        let accepting = tokio::spawn(async move {
            while let Ok((site, _)) = listener.accept().await {
                // Whoever breaks off is no failure of the proxy's.
                let (rules, seen) = (Arc::clone(&rules), Arc::clone(&seen));
                tokio::spawn(async move { tunnel(site, &rules, &seen).await });
            }
        });
        Self { address, asked, accepting: accepting.abort_handle() }
    }

    /// Each `host:port status` that was asked for, in order.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("what was asked").clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn tunnel(site: TcpStream, rules: &ProxyRules, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut site = BufReader::new(site);
    let (mut head, mut line) = (Vec::new(), String::new());
    while site.read_line(&mut line).await? > 2 {
        head.push(std::mem::take(&mut line).trim().to_owned());
    }
    let first: Vec<&str> = head.first().map(|line| line.split(' ').collect()).unwrap_or_default();
    let (target, status) = match first[..] {
        ["CONNECT", target, "HTTP/1.1"] => (target, rules.answer(target, &head)),
        _ => ("", 405),
    };
    let way = rules.ways.get(target);
    // Of a server that is away it tells as others do.
    let server = match way {
        Some(way) if status == 200 => TcpStream::connect(way).await.map_err(|_| 502),
        _ => Err(status),
    };
    let said = server.as_ref().map_or_else(|status| *status, |_| 200);
    seen.lock().expect("what was asked").push(format!("{target} {said}"));
    let more = if said == 407 { "Proxy-Authenticate: Basic realm=\"way out\"\r\n" } else { "" };
    site.write_all(format!("HTTP/1.1 {said} Said\r\n{more}\r\n").as_bytes()).await?;
    let Ok(server) = server else { return Ok(()) };
    let (site_in, site_out) = tokio::io::split(site);
    let (server_in, server_out) = server.into_split();
    // When one way ends, so does the other.
    tokio::select! {
        ended = pump(site_in, server_out, rules.idle) => ended,
        ended = pump(server_in, site_out, rules.idle) => ended,
    }
}

impl ProxyRules {
    fn answer(&self, target: &str, head: &[String]) -> u16 {
        let known = |credentials: &String| {
            let wanted = format!("Proxy-Authorization: Basic {}", STANDARD.encode(credentials));
            head.contains(&wanted)
        };
        match self.refuses {
            Some(status) => status,
            None if !self.credentials.as_ref().is_none_or(known) => 407,
            None if !self.ways.contains_key(target) => 403,
            None => 200,
        }
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    idle: Option<Duration>,
) -> std::io::Result<()> {
    let mut block = vec![0; 1 << 14];
    loop {
        let read = from.read(&mut block);
        let count = match idle {
            Some(idle) => tokio::time::timeout(idle, read).await??,
            None => read.await?,
        };
        if count == 0 {
            return Ok(());
        }
        to.write_all(&block[..count]).await?;
    }
}

/// A proxy that ends TLS before a server, and gives each call to the edge that it is for: HTTP/2 to sites' edge, all else to operators'.
#[derive(Debug)]
pub struct TlsProxy {
    /// Its port on this machine.
    pub port: u16,
    accepting: AbortHandle,
}

impl TlsProxy {
    /// Starts one with a certificate and its key (PEM files) before a server's two addresses.
    ///
    /// # Panics
    /// Where it cannot listen, or not with these files.
    pub async fn start((cert, key): (&Path, &Path), grpc: String, http: String) -> Self {
        let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key);
        let mut config = config.expect("a certificate of that key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let accepting = tokio::spawn(async move {
            while let Ok((peer, _)) = listener.accept().await {
                let (acceptor, grpc, http) = (acceptor.clone(), grpc.clone(), http.clone());
                tokio::spawn(async move {
                    let mut peer = acceptor.accept(peer).await?;
                    let is_h2 = peer.get_ref().1.alpn_protocol() == Some(b"h2");
                    let mut server = TcpStream::connect(if is_h2 { grpc } else { http }).await?;
                    tokio::io::copy_bidirectional(&mut peer, &mut server).await
                });
            }
        });
        Self { port, accepting: accepting.abort_handle() }
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
