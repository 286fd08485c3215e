//! Turns the server's records and the trainers' progress files into what is seen.

use std::time::Instant;

use fedbasin_client::admin::types::{Round, RoundSite};

use super::{Folder, SITES, site_id};
use crate::{screen::Screen, site_training::TrainProgress};

/// What was seen so far.
pub(super) struct Watch<'a> {
    pub(super) screen: Screen,
    folder: &'a Folder,
    /// When each round was first seen, and when it was first seen published.
    seen: Vec<(Instant, Option<Instant>)>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(folder: &'a Folder) -> Self {
        let names: Vec<String> = (0..SITES).map(site_id).chain(["all data".to_owned()]).collect();
        Self { screen: Screen::new(&names), folder, seen: Vec::new() }
    }

    /// Shows the newest state; `all_data_runs` as long as the trainer on all data does.
    pub(super) fn show(&mut self, rounds: &[Round], all_data_runs: bool) {
        for (index, round) in rounds.iter().enumerate() {
            if self.seen.len() <= index {
                self.seen.push((Instant::now(), None));
                self.screen.say(format_args!("round {}: open, {}", round.number, origin(round)));
            }
            if round.state == "published" && self.seen[index].1.is_none() {
                self.seen[index].1 = Some(Instant::now());
                let aligned = round.sites.iter().filter(|site| site.state == "aligned").count();
                let moved: Vec<String> = round.sites.iter().map(moved).collect();
                self.screen.say(format_args!(
                    "round {}: published, {aligned} of {} updates aligned, units moved: {}",
                    round.number,
                    round.sites.len(),
                    moved.join(", ")
                ));
            }
        }
        if let Some(newest) = rounds.last() {
            for site in 0..SITES {
                self.show_site(site, newest);
            }
        }
        let progress = self.progress(SITES);
        match progress {
            Some(progress) if all_data_runs => {
                let detail = told_loss(&progress);
                let (done, total) = (progress.epoch.into(), progress.epochs.into());
                self.screen.show(SITES, done, total, "training", &detail);
            }
            _ if !all_data_runs => self.screen.show(SITES, 1, 1, "trained", ""),
            _ => {}
        }
    }

    fn show_site(&mut self, site: usize, newest: &Round) {
        let number = newest.number;
        let Some(record) = newest.sites.iter().find(|record| record.site == site_id(site)) else { return };
        let progress = self.progress(site).filter(|progress| progress.round == number);
        let (done, total) =
            progress.map_or((0, 1), |progress| (progress.epoch.into(), progress.epochs.into()));
        match record.state.as_str() {
            "silent" => match progress {
                Some(progress) => {
                    let detail = told_loss(&progress);
                    self.screen.show(site, done, total, &format!("round {number}: training"), &detail);
                }
                None => self.screen.show(site, 0, 1, &format!("round {number}: starting"), ""),
            },
            "receiving" => {
                let detail = match (record.received_bytes, record.size) {
                    (Some(received), Some(size)) if size > 0 => format!(", {} %", received * 100 / size),
                    _ => String::new(),
                };
                self.screen.show(site, done, total, &format!("round {number}: uploading"), &detail);
            }
            "aligned" => {
                let stage = format!("round {number}: aligned, {} units moved", moved(record));
                self.screen.show(site, 1, 1, &stage, "");
            }
            state => self.screen.show(site, 1, 1, &format!("round {number}: {state}"), ""),
        }
    }

    /// What a trainer last wrote; `None` before it wrote anything.
    fn progress(&self, lane: usize) -> Option<TrainProgress> {
        serde_json::from_slice(&std::fs::read(self.folder.progress(lane)).ok()?).ok()
    }

    /// Seconds from first seen to first seen published.
    pub(super) fn round_seconds(&self, rounds: usize) -> Vec<f64> {
        let seconds = |index: usize| match self.seen.get(index) {
            Some((opened, Some(published))) => published.duration_since(*opened).as_secs_f64(),
            _ => 0.0,
        };
        (0..rounds).map(seconds).collect()
    }
}

fn told_loss(progress: &TrainProgress) -> String {
    if progress.epoch == 0 {
        return String::new();
    }
    format!(", epoch {} of {}, loss {:.3}", progress.epoch, progress.epochs, progress.loss)
}

fn origin(round: &Round) -> String {
    match &round.reference_digest {
        Some(digest) => format!("sites start from {}", digest.get(..12).unwrap_or(digest)),
        None => "a founding round: sites start from what they have".to_owned(),
    }
}

/// Units moved by the server's alignment of an update; `-` if there was none.
fn moved(record: &RoundSite) -> String {
    record.alignment.as_ref().map_or_else(|| "-".to_owned(), |report| units_moved(report).to_string())
}

/// The report tells fractions of groups; units are whole.
pub(crate) fn units_moved(report: &fedbasin_client::admin::types::AlignReport) -> usize {
    report.groups.iter().map(|group| (group.moved * group.size as f64).round() as usize).sum()
}
