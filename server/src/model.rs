//! What the store holds, as checked types.

mod access;
mod evaluation;
pub(crate) mod path;
mod published;
mod site;

use fedbasin_proto::{MAX_METRIC_NAME_BYTES, MAX_METRICS, MAX_NUM_EXAMPLES, is_metric_name};
use rebasin::{AlignReport, Digest, Layout, Spec};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(crate) use self::site::Failed;
pub use self::{
    access::{Certificate, DAY_MS, Holder, Role, Token, days_left, standing},
    evaluation::{Evaluated, Evaluation, MeanEvaluation, NewEvaluation, NewEvaluations},
    path::{MeanPath, PathPoint},
    published::{Model, Published, is_tag},
    site::{Arriving, FailedCall, SiteDetails},
};
use crate::{
    error::{Error, Result},
    round::{Judged, Millis, Policy, Round},
};

/// A time as others read it: `2026-01-31T12:00:00.123Z`.
#[must_use]
pub(crate) fn iso(at: Millis) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Checks an id that a person chooses: 1 to 63 of `a-z 0-9 -`, beginning with a letter or digit.
///
/// # Errors
/// [`Code::InvalidArgument`](crate::error::Code), naming `what`.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    let fits = (1..=63).contains(&id.len())
        && !id.starts_with('-')
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what}: {:?} is not 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit",
        id.chars().take(80).collect::<String>()
    )))
}

/// A site.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its id.
    pub id: String,
    /// When it was enrolled.
    pub created_at_ms: Millis,
    /// Its last authenticated call.
    pub last_seen_at_ms: Option<Millis>,
}

/// The merge rule of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Align each update to the reference, then average.
    Aligned,
    /// Average as they are.
    Mean,
    /// Align, then refine by aligning each to the mean of the others (Git Re-Basin, Alg. 3), then average.
    MergeMany,
}

impl Strategy {
    /// The name, as stored and shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aligned => "aligned",
            Self::Mean => "mean",
            Self::MergeMany => "merge-many",
        }
    }

    /// Reads a stored name.
    pub(crate) fn from_name(name: &str) -> Result<Self> {
        match name {
            "aligned" => Ok(Self::Aligned),
            "mean" => Ok(Self::Mean),
            "merge-many" => Ok(Self::MergeMany),
            _ => Err(Error::internal(format_args!("runs.strategy holds {name:?}"))),
        }
    }

    /// Whether updates are aligned at all.
    #[must_use]
    pub fn aligns(self) -> bool {
        self != Self::Mean
    }
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// Rounds go on.
    Open,
    /// All rounds are published.
    Complete,
    /// Too many rounds failed.
    Failed {
        /// A sentence for a person.
        reason: String,
    },
    /// Ended by an operator.
    Cancelled,
}

impl RunState {
    /// The name, as stored and shown.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Complete => "complete",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One training campaign.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: RunState,
    /// Its merge rule.
    pub strategy: Strategy,
    /// Which axes move together; absent only for [`Strategy::Mean`].
    pub spec: Option<Spec>,
    /// The graph that the spec was derived from and verified by; absent for a spec that was given.
    pub graph: Option<Digest>,
    /// Names, dtypes and shapes; absent until a seed or the first update fixes them.
    pub layout: Option<Layout>,
    /// What it asks of its rounds.
    pub policy: Policy,
    /// The checkpoint it started from, if any.
    pub seed: Option<Digest>,
    /// The newest published model.
    pub global: Option<Digest>,
    /// The round that published it.
    pub global_round: Option<u32>,
    /// The mean of that round's updates as they came, while it is kept.
    pub naive: Option<Digest>,
    /// How many rounds were published.
    pub rounds_published: u32,
    /// When it was created.
    pub created_at_ms: Millis,
    /// Since when no further round opens, where an operator paused it.
    pub paused_at_ms: Option<Millis>,
    /// Its sites, by id.
    pub cohort: Vec<String>,
    /// The number of its newest round; absent before the first one opened.
    pub current_round: Option<u32>,
}

