//! Specs of every kind of group.

use rebasin::{CheckedSpec, Layout, ScaleForm, Spec};

use super::layout;

/// A spec and the tensors that it is for.
pub type Form = (&'static str, &'static [(&'static str, &'static [usize])]);

/// Heads with a fused query-key-value projection, an output projection, and a table of one column a head; the stream is a
/// group too.
pub const HEADS: Form = (
    r#"{"format":"fedbasin.spec/1",
        "groups":{"d":{"size":24,"kind":"symmetric"},"heads":{"size":3,"kind":"symmetric"},
                  "qk":{"size":5,"kind":"symmetric","within":"heads"},"vo":{"size":4,"kind":"symmetric","within":"heads"}},
        "tensors":{"embed":[null,"d"],
                   "qkv":[{"concat":[["heads","qk"],["heads","qk"],["heads","vo"]]},"d"],
                   "qkv_bias":[{"concat":[["heads","qk"],["heads","qk"],["heads","vo"]]}],
                   "out":["d",["heads","vo"]],"table":[null,"heads"]}}"#,
    &[("embed", &[30, 24]), ("qkv", &[42, 24]), ("qkv_bias", &[42]), ("out", &[24, 12]), ("table", &[9, 3])],
);

/// Two query heads for each key head: queries and keys within the key head, and the query heads too.
pub const SHARED_KEYS: Form = (
    r#"{"format":"fedbasin.spec/1",
        "groups":{"kv":{"size":3,"kind":"symmetric"},"q":{"size":2,"kind":"symmetric","within":"kv"},
                  "qk":{"size":4,"kind":"symmetric","within":"kv"},"vo":{"size":5,"kind":"symmetric","within":"kv"}},
        "tensors":{"query":[["kv","q","qk"],null],"key":[["kv","qk"],null],"value":[["kv","vo"],null],
                   "out":[null,["kv","q","vo"]]}}"#,
    &[("query", &[24, 20]), ("key", &[12, 20]), ("value", &[15, 20]), ("out", &[20, 30])],
);

/// A grouped convolution between two plain ones.
pub const GROUPED: Form = (
    r#"{"format":"fedbasin.spec/1",
        "groups":{"g":{"size":3,"kind":"symmetric"},"in":{"size":4,"kind":"symmetric","within":"g"},
                  "out":{"size":2,"kind":"symmetric","within":"g"}},
        "tensors":{"first":[["g","in"],null,null],"grouped":[["g","out"],"in",null],"bias":[["g","out"]],
                   "last":[null,["g","out"],null]}}"#,
    &[("first", &[12, 6, 3]), ("grouped", &[6, 4, 3]), ("bias", &[6]), ("last", &[7, 6, 1])],
);

/// Gates of a recurrent network: the hidden units stand on both axes of one matrix.
pub const RECURRENT: Form = (
    r#"{"format":"fedbasin.spec/1",
        "groups":{"h":{"size":12,"kind":"symmetric"}},
        "tensors":{"input":[{"concat":["h","h","h","h"]},null],"hidden":[{"concat":["h","h","h","h"]},"h"],
                   "bias":[{"concat":["h","h","h","h"]}],"head":[null,"h"]}}"#,
    &[("input", &[48, 8]), ("hidden", &[48, 12]), ("bias", &[48]), ("head", &[5, 12])],
);

/// Blocks that keep their places, with units that do not; a stretch that stays; channels that are flattened.
pub const FIXED: Form = (
    r#"{"format":"fedbasin.spec/1",
        "groups":{"blocks":{"size":2,"kind":"fixed"},"units":{"size":6,"kind":"symmetric","within":"blocks"},
                  "c":{"size":7,"kind":"symmetric"}},
        "tensors":{"first":[["blocks","units"],null],"both":[{"concat":["c",3]},["blocks","units"]],
                   "flat":[null,["c",4]]}}"#,
    &[("first", &[12, 15]), ("both", &[10, 12]), ("flat", &[6, 28])],
);

pub const ALL: [Form; 5] = [HEADS, SHARED_KEYS, GROUPED, RECURRENT, FIXED];

pub fn bound((json, tensors): Form) -> CheckedSpec {
    Spec::from_json(json).expect("a spec").check(&layout(tensors)).expect("fits")
}

/// A chain of linear layers as `Spec::mlp` sees it, with the scales that it has if ReLU stands between them.
pub fn relu_chain(layout: &Layout) -> Spec {
    let spec = Spec::mlp(layout).expect("a chain");
    let bound = spec.check(layout).expect("fits");
    let on = |group: usize, axis: usize| {
        let stands = |tensor: &usize| {
            let on = bound.axes(*tensor).get(axis).and_then(Option::as_ref);
            on.is_some_and(|on| on.groups().any(|on| on == group))
        };
        let tensors = (0..layout.tensors().len()).filter(stands);
        tensors.map(|tensor| (layout.tensors()[tensor].name.clone(), axis)).collect()
    };
    let scale = |group: usize| ScaleForm {
        group: bound.groups()[group].name.clone(),
        up: on(group, 0),
        down: on(group, 1),
    };
    spec.clone().with_scales((0..bound.groups().len()).map(scale).collect())
}
