//! A search whose outcome does not depend on the order of the update's units.

use std::ops::ControlFlow;

use super::{
    AlignError, Aligned, MatchOptions, Progress, ascent::State, best_of, climb::climb_from, nothing_moves,
    pair_up, settle,
};
use crate::{CheckedSpec, Checkpoint, canonical_order, report};

/// As [`align`](crate::align), but copies of an update with their units in another order come to the same aligned checkpoint, byte for
/// byte: the search sees the update in its [canonical order](canonical_order) alone, and its random orders are drawn from `options.seed` and
/// from the update's content. The seed must therefore not come from the update's bytes. Alignment and report are of the update as it came.
///
/// Two things still look at the order in which it came, for an update that was trained from the reference is in its frame already. First it is
/// asked, as by [`align`](crate::align), whether anything has to move; if not, the update stays, and a copy of it is led back to there as
/// long as each of its units is nearest to its own partner. And where the search ends below the identity, the outcome is where a climb
/// from the identity ends, so that it never is below. Neither happens to a network from another start, unless whoever sends it aligned it to the
/// reference before: any order at which no single step helps stays.
///
/// # Errors
/// As [`align`](crate::align).
pub fn align_canonically(
    spec: &CheckedSpec,
    reference: &Checkpoint,
    update: Checkpoint,
    options: &MatchOptions,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Aligned, AlignError> {
    crate::scanner::compare(spec.layout(), reference.layout())?;
    crate::scanner::compare(spec.layout(), update.layout())?;
    let before = report::measure(spec, reference, &update, None);
    let (ascent, mut identity) = pair_up(spec, reference, &update, &before);
    let mut work = ascent.work();
    let certain = ascent.identity_is_best(&mut identity, observe)?;
    work.multiply_adds += identity.work;
    drop((ascent, identity));
    if certain {
        return nothing_moves(spec, &before, true, work);
    }
    let order = canonical_order(spec, &update)?;
    let ordered = order.alignment.apply(spec, &update)?;
    drop(update);
    let options = MatchOptions { seed: options.seed ^ order.fingerprint, ..*options };
    let measures = report::measure(spec, reference, &ordered, None);
    let (ascent, start) = pair_up(spec, reference, &ordered, &measures);
    let reported = |best: &State| {
        let alignment = best.alignment.compose(&order.alignment);
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
        let identity = ascent.at(order.alignment.inverse(), report.objective_before);
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
