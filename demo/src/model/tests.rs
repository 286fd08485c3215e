use super::*;

#[test]
fn a_saved_network_reads_back_and_the_seed_decides() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, seed| {
        let path = folder.path().join(name);
        Mlp::random(seed).unwrap().save(&path).unwrap();
        std::fs::read(path).unwrap()
    };
    let (one, same, other) = (write("a", 1), write("b", 1), write("c", 2));
    assert_eq!(one, same);
    assert_ne!(one, other);
    let images = Tensor::ones((2, PIXELS), DType::F32, &Device::Cpu).unwrap();
    let logits = |model: &Mlp| model.logits(&images).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(logits(&Mlp::from_bytes(&one).unwrap()), logits(&Mlp::random(1).unwrap()));
}

#[test]
fn names_and_shapes_are_those_of_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    Mlp::random(1).unwrap().save(&path).unwrap();
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    assert_eq!(tensors["fc1.weight"].dims(), [256, 784]);
    assert_eq!(tensors["fc3.weight"].dims(), [10, 256]);
    assert_eq!(tensors["fc3.bias"].dims(), [10]);
    assert_eq!(tensors.len(), 6);
}

#[test]
fn another_network_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    tensors.insert("fc1.weight".into(), Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let error = Mlp::from_bytes(&std::fs::read(&path).unwrap()).unwrap_err().to_string();
    assert!(error.contains("fc1.weight"), "{error}");
    assert!(Mlp::from_bytes(b"rubbish").is_err());
}

#[test]
fn the_way_to_another_network_begins_at_the_one_and_ends_at_the_other() {
    let (one, other) = (Mlp::random(1).unwrap(), Mlp::random(2).unwrap());
    let values = |model: &Mlp| -> Vec<f32> {
        let all = model.parameters().into_iter();
        all.flat_map(|values| values.as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    };
    let at = |t: f64| values(&one.towards(&other, t).unwrap());
    assert_eq!((at(0.0), at(1.0)), (values(&one), values(&other)));
    let quarter = values(&one).into_iter().zip(values(&other)).map(|(one, other)| 0.75 * one + 0.25 * other);
    for (found, wanted) in at(0.25).into_iter().zip(quarter) {
        assert!((found - wanted).abs() < 1e-6, "{found} is not {wanted}");
    }
}
