//! What an alignment did.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    AlignError, Alignment, CheckedSpec, Checkpoint, Dtype, Margins, Tensor, alignment::Gather,
    canonical_scale, codec,
};

/// What an alignment did to one update, against its reference; both at their [canonical scale](crate::canonical_scale) if it has factors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlignReport {
    /// Sum over the averaged tensors of the inner product with the reference, before. Dimensionless.
    pub objective_before: f64,
    /// The same after.
    pub objective_after: f64,
    /// Euclidean distance to the reference over the averaged tensors, before.
    pub l2_before: f64,
    /// The same after. Never more than before.
    pub l2_after: f64,
    /// Fraction of units that moved, 0 to 1.
    pub moved: f64,
    /// Sweeps of the start that was kept; 0 when the identity was certified.
    pub sweeps: u32,
    /// Starts tried; 0 when the identity was certified.
    pub starts: u32,
    /// Whether the identity was proved optimal for each group, the others held: nothing needed to move.
    pub identity_certified: bool,
    /// The same figures a group, over the tensors that it moves.
    pub groups: Vec<GroupReport>,
    /// How its units were scaled, if the alignment has factors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleReport>,
}

/// How an update's units were brought to the scale of their partners in the reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScaleReport {
    /// The least factor of a unit; 1 is: as it came.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
    /// Euclidean norm of the reference over the averaged tensors at its canonical scale, where distances are measured then.
    pub reference_norm: f64,
}

impl ScaleReport {
    /// Of an alignment's factors; `reference` is at its canonical scale.
    pub(crate) fn of(factors: &[Vec<f32>], reference: &Checkpoint) -> Self {
        let all = || factors.iter().flatten().copied().map(f64::from);
        let square = |tensor: &Tensor| codec::sum_of_squares(tensor.dtype(), tensor.bytes());
        Self {
            least: all().reduce(f64::min).unwrap_or(1.0),
            greatest: all().reduce(f64::max).unwrap_or(1.0),
            reference_norm: reference.tensors().iter().map(square).sum::<f64>().sqrt(),
        }
    }
}

/// An alignment's figures over the tensors that one group moves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// The group.
    pub name: String,
    /// Its units.
    pub size: usize,
    /// Fraction of its units that moved.
    pub moved: f64,
    /// Inner product with the reference, before.
    pub objective_before: f64,
    /// The same after.
    pub objective_after: f64,
    /// Euclidean distance to the reference, before.
    pub l2_before: f64,
    /// The same after.
    pub l2_after: f64,
    /// Visits that changed the group's permutation, in the start that was kept.
    pub sweeps: u32,
    /// How surely its units have their partners, where a search matched them. Absent where nothing moved, and for groups that are within
    /// others or have such: [`optimality`](crate::optimality) tells of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margins: Option<Margins>,
}

/// Measures an alignment: both objectives and distances, in f64. If it has factors, both checkpoints are measured at their
/// [canonical scale](crate::canonical_scale), as [`align_canonically`](crate::align_canonically) does, before and after.
///
/// # Errors
/// [`AlignError`] if checkpoints, spec and alignment do not belong together.
pub fn report(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: &Checkpoint,
    alignment: &Alignment,
) -> Result<AlignReport, AlignError> {
    crate::scanner::compare(spec.layout(), reference.layout())?;
    crate::scanner::compare(spec.layout(), update.layout())?;
    alignment.check(spec)?;
    if !alignment.factors.is_empty() {
        let [reference, update] = [canonical_scale(spec, reference)?, canonical_scale(spec, update)?];
        let moves = Alignment::from(alignment.permutations.clone());
        let mut report = report(spec, &reference.checkpoint, &update.checkpoint, &moves)?;
        report.scale = Some(ScaleReport::of(&alignment.factors, &reference.checkpoint));
        return Ok(report);
    }
    let before = measure(spec, reference, update, None);
    let after = match alignment.is_identity() {
        true => before.clone(),
        false => measure(spec, reference, update, Some(alignment)),
    };
    compare(spec, alignment, &before, &after)
}

