//! Class: identity. Certificates, tokens and connections that are nobody's, somebody else's, or not any more.

use fedbasin_proto::v1;
use fedbasin_server::{auth, model::Role};
use fedbasin_tests::{Database, Server, chunks, digest, on_both_databases};
use rustls::{
    SupportedProtocolVersion,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    certificates::{Authority, Kind, Shown},
    corpus::{Answer, Case, Ground, Tried, case, good, of_kind},
    wire::{Call, address, ask, say},
};

on_both_databases!(who_is_not_who_it_says_opens_nothing);

pub(crate) async fn who_is_not_who_it_says_opens_nothing(database: Database) -> Vec<Tried> {
    let authority = Authority::new();
    let strict = Server::start_with(Database::sqlite(), authority.options(true));
    let _ = strict.admin().trusting(&authority.pem()).enrol("x");
    let server = Server::start_with(database, authority.options(false));
    let admin = server.admin().trusting(&authority.pem());
    let site = |id: &str| {
        let token = admin.enrol(id);
        fedbasin_tests::Site::new(id, "http://127.0.0.1:1", &token).trusting(&server.grpc, &authority.pem())
    };
    let (h, x) = (site("h"), site("x"));
    let tokens = Tokens::of(&server, &admin, &x.token, &h.token).await;
    let ground = Ground::with(server, admin, h, x).await;
    let world = World { authority, strict, tokens };
    ground.try_all(cases(), async |ground, how| world.answer(ground, how).await).await
}

pub(crate) fn names() -> Vec<&'static str> {
    crate::corpus::names(cases())
}

/// What is there besides the ground.
struct World {
    authority: Authority,
    /// A server that wants a certificate of every site.
    strict: Server,
    tokens: Tokens,
}

/// Tokens of all kinds.
struct Tokens {
    right: String,
    of_h: String,
    expired: String,
    revoked: String,
    admin: String,
    viewer: String,
    id: String,
}

impl Tokens {
    async fn of(server: &Server, admin: &fedbasin_tests::Admin, right: &str, of_h: &str) -> Self {
        let text = |answer: &serde_json::Value, name: &str| answer[name].as_str().expect("a text").to_owned();
        let made = |path: &str, body: &serde_json::Value| admin.post(path, body).json();
        let expired = made("/v1/sites/x/tokens", &json!({}));
        let mut rows = server.rows().await;
        let ended =
            sqlx::query("UPDATE tokens SET expires_at_ms = 1 WHERE id = $1").bind(text(&expired, "id"));
        assert_eq!(ended.execute(&mut rows).await.expect("a row").rows_affected(), 1);
        let revoked = made("/v1/sites/x/tokens", &json!({}));
        let id = text(&revoked, "id");
        assert_eq!(admin.post(&format!("/v1/tokens/{id}/revoke"), &json!({})).status, 200);
        let viewer = made("/v1/tokens", &json!({ "role": Role::Viewer.name() }));
        Self {
            right: right.into(),
            of_h: of_h.into(),
            expired: text(&expired, "token"),
            revoked: text(&revoked, "token"),
            admin: server.admin_token(),
            viewer: text(&viewer, "token"),
            id: text(&viewer, "id"),
        }
    }
}

/// Which edge a case knocks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// gRPC, where a certificate or a token will do.
    Grpc,
    /// gRPC, where a certificate is wanted.
    Strict,
    /// HTTP.
    Http,
}

