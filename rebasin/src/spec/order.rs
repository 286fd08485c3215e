//! In which order the layers of a plain convolutional network follow one another, told by their names.

use super::{
    SpecError,
    derive::{Layer, natural},
};

/// Convolutions, then linear layers, each by the natural order of their names, each with its normalisations behind it.
///
/// # Errors
/// [`SpecError::Derive`] where the names do not tell: a normalisation that could belong to another layer, parts of the
/// network that would be torn apart.
pub(super) fn of_conv_net(layers: Vec<Layer<'_>>) -> Result<Vec<Layer<'_>>, SpecError> {
    if let Some(layer) = layers.iter().find(|layer| layer.weight_rank() == 0) {
        return Err(SpecError::Derive(format!(
            "layer {:?} has no weight; this is no plain convolutional network",
            layer.name
        )));
    }
    let (norms, mut weights): (Vec<_>, Vec<_>) =
        layers.into_iter().partition(|layer| layer.weight_rank() == 1);
    weights.sort_by(|a, b| {
        (a.weight_rank() == 2).cmp(&(b.weight_rank() == 2)).then_with(|| natural(a.name, b.name))
    });
    for (place, layer) in weights.iter().enumerate().skip(2) {
        let parent = split(layer.name).0;
        let torn = split(weights[place - 1].name).0 != parent
            && weights[..place - 1].iter().any(|before| split(before.name).0 == parent);
        if torn && !parent.is_empty() {
            return Err(SpecError::Derive(format!(
                "the layers of {parent:?} do not follow one another: it convolves after a linear layer, or another part \
                 of the network does"
            )));
        }
    }
    let mut behind: Vec<Vec<Layer<'_>>> = weights.iter().map(|_| Vec::new()).collect();
    for norm in norms {
        let place = owner(norm.name, &weights).ok_or_else(|| {
            SpecError::Derive(format!(
                "the name of {:?} does not tell which layer it normalises; number it as its layer, or write the spec by \
                 hand",
                norm.name
            ))
        })?;
        behind[place].push(norm);
    }
    Ok(weights
        .into_iter()
        .zip(behind)
        .flat_map(|(layer, norms)| std::iter::once(layer).chain(norms))
        .collect())
}

/// What comes before the last dot, and what behind it.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

/// In a numbered sequence (`features.0`, `features.1`) the nearest layer before; otherwise the one of the same number
/// (`conv2`, `bn2`), a convolution rather than a linear layer.
fn owner(norm: &str, weights: &[Layer<'_>]) -> Option<usize> {
    let (parent, own) = split(norm);
    let siblings = || {
        weights.iter().enumerate().filter_map(move |(place, layer)| {
            let (of, name) = split(layer.name);
            (of == parent).then_some((place, name, layer.weight_rank()))
        })
    };
    if let Ok(number) = own.parse::<u64>() {
        let before = siblings().filter_map(|(place, name, _)| Some((name.parse::<u64>().ok()?, place)));
        return before.filter(|&(other, _)| other < number).max().map(|(_, place)| place);
    }
    for convolutions in [true, false] {
        let mut same = siblings().filter(|&(_, name, rank)| {
            (rank > 2) == convolutions && trailing_number(name) == trailing_number(own)
        });
        match (same.next(), same.next()) {
            (Some((place, _, _)), None) => return Some(place),
            (None, _) => {}
            (Some(_), Some(_)) => return None,
        }
    }
    None
}

fn trailing_number(name: &str) -> &str {
    &name[name.trim_end_matches(|character: char| character.is_ascii_digit()).len()..]
}
