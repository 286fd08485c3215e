//! Class: the admin API. Bodies, paths, heads and wishes that no operator's program has; by whom they come is part of a case.

use fedbasin_server::model::Role;
use fedbasin_tests::{Database, Options, on_both_databases};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    bodies,
    corpus::{Answer, Case, Ground, Steps, Tried, case, entries, of_kind, spec},
    run,
    wire::address,
};

on_both_databases!(what_no_operator_asks_is_refused_as_a_problem);

pub(crate) async fn what_no_operator_asks_is_refused_as_a_problem(database: Database) -> Vec<Tried> {
    let ground = Ground::new(database, Options::default()).await;
    let [viewer, operator] = [Role::Viewer, Role::Operator].map(|role| {
        let made = ground.admin.post("/v1/tokens", &json!({ "role": role.name() }));
        made.json()["token"].as_str().expect("a token").to_owned()
    });
    ground
        .try_all(cases(), async |ground, how| match how {
            How::Call(call) => {
                let admin = match call.by {
                    By::Nobody => ground.admin.with_token(None),
                    By::Site => ground.admin.with_token(Some(&ground.x.token)),
                    By::Viewer => ground.admin.with_token(Some(&viewer)),
                    By::Operator => ground.admin.with_token(Some(&operator)),
                    By::Admin => ground.admin.clone(),
                };
                called(&admin, call)
            }
            How::Run(change) => {
                let mut run = good_run();
                change(&mut run);
                ground.admin.post("/v1/runs", &run).into()
            }
            How::Raw(made) => said(ground, made(ground)).await,
            How::Steps(steps) => steps(ground).await,
        })
        .await
}

pub(crate) fn names() -> Vec<&'static str> {
    crate::corpus::names(cases())
}

pub(crate) enum How {
    /// A call.
    Call(Call),
    /// A good run, changed.
    Run(fn(&mut Value)),
    /// Bytes on a connection.
    Raw(fn(&Ground) -> Vec<u8>),
    /// Anything else.
    Steps(for<'a> fn(&'a Ground) -> Steps<'a>),
}

pub(crate) struct Call {
    pub(crate) by: By,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) body: fn() -> Vec<u8>,
}

/// Whose token a call carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Nobody,
    Site,
    Viewer,
    Operator,
    Admin,
}

fn called(admin: &fedbasin_tests::Admin, call: &Call) -> Answer {
    // A body that nobody reads ends its connection: the next call takes another one.
    let headers = [("content-type", call.kind), ("connection", "close")];
    match admin.try_request(call.method, call.path, &headers, &(call.body)()) {
        Ok(answer) => answer.into(),
        Err(error) => Answer::cut(error),
    }
}

/// A run that would be taken.
pub(crate) fn good_run() -> Value {
    let seed = fedbasin_tests::digest(&fedbasin_tests::checkpoint::file(&entries([0.0, 0.0])));
    json!({
        "spec": spec(), "strategy": "aligned", "cohort": ["h", "x"], "seed_digest": seed,
        "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 600 },
    })
}

/// Writes a request as it stands and reads the answer.
async fn said(ground: &Ground, bytes: Vec<u8>) -> Answer {
    let mut stream = TcpStream::connect(address(&ground.server.http)).await.expect("a connection");
    // It may be closed before it has read all.
    let _ = stream.write_all(&bytes).await;
    let mut read = Vec::new();
    loop {
        let mut part = [0; 4096];
        let length = stream.read(&mut part).await.unwrap_or(0);
        read.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if length == 0 {
                return Answer::cut(text);
            }
            continue;
        };
        let wanted =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if length > 0 && body.len() < wanted.unwrap_or(0_usize) {
            continue;
        }
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        if status < 400 {
            return Answer::taken(body);
        }
        let problem: Value = serde_json::from_str(body).unwrap_or_default();
        let code = problem["code"].as_str().map_or_else(|| format!("http-{status}"), str::to_owned);
        let message = problem["detail"].as_str().unwrap_or_default().to_owned();
        return Answer { code, grpc: None, http: Some(status), message };
    }
}

fn cases() -> Vec<Case<How>> {
    let mut cases = run::cases();
    cases.extend(bodies::cases());
    cases.extend(of_kind("paths", paths()));
    cases.extend(of_kind("roles", roles()));
    cases.extend(of_kind("heads of requests", heads()));
    cases.extend(of_kind("what is not, or no longer, or there already", wishes()));
    cases
}

