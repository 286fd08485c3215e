//! Normalisations, and operators that work along an axis.

use super::{Axes, Rules};
use crate::{GraphError, graph::Op, infer::Inputs};

impl Rules<'_> {
    /// Softmax and its like: an axis is mixed as a whole, or pinned.
    pub(super) fn along(&mut self, inputs: &Inputs<'_>, x: &Axes) -> Result<Option<Axes>, GraphError> {
        let op = inputs.op;
        let rank = x.len();
        let new = self.graph.opset >= 13;
        let default = if op.op.contains("Softmax") && !new { 1 } else { -1 };
        let (mixed, pinned) = match op.op.as_str() {
            "Softmax" | "LogSoftmax" => {
                let axis = inputs.axis(op.int("axis").unwrap_or(default), rank)?;
                // Old opsets flatten all axes from this one on.
                (if new { vec![axis] } else { (axis..rank).collect() }, false)
            }
            "LpNormalization" => (vec![inputs.axis(op.int("axis").unwrap_or(-1), rank)?], false),
            "MeanVarianceNormalization" => (inputs.axes(op.ints("axes").unwrap_or(&[0, 2, 3]), rank)?, false),
            "LRN" if rank > 1 => (vec![1], true),
            "CumSum" => match inputs.ints(1).and_then(|axes| axes.first().copied()) {
                Some(axis) => (vec![inputs.axis(axis, rank)?], true),
                None => return Ok(None),
            },
            "Trilu" if rank > 1 => (vec![rank - 2, rank - 1], true),
            _ => return Ok(None),
        };
        if pinned {
            for &axis in &mixed {
                self.domain.pin(x[axis]);
            }
        }
        self.mix(x, &mixed);
        Ok(Some(x.clone()))
    }

    pub(super) fn norm(&mut self, inputs: &Inputs<'_>, x: &Axes) -> Result<Option<Vec<Axes>>, GraphError> {
        let op = inputs.op;
        Ok(match op.op.as_str() {
            "BatchNormalization" => self.batch_norm(op, x),
            "InstanceNormalization" => {
                let space: Vec<usize> = (2..x.len()).collect();
                self.mix(x, &space);
                self.per_channel(op, x, 1..3).map(|()| vec![x.clone()])
            }
            "GroupNormalization" => self.group_norm(op, x).map(|axes| vec![axes]),
            _ => {
                let axis = inputs.axis(op.int("axis").unwrap_or(-1), x.len())?;
                let inside: Vec<usize> = (axis..x.len()).collect();
                self.mix(x, &inside);
                for index in 1..3 {
                    if let Some(other) = self.input(op, index) {
                        self.unify_broadcast(x, &other);
                    }
                }
                let mut stats = x.clone();
                stats[axis..].fill(crate::domain::UNIT);
                Some(vec![x.clone(), stats.clone(), stats])
            }
        })
    }

    fn batch_norm(&mut self, op: &Op, x: &Axes) -> Option<Vec<Axes>> {
        if op.arity != 1 || op.int("training_mode").unwrap_or(0) != 0 || x.len() < 2 {
            return None;
        }
        self.per_channel(op, x, 1..5)?;
        Some(vec![x.clone()])
    }

    fn per_channel(&mut self, op: &Op, x: &Axes, indices: std::ops::Range<usize>) -> Option<()> {
        let mut pairs = Vec::new();
        for index in indices {
            pairs.push((*x.get(1)?, *self.input(op, index)?.first()?));
        }
        self.domain.unify_all(&pairs);
        Some(())
    }

    /// Statistics are taken over a group's channels and over space.
    fn group_norm(&mut self, op: &Op, x: &Axes) -> Option<Axes> {
        let groups = usize::try_from(op.int("num_groups")?).ok()?;
        let channels = self.domain.extent(*x.get(1)?);
        if groups == 0 || !channels.is_multiple_of(groups) {
            return None;
        }
        let (scale, bias) = (*self.input(op, 1)?.first()?, *self.input(op, 2)?.first()?);
        let (group, inner) = self.split_or_pin(x[1], channels / groups);
        let parts = [&[x[0], group, inner], &x[2..]].concat();
        let mixed: Vec<usize> = (2..parts.len()).collect();
        self.mix(&parts, &mixed);
        // Opset 18 has a gain for each group, later ones for each channel.
        let target = if self.graph.opset < 21 { group } else { x[1] };
        self.domain.unify_all(&[(target, scale), (target, bias)]);
        Some(x.clone())
    }
}
