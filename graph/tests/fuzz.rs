//! The fuzzing targets of this room and `rebasin` with the ordinary compiler.

#[allow(unreachable_pub, reason = "it is a crate of its own too")]
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[allow(unreachable_pub, reason = "it is a crate of its own too")]
#[path = "../../fuzz/src/maths.rs"]
mod targets;

use replay::replay;

#[test]
fn graphs() {
    replay("graph", targets::graph);
}

#[test]
fn specs() {
    replay("spec", targets::spec);
}

#[test]
fn checkpoints() {
    replay("checkpoint", targets::checkpoint);
}

#[test]
fn headers() {
    replay("header", targets::header);
}
