//! Of HTTP/2: what both edges say of themselves, and hold peers to.

use super::*;

/// What the server says of itself at first: its settings, and how much more than HTTP/2's default all streams may send.
async fn said_first(raw: &mut Raw) -> (Vec<(u16, u32)>, u32) {
    let (mut settings, mut more) = (Vec::new(), 0);
    while let Some(Frame { kind: of, flags, stream, payload }) = raw.next().await.expect("something") {
        match of {
            kind::SETTINGS if flags & flag::ACK == 0 => {
                settings = payload
                    .chunks_exact(6)
                    .map(|entry| {
                        let (name, value) = entry.split_at(2);
                        (
                            u16::from_be_bytes(name.try_into().expect("two")),
                            u32::from_be_bytes(value.try_into().expect("four")),
                        )
                    })
                    .collect();
            }
            kind::WINDOW_UPDATE if stream == 0 => {
                more = u32::from_be_bytes(payload[..4].try_into().expect("four"));
            }
            _ => {}
        }
        if !settings.is_empty() && more > 0 {
            break;
        }
    }
    (settings, more)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_http2() {
    let mut provoked = Provoked::of(OF_HTTP2);
    let server = server(
        "max_concurrent_streams = 5\nmax_pending_accept_reset_streams = 3\nmax_local_error_reset_streams = 4\n\
         max_control_frames_per_second = 100\nmax_header_list_bytes = 9000\nmax_frame_bytes = 17000\n\
         stream_window_bytes = 70000\nconnection_window_bytes = 200000",
    );
    let site = server.site("a");
    let path = "/fedbasin.v1.FedBasin/SendUpdate";
    for url in [&server.grpc, &server.http] {
        let mut raw = Raw::connect(url).await.expect("connected");
        let (settings, more) = said_first(&mut raw).await;
        for (name, value) in [(3, 5), (4, 70_000), (5, 17_000), (6, 9000)] {
            assert!(settings.contains(&(name, value)), "{url}: {settings:?} lacks {name}");
        }
        assert_eq!(more, 200_000 - 65_535, "{url}");
        raw.send(&frame(kind::SETTINGS, flag::ACK, 0, &[])).await.expect("sent");
        let end = async |mut raw: Raw, bytes: Vec<u8>| {
            let _ = raw.send(&bytes).await;
            raw.end().await
        };
        let goaway = |end: &End| end.goaway.as_ref().map(|(code, _)| *code);
        // A frame that is too large for the settings ends the connection: FRAME_SIZE_ERROR.
        let ended = end(raw, frame(kind::DATA, 0, 1, &[0; 17_001])).await;
        assert_eq!(goaway(&ended), Some(6), "{url}: {ended:?}");
        let open = |stream| frame(kind::HEADERS, flag::END_HEADERS, stream, &grpc_headers(path, &site.token));
        let reset = |stream| frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        let flood: Vec<u8> = (0..20).flat_map(|i| [open(2 * i + 1), reset(2 * i + 1)].concat()).collect();
        let ended = end(Raw::connect(url).await.expect("connected"), flood).await;
        assert_eq!(goaway(&ended), Some(11), "{url}: {ended:?}");
        let burst = |stream| frame(kind::WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
        let flood: Vec<u8> = (0..20).flat_map(|i| [open(2 * i + 1), burst(2 * i + 1)].concat()).collect();
        let ended = end(Raw::connect(url).await.expect("connected"), flood).await;
        assert_eq!(goaway(&ended), Some(11), "{url}: {ended:?}");
    }
    for limit in ["max_frame_bytes", "max_pending_accept_reset_streams", "max_local_error_reset_streams"] {
        provoked.note(limit);
    }
    streams_and_windows(&server, &site, &mut provoked).await;

    // A second's worth at once, and two more when they are due: what comes after them waits so long.
    let mut raw = Raw::connect(&server.grpc).await.expect("connected");
    let begun = Instant::now();
    let (mut end, mut asked) = (End::default(), 0);
    for questions in [300, 1] {
        raw.send(&frame(kind::PING, 0, 0, b"question").repeat(questions)).await.expect("sent");
        asked += questions;
        // The settings are acknowledged, too.
        while end.acknowledged < asked + 1 {
            end.note(&raw.next().await.expect("an answer").expect("the connection stays"));
        }
    }
    assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}", begun.elapsed());
    provoked.note("max_control_frames_per_second");

    let slowed = self::server("max_calls_per_second_per_connection = 4");
    let mut raw = Raw::connect(&slowed.http).await.expect("connected");
    let begun = Instant::now();
    let calls: Vec<u8> = (0..12).flat_map(|i| healthz(2 * i + 1)).collect();
    raw.send(&calls).await.expect("sent");
    let mut answers = 0;
    while answers < 12 {
        let frame = raw.next().await.expect("an answer").expect("the connection stays");
        answers += usize::from(frame.kind == kind::HEADERS);
    }
    assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}", begun.elapsed());
    provoked.note("max_calls_per_second_per_connection");
}

