use std::io::Write;

use fedbasin_proto::CODE_METADATA_KEY;

use super::*;

fn announcement(size: u64) -> Announcement {
    Announcement {
        run_id: "r".into(),
        round: 1,
        digest: Digest::of(b"x"),
        size,
        num_examples: 1,
        metrics: BTreeMap::new(),
    }
}

fn from_server(code: Code, string: &'static str) -> Status {
    let mut status = Status::new(code, "said so");
    status.metadata_mut().insert(CODE_METADATA_KEY, string.parse().unwrap());
    status
}

fn read_all(bytes: &[u8], offset: u64) -> Vec<UpdateChunk> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let (sender, mut receiver) = mpsc::channel(64);
    let chunks = Chunks { path: file.path().into(), update_id: "u".into(), offset, end: bytes.len() as u64 };
    chunks.read_into(&sender).unwrap();
    drop(sender);
    std::iter::from_fn(|| receiver.blocking_recv()).collect()
}

#[test]
fn chunks_are_whole_ordered_and_checksummed() {
    let bytes: Vec<u8> = (0..2 * MAX_CHUNK_BYTES + 7).map(|i| (i % 251) as u8).collect();
    let chunks = read_all(&bytes, 0);
    assert_eq!(
        chunks.iter().map(|c| c.data.len()).collect::<Vec<_>>(),
        [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 7]
    );
    let mut offset = 0;
    for chunk in &chunks {
        assert_eq!(chunk.offset, offset);
        assert_eq!(chunk.crc32c, crc32c::crc32c(&chunk.data));
        offset += chunk.data.len() as u64;
    }
    assert_eq!(chunks.iter().flat_map(|c| c.data.to_vec()).collect::<Vec<_>>(), bytes);
}

#[test]
fn sending_goes_on_from_the_servers_offset() {
    let bytes: Vec<u8> = (0..100).collect();
    let chunks = read_all(&bytes, 60);
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0].offset, 60);
    assert_eq!(chunks[0].data.as_ref(), &bytes[60..]);
}

#[test]
fn a_closed_or_full_round_declines() {
    let update = announcement(1);
    for status in
        [from_server(Code::FailedPrecondition, "round-closed"), from_server(Code::Aborted, "round-full")]
    {
        assert!(matches!(
            decided(&update, "beginning", &status, &mut Backoff::new(Patience::default())),
            Some(Ok(Outcome::Declined(_)))
        ));
    }
}

#[test]
fn a_rejected_update_and_a_conflict_are_errors_that_keep_their_code() {
    let update = announcement(1);
    for (code, string) in [(Code::InvalidArgument, "invalid-checkpoint"), (Code::AlreadyExists, "conflict")] {
        match decided(
            &update,
            "finishing",
            &from_server(code, string),
            &mut Backoff::new(Patience::default()),
        ) {
            Some(Err(error)) => assert_eq!(error.code(), Some(string)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn another_offset_missing_bytes_and_a_lost_connection_lead_to_another_attempt() {
    let update = announcement(1);
    assert!(
        decided(
            &update,
            "sending",
            &from_server(Code::Aborted, "offset-mismatch"),
            &mut Backoff::new(Patience::default())
        )
        .is_none()
    );
    assert!(
        decided(&update, "sending", &Status::aborted(""), &mut Backoff::new(Patience::default())).is_none()
    );
    assert!(
        decided(
            &update,
            "finishing",
            &from_server(Code::FailedPrecondition, "incomplete"),
            &mut Backoff::new(Patience::default())
        )
        .is_none()
    );
    assert!(
        decided(&update, "sending", &Status::unavailable(""), &mut Backoff::new(Patience::default()))
            .is_none()
    );
}

#[test]
fn a_receipt_about_something_else_is_refused() {
    let update = announcement(5);
    let receipt = Receipt {
        run_id: "r".into(),
        round: 1,
        size: 5,
        digest: update.digest.to_string(),
        num_examples: 1,
        ..Receipt::default()
    };
    assert!(check_receipt(receipt.clone(), &update).is_ok());
    assert!(check_receipt(Receipt { round: 2, ..receipt.clone() }, &update).is_err());
    assert!(check_receipt(Receipt { digest: Digest::of(b"y").to_string(), ..receipt }, &update).is_err());
}

#[tokio::test]
async fn an_upload_that_gives_up_names_the_address() {
    let address = crate::connect::Address {
        url: "http://127.0.0.1:1".into(),
        ca: None,
        insecure: false,
        identity: None,
    };
    let client = crate::connect::connect(&address, Some(&crate::connect::Token::new("t"))).unwrap();
    let patience = Patience::lasting(Duration::ZERO);
    let update = announcement(1);
    let result = upload(&client, &update, Path::new("x"), patience, &Screen::silent(), |_| Ok(())).await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains("gave up") && error.contains(" at http://127.0.0.1:1: "), "{error}");
}
