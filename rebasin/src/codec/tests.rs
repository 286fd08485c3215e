use proptest::prelude::*;

use super::*;

fn rounded(dtype: Dtype, value: f64) -> f64 {
    let mut bytes = Vec::new();
    from_f64(dtype, &[value], &mut bytes).expect("finite");
    to_f64(dtype, &bytes)[0]
}

#[test]
fn a_value_just_above_a_tie_is_rounded_up_and_not_to_even() {
    // 1 + 2^-11 lies halfway between the f16 numbers 1 and 1 + 2^-10; 1 + 2^-8 between the bf16 numbers 1 and 1 + 2^-7.
    for (dtype, half, next) in
        [(Dtype::F16, 2_f64.powi(-11), 2_f64.powi(-10)), (Dtype::BF16, 2_f64.powi(-8), 2_f64.powi(-7))]
    {
        for sign in [1.0, -1.0] {
            let tie = 1.0 + half;
            assert_eq!(rounded(dtype, sign * tie).to_bits(), sign.to_bits(), "{dtype}: a tie goes to even");
            let above = tie + f64::EPSILON;
            assert_eq!(rounded(dtype, sign * above).to_bits(), (sign * (1.0 + next)).to_bits(), "{dtype}");
            assert_eq!(rounded(dtype, sign * (tie - f64::EPSILON)).to_bits(), sign.to_bits(), "{dtype}");
        }
    }
}

#[test]
fn what_overflows_is_told_and_what_is_tiny_becomes_zero() {
    let mut bytes = Vec::new();
    assert_eq!(
        from_f64(Dtype::F16, &[1.0, 65_520.0], &mut bytes),
        Err(1),
        "the first number that rounds to infinity"
    );
    assert_eq!(from_f64(Dtype::F16, &[65_519.0], &mut bytes), Ok(()));
    for dtype in [Dtype::F32, Dtype::BF16] {
        assert_eq!(from_f64(dtype, &[1e39], &mut bytes), Err(0), "{dtype}");
    }
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32] {
        assert_eq!(rounded(dtype, 1e-300).to_bits(), 0, "{dtype}");
    }
}

proptest! {
    #[test]
    fn sixteen_bits_are_the_nearest_there_are(value in -60_000.0_f64..60_000.0, small in any::<bool>()) {
        let value = if small { value * 1e-9 } else { value };
        for dtype in [Dtype::F16, Dtype::BF16] {
            let found = rounded(dtype, value);
            let mut bytes = Vec::new();
            from_f64(dtype, &[found], &mut bytes).expect("finite");
            let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
            prop_assert_eq!(found.to_bits(), to_f64(dtype, &bytes)[0].to_bits(), "what it gives it holds");
            for neighbour in [bits.wrapping_sub(1), bits.wrapping_add(1)] {
                let other = to_f64(dtype, &neighbour.to_le_bytes())[0];
                if other.is_finite() {
                    prop_assert!((found - value).abs() <= (other - value).abs(), "{} {} {}", value, found, other);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn several_inputs_add_up_to_the_bit_as_one_after_the_other(
        inputs in prop::collection::vec((prop::collection::vec(-1e3_f32..1e3, 37), -2.0_f64..2.0), 0..=AT_ONCE),
        begin in -1e3_f64..1e3,
    ) {
        for dtype in [Dtype::F32, Dtype::F16] {
            // What the numbers are does not matter: the same bytes are looked at as other numbers.
            let bytes: Vec<(Vec<u8>, f64)> = inputs
                .iter()
                .map(|(values, share)| (values.iter().flat_map(|value| value.to_le_bytes()).collect(), *share))
                .collect();
            let count = 37 * 4 / dtype.size();
            let (mut together, mut in_turn) = (vec![begin; count], vec![begin; count]);
            let parts: Vec<(&[u8], f64)> = bytes.iter().map(|(bytes, share)| (&bytes[..], *share)).collect();
            add_all_scaled(dtype, &parts, &mut together);
            for (bytes, share) in &bytes {
                add_scaled(dtype, bytes, *share, &mut in_turn);
            }
            let bits = |sums: &[f64]| sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&together), bits(&in_turn));
        }
    }
}