/// A call without a body.
fn get(name: &'static str, path: &'static str, code: &'static str) -> Case<How> {
    let call = Call { by: By::Admin, method: "GET", path, kind: "text/plain", body: Vec::new };
    case(name, How::Call(call), code, "")
}

/// A call by somebody, with an empty object.
fn by(name: &'static str, by: By, method: &'static str, path: &'static str, code: &'static str) -> Case<How> {
    let call = Call { by, method, path, kind: "application/json", body: || b"{}".to_vec() };
    case(name, How::Call(call), code, "")
}

fn paths() -> Vec<Case<How>> {
    let raw = |name, made: fn(&Ground) -> Vec<u8>, code| case(name, How::Raw(made), code, "");
    /// A GET of a path as it stands.
    fn of(ground: &Ground, path: &str) -> Vec<u8> {
        let token = ground.server.admin_token();
        format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        )
        .into_bytes()
    }
    vec![
        get("a stroke within an id", "/v1/runs/a%2fb", "not-found"),
        get("an id that climbs, in a path", "/v1/runs/..%2f..%2fetc%2fpasswd", "not-found"),
        get("a zero within an id", "/v1/runs/a%00b", "not-found"),
        get("bytes that are no UTF-8", "/v1/runs/%ff%fe", "not-found"),
        get("half an escape", "/v1/runs/%2", "not-found"),
        get("SQL for an id", "/v1/runs/x'%20OR%20'1'='1", "not-found"),
        get("an id in upper case, in a path", "/v1/runs/RUN", "not-found"),
        get("a round below 0", "/v1/runs/none/rounds/-1", "not-found"),
        get("a round beyond 32 bits", "/v1/runs/none/rounds/4294967297", "not-found"),
        get("a round that is a fraction", "/v1/runs/none/rounds/1.0", "not-found"),
        get("a graph of no digest", "/v1/graphs/..%2fadmin-token", "not-found"),
        get("a version that there is not", "/v2/runs", "not-found"),
        get("a file of the server's", "/fedbasin.sqlite", "not-found"),
        get("a page of a billion", "/v1/runs?limit=1000000000&offset=-1", "invalid-argument"),
        get("an order of its own", "/v1/runs?order=id;DROP%20TABLE%20runs", "invalid-argument"),
        raw("a path that climbs", |g| of(g, "/v1/runs/../../../etc/passwd"), "not-found"),
        raw("two strokes", |g| of(g, "//v1//runs"), "not-found"),
        raw("a path of 8 KiB", |g| of(g, &format!("/v1/runs/{}", "r".repeat(8 << 10))), "not-found"),
        raw("a path of a mebibyte", |g| of(g, &format!("/v1/runs/{}", "r".repeat(1 << 20))), "http-431"),
        raw("another host's address", |g| of(g, "http://169.254.169.254/latest/meta-data"), "not-found"),
        by("a token revoked by a zero", By::Admin, "POST", "/v1/tokens/%00/revoke", "not-found"),
        by("a token revoked by SQL", By::Admin, "POST", "/v1/tokens/x'%20OR%20'1'='1/revoke", "not-found"),
        by("a token for a site with a zero", By::Admin, "POST", "/v1/sites/a%00/tokens", "not-found"),
        by("a token for a site that there is not", By::Admin, "POST", "/v1/sites/nobody/tokens", "not-found"),
        by(
            "a token for a site that is a path",
            By::Admin,
            "POST",
            "/v1/sites/..%2f..%2fx/tokens",
            "not-found",
        ),
        by(
            "a certificate revoked by a word",
            By::Admin,
            "POST",
            "/v1/certificates/none/revoke",
            "invalid-argument",
        ),
        by("a certificate revoked by a zero", By::Admin, "POST", "/v1/certificates/%00/revoke", "not-found"),
        by(
            "a certificate revoked in upper case",
            By::Admin,
            "POST",
            "/v1/certificates/ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB/revoke",
            "invalid-argument",
        ),
        by("a run cancelled that there is not", By::Admin, "POST", "/v1/runs/none/cancel", "not-found"),
    ]
}

