//! Of connections: how many, and how long.

use fedbasin_tests::SelfSigned;

use super::*;

/// Whether a connection stays open: the server answers its preface with settings.
async fn is_taken(mut raw: Raw) -> Option<Raw> {
    let hello = [fedbasin_tests::h2::PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat();
    raw.send(&hello).await.ok()?;
    raw.next().await.expect("an answer or an end").is_some().then_some(raw)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_connections() {
    let mut provoked = Provoked::of(OF_CONNECTIONS);
    let crowded = server("max_connections = 4\nmax_connections_per_address = 3");
    let from = |last: u8| Raw::silent_from([127, 0, 0, last], &crowded.grpc);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(is_taken(from(1).await.expect("connected")).await.expect("taken"));
    }
    assert!(is_taken(from(1).await.expect("connected")).await.is_none(), "the fourth of one address");
    says(&crowded, "limits.max_connections_per_address").await;
    provoked.note("max_connections_per_address");
    open.push(is_taken(from(2).await.expect("connected")).await.expect("taken"));
    assert!(is_taken(from(3).await.expect("connected")).await.is_none(), "the fifth of all");
    provoked.note("max_connections");
    drop(open);
    eventually("places are free again", || crowded.admin().try_request("GET", "/healthz", &[], &[]).ok())
        .await;
    assert!(is_taken(from(1).await.expect("connected")).await.is_some());

    let hurried = server("max_new_connections_per_minute_per_address = 5");
    for _ in 0..5 {
        assert!(is_taken(Raw::silent(&hurried.grpc).await.expect("connected")).await.is_some());
    }
    assert!(is_taken(Raw::silent(&hurried.grpc).await.expect("connected")).await.is_none());
    says(&hurried, "limits.max_new_connections_per_minute_per_address").await;
    provoked.note("max_new_connections_per_minute_per_address");

    let folder = tempfile::tempdir().expect("a folder");
    let tls = SelfSigned::in_folder(folder.path()).files();
    let more = Options { tls, ..options("handshake_timeout_seconds = 1") };
    let shy = Server::start_with(Database::sqlite(), more);
    for url in [&shy.grpc, &shy.http] {
        assert_eq!(Raw::silent(url).await.expect("connected").end().await, End::default());
    }
    says(&shy, "a handshake took too long").await;
    provoked.note("handshake_timeout_seconds");

    let silent = server("first_call_timeout_seconds = 1");
    for url in [&silent.grpc, &silent.http] {
        assert_eq!(Raw::silent(url).await.expect("connected").end().await, End::default());
        Raw::connect(url).await.expect("connected").end().await;
    }
    says(&silent, "limits.first_call_timeout_seconds").await;
    provoked.note("first_call_timeout_seconds");
    ages(&mut provoked).await;
}

/// Opens a call to the run that the site watches, which stays open.
async fn watching(server: &Server, site: &Site, run: &str) -> Raw {
    let mut raw = Raw::connect(&server.grpc).await.expect("connected");
    let headers = grpc_headers("/fedbasin.v1.FedBasin/WatchRun", &site.token);
    let request = fedbasin_tests::h2::message(&[&[10, run.len() as u8], run.as_bytes()].concat());
    let opened = [
        frame(kind::HEADERS, flag::END_HEADERS, 1, &headers),
        frame(kind::DATA, flag::END_STREAM, 1, &request),
    ];
    raw.send(&opened.concat()).await.expect("sent");
    raw
}

async fn ages(provoked: &mut Provoked) {
    let idle = server("idle_connection_seconds = 1");
    let mut raw = Raw::connect(&idle.http).await.expect("connected");
    raw.send(&healthz(1)).await.expect("sent");
    raw.end().await;
    says(&idle, "limits.idle_connection_seconds").await;
    provoked.note("idle_connection_seconds");

    let ageing = server("max_connection_age_seconds = 1\nconnection_age_grace_seconds = 1");
    let (site, admin) = (ageing.site("a"), ageing.admin());
    let run = run_of(&admin, &["a"]);
    let end = watching(&ageing, &site, &run).await.end().await;
    assert_eq!(end.goaway.map(|(code, _)| code), Some(0), "asked to take another connection");
    provoked.note("max_connection_age_seconds");
    says(&ageing, "limits.max_connection_age_seconds").await;
    provoked.note("connection_age_grace_seconds");
    // An upload that lasts longer than its connection may goes on from where it was.
    let sent = site.upload(&run, 1, &one_hot(0, 3), 1).await;
    sent.expect("on another connection");

    let asking = server("keepalive_interval_seconds = 1\nkeepalive_timeout_seconds = 1");
    let site = asking.site("a");
    let run = run_of(&asking.admin(), &["a"]);
    let mut raw = watching(&asking, &site, &run).await;
    let asked = async {
        while let Some(frame) = raw.next().await.expect("something") {
            if frame.kind == kind::PING && frame.flags & flag::ACK == 0 {
                return true;
            }
        }
        false
    };
    assert!(asked.await, "the server asks whether the peer is there");
    provoked.note("keepalive_interval_seconds");
    raw.end().await;
    provoked.note("keepalive_timeout_seconds");
}
