use super::{breaches, mentions, unsafe_lines, wrong_direction};

fn paths(source: &str) -> Vec<String> {
    mentions(source).into_iter().map(|mention| mention.path).collect()
}

#[test]
fn every_branch_of_a_use_tree_is_found() {
    let source = "use std::{fmt, net::{SocketAddr, self}, io::{self as io2}};\nuse crate::store::*;";
    assert_eq!(paths(source), ["std::fmt", "std::net::SocketAddr", "std::net", "std::io", "crate::store"]);
}

#[test]
fn written_out_paths_are_found_with_their_line() {
    let found = mentions("fn f() {\n    let x = sqlx::query(\"y\");\n    a.b();\n}");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].line, found[0].path.as_str()), (2, "sqlx::query"));
}

#[test]
fn comments_strings_and_lifetimes_are_no_mentions() {
    let source = r###"
// sqlx::query
/* tonic::x */
/// [`axum::Router`]
fn f<'a>(x: &'a str) -> char { let _ = "sqlx::x \" tonic::y"; let _ = r#"axum::z "q" "#; '"' }
fn g() -> char { '\'' }
"###;
    assert_eq!(paths(source), [""; 0]);
}

#[test]
fn sql_in_an_edge_is_a_breach() {
    let found = breaches("server/src/http/runs.rs", "use crate::error::Error;\nuse sqlx::Row;\n");
    assert_eq!(found.len(), 2, "by the edge's rule and by the store's: {found:?}");
    assert!(found[0].starts_with("server/src/http/runs.rs:2: mentions sqlx::Row"), "{found:?}");
}

#[test]
fn one_edge_using_the_other_is_a_breach_however_it_is_written() {
    let file = "server/src/http/runs.rs";
    for source in
        ["use crate::grpc::encode;", "use crate::{grpc::encode, error};", "fn f() { crate::grpc::encode() }"]
    {
        assert_eq!(breaches(file, source).len(), 1, "{source}");
    }
    assert_eq!(breaches(file, "use super::super::grpc;").len(), 1);
    assert_eq!(breaches(file, "use super::grpc;").len(), 0, "that is http's own");
}

#[test]
fn a_clock_in_the_pure_rooms_is_a_breach() {
    assert_eq!(breaches("rebasin/src/matching.rs", "use std::time::Instant;").len(), 1);
    assert_eq!(breaches("server/src/round.rs", "use std::time::SystemTime;").len(), 1);
    assert_eq!(breaches("server/src/round.rs", "async fn f() {}").len(), 1);
    assert_eq!(breaches("server/src/worker/mod.rs", "use std::time::Duration;").len(), 0);
}

#[test]
fn the_round_may_name_a_digest_but_nothing_of_the_server() {
    assert_eq!(breaches("server/src/round.rs", "use rebasin::Digest;\nuse serde::Serialize;").len(), 0);
    assert_eq!(breaches("server/src/round.rs", "use crate::store::Store;").len(), 1);
}

#[test]
fn the_store_may_use_types_of_the_mathematics_but_no_algorithm() {
    assert_eq!(breaches("server/src/store/mod.rs", "use rebasin::{Digest, Layout};").len(), 0);
    assert_eq!(breaches("server/src/store/mod.rs", "use rebasin::{Digest, align};").len(), 1);
}

#[test]
fn a_room_is_its_folder_and_the_file_of_that_name() {
    assert_eq!(breaches("server/src/worker.rs", "use tonic::Status;").len(), 1);
    assert_eq!(breaches("server/src/workers.rs", "use tonic::Status;").len(), 0);
}

#[test]
fn only_the_store_and_the_table_of_errors_may_name_the_database() {
    assert_eq!(breaches("server/src/serve.rs", "fn f(pool: sqlx::PgPool) {}").len(), 1);
    assert_eq!(breaches("server/src/error.rs", "impl From<sqlx::Error> for Error {}").len(), 0);
    assert_eq!(breaches("server/src/store/runs.rs", "use sqlx::Row;").len(), 0);
}

#[test]
fn a_server_that_calls_somebody_else_is_a_breach() {
    for call in [
        "async fn f() { tokio::net::TcpStream::connect(\"x\"); }",
        "use std::net::TcpStream;\nfn f() { TcpStream::connect_timeout(a, b); }",
        "use tokio::net::UdpSocket;",
        "use reqwest::Client;",
        "use tonic::transport::Channel;",
    ] {
        assert_eq!(breaches("server/src/serve.rs", call).len(), 1, "{call}");
        assert_eq!(breaches("server/src/auth/oidc/keys.rs", call).len(), 0, "{call}");
    }
    assert_eq!(breaches("server/src/connections.rs", "use tokio::net::{TcpListener, TcpStream};").len(), 0);
}

#[test]
fn tests_of_a_room_may_use_anything() {
    assert_eq!(breaches("server/src/worker/tests.rs", "use sqlx::Row;").len(), 0);
}

#[test]
fn a_client_that_depends_on_the_server_is_a_breach() {
    let found = wrong_direction("fedbasin-client", &["tokio", "rebasin", "fedbasin-server"]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(wrong_direction("fedbasin-server", &["rebasin", "fedbasin-proto"]), [""; 0]);
    assert_eq!(wrong_direction("rebasin", &["fedbasin-proto"]).len(), 1);
    assert_eq!(wrong_direction("fedbasin-new", &[]).len(), 1, "a new package needs a place");
}

#[test]
fn unsafe_is_found_in_code_and_in_a_loosened_lint_and_nowhere_else() {
    assert_eq!(unsafe_lines("fn f() {\n    unsafe { g() }\n}\n#[allow(unsafe_code)]\nfn h() {}"), [2, 4]);
    assert_eq!(
        unsafe_lines("#![forbid(unsafe_code)]\n// unsafe\nfn f() -> &'static str { \"unsafe\" }"),
        [0; 0]
    );
}
