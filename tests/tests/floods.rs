//! A server that is flooded by the protocol alone ends or bounds each flood, grows little, and serves honest sites meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fedbasin_tests::{
    Database, Options, PATIENCE, Server, Site,
    checkpoint::one_hot,
    eventually,
    floods::{FLOODS, Flood, Target},
    h2::{End, Raw, flag, frame, grpc_headers, header_block, kind, message},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// What an attack may cost a server, in bytes of memory.
const GROWTH: u64 = 256 << 20;

/// What the limits of the floods that are slowed down let through, in frames a second.
const FRAMES: u32 = 2000;

const HASTY: &str = "first_call_timeout_seconds = 2\nidle_connection_seconds = 2\nidle_timeout_seconds = 2\n\
                     max_control_frames_per_second = 2000";

fn server(limits: &str) -> Server {
    let log = "[log]\nlevel = \"info,fedbasin_server::connections=debug\"\n";
    let config = format!("[limits]\n{limits}\n{log}");
    Server::start_with(Database::sqlite(), Options { config, ..Options::default() })
}

fn run(cohort: &[&str], rounds: u32, seed: &str) -> Value {
    json!({
        "spec": null, "strategy": "mean", "cohort": cohort, "seed_digest": seed,
        "policy": { "rounds": rounds, "quorum": cohort.len(), "deadline_seconds": 600 },
    })
}

/// One connection's flood, again and again until `stop`; how each connection ended.
async fn flood(flood: Flood, target: Target, stop: Arc<AtomicBool>) -> (Flood, Vec<(u64, End)>) {
    let mut ends = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(end) = flood.run(&target, &stop).await {
            ends.push(end);
        }
        // It comes again, but not faster than a peer on another machine could.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (flood, ends)
}

