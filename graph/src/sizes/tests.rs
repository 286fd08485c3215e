use super::{Size, Sizes};

fn two() -> (Sizes, Size, Size) {
    let mut sizes = Sizes::default();
    let (n, m) = (sizes.dimension(0, 2), sizes.dimension(1, 3));
    (sizes, n, m)
}

#[test]
fn sums_are_equal_whatever_way_they_were_added_up() {
    let (mut sizes, n, m) = two();
    let one = Size::number(1);
    let there = sizes.sum(&[(&n, 1), (&one, 1)]).expect("small");
    let there = sizes.sum(&[(&there, 1), (&m, 1)]).expect("small");
    let back = sizes.sum(&[(&m, 1), (&n, 1), (&one, 1)]).expect("small");
    assert_eq!(there, back);
    assert_eq!(sizes.value(&there), Some(6));
    assert_eq!(sizes.sum(&[(&there, 1), (&m, -1), (&one, -1)]), Some(n.clone()));
    assert_eq!(sizes.sum(&[(&there, 2), (&back, -2)]), Some(Size::number(0)));
    assert_ne!(sizes.sum(&[(&n, 1), (&one, 1)]), Some(m), "they agree as bound only");
}

#[test]
fn what_is_divided_leaves_nothing_over_for_any_size() {
    let (_, n, m) = two();
    let product = n.times(&m).and_then(|product| product.times(&Size::number(12))).expect("small");
    let less = product.over(&Size::number(4)).and_then(|less| less.over(&n)).expect("divides");
    assert_eq!(less, m.times(&Size::number(3)).expect("small"));
    assert_eq!(Size::number(8).over(&n), None, "8 is divided by 2, but not by every number");
    assert_eq!(n.over(&Size::number(2)), None);
    assert_eq!(n.over(&Size::number(0)), None);
    assert_eq!(Size::number(i64::MIN).over(&Size::number(-1)), None);
}

#[test]
fn numbers_and_products_that_grow_without_bound_are_given_up() {
    let (mut sizes, n, _) = two();
    let mut power = Some(n.clone());
    for _ in 0..40 {
        power = power.and_then(|power| power.times(&power));
    }
    assert_eq!(power, None);
    let large = Size::number(i64::MAX / 2);
    assert_eq!(sizes.sum(&[(&large, 3), (&n, 1)]), None);
    assert_eq!(large.times(&Size::number(3)), None);
}

#[test]
fn two_axes_that_broadcast_are_as_long_as_can_be_said() {
    let (mut sizes, n, m) = two();
    let (one, five) = (Size::number(1), Size::number(5));
    assert_eq!(sizes.join(&one, &n, 2), n);
    assert_eq!(sizes.join(&n, &five, 5), five, "n is 1, or 5");
    let cut = sizes.at_most("cut".into(), 2, &n);
    assert_eq!(sizes.join(&cut, &n, 2), n);
    let either = sizes.join(&n, &m, 3);
    assert!(either != n && either != m);
    assert_eq!(sizes.join(&m, &n, 3), either);
}