/// Whether a checkpoint of `layout` may take part in a run: it has the run's layout, or, before one is fixed, fits its
/// spec. `fixed_by` is the site whose update fixed the layout, if no seed did. The one place that says so: asked early, as soon as a header is here, and again where the layout is fixed.
///
/// # Errors
/// [`Code::InvalidCheckpoint`](crate::error::Code), saying what differs.
pub fn check_layout(
    spec: Option<&Spec>,
    fixed: Option<&Layout>,
    fixed_by: Option<&str>,
    layout: &Layout,
) -> Result<()> {
    let bad = |message: String| Error::new(crate::error::Code::InvalidCheckpoint, message);
    match (fixed, spec) {
        (Some(fixed), _) if fixed.digest() == layout.digest() => Ok(()),
        (Some(_), _) => {
            let by = match fixed_by {
                Some(site) => format!(
                    "the first update, of site {site}, fixed (an operator's seed is the safe way to fix it)"
                ),
                None => "its seed fixed".to_owned(),
            };
            Err(bad(format!(
                "the layout differs from the run's, which {by}; all sites must send the same tensor names, dtypes \
                 and shapes"
            )))
        }
        (None, Some(spec)) => spec
            .check(layout)
            .map(|_| ())
            .map_err(|error| bad(format!("the checkpoint does not fit the run's spec: {error}"))),
        (None, None) => Ok(()),
    }
}

/// Whether an update of `layout` can be aligned within `most` bytes of memory, by an estimate: eight copies of the
/// parameters in `f32` (both checkpoints, the products of several starts), twelve where the spec tells scales (both again, balanced, and a tensor's squares), and for each group its gain matrix in `f64`.
/// Known from the header alone, so that no update whose aligning would end the process is ever begun. Neither may a group have
/// more units than `width`: the time of an assignment grows with the cube of it.
///
/// # Errors
/// [`Code::InvalidCheckpoint`](crate::error::Code), with both figures; also where the spec does not fit.
pub fn check_align_memory(spec: &Spec, layout: &Layout, most: u64, width: usize) -> Result<()> {
    let spec = spec.check(layout).map_err(|error| {
        Error::new(
            crate::error::Code::InvalidCheckpoint,
            format!("the checkpoint does not fit the run's spec: {error}"),
        )
    })?;
    let copies = if spec.scales().is_empty() { 8 } else { 12 };
    let mut bytes: u64 = 0;
    for tensor in layout.tensors().iter().filter(|tensor| tensor.dtype.is_float()) {
        bytes = bytes.saturating_add((tensor.num_elements() as u64).saturating_mul(copies * 4));
    }
    for group in spec.groups() {
        if group.units > width {
            return Err(Error::new(
                crate::error::Code::InvalidCheckpoint,
                format!(
                    "group {}: {} units are more than the {width} of limits.max_assignment_width; pin its axes, or ask the \
                     operator to raise the limit",
                    group.name, group.units
                ),
            ));
        }
        let units = group.units as u64;
        bytes = bytes.saturating_add(units.saturating_mul(units).saturating_mul(8));
    }
    if bytes <= most {
        return Ok(());
    }
    Err(Error::new(
        crate::error::Code::InvalidCheckpoint,
        format!(
            "aligning a checkpoint of this layout takes about {bytes} bytes of memory, more than the {most} of \
             limits.max_align_memory_bytes; send a smaller model, or ask the operator to raise the limit"
        ),
    ))
}

/// A run to be created.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its id.
    pub id: String,
    /// Its merge rule.
    pub strategy: Strategy,
    /// Which axes move together.
    pub spec: Option<Spec>,
    /// A stored graph to take the spec of, instead of `spec`.
    pub graph: Option<Digest>,
    /// What it asks of its rounds.
    pub policy: Policy,
    /// The checkpoint to start from.
    pub seed: Option<Digest>,
    /// Its sites.
    pub cohort: Vec<String>,
    /// The run whose settings it took over, if one.
    pub cloned_from: Option<String>,
}

/// What a run gets more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extension {
    /// So many rounds more are to be published.
    pub rounds: u32,
    /// So many seconds later is the deadline of the round that collects.
    pub deadline_seconds: u64,
}

/// A round with what the store knows of it besides its state.
#[derive(Debug, Clone)]
pub struct RoundRecord {
    /// The run.
    pub run_id: String,
    /// The state machine's part.
    pub round: Round,
    /// What its updates are aligned to; absent while a founding round collects.
    pub reference: Option<Digest>,
    /// When it left its last open state.
    pub closed_at_ms: Option<Millis>,
    /// Since when its model is no longer kept, by the run's policy.
    pub model_retired_at_ms: Option<Millis>,
    /// The round that this one merges again, without what was withdrawn of it.
    pub remerge_of: Option<u32>,
    /// The mean of its updates as they came, where the run asks for it; also once it is kept no longer.
    pub naive: Option<Digest>,
}

/// Where an update stands, with what is true there.
#[derive(Debug, Clone)]
pub enum UpdateState {
    /// Its bytes are arriving.
    Receiving,
    /// Held, and part of its round.
    Accepted {
        /// When.
        at_ms: Millis,
    },
    /// Held, and its alignment known.
    Aligned {
        /// When it was accepted.
        at_ms: Millis,
        /// How it was brought into the reference's frame.
        report: Box<AlignReport>,
    },
    /// Bad, by its own fault.
    Rejected {
        /// A sentence for a person.
        reason: String,
    },
    /// Good, but not needed.
    Declined {
        /// A sentence for a person.
        reason: String,
    },
}

