//! Class: the protocol. Announcements, chunks and ends that are malformed, out of order, out of time or somebody else's.

use fedbasin_proto::{MAX_CHUNK_BYTES, v1};
use fedbasin_tests::{Database, Options, digest, on_both_databases};

use crate::{
    corpus::{Answer, Case, Ground, Steps, Tried, case, good, of_kind},
    headers::on_record,
    steps,
};

on_both_databases!(what_is_out_of_order_is_refused_and_the_round_goes_on);

pub(crate) async fn what_is_out_of_order_is_refused_and_the_round_goes_on(database: Database) -> Vec<Tried> {
    let ground = Ground::new(database, Options::default()).await;
    let _ = ground.admin.enrol("y");
    ground
        .try_all(cases(), async |ground, how| match how {
            How::Announced(change) => announced(ground, change).await,
            How::Chunks(change) => sent(ground, change).await,
            How::Steps(steps) => steps(ground).await,
        })
        .await
}

pub(crate) fn names() -> Vec<&'static str> {
    crate::corpus::names(cases())
}

pub(crate) enum How {
    /// An announcement, changed.
    Announced(fn(&mut v1::BeginUpdateRequest)),
    /// The chunks of a good file, 50 bytes each, changed; sent in one stream, and finished if that is taken.
    Chunks(fn(&mut Vec<v1::UpdateChunk>)),
    /// Anything else.
    Steps(for<'a> fn(&'a Ground) -> Steps<'a>),
}

async fn announced(ground: &Ground, change: &fn(&mut v1::BeginUpdateRequest)) -> Answer {
    let bytes = other(0);
    let mut request = v1::BeginUpdateRequest {
        run_id: ground.run.clone(),
        round: 1,
        digest: digest(&bytes),
        size: bytes.len() as u64,
        num_examples: 1,
        ..v1::BeginUpdateRequest::default()
    };
    change(&mut request);
    ground.x.begin_as(request).await.into()
}

/// A good file of its own, so that no case finds what another one left.
pub(crate) fn other(number: u8) -> Vec<u8> {
    let mut bytes = good();
    let last = bytes.len() - 1;
    bytes[last] = number;
    bytes
}

/// Begins an update of site `x` with a file that no other case has.
pub(crate) async fn begun(ground: &Ground) -> (String, Vec<u8>) {
    use std::sync::atomic::{AtomicU8, Ordering};
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let bytes = other(NEXT.fetch_add(1, Ordering::Relaxed));
    let begun = ground.x.begin(&ground.run, 1, &bytes, 1).await.expect("an update");
    (begun.update_id, bytes)
}

/// A chunk as it should be.
pub(crate) fn chunk(update: &str, offset: u64, data: &[u8]) -> v1::UpdateChunk {
    let crc32c = crc32c::crc32c(data);
    v1::UpdateChunk { update_id: update.into(), offset, data: data.to_vec().into(), crc32c }
}

pub(crate) fn in_parts(update: &str, bytes: &[u8]) -> Vec<v1::UpdateChunk> {
    bytes.chunks(50).enumerate().map(|(i, part)| chunk(update, i as u64 * 50, part)).collect()
}

async fn sent(ground: &Ground, change: &fn(&mut Vec<v1::UpdateChunk>)) -> Answer {
    let (update, bytes) = begun(ground).await;
    let mut parts = in_parts(&update, &bytes);
    change(&mut parts);
    let answer = match ground.x.send(parts).await {
        Ok(_) => ground.x.finish(&update).await.into(),
        Err(status) => Answer::from(Err::<(), _>(status)),
    };
    on_record(ground, &update, answer).await
}

fn cases() -> Vec<Case<How>> {
    let mut cases = of_kind("announcements", announcements());
    cases.extend(of_kind("chunks", streams()));
    cases.extend(steps::cases());
    cases
}

