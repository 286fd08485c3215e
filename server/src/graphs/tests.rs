use super::*;

fn zoo(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../graph/zoo/{name}.onnx", env!("CARGO_MANIFEST_DIR")))
        .expect("a file of the zoo")
}

#[test]
fn a_network_is_answered_with_its_spec_and_certificate() {
    let Answer::Verified(verified) = answer(&zoo("mlp")) else { panic!("refused") };
    assert_eq!(verified.digest, Digest::of(&zoo("mlp")));
    assert!(!verified.spec.groups().is_empty());
    assert_eq!(verified.certificate["spec"], verified.spec.digest().to_string());
    assert!(verified.pinned.as_array().is_some_and(|pinned| !pinned.is_empty()), "{}", verified.pinned);
    let text = serde_json::to_vec(&Answer::Verified(verified.clone())).expect("JSON");
    let Answer::Verified(back) = serde_json::from_slice(&text).expect("reads") else {
        panic!("another answer")
    };
    assert_eq!(back.spec, verified.spec);
}

#[test]
fn what_is_no_network_is_refused_with_a_reason() {
    let Answer::Refused(why) = answer(b"no graph") else { panic!("taken") };
    assert!(why.contains("no ONNX model"), "{why}");
}

#[test]
fn the_other_process_is_not_believed_of_another_file_nor_when_its_spec_is_none() {
    let Answer::Verified(verified) = answer(&zoo("mlp")) else { panic!("refused") };
    let digest = verified.digest;
    let text = serde_json::to_string(&Answer::Verified(verified)).expect("JSON");
    assert_eq!(read_answer(text.as_bytes(), &digest).expect("believed").digest, digest);
    let code = |text: &str, digest| read_answer(text.as_bytes(), digest).expect_err("refused").code();
    let other = Digest::of(b"another file");
    assert_eq!(code(&text, &other), Code::Internal);
    let no_spec = text.replace("fedbasin.spec/1", "another form");
    assert_eq!(code(&no_spec, &digest), Code::Internal);
    assert_eq!(code(r#"{"refused":"for a reason"}"#, &digest), Code::InvalidGraph);
}
