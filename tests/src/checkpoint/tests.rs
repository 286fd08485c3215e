use super::{Mlp, f32s, file, mlp, one_hot, read_f32};

#[test]
fn what_is_written_is_read_back() {
    let bytes = file(&[f32s("a", &[2], &[1.5, -2.0]), f32s("b", &[1, 3], &[0.0, 7.0, 0.25])]);
    assert_eq!(read_f32(&bytes, "a"), [1.5, -2.0]);
    assert_eq!(read_f32(&bytes, "b"), [0.0, 7.0, 0.25]);
}

#[test]
fn a_one_hot_checkpoint_names_its_site() {
    assert_eq!(read_f32(&one_hot(1, 3), "counted"), [0.0, 1.0, 0.0]);
}

#[test]
fn the_strict_reader_agrees_with_the_files_made_here() {
    let checkpoint = rebasin::Checkpoint::from_bytes(&mlp(1).file()).expect("a good checkpoint");
    assert_eq!(checkpoint.get("fc2.weight").expect("the tensor").to_f32(), mlp(1).weights[1]);
    assert_eq!(Mlp::read(&checkpoint.to_bytes()), mlp(1));
}

#[test]
fn a_permuted_network_computes_the_same_function_from_other_parameters() {
    let network = mlp(1);
    let permuted = network.permuted([[2, 0, 3, 1], [1, 2, 3, 0]]);
    assert!(network.distance(&permuted) > 0.5);
    for (a, b) in network.output([0.3, -1.0, 2.0]).iter().zip(permuted.output([0.3, -1.0, 2.0])) {
        assert!((a - b).abs() < 1e-4, "{a} and {b}");
    }
}
