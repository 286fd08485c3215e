//! What a model's signature says that the model was made from. `proof/README.md` has the fields.

use rebasin::{AlignReport, Alignment};
use serde_json::{Map, Value, json};

use super::SOFTWARE;
use crate::store::{Aligned, MergeInput, MergeWork};

/// How a round's model was made.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// From what.
    pub work: &'a MergeWork,
    /// What MergeMany made of the alignments, by the update's id; nothing where it was not asked for, or could not go on.
    pub refined: &'a [(String, Alignment, AlignReport)],
    /// The reference's Euclidean norm over the averaged tensors; 0 where nothing is aligned.
    pub reference_norm: f64,
}

impl Made<'_> {
    /// All of it; `place` is that of the log's record of the publication.
    pub(super) fn provenance(&self, place: u64) -> Value {
        let work = self.work;
        let named = work.run.policy.name_participants;
        let examples: u64 = work.inputs.iter().map(|input| input.num_examples).sum();
        // A founding round's reference is one site's update, and its digest nobody else's to know.
        let is_a_sites = work.inputs.iter().any(|input| input.digest == work.reference);
        let mut provenance = json!({
            "kind": "global",
            "run": work.run.id,
            "round": work.round,
            "strategy": work.run.strategy.name(),
            "reference": (!is_a_sites || named).then(|| work.reference.to_string()),
            "participants": work.inputs.len(),
            "num_examples": examples,
            "alignment": self.alignments(),
            "software": SOFTWARE,
            "log_record": place,
        });
        if named {
            provenance["participants"] =
                work.inputs.iter().map(|input| self.participant(input, examples)).collect();
        } else {
            let most = work.inputs.iter().map(|input| input.num_examples).max().unwrap_or_default();
            provenance["greatest_share_at_most"] = tenths(most, examples).into();
        }
        provenance
    }

    /// What is said of one update.
    fn participant(&self, input: &MergeInput, examples: u64) -> Value {
        #[expect(clippy::cast_precision_loss, reason = "for people to read")]
        let share = input.num_examples as f64 / examples.max(1) as f64;
        let mut said = Map::from_iter([
            ("site".to_owned(), input.site_id.as_str().into()),
            ("digest".to_owned(), input.digest.to_string().into()),
            ("share".to_owned(), share.into()),
        ]);
        if let Some(aligned) = self.aligned(input) {
            said.insert("identity_certified".to_owned(), aligned.identity_certified.into());
            said.insert("moved".to_owned(), short(aligned.moved));
            let norm = self.norm(&aligned);
            said.insert("distance_before".to_owned(), short(aligned.l2_before / norm));
            said.insert("distance_after".to_owned(), short(aligned.l2_after / norm));
            if let Some(scale) = aligned.scale {
                said.insert("scaled_least".to_owned(), short(scale.least));
                said.insert("scaled_most".to_owned(), short(scale.greatest));
            }
        }
        said.into()
    }

    /// What is said of all alignments together; null where the strategy does not align.
    fn alignments(&self) -> Value {
        let aligned: Vec<Aligned> = self.work.inputs.iter().filter_map(|input| self.aligned(input)).collect();
        if aligned.is_empty() {
            return Value::Null;
        }
        let mean = |of: &dyn Fn(&Aligned) -> f64| {
            #[expect(clippy::cast_precision_loss, reason = "a count of sites")]
            let count = aligned.len() as f64;
            aligned.iter().map(of).sum::<f64>() / count
        };
        let scales = || aligned.iter().filter_map(|aligned| aligned.scale);
        let count = |of: fn(&&Aligned) -> bool| aligned.iter().filter(of).count();
        json!({
            "updates": aligned.len(),
            "nothing_moved": count(|aligned| aligned.moved == 0.0),
            "identity_certified": count(|aligned| aligned.identity_certified),
            "moved_mean": short(mean(&|aligned| aligned.moved)),
            "moved_most": short(aligned.iter().map(|aligned| aligned.moved).fold(0.0, f64::max)),
            "distance_before_mean": short(mean(&|aligned| aligned.l2_before / self.norm(aligned))),
            "distance_after_mean": short(mean(&|aligned| aligned.l2_after / self.norm(aligned))),
            "scaled_least": scales().map(|scale| scale.least).reduce(f64::min).map(short),
            "scaled_most": scales().map(|scale| scale.greatest).reduce(f64::max).map(short),
            "refined": !self.refined.is_empty(),
        })
    }

    /// What distances of an update are beside: the reference's norm at the scale at which they were measured.
    fn norm(&self, aligned: &Aligned) -> f64 {
        aligned.scale.map_or(self.reference_norm, |scale| scale.reference_norm)
    }

    /// What became of an update in the end.
    fn aligned(&self, input: &MergeInput) -> Option<Aligned> {
        let refined = self.refined.iter().find(|(id, ..)| *id == input.update_id);
        refined.map(|(_, _, report)| report.into()).or(input.aligned)
    }
}

/// Four digits say enough, and do not tell one update from another that is much like it. Null for what is no number, as a distance beside
/// a reference of zeros.
fn short(figure: f64) -> Value {
    format!("{figure:.3e}").parse::<f64>().map_or(Value::Null, Value::from)
}

/// The next tenth that is not less than a part of the whole.
fn tenths(part: u64, whole: u64) -> f64 {
    let tenths = (u128::from(part) * 10).div_ceil(u128::from(whole.max(1)));
    f64::from(u32::try_from(tenths).unwrap_or(10)) / 10.0
}

#[cfg(test)]
mod tests;