impl UpdateState {
    /// The name, as stored and shown.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Accepted { .. } => "accepted",
            Self::Aligned { .. } => "aligned",
            Self::Rejected { .. } => "rejected",
            Self::Declined { .. } => "declined",
        }
    }

    /// When it was accepted, if it was.
    #[must_use]
    pub fn accepted_at_ms(&self) -> Option<Millis> {
        match self {
            Self::Accepted { at_ms } | Self::Aligned { at_ms, .. } => Some(*at_ms),
            _ => None,
        }
    }

    /// Why it is not part of its round.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Rejected { reason } | Self::Declined { reason } => Some(reason),
            _ => None,
        }
    }
}

/// One site's checkpoint for one round.
#[derive(Debug, Clone)]
pub struct Update {
    /// Its id.
    pub id: String,
    /// Its run.
    pub run_id: String,
    /// Its round's number.
    pub round: u32,
    /// Who sent it.
    pub site_id: String,
    /// SHA-256 of its bytes, as announced; verified once it is accepted.
    pub digest: Digest,
    /// Size in bytes, as announced.
    pub size: u64,
    /// How many examples it was trained on.
    pub num_examples: u64,
    /// The site's own figures.
    pub metrics: Metrics,
    /// When it was announced.
    pub begun_at_ms: Millis,
    /// When its site took it back.
    pub withdrawn_at_ms: Option<Millis>,
    /// Where it stands.
    pub state: UpdateState,
    /// How it stood beside the others, once its round was merged, or it was rejected for that.
    pub judged: Option<Box<Judged>>,
}

/// A site's own figures, by name.
pub type Metrics = std::collections::BTreeMap<String, f64>;

/// What a site announces.
#[derive(Debug, Clone)]
pub struct NewUpdate {
    /// The run.
    pub run_id: String,
    /// The round's number.
    pub round: u32,
    /// SHA-256 of the bytes to come.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// How many examples it was trained on.
    pub num_examples: u64,
    /// The site's own figures.
    pub metrics: Metrics,
}

impl NewUpdate {
    /// Checks what needs no look into the store.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`](crate::error::Code) naming the field, [`Code::TooLarge`](crate::error::Code).
    pub fn check(&self, max_checkpoint_bytes: u64) -> Result<()> {
        if self.num_examples == 0 || self.num_examples > MAX_NUM_EXAMPLES {
            return Err(Error::invalid(format!(
                "num_examples: {} is not within 1 and {MAX_NUM_EXAMPLES}; send how many examples the site trained on",
                self.num_examples
            )));
        }
        if self.size > max_checkpoint_bytes {
            return Err(Error::new(
                crate::error::Code::TooLarge,
                format!(
                    "size: {} bytes are more than the {max_checkpoint_bytes} that this server takes \
                     (limits.max_checkpoint_bytes)",
                    self.size
                ),
            ));
        }
        if self.size < 9 {
            return Err(Error::invalid(format!(
                "size: {} bytes are too few for a safetensors file",
                self.size
            )));
        }
        if self.metrics.len() > MAX_METRICS {
            return Err(Error::invalid(format!(
                "metrics: {} are more than {MAX_METRICS}",
                self.metrics.len()
            )));
        }
        for (name, value) in &self.metrics {
            if !is_metric_name(name) {
                return Err(Error::invalid(format!(
                    "metrics: the name {:?} is not 1 to {MAX_METRIC_NAME_BYTES} printable ASCII characters",
                    name.chars().take(80).collect::<String>()
                )));
            }
            if !value.is_finite() {
                return Err(Error::invalid(format!("metrics: {name} is not a finite number")));
            }
        }
        Ok(())
    }
}

/// The server's proof that it holds an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The update.
    pub update_id: String,
    /// Its run.
    pub run_id: String,
    /// Its round.
    pub round: u32,
    /// Who sent it.
    pub site_id: String,
    /// SHA-256 of its bytes, verified.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// How many examples it was trained on.
    pub num_examples: u64,
    /// When it was accepted.
    pub accepted_at_ms: Millis,
}

impl Update {
    /// The receipt, once the update is held: always the same one.
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        Some(Receipt {
            update_id: self.id.clone(),
            run_id: self.run_id.clone(),
            round: self.round,
            site_id: self.site_id.clone(),
            digest: self.digest,
            size: self.size,
            num_examples: self.num_examples,
            accepted_at_ms: self.state.accepted_at_ms()?,
        })
    }
}
