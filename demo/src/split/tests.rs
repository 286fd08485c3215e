use super::*;

/// Ten classes of unequal sizes, interleaved.
fn labels() -> Vec<u8> {
    (0..5_000_u32).map(|index| (index * index % 97 % 10) as u8).collect()
}

fn held(shares: &[Vec<usize>; SITES], labels: &[u8], site: usize, class: u8) -> usize {
    shares[site].iter().filter(|&&index| labels[index] == class).count()
}

#[test]
fn the_classes_are_a_partition() {
    let mut classes: Vec<u8> = OWN_CLASSES.concat();
    classes.sort_unstable();
    assert_eq!(classes, (0..CLASSES as u8).collect::<Vec<_>>());
}

#[test]
fn every_image_goes_to_exactly_one_site() {
    let labels = labels();
    let mut all = split(&labels, 1).concat();
    all.sort_unstable();
    assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
}

#[test]
fn a_site_holds_four_fifths_of_its_own_classes_and_the_rest_is_spread_evenly() {
    let labels = labels();
    let shares = split(&labels, 1);
    for class in 0..CLASSES as u8 {
        let total = labels.iter().filter(|&&label| label == class).count();
        let owner = OWN_CLASSES.iter().position(|own| own.contains(&class)).unwrap();
        assert_eq!(held(&shares, &labels, owner, class), total * 80 / 100);
        let others: Vec<usize> = (0..SITES)
            .filter(|&site| site != owner)
            .map(|site| held(&shares, &labels, site, class))
            .collect();
        assert!(
            others.iter().max().unwrap() - others.iter().min().unwrap() <= 1,
            "class {class}: {others:?}"
        );
    }
}

#[test]
fn the_shares_are_uneven() {
    let sizes = split(&labels(), 1).map(|share| share.len());
    let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
    assert!(*most * 4 > *least * 5, "{sizes:?}");
}

#[test]
fn the_seed_decides() {
    let labels = labels();
    assert_eq!(split(&labels, 1), split(&labels, 1));
    assert_ne!(split(&labels, 1), split(&labels, 2));
}
