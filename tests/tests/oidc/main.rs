//! Persons who sign in at an identity provider: what its tokens open, and everything that opens nothing.

mod sign_in;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fedbasin_tests::{
    Admin, Database, Issuer, IssuerKey, Options, PATIENCE, Server, Site, client_binary, eventually, now,
};
use serde_json::{Value, json};

/// A server that trusts an issuer, and asks it for keys once a second at the most.
fn server(issuer: &Issuer) -> Server {
    server_with(issuer, "refresh_seconds = 1")
}

fn server_with(issuer: &Issuer, more: &str) -> Server {
    Server::start_with(Database::sqlite(), Options { config: issuer.settings(more), ..Options::default() })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn as_holder(server: &Server, token: &str) -> Admin {
    server.admin().with_token(Some(token))
}

fn status(server: &Server, token: &str) -> u16 {
    as_holder(server, token).get("/v1/runs").status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_what_the_highest_of_its_roles_may() {
    let issuer = Issuer::start();
    let keys = [IssuerKey::rsa("r"), IssuerKey::ec("c"), IssuerKey::ed("d")];
    // What cannot be used stands between them: it spoils nothing.
    let strange =
        [json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "o" }), json!({ "kty": "X" }), json!(7), json!({})];
    issuer.publish(&[&strange[..], &keys.iter().map(IssuerKey::jwk).collect::<Vec<_>>()].concat());
    let server = server(&issuer);
    let mut made = 0;
    for key in &keys {
        for algorithm in key.algorithms() {
            for (roles, may_read, may_enrol) in [
                (&["see"][..], 200, 403),
                (&["run", "see"], 200, 403),
                (&["other", "all", "see"], 200, 201),
                (&["other"], 403, 403),
                (&[], 403, 403),
            ] {
                let person = as_holder(&server, &key.token_by(algorithm, &issuer.claims(roles)));
                assert_eq!(person.get("/v1/runs").status, may_read, "{algorithm} {roles:?}");
                let enrolled = person.post("/v1/sites", &json!({ "id": format!("site-{made}") }));
                assert_eq!(enrolled.status, may_enrol, "{algorithm} {roles:?}");
                made += 1;
            }
        }
    }
    let detail = as_holder(&server, &keys[0].token(&issuer.claims(&["other"])))
        .get("/v1/runs")
        .assert_problem(403, "forbidden");
    assert!(detail.contains("realm_access.roles"), "{detail}");

    // Further forms that issuers use.
    let (key, claims) = (&keys[1], issuer.claims(&["see"]));
    for good in [
        key.token(&with(claims.clone(), "aud", json!(["other", "fedbasin"]))),
        key.token(&with(claims.clone(), "azp", json!("fedbasin"))),
        key.token(&with(claims.clone(), "nbf", json!(now() - 1))),
        key.token_with(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": "c" }), &claims.to_string()),
        key.token_with(&json!({ "alg": "ES256", "kid": "c" }), &claims.to_string()),
    ] {
        assert_eq!(status(&server, &good), 200, "{good}");
    }
    // The operator's program takes it as it takes others.
    let mut program = Command::new(client_binary());
    program.args(["admin", "runs", "--server", &server.http, "--state-dir"]).arg(server.operators_dir());
    program.env("FEDBASIN_ADMIN_TOKEN", key.token(&claims));
    let output = program.output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The record says who it was, by the issuer's word.
    let log = server.admin().get("/v1/audit").json();
    let records = log["records"].as_array().expect("records");
    assert!(records.iter().any(|record| record["who"]["credential"] == "oidc:8f14e45f"), "{log}");

    // Sites have no persons' tokens.
    let stranger = Site::new("a", &server.grpc, &key.token(&issuer.claims(&["all"])));
    let refused = stranger.client.clone().list_runs(fedbasin_proto::v1::ListRunsRequest {}).await;
    assert_eq!(refused.expect_err("no site").code(), tonic::Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_right_in_every_part_opens_nothing() {
    let issuer = Issuer::start();
    let other = Issuer::start();
    let (key, rsa, for_encryption) = (IssuerKey::ec("c"), IssuerKey::rsa("r"), IssuerKey::ec("e"));
    let mut enc = for_encryption.jwk();
    enc["use"] = json!("enc");
    let mut only_pss = rsa.jwk();
    (only_pss["kid"], only_pss["alg"]) = (json!("pss"), json!("PS256"));
    let oct = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode("secret"), "kid": "o" });
    issuer.publish(&[key.jwk(), rsa.jwk(), enc, only_pss, oct]);
    let server = server(&issuer);
    let good = issuer.claims(&["all"]);
    assert_eq!(status(&server, &key.token(&good)), 200);

    let text = good.to_string();
    let header = |more: Value| {
        let mut header = json!({ "alg": "ES256", "typ": "JWT", "kid": "c" });
        header.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        header
    };
    let changed = |name: &str, value: Value| key.token(&with(good.clone(), name, value));
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        key.token(&claims)
    };
    let token = key.token(&good);
    let (message, signature) = token.rsplit_once('.').expect("three parts");
    let payload = message.split_once('.').expect("two parts").1;
    let unsigned = |alg: &str| URL_SAFE_NO_PAD.encode(json!({ "alg": alg, "kid": "c" }).to_string());
    let flipped: String = signature.chars().map(|c| if c == 'A' { 'B' } else { 'A' }).collect();
    let forger = IssuerKey::ec("c");
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let bad = [
        ("another signature", format!("{message}.{flipped}")),
        ("no signature", format!("{message}.")),
        ("half a signature", format!("{message}.{}", &signature[..signature.len() / 2])),
        ("zeros for a signature", format!("{message}.{}", URL_SAFE_NO_PAD.encode([0; 64]))),
        ("another's payload", format!("{}.{signature}", message.replace(payload, &unsigned("x")))),
        ("alg none", format!("{}.{payload}.", unsigned("none"))),
        ("alg None", format!("{}.{payload}.", unsigned("None"))),
        ("alg none with a signature", format!("{}.{payload}.{signature}", unsigned("none"))),
        ("no alg", key.token_with(&json!({ "kid": "c" }), &text)),
        ("HS256 by the public key's text", IssuerKey::forged("c", key.jwk().to_string().as_bytes(), &good)),
        ("HS256 by the public key's bytes", IssuerKey::forged("c", &key.public(), &good)),
        ("HS256 by an RSA key's DER", IssuerKey::forged("r", &rsa.public(), &good)),
        ("HS256 by a key that is published", IssuerKey::forged("o", b"secret", &good)),
        ("another algorithm's name", key.token_with(&header(json!({ "alg": "RS256" })), &text)),
        ("RS512", rsa.token_with(&json!({ "alg": "RS512", "kid": "r" }), &text)),
        ("a key for the other RSA padding", rsa.token_with(&json!({ "alg": "RS256", "kid": "pss" }), &text)),
        ("another algorithm of the key", rsa.token_with(&json!({ "alg": "ES256", "kid": "r" }), &text)),
        ("a key that is for encryption", for_encryption.token(&good)),
        ("a forger's key under a known name", forger.token(&good)),
        ("a forger's key in the header", forger.token_with(&header(json!({ "jwk": forger.jwk() })), &text)),
        (
            "a forger's address in the header",
            forger.token_with(&header(json!({ "jku": other.at("/keys") })), &text),
        ),
        ("an unknown key", IssuerKey::ec("x").token(&good)),
        ("no key's name, of several", key.token_with(&json!({ "alg": "ES256" }), &text)),
        (
            "an extension that must be understood",
            key.token_with(&header(json!({ "crit": ["b64"], "b64": false })), &text),
        ),
        ("a token for another purpose", key.token_with(&header(json!({ "typ": "logout+jwt" })), &text)),
        ("another audience", changed("aud", json!("other"))),
        ("other audiences", changed("aud", json!(["other", "fedbasin2"]))),
        ("no audience of the list", changed("aud", json!([]))),
        ("an audience that is no text", changed("aud", json!({ "fedbasin": 1 }))),
        ("no audience", without("aud")),
        ("another issuer", changed("iss", json!(other.url))),
        ("almost the issuer", changed("iss", json!(format!("{}/", issuer.url)))),
        ("no issuer", without("iss")),
        ("another program's", changed("azp", json!("other"))),
        ("nobody's", without("sub")),
        ("expired", changed("exp", json!(now() - 61))),
        ("no end", without("exp")),
        ("an end that is no number", changed("exp", json!("tomorrow"))),
        ("not yet valid", changed("nbf", json!(now() + 300))),
        ("a token in a token", key.token_with(&header(json!({ "cty": "JWT" })), &token)),
        ("a payload that is no object", key.token_with(&header(json!({})), "[]")),
        ("a payload that is too deep", key.token_with(&header(json!({})), &deep)),
        ("two parts", message.to_owned()),
        ("four parts", format!("{token}.x")),
        ("five parts", format!("{token}.x.y")),
        ("three empty parts", "..".to_owned()),
        ("no base64", format!("~.{payload}.{signature}")),
        ("too long", changed("more", json!("x".repeat(8 << 10)))),
    ];
    for (what, token) in bad {
        as_holder(&server, &token).get("/v1/runs").assert_problem(401, "unauthenticated");
        let enrolled = as_holder(&server, &token).post("/v1/sites", &json!({ "id": "a" }));
        assert_eq!(enrolled.status, 401, "{what}");
    }
    assert_eq!(other.asked(), 0, "nothing that a token names is asked");
    assert_eq!(status(&server, &key.token(&good)), 200);
    let sites = server.admin().get("/v1/sites").json();
    assert_eq!(sites["sites"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_the_issuer_changes_are_found_and_those_that_it_withdraws_open_nothing() {
    let issuer = Issuer::start();
    let (first, second) = (IssuerKey::ec("1"), IssuerKey::ed("2"));
    issuer.publish(&[first.jwk()]);
    let server = server(&issuer);
    let (old, new) = (first.token(&issuer.claims(&["see"])), second.token(&issuer.claims(&["see"])));
    assert_eq!(status(&server, &old), 200);
    assert_eq!(status(&server, &new), 401);
    // A token without a key's name means the one key that there is.
    let unnamed = first.token_with(&json!({ "alg": "ES256" }), &issuer.claims(&["see"]).to_string());
    assert_eq!(status(&server, &unnamed), 200);

    issuer.publish(&[first.jwk(), second.jwk()]);
    eventually("the new key is found", || (status(&server, &new) == 200).then_some(())).await;
    assert_eq!(status(&server, &old), 200, "both are published");
    issuer.publish(&[second.jwk()]);
    eventually("the old key opens nothing", || (status(&server, &old) == 401).then_some(())).await;
    assert_eq!(status(&server, &new), 200);

    // The same name for another key.
    let renamed = IssuerKey::ec("2");
    issuer.publish(&[renamed.jwk()]);
    let token = renamed.token(&issuer.claims(&["see"]));
    eventually("the other key is found", || (status(&server, &token) == 200).then_some(())).await;
    assert_eq!(status(&server, &new), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_keys_make_the_server_ask_once_in_a_while_and_no_more() {
    let issuer = Issuer::start();
    let key = IssuerKey::ec("known");
    issuer.publish(&[key.jwk()]);
    let server = server_with(&issuer, "refresh_seconds = 3600");
    assert_eq!(issuer.asked(), 0, "a server starts without its issuer");
    let tokens: Vec<String> =
        (0..20).map(|i| IssuerKey::ec(&format!("unknown-{i}")).token(&issuer.claims(&["all"]))).collect();
    std::thread::scope(|scope| {
        for token in &tokens {
            scope.spawn(|| assert_eq!(status(&server, token), 401));
        }
    });
    assert_eq!(status(&server, &key.token(&issuer.claims(&["see"]))), 200);
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_issuer_is_away_or_talks_nonsense_what_is_known_stays() {
    let issuer = Issuer::start();
    let (key, next) = (IssuerKey::ec("1"), IssuerKey::ec("2"));
    issuer.goes_away();
    let server = server(&issuer);
    let token = key.token(&issuer.claims(&["see"]));
    assert_eq!(status(&server, &token), 401);
    assert_eq!(server.admin().get("/v1/runs").status, 200, "the operator's own token needs no issuer");
    issuer.publish(&[key.jwk()]);
    issuer.comes_back();
    eventually("the issuer is back", || (status(&server, &token) == 200).then_some(())).await;

    // Each of these would bring the next key if it were believed.
    let set = json!({ "keys": [next.jwk()] }).to_string();
    let answer = |head: &str, body: &str| {
        format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    };
    let many: Vec<Value> = (0..65).map(|_| next.jwk()).collect();
    let huge = format!("{}{set}", " ".repeat(256 << 10));
    let page = issuer.at("/keys");
    let strangers = [
        json!({ "issuer": format!("{}/", issuer.url), "jwks_uri": page }),
        json!({ "issuer": issuer.url, "jwks_uri": "http://id.example/keys" }),
        json!({ "issuer": issuer.url }),
        json!([]),
    ];
    let newer = next.token(&issuer.claims(&["see"]));
    let check = async |what: &str| {
        let before = issuer.asked();
        eventually(what, || {
            assert_eq!(status(&server, &newer), 401, "{what}");
            (issuer.asked() > before).then_some(())
        })
        .await;
        assert_eq!(status(&server, &token), 200, "{what}");
    };
    for (what, bytes) in [
        ("an error", answer("500 Internal Server Error", &set)),
        ("another place", answer(&format!("302 Found\r\nlocation: {page}"), &set)),
        ("too many keys", answer("200 OK", &json!({ "keys": many }).to_string())),
        ("too many bytes", answer("200 OK", &huge)),
        ("no list", answer("200 OK", "{}")),
    ] {
        issuer.answers_for_keys(&bytes);
        check(what).await;
    }
    issuer.never_ends();
    check("no end").await;
    issuer.publish(&[next.jwk()]);
    for stranger in &strangers {
        issuer.describe(stranger);
        check(&stranger.to_string()).await;
    }
    issuer.falls_silent();
    check("silence").await;
    issuer.comes_back();
    eventually("the issuer is back", || (status(&server, &newer) == 200).then_some(())).await;
    assert_eq!(status(&server, &token), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_with_tls_is_believed_only_with_a_certificate_that_is_vouched_for() {
    let issuer = Issuer::start_tls();
    let key = IssuerKey::rsa("1");
    issuer.publish(&[key.jwk()]);
    let token = key.token(&issuer.claims(&["see"]));
    let trusting = server_with(&issuer, &format!("ca_file = {:?}", issuer.ca_file.as_deref().expect("TLS")));
    assert_eq!(status(&trusting, &token), 200);
    let other = Issuer::start_tls();
    let doubting = server_with(&issuer, &format!("ca_file = {:?}", other.ca_file.as_deref().expect("TLS")));
    assert_eq!(status(&doubting, &token), 401);
    // What speaks TLS cannot send for its keys in clear text.
    issuer.describe(&json!({ "issuer": issuer.url, "jwks_uri": Issuer::start().at("/keys") }));
    let misled = server_with(&issuer, &format!("ca_file = {:?}", issuer.ca_file.as_deref().expect("TLS")));
    assert_eq!(status(&misled, &token), 401);
    assert!(misled.log().contains("must begin with https://"), "{}", misled.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_with_the_token_that_it_was_opened_with() {
    let issuer = Issuer::start();
    let key = IssuerKey::ec("1");
    issuer.publish(&[key.jwk()]);
    let server = server(&issuer);
    let address = server.http.strip_prefix("http://").expect("clear text");
    // With the minute for clocks it has some seconds left. A machine that is slower than that tries again.
    for left in [2, 5, 15, 30] {
        let token = key.token(&with(issuer.claims(&["run"]), "exp", json!(now() - 60 + left)));
        let mut call = TcpStream::connect(address).expect("connected");
        call.set_read_timeout(Some(PATIENCE)).expect("set");
        let head = format!(
            "POST /v1/checkpoints HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             content-type: application/octet-stream\r\ncontent-length: 1000000\r\n\r\nsome"
        );
        call.write_all(head.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        // The server may close the line at once, with the rest of the body unread.
        let _ = call.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        if answer.contains("was revoked or has expired") {
            return;
        }
        assert!(answer.contains("it has expired"), "{answer}");
    }
    panic!("no call began before its token had ended");
}
