//! Of calls: how many at once and within a minute, uploads, bytes in flight.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_calls() {
    let mut provoked = Provoked::of(OF_CALLS);
    let server = server("max_calls_per_caller = 2\nmax_calls_per_minute_per_address = 10");
    let (a, b) = (server.site("a"), server.site("b"));
    let run = run_of(&server.admin(), &["a", "b"]);
    let watch = || async {
        let request = v1::WatchRunRequest { run_id: run.clone() };
        a.client.clone().watch_run(request).await.map(tonic::Response::into_inner)
    };
    let held = [watch().await.expect("one"), watch().await.expect("two")];
    let refused = watch().await.expect_err("three");
    let wait = refused.metadata().get(fedbasin_proto::RETRY_METADATA_KEY);
    assert!(
        wait.is_some_and(|wait| wait.to_str().is_ok_and(|wait| wait.parse::<u64>().is_ok())),
        "{refused:?}"
    );
    let text = assert_refused(Err::<(), _>(refused), Code::ResourceExhausted, "too-many");
    assert!(text.contains("limits.max_calls_per_caller"), "{text}");
    b.status(&run).await.expect("another site is let in");
    drop(held);
    let again = async || loop {
        match watch().await {
            Ok(_) => break,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    tokio::time::timeout(fedbasin_tests::PATIENCE, again()).await.expect("places are free again");
    provoked.note("max_calls_per_caller");

    // Who opened something here before is let in, whatever its neighbours do.
    let stranger = Site::new("x", &server.grpc, &format!("fbs_{}", "x".repeat(43)));
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(stranger.status(&run).await.expect_err("refused").code());
    }
    assert_eq!(answers[..10], [Code::Unauthenticated; 10]);
    assert_eq!(answers[10..], [Code::ResourceExhausted; 2]);
    a.status(&run).await.expect("a known one");
    assert_eq!(server.admin().get("/v1/runs").status, 200, "and so is the operator");
    let answer = server.admin().with_token(None).get("/openapi.json");
    answer.assert_problem(429, "too-many");
    assert_eq!(server.admin().with_token(None).get("/readyz").status, 200, "health is never refused");
    assert!(answer.header("retry-after").parse::<u64>().is_ok());
    provoked.note("max_calls_per_minute_per_address");

    rates(&mut provoked).await;
    uploads(&mut provoked).await;
}

async fn rates(provoked: &mut Provoked) {
    let server = server("max_calls_per_minute_per_site = 5\nmax_calls_per_minute_per_person = 20");
    let (a, b) = (server.site("a"), server.site("b"));
    let admin = server.admin();
    let run = run_of(&admin, &["a", "b"]);
    let mut codes = Vec::new();
    for _ in 0..7 {
        codes.push(a.status(&run).await.map_or_else(|status| status.code(), |_| Code::Ok));
    }
    assert_eq!(codes.iter().filter(|code| **code == Code::Ok).count(), 5, "{codes:?}");
    let text = assert_refused(a.status(&run).await, Code::ResourceExhausted, "too-many");
    assert!(text.contains("limits.max_calls_per_minute_per_site"), "{text}");
    b.status(&run).await.expect("another site has its own");
    provoked.note("max_calls_per_minute_per_site");

    let made = admin.post("/v1/tokens", &json!({ "role": "viewer" })).json();
    let viewer = admin.with_token(made["token"].as_str());
    let refused = (0..30).map(|_| viewer.get("/v1/runs")).find(|answer| answer.status != 200);
    let refused = refused.expect("one of thirty");
    let detail = refused.assert_problem(429, "too-many");
    assert!(detail.contains("limits.max_calls_per_minute_per_person"), "{detail}");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1));
    provoked.note("max_calls_per_minute_per_person");
}

