//! What the description of the API tells of an alignment; what is given is `rebasin`'s own report.
#![expect(dead_code, reason = "only the description of the API reads it")]

/// How an update was brought into the reference's frame; both at their canonical scale if it was scaled.
#[derive(utoipa::ToSchema)]
pub(super) struct Alignment {
    /// Sum over the averaged tensors of the inner product with the reference, before.
    objective_before: f64,
    /// The same after.
    objective_after: f64,
    /// Euclidean distance to the reference over the averaged tensors, before.
    l2_before: f64,
    /// The same after.
    l2_after: f64,
    /// Fraction of units that moved, 0 to 1.
    moved: f64,
    /// Sweeps of the start that was kept; 0 where the identity was certified.
    sweeps: u32,
    /// Starts tried; 0 where the identity was certified.
    starts: u32,
    /// Whether the identity was proved optimal for each group, the others held.
    identity_certified: bool,
    /// The same figures a group.
    groups: Vec<AlignedGroup>,
    /// How its units were scaled, if they were.
    scale: Option<AlignedScale>,
}

/// An alignment's figures over the tensors that one group of units moves.
#[derive(utoipa::ToSchema)]
struct AlignedGroup {
    /// The group.
    name: String,
    /// Its units.
    size: usize,
    /// Fraction of its units that moved.
    moved: f64,
    /// Inner product with the reference, before.
    objective_before: f64,
    /// The same after.
    objective_after: f64,
    /// Euclidean distance to the reference, before.
    l2_before: f64,
    /// The same after.
    l2_after: f64,
    /// Visits that changed the group's order, in the start that was kept.
    sweeps: u32,
    /// How surely its units have their partners, where a search matched them.
    margins: Option<AlignmentMargins>,
}

/// What units would lose with their second-best partner.
#[derive(utoipa::ToSchema)]
struct AlignmentMargins {
    /// Fraction of units whose partner is the best that they have.
    best: f64,
    /// The margin that 5 % of the units lie below, as a fraction of the mean gain of matched units.
    p5: f64,
    /// The median margin, as such a fraction.
    median: f64,
}

/// How units were brought to the scale of their partners.
#[derive(utoipa::ToSchema)]
struct AlignedScale {
    /// The least factor of a unit; 1 is: as it came.
    least: f64,
    /// The greatest.
    greatest: f64,
    /// Euclidean norm of the reference over the averaged tensors at its canonical scale.
    reference_norm: f64,
}
