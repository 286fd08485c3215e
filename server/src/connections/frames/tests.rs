use super::*;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
}

#[test]
fn frames_are_counted_wherever_the_bytes_are_cut() {
    let sent = [
        PREFACE.to_vec(),
        frame(4, &[]),
        frame(1, &[7; 300]),
        frame(0, &[8; 70_000]),
        frame(6, &[0; 8]),
        frame(0, &[1]),
        frame(9, &[7; 3000]),
    ];
    let sent = sent.concat();
    for cut in [1, 2, 8, 9, 10, 1000, sent.len()] {
        let mut frames = Frames::Begin(0);
        let mut all = Passed::default();
        for part in sent.chunks(cut) {
            let passed = frames.pass(part);
            all = Passed { data: all.data + passed.data, others: all.others + passed.others };
        }
        assert_eq!((all, frames), (Passed { data: 70_001, others: 7 }, Frames::FRAMES), "cut at {cut}");
    }
}

#[test]
fn what_is_not_http2_is_content() {
    for request in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/1.1\r\n\r\n", "P"] {
        let mut frames = Frames::Begin(0);
        let passed = frames.pass(request.as_bytes());
        assert_eq!(passed.others, 0);
        assert!(request == "P" || frames == Frames::Plain, "{request}");
    }
}