async fn streams_and_windows(server: &Server, site: &Site, provoked: &mut Provoked) {
    let path = "/fedbasin.v1.FedBasin/SendUpdate";
    let open = |stream| frame(kind::HEADERS, flag::END_HEADERS, stream, &grpc_headers(path, &site.token));
    let code = |frame: &Frame| u32::from_be_bytes(frame.payload[..4].try_into().expect("a code"));
    let first = async |raw: &mut Raw, of: u8| loop {
        let frame = raw.next().await.expect("something").expect("the connection stays");
        if frame.kind == of {
            return frame;
        }
    };
    let mut raw = Raw::connect(&server.grpc).await.expect("connected");
    said_first(&mut raw).await;
    raw.send(&frame(kind::SETTINGS, flag::ACK, 0, &[])).await.expect("sent");
    let streams: Vec<u8> = (0..6).flat_map(|i| open(2 * i + 1)).collect();
    raw.send(&streams).await.expect("sent");
    let refused = first(&mut raw, kind::RST_STREAM).await;
    assert_eq!((refused.stream, code(&refused)), (11, 7), "the sixth stream, REFUSED_STREAM");
    provoked.note("max_concurrent_streams");

    // Unlike what is content, headers are taken to their end; the call is answered by 431.
    let mut raw = Raw::connect(&server.http).await.expect("connected");
    said_first(&mut raw).await;
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/healthz"), (":authority", "localhost")];
    let block = [header_block(&get), header_block(&[("a", &"x".repeat(9000))])].concat();
    raw.send(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block)).await.expect("sent");
    let answer = first(&mut raw, kind::HEADERS).await;
    assert!(
        String::from_utf8_lossy(&answer.payload).contains("431") || answer.payload.len() < 8,
        "{answer:?}"
    );
    provoked.note("max_header_list_bytes");

    // Of one frame, so that nothing of it can have been taken meanwhile.
    let wide = "max_frame_bytes = 1048576\nstream_window_bytes = 100000\nconnection_window_bytes = 200000";
    let server = self::server(wide);
    let site = server.site("a");
    let open = |stream| frame(kind::HEADERS, flag::END_HEADERS, stream, &grpc_headers(path, &site.token));
    for (bytes, limit) in [(150_000, "stream_window_bytes"), (250_000, "connection_window_bytes")] {
        let mut raw = Raw::connect(&server.grpc).await.expect("connected");
        said_first(&mut raw).await;
        raw.send(&frame(kind::SETTINGS, flag::ACK, 0, &[])).await.expect("sent");
        let _ = raw.send(&[open(1), frame(kind::DATA, 0, 1, &vec![0; bytes])].concat()).await;
        loop {
            let frame = raw.next().await.expect("something").expect("it says why");
            match frame.kind {
                kind::RST_STREAM if code(&frame) == 3 && limit == "stream_window_bytes" => break,
                kind::GOAWAY if frame.payload[4..8] == 3_u32.to_be_bytes() => break,
                _ => {}
            }
        }
        provoked.note(limit);
    }
}
