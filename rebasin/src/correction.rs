//! Correcting a mean: averaging aligned units that agree only in part makes them smaller.

use crate::{CheckedSpec, Checkpoint, MergeError, Tensor};

/// Brings each output unit's weights in a mean back to the parents' size: a row of a tensor whose first axis moves is scaled so
/// that its norm is the share-weighted mean of the parents' rows' norms. Without data, so it restores the scale of activations
/// and calibration, not accuracy (the weight-only form of REPAIR, Jordan et al., ICLR 2023). A row of zeros stays; vectors
/// (biases, norms) and tensors that do not move are left alone.
///
/// `aligned` are the parents in the mean's frame.
///
/// # Errors
/// [`MergeError`] if layouts or the number of shares differ.
pub fn restore_norms(
    spec: &CheckedSpec,
    mean: &Checkpoint,
    aligned: &[&Checkpoint],
    shares: &[f64],
) -> Result<Checkpoint, MergeError> {
    if aligned.len() != shares.len() {
        return Err(MergeError::Count { inputs: aligned.len(), others: shares.len(), what: "shares" });
    }
    crate::scanner::compare(spec.layout(), mean.layout())?;
    for parent in aligned {
        crate::scanner::compare(spec.layout(), parent.layout())?;
    }
    let mut tensors = Vec::with_capacity(mean.tensors().len());
    for (index, tensor) in mean.tensors().iter().enumerate() {
        let shape = &tensor.info().shape;
        let moves = spec.axes(index).first().is_some_and(Option::is_some);
        if shape.len() < 2 || !moves || !tensor.info().dtype.is_float() || tensor.info().num_elements() == 0 {
            tensors.push(tensor.clone());
            continue;
        }
        let row = tensor.info().num_elements() / shape[0];
        let mut values = tensor.to_f64();
        let mut goals = vec![0.0; shape[0]];
        for (parent, share) in aligned.iter().zip(shares) {
            for (goal, row) in goals.iter_mut().zip(parent.tensor(index).to_f64().chunks(row)) {
                *goal += share * norm(row);
            }
        }
        for (row, goal) in values.chunks_mut(row).zip(goals) {
            let now = norm(row);
            if now > 0.0 {
                row.iter_mut().for_each(|value| *value *= goal / now);
            }
        }
        tensors.push(Tensor::from_f64(tensor.info(), &values)?);
    }
    Ok(Checkpoint::new(mean.layout().clone(), tensors)?)
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}