fn announcements() -> Vec<Case<How>> {
    let said = |name, change: fn(&mut v1::BeginUpdateRequest), code, says| {
        case(name, How::Announced(change), code, says)
    };
    fn metric(request: &mut v1::BeginUpdateRequest, name: &str, value: f64) {
        request.metrics = [(name.to_owned(), value)].into();
    }
    let invalid = "invalid-argument";
    vec![
        said("no examples", |r| r.num_examples = 0, invalid, "num_examples"),
        said("just too many examples", |r| r.num_examples = 1_000_000_000_001, invalid, "num_examples"),
        said(
            "the most examples",
            |r| (r.digest, r.num_examples) = (digest(b"most"), 1_000_000_000_000),
            "taken",
            "",
        ),
        said(
            "examples below 0, as a cast makes them",
            |r| r.num_examples = u64::MAX,
            invalid,
            "num_examples",
        ),
        said("no digest", |r| r.digest.clear(), invalid, "digest"),
        said("a digest that is none", |r| r.digest = "g".repeat(64), invalid, "digest"),
        said("a short digest", |r| r.digest = "ab".repeat(31), invalid, "digest"),
        said("a long digest", |r| r.digest = "ab".repeat(33), invalid, "digest"),
        said("a digest in upper case", |r| r.digest = digest(b"x").to_uppercase(), invalid, "digest"),
        said("a digest that climbs", |r| r.digest = "../".repeat(22)[..64].into(), invalid, "digest"),
        said("a digest in other digits", |r| r.digest = "\u{ff11}".repeat(64), invalid, "digest"),
        said("no bytes", |r| r.size = 0, invalid, "size"),
        said("eight bytes", |r| r.size = 8, invalid, "size"),
        said("a byte more than is taken", |r| r.size = 4_194_305, "too-large", "4194304"),
        said("the largest signed size", |r| r.size = i64::MAX as u64, "too-large", "size"),
        said("the largest size", |r| r.size = u64::MAX, "too-large", "size"),
        said("a metric that is NaN", |r| metric(r, "loss", f64::NAN), invalid, "loss"),
        said("a metric that is infinite", |r| metric(r, "loss", f64::INFINITY), invalid, "loss"),
        said("a metric that is infinite below", |r| metric(r, "loss", f64::NEG_INFINITY), invalid, "loss"),
        said("a metric without a name", |r| metric(r, "", 0.0), invalid, "metrics"),
        said("a metric with a long name", |r| metric(r, &"x".repeat(65), 0.0), invalid, "metrics"),
        said(
            "a metric with a name of half a mebibyte",
            |r| metric(r, &"x".repeat(1 << 19), 0.0),
            invalid,
            "metrics",
        ),
        said("a metric with a newline", |r| metric(r, "a\nINJECTED", 0.0), invalid, "metrics"),
        said("a metric with a zero", |r| metric(r, "a\0", 0.0), invalid, "metrics"),
        said("a metric that colours a terminal", |r| metric(r, "\u{1b}[31m", 0.0), invalid, "metrics"),
        said("a metric with an accent", |r| metric(r, "pr\u{e9}cision", 0.0), invalid, "metrics"),
        said(
            "65 metrics",
            |r| r.metrics = (0..65).map(|i| (format!("m{i}"), 0.0)).collect(),
            invalid,
            "metrics",
        ),
        said("no run", |r| r.run_id.clear(), "not-found", ""),
        said("a run that there is not", |r| r.run_id = "no-such-run".into(), "not-found", ""),
        said("a run that climbs", |r| r.run_id = "../../etc".into(), "not-found", ""),
        said("a run with a zero", |r| r.run_id.push('\0'), "not-found", ""),
        said("a run with SQL", |r| r.run_id = "x' OR '1'='1".into(), "not-found", ""),
        said("a run in upper case", |r| r.run_id = r.run_id.to_uppercase(), "not-found", ""),
        said("a run of half a mebibyte", |r| r.run_id = "r".repeat(1 << 19), "not-found", ""),
        said("round 0", |r| r.round = 0, "not-found", ""),
        said("a round to come", |r| r.round = 2, "not-found", ""),
        said("the largest round", |r| r.round = u32::MAX, "not-found", ""),
    ]
}

