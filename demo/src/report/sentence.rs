//! The one sentence, computed from the figures and nothing else.

use super::{Report, Round};

/// Differences of accuracy below this are not called a gain or a loss: two thousand test images cannot tell.
const NOISE: f64 = 0.01;

/// What happened, in one sentence. It claims a gain only where alignment moved units and the figures differ by more than
/// what the test images can tell apart.
#[must_use]
pub fn sentence(report: &Report) -> String {
    let (Some(first), Some(last)) = (report.rounds.first(), report.rounds.last()) else {
        return "No round was published, so there is nothing to compare.".to_owned();
    };
    let moved: usize = report.rounds.iter().map(Round::units_moved).sum();
    let all = report.all_data.accuracy;
    if moved == 0 {
        let merged = if report.rounds.iter().all(|round| round.aligned_is_naive) {
            "the aligned mean is the naive mean, byte for byte"
        } else {
            "the aligned mean is the naive mean up to rounding"
        };
        return format!(
            "Alignment moved 0 units in every update{}, so {merged}, and no gain from alignment is claimed: \
             accuracy {:.3} after round 1{}, where one model trained on all data reaches {all:.3}.",
            if report.same_init { " because all sites started from one model" } else { "" },
            first.aligned.score.accuracy,
            after_last(first, last),
        );
    }
    let (naive, aligned) = (first.naive.accuracy, first.aligned.score.accuracy);
    let verdict = if first.units_moved() == 0 {
        format!(
            "In round {} alignment moved 0 units and no gain is claimed (accuracy {aligned:.3})",
            first.round
        )
    } else {
        let verb = match aligned - naive {
            gain if gain >= NOISE => {
                format!("raised the mean's accuracy from {naive:.3} (naive) to {aligned:.3}")
            }
            gain if gain <= -NOISE => {
                format!(
                    "lowered the mean's accuracy from {naive:.3} (naive) to {aligned:.3}, which is no gain"
                )
            }
            _ => format!(
                "made no clear difference to the mean's accuracy ({naive:.3} naive, {aligned:.3} aligned)"
            ),
        };
        format!(
            "In round {} alignment moved {} units and {verb}, {}",
            first.round,
            first.units_moved(),
            against_best_site(aligned, first.best_site())
        )
    };
    let later: usize = report.rounds.iter().skip(1).map(Round::units_moved).sum();
    let later = match report.rounds.len() {
        1 => String::new(),
        _ if later == 0 => format!(
            "; after that the sites started from the global model, alignment moved 0 units and claims nothing, and training took it to {:.3} by round {}",
            last.aligned.score.accuracy, last.round
        ),
        _ => format!(
            "; alignment moved {later} units in later rounds, and round {} ended at {:.3} (naive mean {:.3})",
            last.round, last.aligned.score.accuracy, last.naive.accuracy
        ),
    };
    format!("{verdict}{later}; one model trained on all data reaches {all:.3}.")
}

/// How the mean stands beside the best single site, whose difference counts only above the noise.
fn against_best_site(aligned: f64, best: f64) -> String {
    if aligned - best >= NOISE {
        format!("above the best single site ({best:.3})")
    } else if best - aligned >= NOISE {
        format!("below the best single site ({best:.3})")
    } else {
        format!("level with the best single site ({best:.3})")
    }
}

fn after_last(first: &Round, last: &Round) -> String {
    if first.round == last.round {
        return String::new();
    }
    format!(" and {:.3} after round {}", last.aligned.score.accuracy, last.round)
}
