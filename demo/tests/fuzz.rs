//! The fuzzing target of this room with the ordinary compiler.

use fedbasin_demo::idx;

#[allow(unreachable_pub, reason = "it is a crate of its own too")]
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[allow(unreachable_pub, reason = "it is a crate of its own too")]
#[path = "../../fuzz/src/data.rs"]
mod targets;

use replay::replay;

#[test]
fn data_sets() {
    replay("idx", targets::idx);
}