fn roles() -> Vec<Case<How>> {
    let role = |name, who, path, body: fn() -> Vec<u8>, code| {
        let call = Call { by: who, method: "POST", path, kind: "application/json", body };
        case(name, How::Call(call), code, "")
    };
    let more = || br#"{"role":"admin"}"#.to_vec();
    vec![
        role("a viewer who makes itself an admin", By::Viewer, "/v1/tokens", more, "forbidden"),
        role("an operator who makes itself an admin", By::Operator, "/v1/tokens", more, "forbidden"),
        role(
            "a viewer who makes a site's token",
            By::Viewer,
            "/v1/sites/h/tokens",
            || b"{}".to_vec(),
            "forbidden",
        ),
        role(
            "an operator who enrols a site",
            By::Operator,
            "/v1/sites",
            || br#"{"id":"mine"}"#.to_vec(),
            "forbidden",
        ),
        role(
            "a site that creates a run",
            By::Site,
            "/v1/runs",
            || good_run().to_string().into_bytes(),
            "unauthenticated",
        ),
        role(
            "a site that makes itself a token",
            By::Site,
            "/v1/sites/x/tokens",
            || b"{}".to_vec(),
            "unauthenticated",
        ),
        role("nobody who makes a token", By::Nobody, "/v1/tokens", more, "unauthenticated"),
        role(
            "a viewer who sends a checkpoint",
            By::Viewer,
            "/v1/checkpoints",
            crate::corpus::good,
            "forbidden",
        ),
        by("a viewer who reads tokens", By::Viewer, "GET", "/v1/tokens", "forbidden"),
        by("a viewer who takes a model", By::Viewer, "GET", "/v1/runs/none/rounds/1/model", "forbidden"),
        by("a site that reads runs", By::Site, "GET", "/v1/runs", "unauthenticated"),
        by("nobody who reads runs", By::Nobody, "GET", "/v1/runs", "unauthenticated"),
        by("nobody on a page that there is not", By::Nobody, "GET", "/v1/secrets", "not-found"),
        by("a method that a page has not", By::Admin, "DELETE", "/v1/runs", "method-not-allowed"),
        by("a run deleted", By::Admin, "DELETE", "/v1/runs/none", "method-not-allowed"),
        by("a run's policy changed", By::Admin, "PATCH", "/v1/runs/none", "method-not-allowed"),
        by("a run put in another's place", By::Admin, "PUT", "/v1/runs/none", "method-not-allowed"),
    ]
}