fn streams() -> Vec<Case<How>> {
    let sent =
        |name, change: fn(&mut Vec<v1::UpdateChunk>), code, says| case(name, How::Chunks(change), code, says);
    let moved = "offset-mismatch";
    vec![
        sent("the first chunk is missing", |c| drop(c.remove(0)), moved, "begins at 50"),
        sent("a chunk is missing", |c| drop(c.remove(3)), moved, "begins at 200"),
        sent("two chunks have changed places", |c| c.swap(2, 3), moved, "begins at 150"),
        sent("all chunks come backwards", |c| c.reverse(), moved, ""),
        sent("a chunk comes twice", |c| c.insert(3, c[2].clone()), moved, "begins at 100"),
        sent(
            "a chunk comes again with other bytes",
            |c| c.insert(3, chunk(&c[2].update_id, 100, &[7; 50])),
            moved,
            "begins at 100",
        ),
        sent("chunks overlap by a byte", |c| c[3].offset -= 1, moved, "begins at 149"),
        sent("a chunk at the largest offset", |c| c[1].offset = u64::MAX, moved, ""),
        sent("a chunk's checksum is of one bit less", |c| c[1].crc32c ^= 1, moved, "damaged"),
        sent("a chunk's checksum is 0", |c| c[1].crc32c = 0, moved, "damaged"),
        sent(
            "a chunk's checksum is that of another polynomial",
            |c| c[1].crc32c = c[1].crc32c.reverse_bits(),
            moved,
            "damaged",
        ),
        sent("a chunk's bytes have changed on the way", |c| c[1].data = vec![0; 50].into(), moved, "damaged"),
        sent("an empty chunk", |c| c.insert(1, chunk(&c[0].update_id, 50, &[])), "invalid-argument", "empty"),
        sent(
            "a chunk of a mebibyte and a byte",
            |c| c[0] = chunk(&c[0].update_id, 0, &vec![0; MAX_CHUNK_BYTES + 1]),
            "too-large",
            "",
        ),
        sent(
            "a message beyond the limit",
            |c| c[0] = chunk(&c[0].update_id, 0, &vec![0; MAX_CHUNK_BYTES + 5000]),
            "too-large",
            "",
        ),
        sent(
            "more bytes than announced, in a chunk of their own",
            |c| {
                let end = c.iter().map(|part| part.data.len() as u64).sum();
                c.push(chunk(&c[0].update_id, end, b"more"));
            },
            "invalid-checkpoint",
            "announced",
        ),
        sent(
            "more bytes than announced, in the last chunk",
            |c| {
                let last = c.pop().expect("a chunk");
                c.push(chunk(&last.update_id, last.offset, &[&last.data[..], b"more"].concat()));
            },
            "invalid-checkpoint",
            "announced",
        ),
        sent(
            "a byte less than announced",
            |c| {
                let last = c.pop().expect("a chunk");
                c.push(chunk(&last.update_id, last.offset, &last.data[1..]));
            },
            "incomplete",
            "send the rest",
        ),
        sent(
            "other bytes than announced",
            |c| {
                let last = c.pop().expect("a chunk");
                let mut data = last.data.to_vec();
                *data.last_mut().expect("a byte") ^= 0x40;
                c.push(chunk(&last.update_id, last.offset, &data));
            },
            "invalid-checkpoint",
            "digest",
        ),
        sent(
            "another update's id after the first chunk",
            |c| c[1].update_id = uuid(1),
            "invalid-argument",
            "update_id",
        ),
        sent(
            "no update's id after the first chunk",
            |c| c[1].update_id.clear(),
            "invalid-argument",
            "update_id",
        ),
        sent("no update's id", |c| c[0].update_id.clear(), "not-found", ""),
        sent("an update's id that is none", |c| c[0].update_id = "../staging/x".into(), "not-found", ""),
        sent("an update's id with a zero", |c| c[0].update_id.push('\0'), "not-found", ""),
        sent("an update's id with SQL", |c| c[0].update_id = "' OR 1=1 --".into(), "not-found", ""),
        sent(
            "an update's id in upper case",
            |c| c[0].update_id = c[0].update_id.to_uppercase(),
            "not-found",
            "",
        ),
        sent(
            "an update's id in braces",
            |c| c[0].update_id = format!("{{{}}}", c[0].update_id),
            "not-found",
            "",
        ),
        sent("the id of an update that there is not", |c| c[0].update_id = uuid(1), "not-found", ""),
    ]
}

pub(crate) fn uuid(last: u8) -> String {
    format!("01990000-0000-7000-8000-0000000000{last:02x}")
}
