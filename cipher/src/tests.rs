use super::*;

#[test]
fn a_key_opens_with_the_key_that_wrapped_it_for_its_own_file_alone() {
    let [ours, theirs] = [1, 2].map(|byte| WrappingKey::new(&[byte; KEY_BYTES]));
    let made = ours.make(b"a").expect("random numbers");
    let opened = ours.open(b"a", made.wrapped.clone()).expect("the same key");
    let mut bytes = *b"what a site learned";
    made.cipher.apply(5, &mut bytes);
    assert_ne!(&bytes, b"what a site learned");
    opened.cipher.apply(5, &mut bytes);
    assert_eq!(&bytes, b"what a site learned");

    assert!(theirs.open(b"a", made.wrapped.clone()).is_err(), "another server's");
    assert!(ours.open(b"b", made.wrapped.clone()).is_err(), "another file's");
    for altered in ["", "AAAA", &made.wrapped[4..], "not base64"] {
        assert!(ours.open(b"a", altered.to_owned()).is_err(), "{altered:?}");
    }
    assert_ne!(ours.make(b"a").expect("random numbers").wrapped, made.wrapped, "a key of its own");
}

#[test]
fn bytes_are_the_same_however_a_file_is_cut() {
    let key = WrappingKey::new(&[7; KEY_BYTES]).make(b"a").expect("a key");
    let plain: Vec<u8> = (0..100_000_u32).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
    let mut whole = plain.clone();
    key.cipher.apply(0, &mut whole);
    for size in [1, 15, 16, 17, 4096, 65_537] {
        let mut parts = plain.clone();
        for (place, part) in parts.chunks_mut(size).enumerate() {
            key.cipher.apply((place * size) as u64, part);
        }
        assert!(parts == whole, "in parts of {size}");
    }
}

#[test]
fn the_key_stream_is_aes_256_of_a_counter_from_0() {
    // McGrew and Viega, The Galois/Counter Mode of Operation, test case 13: H and the tag are AES of the counters 0 and 1.
    let mut stream = [0; 32];
    FileCipher::new(&[0; KEY_BYTES]).apply(0, &mut stream);
    assert_eq!(hex::encode(stream), "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738b");
}
