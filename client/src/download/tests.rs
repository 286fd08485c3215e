use super::*;

fn chunk(offset: u64, data: &'static [u8], total_size: u64) -> DownloadChunk {
    DownloadChunk { offset, data: data.into(), total_size }
}

#[test]
fn a_download_is_resumed_verified_and_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.safetensors");
    let digest = Digest::of(b"hello world");
    let mut part = Part::open(&target, digest).unwrap();
    part.push(&chunk(0, b"hello ", 11)).unwrap();
    drop(part);
    assert!(!target.exists());

    let mut part = Part::open(&target, digest).unwrap();
    assert_eq!(part.offset, 6);
    part.push(&chunk(6, b"world", 11)).unwrap();
    assert!(part.complete().unwrap().is_none());
    assert_eq!(fs::read(&target).unwrap(), b"hello world");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn wrong_bytes_never_get_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.safetensors");
    let mut part = Part::open(&target, Digest::of(b"hello")).unwrap();
    part.push(&chunk(0, b"jello", 5)).unwrap();
    let error = part.complete().unwrap().expect("these bytes are another checkpoint");
    assert!(error.to_string().contains("thrown away"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_chunk_elsewhere_or_beyond_the_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut part = Part::open(&folder.path().join("m"), Digest::of(b"")).unwrap();
    assert!(part.push(&chunk(1, b"x", 5)).is_err());
    assert!(part.push(&chunk(0, b"xyz", 2)).is_err());
    assert!(part.push(&chunk(u64::MAX, b"xyz", u64::MAX)).is_err());
    assert_eq!(part.offset, 0);
}

#[test]
fn a_restart_forgets_everything() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m");
    let mut part = Part::open(&target, Digest::of(b"abc")).unwrap();
    part.push(&chunk(0, b"zzzz", 9)).unwrap();
    part.restart().unwrap();
    part.push(&chunk(0, b"abc", 3)).unwrap();
    assert!(part.complete().unwrap().is_none());
    assert_eq!(fs::read(&target).unwrap(), b"abc");
}

#[tokio::test]
async fn a_download_that_gives_up_names_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let address = crate::connect::Address {
        url: "http://127.0.0.1:1".into(),
        ca: None,
        insecure: false,
        identity: None,
    };
    let client = crate::connect::connect(&address, Some(&crate::connect::Token::new("t"))).unwrap();
    let (digest, patience) = (Digest::of(b"x"), Patience::lasting(std::time::Duration::ZERO));
    let path = folder.path().join("m");
    let result = download(&client, digest, &path, 9, patience, &Screen::silent(), "m").await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains("gave up") && error.contains(" at http://127.0.0.1:1: "), "{error}");
}
