use super::*;

fn point(t: f64, loss: f64) -> PathPoint {
    PathPoint { t, loss, accuracy: None }
}

fn line(losses: &[f64]) -> Vec<PathPoint> {
    let last = (losses.len() - 1) as f64;
    losses.iter().enumerate().map(|(place, loss)| point(place as f64 / last, *loss)).collect()
}

#[test]
fn a_path_that_goes_back_has_no_number_or_too_many_points_is_refused_with_its_field() {
    check(&[]).expect("nobody measured it");
    check(&line(&[0.5; 33])).expect("33 points");
    check(&[point(0.25, -1e30), PathPoint { accuracy: Some(1.0), ..point(0.75, 1e30) }])
        .expect("a part of it");
    for (path, field) in [
        (vec![point(0.0, 0.5)], "path: 1 points"),
        (line(&[0.5; 34]), "path: 34 points"),
        (vec![point(0.5, 0.5), point(0.5, 0.5)], "path.t: does not grow"),
        (vec![point(0.5, 0.5), point(0.25, 0.5)], "path.t: does not grow"),
        (vec![point(-0.1, 0.5), point(1.0, 0.5)], "path.t: not a number within"),
        (vec![point(0.0, 0.5), point(1.1, 0.5)], "path.t: not a number within"),
        (vec![point(0.0, 0.5), point(f64::NAN, 0.5), point(1.0, 0.5)], "path.t: not a number within"),
        (vec![point(0.0, 0.5), point(1.0, f64::NAN)], "path.loss"),
        (vec![point(0.0, f64::INFINITY), point(1.0, 0.5)], "path.loss"),
        (vec![point(0.0, 0.5), point(1.0, 1e31)], "path.loss"),
        (vec![PathPoint { accuracy: Some(1.5), ..point(0.0, 0.5) }, point(1.0, 0.5)], "path.accuracy"),
        (vec![PathPoint { accuracy: Some(f64::NAN), ..point(0.0, 0.5) }, point(1.0, 0.5)], "path.accuracy"),
    ] {
        let why = check(&path).expect_err(field).to_string();
        assert!(why.contains(field), "{why}");
    }
}

#[test]
fn a_mean_is_of_the_sites_that_measured_at_the_places_that_most_did() {
    let (a, b) = (line(&[1.0, 2.0, 3.0]), line(&[3.0, 6.0, 7.0]));
    let other = line(&[9.0, 9.0]);
    let of = |paths: &[(u64, &[PathPoint])]| mean(paths.iter().copied());
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[(7, &[])]), None);
    let found = of(&[(100, &other), (3, &a), (9, &[]), (1, &b)]).expect("a mean");
    assert_eq!((found.sites, found.num_examples), (2, 4));
    assert_eq!(found.points, line(&[1.5, 3.0, 4.0]));
    assert_eq!(of(&[(1, &other), (3, &a)]).expect("a mean").points, other, "the first of two");
}

#[test]
fn a_mean_accuracy_is_of_all_or_none() {
    let told = |accuracy| vec![PathPoint { accuracy: Some(accuracy), ..point(0.0, 1.0) }, point(1.0, 1.0)];
    let found = mean([(1, &told(0.5)[..]), (3, &told(0.75)[..])].into_iter()).expect("a mean");
    assert_eq!(found.points[0].accuracy, Some(0.6875));
    assert_eq!(found.points[1].accuracy, None);
    let found = mean([(1, &told(0.5)[..]), (3, &line(&[1.0, 1.0])[..])].into_iter()).expect("a mean");
    assert_eq!(found.points[0].accuracy, None);
}

#[test]
fn the_largest_losses_have_a_mean() {
    let path = line(&[1e30, -1e30]);
    let found = mean([(1_000_000_000_000, &path[..]), (1_000_000_000_000, &path[..])].into_iter());
    assert_eq!(found.expect("a mean").points, path);
}

#[test]
fn a_barrier_is_over_the_chord_and_only_of_a_whole_path() {
    assert_eq!(barrier(&line(&[1.0, 5.0, 3.0])), Some(3.0));
    assert_eq!(barrier(&line(&[1.0, 0.5, 0.0])), Some(0.0), "straight");
    let rounded: Vec<f64> = (0..=10).map(|tenth| 1.475 - 0.09 * f64::from(tenth)).collect();
    assert_eq!(barrier(&line(&rounded)), Some(0.0), "straight but for rounding");
    assert_eq!(barrier(&[point(0.0, 1.0), point(0.9, 1.0)]), None);
    assert_eq!(barrier(&[]), None);
}