fn heads() -> Vec<Case<How>> {
    let raw = |name, made: fn(&Ground) -> Vec<u8>, code| case(name, How::Raw(made), code, "");
    /// An enrolment with more in its head, and this body.
    fn enrol(ground: &Ground, head: &str, body: &str) -> Vec<u8> {
        let token = ground.server.admin_token();
        format!("POST /v1/sites HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{head}\r\n{body}").into_bytes()
    }
    const JSON: &str = "content-type: application/json\r\n";
    vec![
        raw(
            "another site's page sends a form",
            |g| {
                enrol(
                    g,
                    "content-type: application/x-www-form-urlencoded\r\norigin: https://evil.example\r\ncontent-length: 6\r\n",
                    "id=csr",
                )
            },
            "invalid-argument",
        ),
        raw(
            "another site's page sends text",
            |g| {
                enrol(
                    g,
                    "content-type: text/plain\r\norigin: https://evil.example\r\ncontent-length: 12\r\n",
                    r#"{"id":"csr"}"#,
                )
            },
            "invalid-argument",
        ),
        raw(
            "a cookie for a token",
            |g| {
                let token = g.server.admin_token();
                format!("GET /v1/runs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncookie: token={token}; authorization=Bearer {token}\r\n\r\n").into_bytes()
            },
            "unauthenticated",
        ),
        raw(
            "a token in the address",
            |g| {
                let token = g.server.admin_token();
                format!("GET /v1/runs?token={token}&access_token={token} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
            },
            "unauthenticated",
        ),
        raw(
            "a method by another header",
            |g| enrol(g, "x-http-method-override: GET\r\ncontent-length: 2\r\n", "{}"),
            "invalid-argument",
        ),
        raw(
            "two lengths",
            |g| enrol(g, &format!("{JSON}content-length: 2\r\ncontent-length: 3\r\n"), "{}x"),
            "http-400",
        ),
        raw(
            "a length and chunks",
            |g| {
                enrol(
                    g,
                    &format!("{JSON}content-length: 4\r\ntransfer-encoding: chunked\r\n"),
                    "0\r\n\r\nGET /v1/tokens HTTP/1.1\r\n\r\n",
                )
            },
            "invalid-argument",
        ),
        raw("a length below 0", |g| enrol(g, &format!("{JSON}content-length: -1\r\n"), ""), "http-400"),
        raw(
            "a chunk of the largest length",
            |g| enrol(g, &format!("{JSON}transfer-encoding: chunked\r\n"), "ffffffffffffffffff\r\nx"),
            "invalid-argument",
        ),
        raw(
            "an encoding of no name",
            |g| enrol(g, &format!("{JSON}transfer-encoding: x\r\n"), ""),
            "http-400",
        ),
        raw("a header with a zero", |g| enrol(g, "x: a\0b\r\n", ""), "http-400"),
        raw("two hundred headers", |g| enrol(g, &"x: y\r\n".repeat(200), ""), "http-431"),
        raw(
            "a header of a mebibyte",
            |g| enrol(g, &format!("x: {}\r\n", "y".repeat(1 << 20)), ""),
            "http-431",
        ),
        raw(
            "a method of one's own",
            |g| {
                let token = g.server.admin_token();
                format!("FROBNICATE /v1/runs HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
            },
            "method-not-allowed",
        ),
        raw("HTTP of no version", |_| b"GET /v1/runs\r\n\r\n".to_vec(), "http-400"),
        raw("HTTP of another version", |_| b"GET /v1/runs HTTP/7.3\r\n\r\n".to_vec(), "http-400"),
        raw("bytes of no protocol", |_| vec![0xa5; 4096], "http-400"),
        raw("a line that does not end", |_| vec![b'G'; 1 << 20], "http-431"),
    ]
}

fn wishes() -> Vec<Case<How>> {
    let steps =
        |name, steps: for<'a> fn(&'a Ground) -> Steps<'a>, code| case(name, How::Steps(steps), code, "");
    fn ended(ground: &Ground) -> String {
        let run = ground.run_of(&["x"], 1);
        let _ = ground.admin.post(&format!("/v1/runs/{run}/cancel"), &json!({}));
        run
    }
    vec![
        steps(
            "nothing that was refused before has made a run or a site",
            |g| {
                Box::pin(async move {
                    let runs = g.admin.get("/v1/runs").json()["runs"].as_array().map(Vec::len);
                    let sites = g.admin.get("/v1/sites").json()["sites"].as_array().map(Vec::len);
                    let (code, message) = (format!("{runs:?}, {sites:?}"), String::new());
                    match (runs, sites) {
                        (Some(1), Some(2)) => Answer::taken(()),
                        _ => Answer { code, grpc: None, http: None, message },
                    }
                })
            },
            "taken",
        ),
        steps(
            "a cancelled run resumed",
            |g| {
                Box::pin(
                    async move { g.admin.post(&format!("/v1/runs/{}/resume", ended(g)), &json!({})).into() },
                )
            },
            "conflict",
        ),
        steps(
            "a cancelled run paused",
            |g| {
                Box::pin(
                    async move { g.admin.post(&format!("/v1/runs/{}/pause", ended(g)), &json!({})).into() },
                )
            },
            "conflict",
        ),
        steps(
            "the model of a round that collects",
            |g| Box::pin(async move { g.admin.get(&format!("/v1/runs/{}/rounds/1/model", g.run)).into() }),
            "conflict",
        ),
        steps(
            "a run under another one's id",
            |g| {
                Box::pin(async move {
                    let mut run = good_run();
                    run["id"] = g.run.as_str().into();
                    g.admin.post("/v1/runs", &run).into()
                })
            },
            "conflict",
        ),
        steps(
            "a site enrolled again",
            |g| Box::pin(async move { g.admin.post("/v1/sites", &json!({ "id": "h" })).into() }),
            "conflict",
        ),
        steps(
            "a third token for a site",
            |g| {
                Box::pin(async move {
                    let _ = g.admin.post("/v1/sites/h/tokens", &json!({}));
                    g.admin.post("/v1/sites/h/tokens", &json!({})).into()
                })
            },
            "conflict",
        ),
        steps(
            "no page of another site's may read an answer",
            |g| {
                Box::pin(async move {
                    let answer =
                        g.admin.request("GET", "/v1/runs", &[("origin", "https://evil.example")], &[]);
                    assert_eq!(answer.header("access-control-allow-origin"), "");
                    Answer::from(answer)
                })
            },
            "taken",
        ),
    ]
}
