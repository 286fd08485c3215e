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

/// Matrices that are wider than a short list, each hard in its own way.
fn wide(rng: &mut ChaCha8Rng, n: usize) -> Vec<(&'static str, Vec<f32>)> {
    let mut matrix = |element: &mut dyn FnMut(usize, usize, f32) -> f32| -> Vec<f32> {
        (0..n * n).map(|at| element(at / n, at % n, rng.random_range(-1.0..1.0))).collect()
    };
    vec![
        ("random", matrix(&mut |_, _, noise| noise)),
        ("constant", matrix(&mut |_, _, _| 0.5)),
        ("three values", matrix(&mut |_, _, noise| (noise * 1.5).round())),
        (
            "planted",
            matrix(&mut |row, column, noise| noise + if column == (row * 7 + 3) % n { 5.0 } else { 0.0 }),
        ),
        // Every row wants the same columns, in the same order.
        ("contested", matrix(&mut |row, column, noise| (n - column) as f32 + 0.01 * noise + row as f32)),
        // The rows that lose want each of the few columns that are worth anything.
        (
            "few columns",
            matrix(&mut |_, column, noise| if column < n / 20 { 100.0 + noise } else { noise * 1e-3 }),
        ),
        // Machol and Wien's matrix: the worst case of shortest augmenting paths.
        ("product", matrix(&mut |row, column, _| -((row + 1) as f32 * (column + 1) as f32))),
        ("heavy tails", matrix(&mut |_, _, noise| noise / (1.0 - noise.abs() + 1e-4))),
    ]
}

#[test]
fn rows_longer_than_a_short_list_are_assigned_with_a_proof() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for n in [64, 65, 97, 300] {
        for (name, gain) in wide(&mut rng, n) {
            let view = ArrayView2::from_shape((n, n), &gain).expect("square");
            let solved = assign(view);
            let scale = gain.iter().fold(1.0_f64, |most, &value| most.max(f64::from(value).abs()));
            assert!(solved.violation(view) <= 1e-12 * scale, "{name}, {n}: {}", solved.violation(view));
            let duals: f64 = solved.row_dual.iter().chain(&solved.col_dual).sum();
            assert!((duals - solved.value).abs() <= 1e-10 * scale * n as f64, "{name}, {n}");
            // Begun from prices that belong to nothing.
            let prices = Prices((0..n).map(|_| rng.random_range(-2.0..0.0)).collect());
            let again = solve(&gain, n, prices).permutation;
            assert!(
                (worth(&gain, n, &again) - solved.value).abs() <= 1e-10 * scale * n as f64,
                "{name}, {n}"
            );
        }
    }
}
