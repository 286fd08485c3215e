//! A site behind a line that fails: cut at any byte, stalled, slow, half-open, with bytes that arrive twice. The round goes on, the
//! site trains once a round, and each site counts once.

use std::time::Duration;

use fedbasin_tests::{
    Database, Fault, Options, Proxy, Server, SiteProgram, Way,
    checkpoint::{one_hot, read_f32},
};

/// 3 MB: several chunks, and many blocks of a line.
const WIDTH: usize = 750_000;

/// Two rounds of two sites, one of them behind a line with these faults, one a connection.
async fn rounds_go_on(faults: &[(Way, usize, Fault)]) {
    let config = "[limits]\nidle_timeout_seconds = 2\n".to_owned();
    let server = Server::start_with(Database::sqlite(), Options { config, ..Options::default() });
    let admin = server.admin();
    let (token_a, token_b) = (admin.enrol("a"), admin.enrol("b"));
    admin.create_run(&SiteProgram::run(2));
    let line = Proxy::start(&server.grpc, faults.iter().copied()).await;
    let mut a = SiteProgram::start_with(&line.url, &token_a, &one_hot(0, WIDTH), 1, &[]);
    let mut b = SiteProgram::start_with(&server.grpc, &token_b, &one_hot(1, WIDTH), 3, &[]);
    assert_eq!((a.ends().await, b.ends().await), (Some(0), Some(0)), "{}\n{}", a.read("log"), b.read("log"));
    assert_eq!(line.faults_left(), 0, "every fault was met: {}", a.read("log"));
    for round in [1, 2] {
        let model = read_f32(&admin.model("pilot", round), "counted");
        assert_eq!(model[..3], [0.25, 0.75, 0.0], "each counted once");
    }
    assert_eq!(a.read("seen.txt").lines().count(), 2, "trained once a round: {}", a.read("seen.txt"));
    let global =
        std::fs::read(a.folder.path().join("fedbasin-pilot/global.safetensors")).expect("the last model");
    assert_eq!(global, admin.model("pilot", 2));
}

fn at(way: Way, bytes: &[usize], fault: Fault) -> Vec<(Way, usize, Fault)> {
    bytes.iter().map(|&bytes| (way, bytes, fault)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_while_the_site_sends() {
    // Within HTTP/2's preface, its first call, the first chunk, a later one, the last.
    rounds_go_on(&at(Way::Up, &[1, 60, 20_000, 1_500_000, 900_000], Fault::Cut)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_while_the_site_receives() {
    // Within the settings, the run's status, the first answers, a model.
    rounds_go_on(&at(Way::Down, &[5, 100, 600, 400_000, 1_500_000], Fault::Cut)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_longer_than_the_server_waits() {
    for way in [Way::Up, Way::Down] {
        rounds_go_on(&[(way, 1_000_000, Fault::Stall(Duration::from_secs(4)))]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow() {
    rounds_go_on(&[(Way::Up, 100, Fault::Delay(Duration::from_millis(2)))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_arrive_twice() {
    rounds_go_on(&[
        (Way::Up, 1_000_000, Fault::Duplicate),
        (Way::Down, 1_000_000, Fault::Duplicate),
        (Way::Up, 200, Fault::Duplicate),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_gone_and_nobody_said_so() {
    rounds_go_on(&[(Way::Up, 1_000_000, Fault::HalfOpen)]).await;
}