/// As [`report`], the measures before and after being known, one a tensor.
pub(crate) fn compare(
    spec: &CheckedSpec,
    alignment: &Alignment,
    before: &[Measure],
    after: &[Measure],
) -> Result<AlignReport, AlignError> {
    let groups = spec.groups().iter().enumerate().map(|(index, group)| {
        let over = |measures: &[Measure]| {
            let own = |tensor: usize| spec.moves(tensor, index);
            Measure::sum(
                measures.iter().enumerate().filter(|(tensor, _)| own(*tensor)).map(|(_, measure)| measure),
            )
        };
        let (before, after) = (over(before), over(after));
        let permutation = &alignment.permutations[index];
        GroupReport {
            name: group.name.clone(),
            size: group.units,
            moved: fraction(permutation.moved(), permutation.len()),
            objective_before: before.objective,
            objective_after: after.objective,
            l2_before: before.squared_distance.sqrt(),
            l2_after: after.squared_distance.sqrt(),
            sweeps: 0,
            margins: None,
        }
    });
    let groups = groups.collect();
    let (before, after) = (Measure::sum(before), Measure::sum(after));
    if ![before, after].iter().all(|m| m.objective.is_finite() && m.squared_distance.is_finite()) {
        return Err(AlignError::Overflow { group: "(all)".into() });
    }
    Ok(AlignReport {
        objective_before: before.objective,
        objective_after: after.objective,
        l2_before: before.squared_distance.sqrt(),
        l2_after: after.squared_distance.sqrt(),
        moved: alignment.moved(),
        sweeps: 0,
        starts: 0,
        identity_certified: false,
        groups,
        scale: None,
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of units are far below 2^52")]
fn fraction(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// What two tensors have in common.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measure {
    pub(crate) objective: f64,
    squared_distance: f64,
}

impl Measure {
    pub(crate) fn sum<'a>(measures: impl IntoIterator<Item = &'a Self>) -> Self {
        measures.into_iter().fold(Self::default(), |sum, measure| Self {
            objective: sum.objective + measure.objective,
            squared_distance: sum.squared_distance + measure.squared_distance,
        })
    }

    /// No sum of products of an element of one with one of the other is larger, each element being in one product at most:
    /// the half of both squared norms, which bounds their product (Cauchy and Schwarz; arithmetic and geometric mean).
    pub(crate) fn most(&self) -> f64 {
        self.objective + self.squared_distance / 2.0
    }

    fn of(pairs: impl Iterator<Item = (f64, f64)>) -> Self {
        pairs.fold(Self::default(), |sum, (a, b)| Self {
            objective: sum.objective + a * b,
            squared_distance: sum.squared_distance + (a - b) * (a - b),
        })
    }

    /// The common case: so many sums side by side as a machine's vectors have them, and some over.
    fn of_f32(a: &[u8], b: &[u8]) -> Self {
        pulp::Arch::new().dispatch(OfF32 { a, b })
    }
}

/// One plain loop, compiled for each width of the machine's vectors.
struct OfF32<'v> {
    a: &'v [u8],
    b: &'v [u8],
}

impl pulp::NullaryFnOnce for OfF32<'_> {
    type Output = Measure;

    #[inline(always)]
    fn call(self) -> Measure {
        let number = |bytes: [u8; 4]| f64::from(f32::from_le_bytes(bytes));
        let (mut products, mut squares) = ([0.0; LANES], [0.0; LANES]);
        let ((a, _), (b, _)) = (self.a.as_chunks::<4>(), self.b.as_chunks::<4>());
        let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                let (a, b) = (number(a[lane]), number(b[lane]));
                products[lane] += a * b;
                squares[lane] += (a - b) * (a - b);
            }
        }
        let rest = Measure::of(rest_a.iter().zip(rest_b).map(|(&a, &b)| (number(a), number(b))));
        Measure {
            objective: products.iter().sum::<f64>() + rest.objective,
            squared_distance: squares.iter().sum::<f64>() + rest.squared_distance,
        }
    }
}

/// Sums that are kept side by side.
const LANES: usize = 32;

/// Elements that are summed as one at the most: the same for any number of threads.
const CHUNK: usize = 1 << 15;

/// One measure a tensor, the update aligned if there is an alignment; zero for tensors that are not averaged. The checkpoints
/// are of the spec's layout.
pub(crate) fn measure(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: &Checkpoint,
    alignment: Option<&Alignment>,
) -> Vec<Measure> {
    let of = |index: usize| {
        let (a, b) = (reference.tensor(index), update.tensor(index));
        let (dtype, shape) = (a.dtype(), &a.info().shape[..]);
        if !dtype.is_float() || a.bytes().is_empty() {
            return Measure::default();
        }
        let moves = alignment.map(|alignment| alignment.moves(spec, shape, spec.axes(index)));
        let gather = moves.as_ref().and_then(|moves| Gather::new(b.bytes(), shape, dtype.size(), moves));
        let chunk = CHUNK * dtype.size();
        let row = a.bytes().len() / shape.first().unwrap_or(&1);
        let rows = (chunk / row).max(1);
        let together = if gather.is_some() { rows * row } else { chunk };
        let chunks = a.bytes().par_chunks(together).zip(b.bytes().par_chunks(together));
        let of_part = |a: &[u8], b: &[u8]| {
            if dtype == Dtype::F32 {
                return Measure::of_f32(a, b);
            }
            Measure::of(codec::to_f64(dtype, a).into_iter().zip(codec::to_f64(dtype, b)))
        };
        let of_chunk = |aligned: &mut Vec<u8>, (place, (a, b)): (usize, (&[u8], &[u8]))| {
            let Some(gather) = &gather else { return of_part(a, b) };
            aligned.resize(b.len(), 0);
            gather.rows(place * rows, aligned);
            // A row may be long.
            let parts = a.chunks(chunk).zip(aligned.chunks(chunk));
            Measure::sum(&parts.map(|(a, b)| of_part(a, b)).collect::<Vec<_>>())
        };
        let measures: Vec<Measure> = chunks.enumerate().map_init(Vec::new, of_chunk).collect();
        Measure::sum(&measures)
    };
    (0..spec.layout().tensors().len()).into_par_iter().map(of).collect()
}