enum How {
    /// An rpc at an edge with a certificate, a token, or both.
    Shows(Edge, Option<Certificate>, fn(&Tokens) -> Option<String>),
    /// The same without a certificate, with any header.
    Says(fn(&Tokens) -> Vec<(&'static str, String)>),
    /// A GET of the admin API with this header.
    Asks(fn(&Tokens) -> Vec<(&'static str, String)>),
    /// Another version of TLS, or another protocol within it.
    Speaks(Edge, &'static SupportedProtocolVersion, &'static [&'static [u8]]),
    /// Clear text where TLS is spoken.
    Clear(Edge, &'static [u8]),
    /// A site's rpc about another site's update.
    Touches(fn(&str) -> Call),
}

/// What a caller shows.
#[derive(Clone, Copy)]
enum Certificate {
    Of(&'static str, Kind),
    Own(&'static str),
}

impl World {
    async fn answer(&self, ground: &Ground, how: &How) -> Answer {
        let list = || Call::new("ListRuns", vec![0; 5]);
        match how {
            How::Shows(edge, certificate, token) => {
                let shown = certificate.map(|certificate| match certificate {
                    Certificate::Of(site, kind) => self.authority.make(site, kind),
                    Certificate::Own(name) => self.authority.own(name),
                });
                let call = match token(&self.tokens) {
                    Some(token) => list().bearer(&token),
                    None => list(),
                };
                self.call(ground, *edge, shown.as_ref(), &TLS13, &[b"h2"], call).await
            }
            How::Says(headers) => {
                let call = headers(&self.tokens)
                    .into_iter()
                    .fold(list(), |call, (name, value)| call.header(name, value));
                self.call(ground, Edge::Grpc, None, &TLS13, &[b"h2"], call).await
            }
            How::Asks(headers) => {
                let headers = headers(&self.tokens);
                let headers: Vec<(&str, &str)> =
                    headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                match ground.admin.with_token(None).try_request("GET", "/v1/runs", &headers, &[]) {
                    Ok(answer) => answer.into(),
                    Err(error) => Answer::cut(error),
                }
            }
            How::Speaks(edge, version, alpn) => {
                let call = list().bearer(&self.tokens.right);
                self.call(ground, *edge, None, version, alpn, call).await
            }
            How::Clear(edge, bytes) => {
                let stream = TcpStream::connect(self.address(ground, *edge)).await.expect("a connection");
                say(stream, bytes).await
            }
            How::Touches(call) => {
                let theirs = ground.admin.round_site(&ground.run, 1, "h");
                let update = theirs["update_id"].as_str().expect("the honest site's update");
                let call = call(update).bearer(&self.tokens.right);
                self.call(ground, Edge::Grpc, None, &TLS13, &[b"h2"], call).await
            }
        }
    }

    fn address<'a>(&'a self, ground: &'a Ground, edge: Edge) -> &'a str {
        address(match edge {
            Edge::Grpc => &ground.server.grpc,
            Edge::Strict => &self.strict.grpc,
            Edge::Http => &ground.server.http,
        })
    }

    async fn call(
        &self,
        ground: &Ground,
        edge: Edge,
        shown: Option<&Shown>,
        version: &'static SupportedProtocolVersion,
        alpn: &[&[u8]],
        call: Call,
    ) -> Answer {
        let stream = TcpStream::connect(self.address(ground, edge)).await.expect("a connection");
        let connector = TlsConnector::from(self.authority.client(shown, version, alpn));
        match connector.connect(ServerName::try_from("localhost").expect("a name"), stream).await {
            Ok(stream) => ask(stream, call).await,
            Err(error) => Answer::cut(error),
        }
    }
}

fn cases() -> Vec<Case<How>> {
    let mut cases = of_kind("certificates", certificates());
    cases.extend(of_kind("certificates with tokens", both()));
    cases.extend(of_kind("tokens at gRPC", tokens()));
    cases.extend(of_kind("tokens at HTTP", operators()));
    cases.extend(of_kind("versions and protocols", lines()));
    cases.extend(of_kind("others' updates", others()));
    cases
}

/// Certificates alone.
fn certificates() -> Vec<Case<How>> {
    let shows = |name, site, kind, code| {
        case(name, How::Shows(Edge::Grpc, Some(Certificate::Of(site, kind)), |_| None), code, "")
    };
    let strict =
        |name, certificate, code| case(name, How::Shows(Edge::Strict, certificate, |_| None), code, "");
    vec![
        shows("its own certificate (all is well)", "x", Kind::Right, "taken"),
        shows("an expired certificate", "x", Kind::Expired, "cut"),
        shows("a certificate of a time to come", "x", Kind::NotYetValid, "cut"),
        shows("a certificate of another authority", "x", Kind::OfAnotherAuthority, "cut"),
        shows("a certificate that it signed itself", "x", Kind::SelfSigned, "cut"),
        shows("a certificate that another site signed", "x", Kind::OfASite, "cut"),
        shows("a certificate for servers", "x", Kind::ForServers, "cut"),
        shows("a certificate that names it in words only", "x", Kind::NameInWords, "unauthenticated"),
        shows("a certificate that names a host", "x", Kind::NameOfAHost, "unauthenticated"),
        shows("a certificate that names two sites", "x", Kind::TwoNames, "unauthenticated"),
        shows("a certificate of another domain", "x", Kind::AnotherDomain, "unauthenticated"),
        shows("a certificate that names nobody", "x", Kind::Named(""), "unauthenticated"),
        shows("a certificate that names a path to it", "x", Kind::Named("h/../x"), "unauthenticated"),
        shows("a certificate that names it in upper case", "x", Kind::Named("X"), "unauthenticated"),
        shows("a certificate that names it and a space", "x", Kind::Named("x%20"), "unauthenticated"),
        shows("a certificate that names SQL", "x", Kind::Named("x'--"), "unauthenticated"),
        shows("a certificate of a site that is not enrolled", "stranger", Kind::Right, "unauthenticated"),
        case(
            "the server's own certificate",
            How::Shows(Edge::Grpc, Some(Certificate::Own("server")), |_| None),
            "cut",
            "",
        ),
        case(
            "the authority's own certificate",
            How::Shows(Edge::Grpc, Some(Certificate::Own("authority")), |_| None),
            "cut",
            "",
        ),
        strict("where one is wanted: no certificate", None, "cut"),
        strict("where one is wanted: an expired one", Some(Certificate::Of("x", Kind::Expired)), "cut"),
        strict(
            "where one is wanted: another authority's",
            Some(Certificate::Of("x", Kind::OfAnotherAuthority)),
            "cut",
        ),
        strict(
            "where one is wanted: one of nobody",
            Some(Certificate::Of("x", Kind::NameInWords)),
            "unauthenticated",
        ),
        case(
            "where one is wanted: a token alone",
            How::Shows(Edge::Strict, None, |t| Some(t.right.clone())),
            "cut",
            "",
        ),
    ]
}

/// A certificate and a token.
fn both() -> Vec<Case<How>> {
    let both = |name, kind, token: fn(&Tokens) -> Option<String>, code| {
        case(name, How::Shows(Edge::Grpc, Some(Certificate::Of("x", kind)), token), code, "")
    };
    vec![
        both("its certificate and another site's token", Kind::Right, |t| Some(t.of_h.clone()), "forbidden"),
        both(
            "its certificate and an expired token",
            Kind::Right,
            |t| Some(t.expired.clone()),
            "unauthenticated",
        ),
        both(
            "its certificate and the admin's token",
            Kind::Right,
            |t| Some(t.admin.clone()),
            "unauthenticated",
        ),
        both("an expired certificate and its token", Kind::Expired, |t| Some(t.right.clone()), "cut"),
        both(
            "nobody's certificate and its token",
            Kind::NameInWords,
            |t| Some(t.right.clone()),
            "unauthenticated",
        ),
        both(
            "another site's certificate and its token",
            Kind::Named("h"),
            |t| Some(t.right.clone()),
            "forbidden",
        ),
    ]
}

/// Tokens alone, at the gRPC edge.
fn tokens() -> Vec<Case<How>> {
    let token = |name, token: fn(&Tokens) -> Option<String>| {
        case(name, How::Shows(Edge::Grpc, None, token), "unauthenticated", "")
    };
    let says = |name, headers: fn(&Tokens) -> Vec<(&'static str, String)>, code| {
        case(name, How::Says(headers), code, "")
    };
    /// The right token with one character changed.
    fn changed(token: &str, at: usize) -> String {
        let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        format!("{}{other}{}", &token[..at], &token[at + 1..])
    }
    vec![
        token("no token", |_| None),
        token("an empty token", |_| Some(String::new())),
        token("a word for a token", |_| Some("x".into())),
        token("an expired token", |t| Some(t.expired.clone())),
        token("a revoked token", |t| Some(t.revoked.clone())),
        token("a token without its last character", |t| Some(t.right[..t.right.len() - 1].into())),
        token("a token without its prefix", |t| Some(t.right[4..].into())),
        token("a token with a character changed", |t| Some(changed(&t.right, 10))),
        token("a token with its checksum changed", |t| Some(changed(&t.right, 50))),
        token("a token of another secret with a right checksum", |_| {
            Some(auth::new_token(auth::SITE_PREFIX).expect("randomness").expose().to_owned())
        }),
        token("a token with a character more", |t| Some(format!("{}A", t.right))),
        token("a token in upper case", |t| Some(t.right.to_uppercase())),
        token("a token in quotes", |t| Some(format!("\"{}\"", t.right))),
        token("a token's hash for it", |t| Some(auth::hash(&t.right))),
        token("a token's id for it", |t| Some(t.id.clone())),
        token("the admin's token", |t| Some(t.admin.clone())),
        token("a viewer's token", |t| Some(t.viewer.clone())),
        token("a site's token as a person's", |t| Some(t.right.replacen("fbs_", "fba_", 1))),
        token("a signed token of no algorithm", |_| Some("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.".into())),
        token("a site's name for its token", |_| Some("x".repeat(512))),
        token("SQL for a token", |_| Some("' OR '1'='1".into())),
        token("a token of 600 characters", |_| Some("f".repeat(600))),
        says(
            "a name and a word",
            |t| vec![("authorization", format!("Basic {}", t.right))],
            "unauthenticated",
        ),
        says(
            "a token without a word before it",
            |t| vec![("authorization", t.right.clone())],
            "unauthenticated",
        ),
        says(
            "a token in a header of its own",
            |t| vec![("x-api-key", t.right.clone()), ("token", t.right.clone())],
            "unauthenticated",
        ),
        says(
            "a token in a cookie",
            |t| vec![("cookie", format!("authorization=Bearer {}", t.right))],
            "unauthenticated",
        ),
        says(
            "a site named in a header",
            |_| vec![("x-site", "x".into()), ("site", "x".into())],
            "unauthenticated",
        ),
        says(
            "a forwarded certificate",
            |_| vec![("x-forwarded-client-cert", "URI=spiffe://fedbasin/site/x".into())],
            "unauthenticated",
        ),
        says(
            "a wrong token before the right one",
            |t| vec![("authorization", "Bearer x".into()), ("authorization", format!("Bearer {}", t.right))],
            "unauthenticated",
        ),
        says(
            "the right token before a wrong one",
            |t| vec![("authorization", format!("Bearer {}", t.right)), ("authorization", "Bearer x".into())],
            "unauthenticated",
        ),
        says(
            "two tokens in one header",
            |t| vec![("authorization", format!("Bearer x, Bearer {}", t.right))],
            "unauthenticated",
        ),
    ]
}

/// Tokens at the HTTP edge.
fn operators() -> Vec<Case<How>> {
    let asks = |name, headers: fn(&Tokens) -> Vec<(&'static str, String)>| {
        case(name, How::Asks(headers), "unauthenticated", "")
    };
    vec![
        asks("HTTP: no token", |_| Vec::new()),
        asks("HTTP: a site's token", |t| vec![("authorization", format!("Bearer {}", t.right))]),
        asks("HTTP: the admin's token without its last character", |t| {
            vec![("authorization", format!("Bearer {}", &t.admin[..t.admin.len() - 1]))]
        }),
        asks("HTTP: the admin token's hash", |t| {
            vec![("authorization", format!("Bearer {}", auth::hash(&t.admin)))]
        }),
        asks("HTTP: a viewer's token as a site's", |t| {
            vec![("authorization", format!("Bearer {}", t.viewer.replacen("fba_", "fbs_", 1)))]
        }),
        asks("HTTP: a person's token of another secret", |_| {
            let token = auth::new_token(auth::ADMIN_PREFIX).expect("randomness");
            vec![("authorization", format!("Bearer {}", token.expose()))]
        }),
        asks("HTTP: two tokens", |t| {
            vec![("authorization", format!("Bearer {}", t.admin)), ("authorization", "Bearer x".into())]
        }),
        asks("HTTP: the admin's token for a proxy", |t| {
            vec![("proxy-authorization", format!("Bearer {}", t.admin))]
        }),
    ]
}

/// What is below calls.
fn lines() -> Vec<Case<How>> {
    vec![
        case("TLS 1.2", How::Speaks(Edge::Grpc, &TLS12, &[b"h2"]), "cut", ""),
        case("TLS 1.2 at the HTTP edge", How::Speaks(Edge::Http, &TLS12, &[b"h2"]), "cut", ""),
        case(
            "HTTP/1.1 agreed upon at the gRPC edge",
            How::Speaks(Edge::Grpc, &TLS13, &[b"http/1.1"]),
            "cut",
            "",
        ),
        case("a protocol that there is not", How::Speaks(Edge::Http, &TLS13, &[b"spdy/3"]), "cut", ""),
        case(
            "clear HTTP/2 at the gRPC edge",
            How::Clear(Edge::Grpc, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
            "cut",
            "",
        ),
        case(
            "clear HTTP/1.1 at the gRPC edge",
            How::Clear(Edge::Grpc, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
            "cut",
            "",
        ),
        case(
            "clear HTTP/1.1 at the HTTP edge",
            How::Clear(Edge::Http, b"GET /v1/runs HTTP/1.1\r\nhost: x\r\n\r\n"),
            "cut",
            "",
        ),
        case(
            "a greeting of TLS that is none",
            How::Clear(Edge::Grpc, &[0x16, 3, 1, 0, 4, 1, 0, 0, 0, 0, 0, 0]),
            "cut",
            "",
        ),
    ]
}

/// What is another site's.
fn others() -> Vec<Case<How>> {
    fn message(message: &impl prost::Message) -> Vec<u8> {
        let bytes = message.encode_to_vec();
        let length = u32::try_from(bytes.len()).expect("small").to_be_bytes();
        [&[0], &length[..], &bytes].concat()
    }
    let touches = |name, call: fn(&str) -> Call| case(name, How::Touches(call), "not-found", "");
    vec![
        touches("another site's update read", |id| {
            Call::new("GetUpdate", message(&v1::GetUpdateRequest { update_id: id.into() }))
        }),
        touches("another site's update finished", |id| {
            Call::new("FinishUpdate", message(&v1::FinishUpdateRequest { update_id: id.into() }))
        }),
        touches("another site's update sent", |id| {
            Call::new("SendUpdate", message(&chunks(id, &good(), 0)[0]))
        }),
        touches("another site's update downloaded", |_| {
            let theirs = digest(&fedbasin_tests::checkpoint::file(&crate::corpus::entries([1.0, 0.0])));
            Call::new("Download", message(&v1::DownloadRequest { digest: theirs, offset: 0 }))
        }),
    ]
}
