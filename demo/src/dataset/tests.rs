use super::*;

/// The committed subset.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

#[test]
fn the_committed_subset_is_whole_and_its_pixels_are_normalised() {
    let (train, test) = (load_train(&folder()).unwrap(), load_test(&folder()).unwrap());
    assert_eq!((train.len(), test.len()), (11_500, 2_000));
    let mean = train.images.iter().map(|&x| f64::from(x)).sum::<f64>() / train.images.len() as f64;
    let square = train.images.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / train.images.len() as f64;
    assert!(mean.abs() < 0.02, "mean {mean}");
    assert!((square - mean * mean - 1.0).abs() < 0.02, "variance {}", square - mean * mean);
}

#[test]
fn selecting_keeps_images_with_their_labels() {
    let test = load_test(&folder()).unwrap();
    let two = test.select(&[7, 3]);
    assert_eq!(two.labels, [test.labels[7], test.labels[3]]);
    assert_eq!(two.images[PIXELS..], test.images[3 * PIXELS..4 * PIXELS]);
}

#[test]
fn a_missing_folder_is_named_with_what_to_do() {
    let error = load_train(Path::new("/nowhere")).unwrap_err().to_string();
    assert!(error.contains("/nowhere") && error.contains("--data"), "{error}");
}

#[test]
fn files_of_two_data_sets_are_refused() {
    let folder_of_two = tempfile::tempdir().unwrap();
    std::fs::copy(
        folder().join("t10k-images-idx3-ubyte.gz"),
        folder_of_two.path().join("t10k-images-idx3-ubyte.gz"),
    )
    .unwrap();
    std::fs::copy(
        folder().join("train-labels-idx1-ubyte.gz"),
        folder_of_two.path().join("t10k-labels-idx1-ubyte.gz"),
    )
    .unwrap();
    let error = load_test(folder_of_two.path()).unwrap_err().to_string();
    assert!(error.contains("2000 images but 11500 labels"), "{error}");
}
