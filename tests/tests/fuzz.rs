//! The fuzzing targets of the edges, the settings and what a site reads with the ordinary compiler.

#[path = "fuzz/complete.rs"]
mod complete;
#[allow(unreachable_pub, reason = "it is a crate of its own too")]
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[allow(unreachable_pub, reason = "it is a crate of its own too")]
#[path = "../../fuzz/src/edges.rs"]
mod targets;

use replay::replay;

#[test]
fn requests() {
    replay("request", targets::request);
}

#[test]
fn streams_of_chunks() {
    replay("chunks", targets::chunks);
}

#[test]
fn bodies() {
    replay("body", targets::body);
}

#[test]
fn ranges() {
    replay("range", targets::range);
}

#[test]
fn certificates() {
    replay("certificate", targets::certificate);
}

#[test]
fn authorizations() {
    replay("authorization", targets::authorization);
}

#[test]
fn configs() {
    replay("config", targets::config);
}

#[test]
fn kits() {
    replay("kit", targets::kit);
}

#[test]
fn signing_requests() {
    replay("signing_request", targets::signing_request);
}

#[test]
fn tokens_of_an_identity_provider() {
    replay("token", targets::token);
}

#[test]
fn key_sets() {
    replay("key_set", targets::key_set);
}

#[test]
fn frames() {
    replay("frames", targets::frames);
}

#[test]
fn queries() {
    replay("query", targets::query);
}

#[test]
fn encrypted_uploads() {
    replay("staging", targets::staging);
}

#[test]
fn verdicts_on_graphs() {
    replay("verdict", targets::verdict);
}

#[test]
fn answers_to_a_client() {
    replay("answer", targets::answer);
}

#[test]
fn downloads() {
    replay("download", targets::download);
}

#[test]
fn files_of_a_site() {
    replay("workdir", targets::workdir);
}
