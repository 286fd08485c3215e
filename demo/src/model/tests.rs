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