/// A whole round of two sites with 4 MB each.
async fn round(server: &Server, sites: &[Site; 2], id: &str, number: u32) {
    let width = 1_000_000;
    // A round opens a moment after the one before is published.
    server.admin().round_becomes(id, number, "collecting").await;
    let mut uploads = sites.iter().enumerate().map(|(place, site)| {
        let bytes = one_hot(place + 2 * number as usize, width);
        async move { site.upload(id, number, &bytes, 1).await.expect("an honest site's update") }
    });
    let (Some(first), Some(second)) = (uploads.next(), uploads.next()) else { panic!("two sites") };
    tokio::join!(first, second);
    let round = server.admin().round_becomes(id, number, "published").await;
    let digest = round["global_digest"].as_str().expect("a digest");
    assert_eq!(sites[0].download(digest, 0).await.expect("the model"), server.admin().model(id, number));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_flood_is_ended_or_bounded_and_rounds_go_on() {
    let server = server(HASTY);
    let admin = server.admin();
    let sites = ["a", "b"].map(|id| server.site(id));
    let attacker = server.site("attacker");
    let seed = admin.upload(&one_hot(0, 1_000_000));
    let id = admin.create_run(&run(&["a", "b"], 3, &seed));
    let bait = admin.create_run(&run(&["attacker"], 1, &seed));
    attacker.status(&bait).await.expect("let in");
    round(&server, &sites, &id, 1).await;

    let before = server.resident_bytes();
    server.forget_peak();
    let target =
        Target { grpc: server.grpc.clone(), http: server.http.clone(), token: attacker.token, digest: seed };
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let mut floods = JoinSet::new();
    for of in FLOODS {
        floods.spawn(flood(of, target.clone(), Arc::clone(&stop)));
    }
    round(&server, &sites, &id, 2).await;
    // Peers that never read have their time.
    eventually("downloads that nobody takes are ended", || {
        server.log().contains("does not take what it asked for").then_some(())
    })
    .await;
    round(&server, &sites, &id, 3).await;
    let lasted = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let grown = server.peak_bytes().expect("the server lives").saturating_sub(before);
    assert!(grown <= GROWTH, "the server grew by {} MiB", grown >> 20);
    while let Some(ended) = floods.join_next().await {
        let (flood, ends) = ended.expect("a flood");
        judge(flood, &ends, lasted);
    }
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    assert!(log.len() < 1 << 20, "what peers send does not fill the log: {} bytes", log.len());
}

/// Whether a flood was ended or bounded as it should.
fn judge(flood: Flood, ends: &[(u64, End)], lasted: Duration) {
    let goaways: Vec<u32> = ends.iter().filter_map(|(_, end)| Some(end.goaway.as_ref()?.0)).collect();
    let shown = || format!("{flood:?}: {} connections, {:?}", ends.len(), ends.first());
    match flood {
        // ENHANCE_YOUR_CALM.
        Flood::RapidReset | Flood::Continuation | Flood::MadeYouReset | Flood::HeaderBomb => {
            assert!(goaways.contains(&11), "{}", shown());
        }
        // Each answer costs one of the frames that are let through, and a second's worth is there at first.
        Flood::Ping | Flood::Settings => {
            let answers: usize = ends.iter().map(|(_, end)| end.acknowledged).sum();
            let most = f64::from(FRAMES) * (lasted.as_secs_f64() + 10.0 + ends.len() as f64);
            assert!(answers > 100 && (answers as f64) < most, "{answers} answers of {most}: {}", shown());
        }
        Flood::SmallData
        | Flood::Pong
        | Flood::Priority
        | Flood::WindowUpdate
        | Flood::LargeHeaders
        | Flood::BadToken
        | Flood::NeverReads
        | Flood::Drip
        | Flood::Readiness => assert!(!ends.is_empty(), "{}", shown()),
    }
}

/// Opens a call on stream 1, and sends this of its content.
async fn call(server: &Server, rpc: &str, token: &str, content: &[u8]) -> Raw {
    let mut raw = Raw::connect(&server.grpc).await.expect("connected");
    let headers = grpc_headers(&format!("/fedbasin.v1.FedBasin/{rpc}"), token);
    let opened = frame(kind::HEADERS, flag::END_HEADERS, 1, &headers);
    raw.send(&[opened, frame(kind::DATA, 0, 1, content)].concat()).await.expect("sent");
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_or_little_is_ended() {
    let server = server(HASTY);
    let sites = ["a", "b"].map(|id| server.site(id));
    let seed = server.admin().upload(&one_hot(0, 1_000_000));
    let id = server.admin().create_run(&run(&["a", "b"], 2, &seed));
    let (grpc, http, token) = (server.grpc.clone(), server.http.clone(), sites[0].token.clone());
    let pause = Duration::from_millis(200);
    let before = server.resident_bytes();
    server.forget_peak();
    let mut slow = JoinSet::new();
    // Half a thousand connections that say nothing, or only who they are.
    for number in 0..500 {
        let url = if number % 2 == 0 { grpc.clone() } else { http.clone() };
        slow.spawn(async move {
            let raw = match number % 4 {
                0 | 1 => Raw::silent(&url).await,
                _ => Raw::connect(&url).await,
            };
            raw.expect("connected").end().await;
        });
    }
    // Headers that come a byte at a time, in frames of HTTP/2 and in HTTP/1.1.
    for url in [&grpc, &http] {
        let mut raw = Raw::connect(url).await.expect("connected");
        raw.send(&frame(kind::HEADERS, 0, 1, &header_block(&[(":method", "POST")]))).await.expect("sent");
        let rest = frame(kind::CONTINUATION, 0, 1, &header_block(&[("x", &"y".repeat(100))]));
        slow.spawn(async move { _ = raw.drip(rest.into_iter().cycle(), pause).await });
    }
    let raw = Raw::silent(&http).await.expect("connected");
    let head = b"GET /healthz HTTP/1.1\r\nx: ";
    slow.spawn(async move { _ = raw.drip(head.iter().copied().chain(std::iter::repeat(b'y')), pause).await });
    // A message that comes a byte at a time: of an upload, and of a call that has but one.
    for rpc in ["SendUpdate", "BeginUpdate"] {
        let raw = call(&server, rpc, &token, &[0, 0, 0, 200, 0]).await;
        let bytes = std::iter::repeat_with(|| frame(kind::DATA, 0, 1, &[7])).flatten();
        slow.spawn(async move { _ = raw.drip(bytes.take(3000), pause / 10).await });
    }
    round(&server, &sites, &id, 1).await;
    let ended = async {
        while let Some(ended) = slow.join_next().await {
            ended.expect("it was ended");
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("all are ended");
    round(&server, &sites, &id, 2).await;
    let grown = server.peak_bytes().expect("the server lives").saturating_sub(before);
    assert!(grown <= GROWTH, "the server grew by {} MiB", grown >> 20);
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_holds_little_and_not_for_long() {
    let server = server(HASTY);
    let site = server.site("a");
    let model = one_hot(0, 16_000_000);
    let digest = server.admin().upload(&model);
    server.admin().create_run(&run(&["a"], 1, &digest));
    let before = server.resident_bytes();
    server.forget_peak();
    let request = [&[10, 64], digest.as_bytes()].concat();
    // The peer lets all come, and takes nothing off the line: no more than the system holds is sent.
    let mut unread = Vec::new();
    for _ in 0..30 {
        unread.push(call(&server, "Download", &site.token, &message(&request)).await);
        let raw = unread.last_mut().expect("a connection");
        let most = (1_u32 << 30).to_be_bytes();
        let leave = [0, 1].map(|stream| frame(kind::WINDOW_UPDATE, 0, stream, &most)).concat();
        raw.send(&[leave, frame(kind::DATA, flag::END_STREAM, 1, &[])].concat()).await.expect("sent");
    }
    let ended = || server.log().matches("does not take what it asked for").count();
    eventually("each is ended", || (ended() >= 30).then_some(())).await;
    let grown = server.peak_bytes().expect("the server lives").saturating_sub(before);
    assert!(grown <= GROWTH, "the server grew by {} MiB", grown >> 20);
    drop(unread);
    assert_eq!(site.download(&digest, 0).await.expect("the model"), model);
}
