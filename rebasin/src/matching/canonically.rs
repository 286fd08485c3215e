//! A search whose outcome does not depend on the order and the scale of the update's units.

use std::ops::ControlFlow;

use rayon::prelude::*;

use super::{
    AlignError, Aligned, MatchOptions, Progress, ascent::State, best_of, climb::climb_from, nothing_moves,
    pair_up, settle,
};
use crate::{
    Alignment, CheckedSpec, Checkpoint, Scale, Tensor,
    agreement::squares_of_units,
    canonical::{canonical_order, sorted},
    codec,
    report::{self, ScaleReport},
    scale::{Multipliers, balance, rescale},
};

/// As [`align`](crate::align), but copies of an update with their units in another order come to the same aligned checkpoint, byte for
/// byte: the search sees the update in its [canonical order](canonical_order) alone, and its random orders are drawn from `options.seed` and
/// from the update's content. The seed must therefore not come from the update's bytes. Alignment and report are of the update as it came.
///
/// Where the spec has [scales](crate::ScaleForm), the update is also brought to the reference's scale: the search sees both at their
/// [canonical scale](crate::canonical_scale), the report is of them there, and the alignment's factors give each unit the scale that its
/// partner has, or the nearest one within a factor of 8 of the canonical one. Copies that differ by legal factors then come to the same aligned checkpoint but for rounding. (Rounding moves bits, so that the
/// order in which the search sees the units is that of their norms there, and only `options.seed` gives its random orders; where two units'
/// norms are as near as rounding, a copy may be searched from another order.) Units that nothing comes into, or nothing goes out of, have no scale
/// of their own: theirs stays, and is multiplied as their partner's.
///
/// Two things still look at the order in which it came, for an update that was trained from the reference is in its frame already. First it is
/// asked, as by [`align`](crate::align), whether anything has to move; if not, the update stays, and a copy of it is led back to there as
/// long as each of its units is nearest to its own partner. And where the search ends below the identity, the outcome is where a climb
/// from the identity ends, so that it never is below. Neither happens to a network from another start, unless whoever sends it aligned it to the
/// reference before: any order at which no single step helps stays.
///
/// # Errors
/// As [`align`](crate::align); [`AlignError::Checkpoint`] too if the update's dtypes cannot hold a weight at the reference's scale.
pub fn align_canonically(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: Checkpoint,
    options: &MatchOptions,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Aligned, AlignError> {
    crate::scanner::compare(spec.layout(), reference.layout())?;
    crate::scanner::compare(spec.layout(), update.layout())?;
    if spec.scales().is_empty() {
        let order = |update: &Checkpoint| {
            let order = canonical_order(spec, update)?;
            Ok((order.alignment, options.seed ^ order.fingerprint))
        };
        return search(spec, reference, update, order, options, observe);
    }
    at_canonical_scale(spec, reference, update, options, observe)
}

fn at_canonical_scale(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: Checkpoint,
    options: &MatchOptions,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Aligned, AlignError> {
    let mut of_reference = balanced(spec, reference, observe)?;
    let reference = rescale(spec, reference, &of_reference)?;
    let order = canonical_order(spec, &update)?.alignment;
    let of_update = in_order(spec, &update, &order, observe)?;
    let update_at_scale = rescale(spec, &update, &of_update)?;
    drop(update);
    let by_norm = |update: &Checkpoint| {
        let norms = squares_of_units(spec, &order.apply(spec, update)?);
        // Numbers that are not below 0 have the order of their bits.
        let keys = norms.into_iter().map(|norms| norms.into_iter().map(f64::to_bits).collect());
        let by_norm = sorted(spec, &keys.collect::<Vec<Vec<u64>>>());
        Ok((by_norm.compose(spec, &order), options.seed))
    };
    let most = largest(&update_at_scale);
    let mut aligned = search(spec, &reference, update_at_scale, by_norm, options, observe)?;
    for own in of_reference.iter_mut().flatten() {
        *own = own.clamp(1.0 / WIDEST, WIDEST);
    }
    aligned.alignment.factors = to_partners(spec, &aligned.alignment, &of_reference, &of_update);
    aligned.report.scale = Some(ScaleReport::of(&aligned.alignment.factors, &reference));
    holds(spec, &aligned.alignment, &most, &of_reference)?;
    Ok(aligned)
}

/// A unit of the reference whose scale is further from the canonical one than by this factor does not draw others there: they come to where it
/// ends. So no reference forces weights that nobody can train upon those who come after it, whoever made it.
const WIDEST: f64 = 8.0;

/// What is left to rounding where a weight is near the end of its dtype.
const MARGIN: f64 = 1.0 + 1e-6;

/// Makes sure that the factors can be kept, and that each dtype holds what comes of them; `most` are the largest values at the canonical scale.
fn holds(
    spec: &CheckedSpec,
    alignment: &Alignment,
    most: &[f64],
    reference: &[Vec<f64>],
) -> Result<(), AlignError> {
    for (scale, factors) in spec.scales().iter().zip(&alignment.factors) {
        if !factors.iter().all(|factor| factor.is_normal() && *factor > 0.0) {
            return Err(AlignError::Scale { what: format!("group {}", spec.groups()[scale.group].name) });
        }
    }
    let back: Vec<Vec<f64>> =
        reference.iter().map(|own| own.iter().map(|own| own.recip()).collect()).collect();
    for (index, (info, most)) in spec.layout().tensors().iter().zip(most).enumerate() {
        let multipliers = Multipliers::of(spec, index, &back);
        if multipliers.is_some_and(|multipliers| !info.dtype.holds(most * multipliers.largest() * MARGIN)) {
            return Err(AlignError::Scale { what: info.name.clone() });
        }
    }
    Ok(())
}

/// The factors that balance a checkpoint.
fn balanced(
    spec: &CheckedSpec,
    checkpoint: &Checkpoint,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Vec<f64>>, AlignError> {
    let tell = |pass| match observe(Progress::Balance { pass }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(AlignError::Cancelled),
    };
    Ok(balance(spec, checkpoint, tell)?.factors)
}

/// The largest absolute value of each tensor; 0 for those that are no floats.
fn largest(checkpoint: &Checkpoint) -> Vec<f64> {
    let of_part = |dtype, part: &[u8]| {
        codec::to_f64(dtype, part).into_iter().fold(0.0, |most: f64, value| most.max(value.abs()))
    };
    let of_tensor = |tensor: &Tensor| match tensor.dtype() {
        dtype if dtype.is_float() => {
            tensor.bytes().par_chunks(PART_BYTES).map(|part| of_part(dtype, part)).reduce(|| 0.0, f64::max)
        }
        _ => 0.0,
    };
    checkpoint.tensors().iter().map(of_tensor).collect()
}

/// Bytes of a tensor that a thread looks at at a time.
const PART_BYTES: usize = 1 << 17;

/// The search itself. `order` tells in which order it sees the update, and the seed of its random orders.
fn search(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: Checkpoint,
    order: impl FnOnce(&Checkpoint) -> Result<(Alignment, u64), AlignError>,
    options: &MatchOptions,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Aligned, AlignError> {
    let before = report::measure(spec, reference, &update, None);
    let (ascent, mut identity) = pair_up(spec, reference, &update, &before);
    let mut work = ascent.work();
    let certain = ascent.identity_is_best(&mut identity, observe)?;
    work.multiply_adds += identity.work;
    drop((ascent, identity));
    if certain {
        return nothing_moves(spec, &before, true, work);
    }
    let (order, seed) = order(&update)?;
    let ordered = order.apply(spec, &update)?;
    drop(update);
    let options = MatchOptions { seed, ..*options };
    let measures = report::measure(spec, reference, &ordered, None);
    let (ascent, start) = pair_up(spec, reference, &ordered, &measures);
    let reported = |best: &State| {
        let alignment = best.alignment.compose(spec, &order);
        let after = match alignment.is_identity() {
            true => before.clone(),
            false => report::measure(spec, reference, &ordered, Some(&best.alignment)),
        };
        let report = report::compare(spec, &alignment, &before, &after)?;
        Ok::<_, AlignError>((alignment, report))
    };
    let (mut best, mut starts) = best_of(&ascent, start, &options, &mut work, observe)?;
    let (mut alignment, mut report) = reported(&best)?;
    if report.objective_after < report.objective_before {
        let identity = ascent.at(order.inverse_permutations(), report.objective_before);
        best = climb_from(&ascent, identity, &options, observe)?;
        work.add(&best);
        starts += 1;
        (alignment, report) = reported(&best)?;
    }
    if report.objective_after < report.objective_before {
        // Less than rounding was gained.
        return nothing_moves(spec, &before, false, work);
    }
    Ok(Aligned { report: settle(&ascent, &mut best, starts, report), alignment, work })
}

/// What balances an update, from a copy in canonical order: sums then do not depend on the order in which its units came.
fn in_order(
    spec: &CheckedSpec,
    update: &Checkpoint,
    order: &Alignment,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Vec<f64>>, AlignError> {
    let factors = balanced(spec, &order.apply(spec, update)?, observe)?;
    let sent = |(scale, ordered): (&Scale, Vec<f64>)| {
        let place = order.permutations[scale.group].inverse();
        (0..ordered.len()).map(|unit| ordered[place.map(unit)]).collect()
    };
    Ok(spec.scales().iter().zip(factors).map(sent).collect())
}

/// What gives each unit of an update the scale of its partner, where both are balanced by these.
#[expect(clippy::cast_possible_truncation, reason = "as exact as the weights that it scales")]
fn to_partners(
    spec: &CheckedSpec,
    alignment: &Alignment,
    reference: &[Vec<f64>],
    update: &[Vec<f64>],
) -> Vec<Vec<f32>> {
    let scales = spec.scales().iter().zip(reference.iter().zip(update));
    let of_scale = |(scale, (reference, update)): (&Scale, (&Vec<f64>, &Vec<f64>))| {
        let from = &alignment.permutations[scale.group];
        reference.iter().enumerate().map(|(unit, own)| (update[from.map(unit)] / own) as f32).collect()
    };
    scales.map(of_scale).collect()
}
