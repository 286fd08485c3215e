//! The fuzzing targets of exports, heads and signatures with the ordinary compiler.

#[allow(unreachable_pub, reason = "it is a crate of its own too")]
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[allow(unreachable_pub, reason = "it is a crate of its own too")]
#[path = "../../fuzz/src/proofs.rs"]
mod targets;

use replay::replay;

#[test]
fn exports() {
    replay("export", targets::export);
}

#[test]
fn heads() {
    replay("head", targets::head);
}

#[test]
fn signatures() {
    replay("signature", targets::signature);
}

#[test]
fn proofs_of_a_log() {
    replay("log_proof", targets::log_proof);
}
