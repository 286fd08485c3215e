#![doc = include_str!("../README.md")]

mod activations;
mod agreement;
mod alignment;
mod assignment;
mod canonical;
mod checkpoint;
mod codec;
mod correction;
mod digest;
mod dtype;
mod gemm;
mod header;
mod layout;
mod magnitude;
mod matching;
mod merge_many;
mod merging;
mod path;
mod permutation;
mod report;
mod scale;
mod scanner;
mod source;
mod spec;
mod straight_through;
mod wreath;

pub use self::{
    activations::{ActivationError, Activations, Agreement},
    agreement::{GroupAgreement, agreement},
    alignment::Alignment,
    assignment::{Assignment, assign},
    canonical::{CanonicalOrder, canonical_order},
    checkpoint::{Checkpoint, CheckpointError, Tensor},
    correction::restore_norms,
    digest::{Digest, DigestError, Hasher, HashingWriter},
    dtype::Dtype,
    header::{Header, Limits},
    layout::{Layout, LayoutError, MAX_NAME_BYTES, MAX_RANK, TensorInfo},
    magnitude::{Bounds, Magnitudes},
    matching::{
        AlignError, Aligned, GroupOptimality, Margins, MatchOptions, Optimality, Progress, Work, align,
        align_canonically, align_from, optimality, quietly, seed_from_digests,
    },
    merge_many::{Iteration, MergeMany, MergeProgress, merge_many},
    merging::{Differences, Input, MergeError, Standing, mean, merge_measured, merge_to, shares},
    path::{Barrier, barrier, interpolate},
    permutation::{NotABijection, Permutation},
    report::{AlignReport, GroupReport, ScaleReport, report},
    scale::{Canonical, canonical_scale, rescale},
    scanner::Scanner,
    source::{BytesSource, FileSource, Source, read_checkpoint},
    spec::{
        Axis, AxisForm, CheckedSpec, Coverage, Factor, FactorForm, Group, GroupForm, Kind, Scale, ScaleForm,
        Segment, Spec, SpecError,
    },
    straight_through::{Objective, StraightThrough, StraightThroughOptions, straight_through},
};

/// For this crate's benchmarks only.
#[doc(hidden)]
pub mod bench {
    /// `product += values · valuesᵀ`, as the matcher multiplies.
    pub fn product(product: &mut [f32], n: usize, values: &[f32]) {
        let operand = crate::gemm::Strided::by_depth(values, n);
        crate::gemm::accumulate(product, n, values.len() / n, operand, operand);
    }
}
