use candle_core::Device;

use super::*;

#[test]
fn accuracy_and_loss_are_the_textbook_figures() {
    let logits = Tensor::new(&[[2.0_f32, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
    let labels = Tensor::new(&[0_u32, 2, 1], &Device::Cpu).unwrap();
    let found = score_logits(&logits, &labels).unwrap();
    let (e, e2) = (1.0_f64.exp(), 2.0_f64.exp());
    let loss = (-(e2 / (e2 + 2.0)).ln() - (1.0 / (e + 2.0)).ln() + 3.0_f64.ln()) / 3.0;
    assert!((found.accuracy - 1.0 / 3.0).abs() < 1e-9, "{found:?}");
    assert!((found.loss - loss).abs() < 1e-6, "{found:?} {loss}");
}

#[test]
fn an_ensemble_of_one_network_is_that_network_and_shares_count() {
    let data = Dataset { images: (0..784).map(|pixel| (pixel % 7) as f32).collect(), labels: vec![3] };
    let (one, other) = (Mlp::random(1).unwrap(), Mlp::random(2).unwrap());
    let near = |a: Score, b: Score| (a.loss - b.loss).abs() < 1e-5;
    let alone = score(&one, &data).unwrap();
    assert!(near(score_ensemble(&[one.clone(), one.clone()], &[0.3, 0.7], &data).unwrap(), alone));
    assert!(near(score_ensemble(&[one.clone(), other.clone()], &[1.0, 0.0], &data).unwrap(), alone));
    assert!(!near(score_ensemble(&[one, other], &[0.5, 0.5], &data).unwrap(), alone));
    assert!(score_ensemble(&[], &[], &data).is_err());
}
