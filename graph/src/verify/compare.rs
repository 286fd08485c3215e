//! How far two runs of a network are apart.
//!
//! A difference is measured by **how much of an output depends on the input**, element by element. Dividing by the output's
//! largest magnitude instead would let one huge constant (a mask's -10^9) hide whatever happens to all the others.

/// Differences of so many last bits of an element are rounding, however little the element says.
const ROUNDING: f64 = 16.0 * f32::EPSILON as f64;
/// An element says at most so many times what changes in it from input to input: a constant that is added to it says nothing,
/// but an output that depends on its input only a little is not yet noise.
const SAYS: f64 = 1e3;

/// What differences in one output are divided by.
pub(super) struct Scale {
    /// How much each element says.
    says: Vec<f64>,
    /// What the elements that say something say on average.
    typical: f64,
}

impl Scale {
    /// The scale of an output, `others` being the same output for other inputs.
    pub(super) fn new(values: &[f32], others: &[&[f32]]) -> Self {
        let magnitude = |value: f32| if value.is_finite() { f64::from(value).abs() } else { 0.0 };
        let mut says: Vec<f64> = values.iter().map(|&value| magnitude(value)).collect();
        if others.iter().all(|other| other.len() == values.len()) {
            for (index, says) in says.iter_mut().enumerate() {
                let apart = |other: &&[f32]| f64::from((values[index] - other[index]).abs());
                let varies = others.iter().map(apart).filter(|apart| apart.is_finite()).fold(0.0, f64::max);
                *says = says.min(SAYS * (varies - ROUNDING * *says).max(0.0));
            }
        }
        let telling: Vec<f64> = says.iter().copied().filter(|&says| says > 0.0).collect();
        if !telling.is_empty() {
            #[expect(clippy::cast_precision_loss, reason = "a number of elements")]
            let mean = telling.iter().map(|says| says * says).sum::<f64>() / telling.len() as f64;
            return Self { says, typical: mean.sqrt() };
        }
        // It depends on no input: its elements are all that there is. Their median, so that a few huge ones hide nothing.
        let says: Vec<f64> = values.iter().map(|&value| magnitude(value)).collect();
        let mut sorted: Vec<f64> = says.iter().copied().filter(|&says| says > 0.0).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let typical = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::MIN_POSITIVE);
        Self { says, typical }
    }

    /// The largest difference. Where both are not finite in the same way, there is none.
    pub(super) fn difference(&self, found: &[f32], expected: &[f32]) -> f64 {
        if found.len() != expected.len() {
            return f64::INFINITY;
        }
        let mut worst = 0_f64;
        for ((&found, &expected), says) in found.iter().zip(expected).zip(&self.says) {
            if found == expected {
                continue;
            }
            let (found, expected) = (f64::from(found), f64::from(expected));
            let apart = ((found - expected).abs() - ROUNDING * expected.abs()).max(0.0);
            let difference = apart / (says + self.typical);
            worst =
                if found.is_finite() && expected.is_finite() { worst.max(difference) } else { f64::INFINITY };
        }
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::Scale;

    #[test]
    fn a_mask_hides_nothing_and_is_no_difference() {
        for mask in [-1e4_f32, -1e9, f32::MIN, f32::NEG_INFINITY] {
            let draws =
                [[0.3, -1.2, mask + 0.4, mask], [0.7, 0.1, mask - 0.8, mask], [-0.9, 0.5, mask, mask]];
            let scale = Scale::new(&draws[0], &[&draws[1], &draws[2]]);
            let rounded = [0.3 + 1e-7, -1.2, mask + 0.4, mask];
            assert!(scale.difference(&rounded, &draws[0]) < 1e-5, "{mask}");
            let wrong = [-1.2, 0.3, mask + 0.4, mask];
            assert!(
                scale.difference(&wrong, &draws[0]) > 1e-3,
                "{mask}: {}",
                scale.difference(&wrong, &draws[0])
            );
            let unmasked = [0.3, -1.2, mask + 0.4, 0.0];
            assert!(scale.difference(&unmasked, &draws[0]) > 1.0, "{mask}");
        }
    }

    #[test]
    fn what_depends_on_no_input_is_measured_by_itself() {
        let values = [1.0_f32, -2.0, 1e9, 0.5];
        let scale = Scale::new(&values, &[&values]);
        assert!(scale.difference(&[1.0, -2.0, 1e9, 0.7], &values) > 0.01);
        assert!(scale.difference(&[1.0, -2.000_000_2, 1e9, 0.5], &values) < 1e-6);
    }

    #[test]
    fn another_number_of_elements_and_one_that_is_none_differ() {
        let scale = Scale::new(&[1.0, 2.0], &[&[2.0, 1.0]]);
        assert!(scale.difference(&[1.0], &[1.0, 2.0]).is_infinite());
        assert!(scale.difference(&[1.0, f32::NAN], &[1.0, 2.0]).is_infinite());
    }
}