async fn uploads(provoked: &mut Provoked) {
    let one_second = Duration::from_secs(1);
    for (limits, limit, second) in [
        ("max_concurrent_uploads = 1\nmax_uploads_per_site = 1", "max_concurrent_uploads", "b"),
        ("max_uploads_per_site = 1", "max_uploads_per_site", "a"),
    ] {
        let server = server(&format!("idle_timeout_seconds = 1\n{limits}"));
        let sites = ["a", "b"].map(|id| server.site(id));
        let runs = [run_of(&server.admin(), &["a", "b"]), run_of(&server.admin(), &["a", "b"])];
        let (first, bytes) = (&sites[0], one_hot(0, 3));
        let begun = first.begin(&runs[0], 1, &bytes, 1).await.expect("an update");
        let mut part = chunks(&begun.update_id, &bytes, 0).remove(0);
        part.data = part.data.slice(..9);
        part.crc32c = crc32c::crc32c(&part.data);
        let began = Instant::now();
        let mut stalled = first.open_stream(&[part]).await;
        eventually("the first has its place", || (!server.open_uploads().is_empty()).then_some(())).await;
        let other = sites.iter().find(|site| site.id == second).expect("a site");
        other.upload(&runs[1], 1, &bytes, 1).await.expect("when the first has given its place up");
        assert!(began.elapsed() >= one_second, "{limit}: it waited");
        provoked.note(limit);
        if limit == "max_concurrent_uploads" {
            let text = assert_refused(stalled.acknowledged().await, Code::Unavailable, "too-slow");
            assert!(text.contains("limits.min_bytes_per_second"), "{text}");
            let admin = server.admin();
            let head = format!(
                "POST /v1/sites HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
                 content-length: 100\r\n\r\n",
                server.admin_token()
            );
            let mut raw = Raw::silent(&server.http).await.expect("connected");
            raw.send(head.as_bytes()).await.expect("sent");
            let said = raw.drip(std::iter::repeat(b' '), Duration::from_millis(100)).await;
            assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("too-slow"), "{said}");
            assert_eq!(admin.get("/v1/sites").status, 200);
            provoked.note("idle_timeout_seconds");
        }
    }
    // Bytes come all the time, but too few.
    let server = server("idle_timeout_seconds = 1\nmin_bytes_per_second = 1000000");
    let (site, bytes) = (server.site("a"), one_hot(0, 300_000));
    let run = run_of(&server.admin(), &["a"]);
    let begun = site.begin(&run, 1, &bytes, 1).await.expect("an update");
    let mut sending = site.open_stream(&[]).await;
    let (sender, update) = (sending.sender.clone(), begun.update_id);
    tokio::spawn(async move {
        for offset in (0..bytes.len()).step_by(1000) {
            let mut part =
                chunks(&update, &bytes[..(offset + 1000).min(bytes.len())], offset as u64).remove(0);
            part.crc32c = crc32c::crc32c(&part.data);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if sender.send(part).await.is_err() {
                return;
            }
        }
    });
    let slow = loop {
        if let Err(status) = sending.acknowledged().await {
            break status;
        }
    };
    assert_refused(Err::<(), _>(slow), Code::Unavailable, "too-slow");
    provoked.note("min_bytes_per_second");
    bytes_in_flight(provoked).await;
}

async fn bytes_in_flight(provoked: &mut Provoked) {
    let server = server(
        "max_bytes_in_flight = 4194304\nmax_json_bytes = 65536\nstream_window_bytes = 65535\nconnection_window_bytes = 65535",
    );
    let (site, admin) = (server.site("a"), server.admin());
    let seed = one_hot(0, 3_000_000);
    let digest = admin.upload(&seed);
    admin.create_run(&json!({
        "spec": null, "strategy": "mean", "cohort": ["a"], "seed_digest": digest,
        "policy": { "rounds": 1, "quorum": 1, "deadline_seconds": 600 },
    }));
    let download = async || {
        let request = v1::DownloadRequest { digest: digest.clone(), offset: 0 };
        site.client.clone().download(request).await.map(tonic::Response::into_inner)
    };
    let held = download().await.expect("the first");
    let text = assert_refused(download().await, Code::ResourceExhausted, "too-many");
    assert!(text.contains("limits.max_bytes_in_flight"), "{text}");
    provoked.note("max_bytes_in_flight");
    drop(held);
    let read = async {
        loop {
            if let Ok(bytes) = site.download(&digest, 0).await {
                break bytes;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(tokio::time::timeout(fedbasin_tests::PATIENCE, read).await.expect("in time"), seed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_outlives_its_connections() {
    let server = server("max_connection_age_seconds = 1\nconnection_age_grace_seconds = 1");
    let (site, bytes) = (server.site("a"), one_hot(0, 3000));
    let run = run_of(&server.admin(), &["a"]);
    let begun = site.begin(&run, 1, &bytes, 1).await.expect("an update");
    let (mut offset, mut cuts) = (0, 0);
    // Part by part, for as long as two connections live.
    while cuts < 2 {
        let sending = &mut site.open_stream(&[]).await;
        let status = loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let part = chunks(&begun.update_id, &bytes[..(offset + 100).min(bytes.len())], offset as u64);
            if let Some(part) = part.into_iter().next()
                && sending.sender.send(part).await.is_ok()
            {
                offset = (offset + 100).min(bytes.len() - 1);
                continue;
            }
            break last_of(sending).await;
        };
        assert!(
            matches!(status, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal),
            "cut, {status:?}"
        );
        let again = site.begin(&run, 1, &bytes, 1).await.expect("the same update, on another connection");
        (offset, cuts) = (usize::try_from(again.offset).expect("small"), cuts + 1);
    }
    site.send(chunks(&begun.update_id, &bytes, offset as u64)).await.expect("the rest");
    site.finish(&begun.update_id).await.expect("a receipt");
}

/// What a stream ends with.
async fn last_of(sending: &mut fedbasin_tests::Sending) -> Code {
    loop {
        if let Err(status) = sending.acknowledged().await {
            return status.code();
        }
    }
}
