use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;

fn worth(gain: &[f32], n: usize, permutation: &Permutation) -> f64 {
    (0..n).map(|row| f64::from(gain[row * n + permutation.map(row)])).sum()
}

#[test]
fn prices_of_any_other_matrix_change_nothing_but_the_way() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for n in [1, 2, 7, 33, 120] {
        let mut gain: Vec<f32> = (0..n * n).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut prices = Prices::default();
        for step in 0..12 {
            let cold = solve(&gain, n, Prices::default());
            let warm = solve(&gain, n, prices.clone());
            let (a, b) = (worth(&gain, n, &cold.permutation), worth(&gain, n, &warm.permutation));
            assert!((a - b).abs() < 1e-6 * a.abs().max(1.0), "n {n}, step {step}: {a} {b}");
            assert_eq!(cold.all_best, warm.all_best);
            assert!(warm.prices.0.iter().all(|price| *price <= 0.0));
            // Some rows change, as when a neighbour moved; in between numbers that belong to nothing.
            prices = match step % 3 {
                2 => Prices((0..n).map(|_| rng.random_range(-5.0..0.0)).collect()),
                _ => warm.prices,
            };
            for _ in 0..n.div_ceil(4) {
                let row = rng.random_range(0..n);
                gain[row * n..(row + 1) * n]
                    .iter_mut()
                    .for_each(|value| *value = rng.random_range(-1.0..1.0));
            }
        }
    }
}

#[test]
fn ties_end_with_prices_too() {
    let n = 40;
    let gain: Vec<f32> = (0..n * n).map(|at| ((at / n + at % n) % 3) as f32).collect();
    let first = solve(&gain, n, Prices::default());
    let again = solve(&gain, n, first.prices);
    let best = assign(ArrayView2::from_shape((n, n), &gain).expect("square"));
    assert!((best.value - worth(&gain, n, &again.permutation)).abs() < 1e-9);
}
