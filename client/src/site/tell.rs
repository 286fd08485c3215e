//! What a site says about its run: each change once, in one line.

use std::time::Duration;

use fedbasin_proto::v1::{
    Alignment, GetUpdateRequest, RoundState, RoundStatus, RunStatus, Update, UpdateState,
};
use tonic::Request;

use super::Site;
use crate::error::{Error, Result};

/// What was said already, so that each thing is said once.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) round: Option<(u32, RoundState)>,
    pub(super) global: String,
    /// Accepted updates whose alignment is not known yet: round and id.
    pub(super) unaligned: Vec<(u32, String)>,
    pub(super) waiting: bool,
}

impl Site {
    /// Says what changed.
    ///
    /// # Errors
    /// An update of ours that was accepted turned out to be bad.
    pub(super) async fn tell(&mut self, status: &RunStatus) -> Result<()> {
        let Some(round) = &status.round else {
            if !self.told.waiting {
                self.told.waiting = true;
                self.screen.say(format_args!("run {}: waiting for its first round", status.run_id));
            }
            return Ok(());
        };
        if let Some(own) = &round.own_update {
            self.tell_own(round, own);
        }
        self.tell_alignments(round).await?;
        if !status.global_digest.is_empty() && status.global_digest != self.told.global {
            self.told.global.clone_from(&status.global_digest);
            self.screen.say(format_args!(
                "run {}: {} of {} rounds published, global model {}",
                status.run_id, status.rounds_published, status.rounds, status.global_digest
            ));
        }
        let now = (round.number, round.state());
        if self.told.round.replace(now) == Some(now) {
            return Ok(());
        }
        let number = round.number;
        match round.state() {
            RoundState::Collecting if self.has_work(round) => self.screen.say(format_args!(
                "round {number} of {}: open, {}",
                status.rounds,
                if round.reference_digest.is_empty() { "no reference yet" } else { "with a reference" }
            )),
            RoundState::Collecting => self.screen.say(format_args!(
                "round {number}: waiting for others, {} of {} updates are in, quorum {}",
                round.accepted, round.cohort, round.quorum
            )),
            RoundState::Merging => {
                self.screen.say(format_args!("round {number}: merging {} updates", round.accepted));
            }
            RoundState::Failed => self.screen.say(format_args!("round {number}: failed: {}", round.reason)),
            RoundState::Cancelled => self.screen.say(format_args!("round {number}: cancelled")),
            // The line about the global model says it.
            RoundState::Published | RoundState::Unspecified => {}
        }
        Ok(())
    }

    /// Notes an update that the server holds, also one that an earlier process sent.
    fn tell_own(&mut self, round: &RoundStatus, own: &Update) {
        let held = matches!(own.state(), UpdateState::Accepted | UpdateState::Aligned);
        let known = self.told.unaligned.iter().any(|(_, id)| *id == own.update_id);
        let fresh = self.passed.is_none_or(|passed| passed < round.number);
        if held && !known && fresh {
            self.screen
                .say(format_args!("round {}: the server holds this site's update already", round.number));
            self.told.unaligned.push((round.number, own.update_id.clone()));
            self.passed = Some(round.number);
        }
    }

    /// Asks for the alignments that are not known yet and should be by now. A report is not worth a failure: it stays
    /// recorded on the server.
    ///
    /// # Errors
    /// The update was rejected after its receipt. That is for a person; the next start trains the round anew if it still
    /// collects.
    async fn tell_alignments(&mut self, round: &RoundStatus) -> Result<()> {
        let mut unaligned = std::mem::take(&mut self.told.unaligned);
        for (number, id) in unaligned.drain(..) {
            let closed = round.number > number
                || matches!(
                    round.state(),
                    RoundState::Published | RoundState::Failed | RoundState::Cancelled
                );
            let here = round.own_update.as_ref().filter(|own| own.update_id == id);
            let update = match here {
                Some(own) if own.alignment.is_some() || own.state() == UpdateState::Rejected || !closed => {
                    Some(own.clone())
                }
                _ => self.get_update(&id).await,
            };
            match update {
                Some(Update { alignment: Some(alignment), .. }) => {
                    self.screen.say(format_args!("round {number}: {}", alignment_line(&alignment)));
                }
                Some(update) if update.state() == UpdateState::Declined => {
                    self.screen
                        .say(format_args!("round {number}: the update was not needed: {}", update.reason));
                }
                Some(update) if update.state() == UpdateState::Rejected => {
                    return Err(self.rejected_late(number, &update));
                }
                Some(_) if closed => {
                    self.screen.say(format_args!(
                        "round {number}: the update was not moved (a reference, or nothing is aligned)"
                    ));
                }
                _ => self.told.unaligned.push((number, id)),
            }
        }
        Ok(())
    }

    /// An update that the server accepted and then found bad: noted, so that it is not sent again.
    fn rejected_late(&self, number: u32, update: &Update) -> Error {
        let noted = self.dir.round(number).and_then(|dir| {
            let Some(mut ticket) = dir.ticket()? else { return Ok(()) };
            ticket.rejected = Some(update.reason.clone());
            dir.save(&ticket)
        });
        if let Err(error) = noted {
            return error;
        }
        Error::failed(
            format_args!("was accepted, then rejected: {}", update.reason),
            format_args!("the update of round {number} of run {}", update.run_id),
            "mend the trainer, and start the same command again: while the round collects it is trained anew",
        )
    }

    pub(super) async fn get_update(&mut self, id: &str) -> Option<Update> {
        let mut request = Request::new(GetUpdateRequest { update_id: id.to_owned() });
        request.set_timeout(Duration::from_secs(10));
        self.client.get_update(request).await.ok()?.into_inner().update
    }
}

/// An alignment in one line.
#[must_use]
pub fn alignment_line(alignment: &Alignment) -> String {
    if alignment.moved == 0.0 {
        return format!(
            "aligned, 0 units moved: the update was in the reference's frame already (distance {:.4})",
            alignment.l2_after
        );
    }
    let groups: Vec<String> = alignment
        .groups
        .iter()
        .take(6)
        .map(|group| format!("{} {:.0} % of {}", group.name, 100.0 * group.moved, group.size))
        .collect();
    let more = alignment.groups.len().saturating_sub(groups.len());
    let best = alignment.groups.iter().filter_map(|group| group.margins.as_ref()).map(|margins| margins.best);
    let matched = best.reduce(f64::min).map_or_else(String::new, |least| {
        format!(", in each group at least {:.0} % have the partner they fit best", 100.0 * least)
    });
    format!(
        "aligned, {:.1} % of units moved{matched}, distance {:.4} -> {:.4}, objective {:.4} -> {:.4}, {} sweeps [{}{}]",
        100.0 * alignment.moved,
        alignment.l2_before,
        alignment.l2_after,
        alignment.objective_before,
        alignment.objective_after,
        alignment.sweeps,
        groups.join(", "),
        if more > 0 { format!(", and {more} groups") } else { String::new() }
    )
}
