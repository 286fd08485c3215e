//! What can go wrong, each with where and what to do.

/// A graph that cannot be read, derived or verified.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// The bytes are no ONNX protobuf.
    #[error("the file is no ONNX model: {what} at byte {at}; it was cut off or damaged, export it again")]
    Wire {
        /// What is wrong.
        what: &'static str,
        /// Where, within the message that holds it.
        at: usize,
    },
    /// More of something than is taken.
    #[error(
        "the model has {found} {what}, at most {most} are taken; this reader is for networks, not for data"
    )]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much there is, as far as it was counted.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// A part that is not supported.
    #[error("{0}")]
    Unsupported(String),
    /// An opset that the rules were not written for.
    #[error(
        "the model uses opset {version} of domain {domain:?}; this program knows ai.onnx {from} to {to}: export it with \
         opset 18"
    )]
    Opset {
        /// The domain.
        domain: String,
        /// Its version in the model.
        version: i64,
        /// The lowest version known.
        from: i64,
        /// The highest.
        to: i64,
    },
    /// Two things of one name.
    #[error("{what} {name:?} stands twice; names must differ, export the model again")]
    Duplicate {
        /// What.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A value that nothing writes before it is read.
    #[error(
        "{place} reads {value:?}, which no input, initializer or earlier node writes; the graph is cyclic, unsorted or \
         incomplete: export it again, or run onnx.checker"
    )]
    Unwritten {
        /// Who reads it.
        place: String,
        /// What.
        value: String,
    },
    /// A tensor that contradicts itself.
    #[error("tensor {name:?}: {why}; export the model again")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A node whose inputs do not fit together.
    #[error("node {node} does not fit its inputs: {why}; run onnx.checker with full_check=True")]
    Shape {
        /// The node and its operator.
        node: String,
        /// Why.
        why: String,
    },
    /// The same in a graph with symbolic dimensions, for the sizes that stand for them.
    #[error(
        "node {node} does not fit its inputs: {why}; the graph leaves sizes open, and {sizes} was taken: export it with the \
         sizes that the network is used with"
    )]
    Sizes {
        /// The node and its operator.
        node: String,
        /// Why.
        why: String,
        /// Each symbolic dimension with its size.
        sizes: String,
    },
    /// The spec, or its use, is refused by rebasin.
    #[error(transparent)]
    Spec(#[from] rebasin::SpecError),
    /// The parameters make no layout.
    #[error(transparent)]
    Layout(#[from] rebasin::LayoutError),
    /// The parameters make no checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] rebasin::CheckpointError),
    /// The alignment does not fit.
    #[error(transparent)]
    Align(#[from] rebasin::AlignError),
    /// What the network is to be run on does not fit it.
    #[error("input or parameter {name:?} of the graph: {why}")]
    Input {
        /// Of which input or parameter.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The runtime refused the network.
    #[error("the runtime cannot run the network: {0}")]
    Runtime(String),
    /// The network's outputs show nothing.
    #[error("the outputs say nothing: {0}; give other inputs, or weights that are not all alike")]
    Degenerate(String),
    /// The spec changes what the network computes.
    #[error(
        "the spec is wrong: with {what} moved, output {output:?} differs by {residual:.3e} of its scale, at most \
         {tolerance:.0e} is rounding"
    )]
    Changed {
        /// What was moved.
        what: String,
        /// The output that tells.
        output: String,
        /// The largest difference, divided by the output's scale.
        residual: f64,
        /// The largest that is taken for rounding.
        tolerance: f64,
    },
    /// The graph splits and joins its axes too often.
    #[error("the graph splits and joins its axes too often to be followed; is it a network?")]
    Exhausted,
    /// The rules did not come to an end.
    #[error("the rules did not settle after {0} rounds; please report the network")]
    Unsettled(usize),
}
