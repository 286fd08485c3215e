//! What a site learns of another one by asking: nothing. Each probe asks for something of site `a`'s that exists, and again for
//! something that does not; both answers are the same, but for the name that was asked for.
//!
//! `FEDBASIN_PROBES` asks more often than the tests do, `FEDBASIN_PROBE_SEED` in another order.

use fedbasin_proto::v1;
use fedbasin_server::{auth::access::ROUTES, model::Role};
use fedbasin_tests::{
    Admin, Database, Server, Site,
    checkpoint::{one_hot, one_hot_spec},
    chunks, digest, on_both_databases,
};
use serde_json::json;
use tonic::{Code, Status};

on_both_databases!(what_is_another_sites_looks_as_if_it_did_not_exist);

const PROBES: u64 = 500;

/// What two answers differ in without telling anything of what was asked for: the time, the call's id, and the head of the log, which grows
/// meanwhile.
fn is_of_the_moment(header: &str) -> bool {
    ["date", "x-request-id", fedbasin_proto::HEAD_METADATA_KEY].contains(&header)
}

async fn what_is_another_sites_looks_as_if_it_did_not_exist(database: Database) {
    let (probes, seed) = (setting("FEDBASIN_PROBES", PROBES), setting("FEDBASIN_PROBE_SEED", 1));
    let scene = Scene::new(database).await;
    let mut dice = Dice(seed);
    let mut asked = std::collections::BTreeMap::new();
    for number in 0..probes {
        let probe = Probe::random(&scene, &mut dice);
        let what = format!("probe {number} of seed {seed}: {probe:?}");
        let (real, twin) = (scene.answer(&probe, &probe.real).await, scene.answer(&probe, &probe.twin).await);
        assert_eq!(real, twin, "{what}");
        assert!(probe.is_well_answered(&real), "{what}: {real}");
        if let Some(secret) = scene.secrets.iter().find(|secret| real.contains(secret.as_str())) {
            panic!("{what}: the answer tells {secret}: {real}");
        }
        *asked.entry((probe.by, probe.call.clone())).or_insert(0_u32) += 1;
    }
    assert!(!scene.server.log().contains("internal error"), "{}", scene.server.log());
    println!("{probes} probes of {} kinds", asked.len());
    scene.shared_run_tells_only_counts().await;
}

/// How many, or with which seed, where somebody wants another one.
fn setting(name: &str, default: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the long form is asked for by a variable")]
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Knuth's MMIX generator.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A text in which each of these characters stands for another one of its kind.
    fn alike(&mut self, text: &str) -> String {
        text.chars()
            .map(|c| match c {
                '0'..='9' | 'a'..='f' => char::from(*self.of(b"0123456789abcdef")),
                other => other,
            })
            .collect()
    }

    /// The same with one bit of one digit changed.
    fn one_bit_off(&mut self, text: &str) -> String {
        let digits: Vec<usize> =
            (0..text.len()).filter(|&at| text.as_bytes()[at].is_ascii_hexdigit()).collect();
        let at = *self.of(&digits);
        let digit = text[at..=at].chars().next().and_then(|c| c.to_digit(16)).expect("a digit");
        let other = std::char::from_digit(digit ^ (1 << self.below(4)), 16).expect("a digit");
        format!("{}{other}{}", &text[..at], &text[at + 1..])
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    /// A site that shares a run with `a`.
    B,
    /// A site that shares none.
    C,
    /// A person who may see how runs stand.
    Viewer,
}

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Get,
    Finish,
    Send,
    Download,
    Watch,
    /// Announces an update for a run that is asked for.
    Begin,
    /// Announces an update with the digest that is asked for, in a run of its own or one that it shares.
    BeginWith,
    /// A route of the HTTP edge: method and path, what is asked for in it.
    Route(&'static str, &'static str),
}

#[derive(Debug)]
struct Probe {
    by: By,
    call: Call,
    /// What exists, and is not the caller's; or nearly exists.
    real: String,
    /// What does not.
    twin: String,
}

impl Probe {
    fn random(scene: &Scene, dice: &mut Dice) -> Self {
        let by = *dice.of(&[By::B, By::C, By::B, By::C, By::Viewer]);
        let routes: Vec<Call> = ROUTES
            .iter()
            // A viewer sees runs, rounds and graphs: that is what a viewer is for.
            .filter(|(_, path, least)| path.contains('{') && (by != By::Viewer || *least > Role::Viewer))
            .map(|(method, path, _)| Call::Route(method, path))
            .collect();
        let rpcs =
            [Call::Get, Call::Finish, Call::Send, Call::Download, Call::Watch, Call::Begin, Call::BeginWith];
        let call =
            if by == By::Viewer || dice.below(3) == 0 { dice.of(&routes) } else { dice.of(&rpcs) }.clone();
        let real = match &call {
            Call::Get | Call::Finish | Call::Send => dice.of(&scene.updates),
            Call::Download | Call::BeginWith => dice.of(&scene.digests),
            Call::Watch | Call::Begin => &scene.run,
            Call::Route(_, path) if path.contains("{run}") => dice.of(&scene.runs),
            Call::Route(_, path) if path.contains("{site}") => &scene.a,
            Call::Route(_, path) if path.contains("{token}") => &scene.token_id,
            Call::Route(..) => dice.of(&scene.digests),
        };
        let twin = dice.alike(real);
        let near = if dice.below(3) == 0 { dice.one_bit_off(real) } else { real.clone() };
        Self { by, call, real: near, twin }
    }

    fn is_well_answered(&self, answer: &str) -> bool {
        match self.call {
            Call::BeginWith => answer.contains("offset: 0, receipt: None"),
            Call::Route(..) if self.by == By::Viewer => answer.starts_with("403"),
            Call::Route(..) => answer.starts_with("401"),
            _ => answer.starts_with("NotFound"),
        }
    }
}

/// Three sites, and what is site `a`'s alone.
struct Scene {
    server: Server,
    b: Site,
    c: Site,
    viewer: Admin,
    /// Its id, in digits that can be changed.
    a: String,
    token_id: String,
    /// The run of `a` alone, and that of `a` and `b`.
    run: String,
    shared: String,
    runs: Vec<String>,
    of_c: String,
    updates: Vec<String>,
    digests: Vec<String>,
    secrets: Vec<String>,
}

impl Scene {
    async fn new(database: Database) -> Self {
        let server = Server::start(database);
        let admin = server.admin();
        let enrolled = admin.post("/v1/sites", &json!({ "id": "5174a" })).json();
        let text = |name: &str| enrolled[name].as_str().expect("a text").to_owned();
        let a = Site::new("5174a", &server.grpc, &text("token"));
        let (b, c) = (server.site("b"), server.site("c"));
        let run = |id: &str, cohort: &[&str], rounds: u32| {
            admin.create_run(&json!({
                "id": id, "spec": one_hot_spec(), "strategy": "aligned", "cohort": cohort,
                "policy": { "rounds": rounds, "quorum": cohort.len(), "deadline_seconds": 3600 },
            }))
        };
        let (alone, shared, of_c) =
            (run("12345678", &["5174a"], 2), run("87654321", &["5174a", "b"], 1), run("of-c", &["c"], 1));

        // One is published, one is under way in the next round, one was rejected, and one is accepted where `b` takes part too.
        let published = a.upload(&alone, 1, &one_hot(0, 8), 1).await.expect("a receipt");
        let round = admin.round_becomes(&alone, 1, "published").await;
        let model = round["global_digest"].as_str().expect("a model").to_owned();
        fedbasin_tests::eventually("round 2 opens", || {
            (admin.run(&alone)["current_round"] == 2).then_some(())
        })
        .await;
        let bad = one_hot(1, 9);
        let rejected = a.begin(&alone, 2, &bad, 1).await.expect("an update");
        a.send(chunks(&rejected.update_id, &bad, 0)).await.expect_err("another layout");
        let half = one_hot(1, 8);
        let under_way = a.begin(&alone, 2, &half, 1).await.expect("an update");
        let mut part = chunks(&under_way.update_id, &half[..50], 0);
        a.send(vec![part.remove(0)]).await.expect("half of it");
        let together = a.upload(&shared, 1, &one_hot(2, 8), 1).await.expect("a receipt");

        let viewer = admin.post("/v1/tokens", &json!({ "role": "viewer" })).json();
        let viewer = admin.with_token(viewer["token"].as_str());
        let updates = vec![published.update_id, rejected.update_id, under_way.update_id, together.update_id];
        let mut digests: Vec<String> =
            [one_hot(0, 8), bad, half, one_hot(2, 8)].map(|bytes| digest(&bytes)).into();
        digests.push(model);
        let secrets = [updates.clone(), digests.clone(), vec![alone.clone(), text("token")]].concat();
        let runs = vec![alone.clone(), shared.clone()];
        let (token_id, a) = (text("token_id"), a.id);
        Self { server, b, c, viewer, a, token_id, run: alone, shared, runs, of_c, updates, digests, secrets }
    }

    /// The answer, with what was asked for, and what is new each time, replaced.
    async fn answer(&self, probe: &Probe, asked: &str) -> String {
        let (site, own) = match probe.by {
            By::B => (&self.b, &self.shared),
            By::C => (&self.c, &self.of_c),
            By::Viewer => (&self.b, &self.shared),
        };
        let mut client = site.client.clone();
        let update_id = asked.to_owned();
        let announced = |run: &str, digest: &str| v1::BeginUpdateRequest {
            run_id: run.to_owned(),
            round: 1,
            digest: digest.to_owned(),
            size: 200,
            num_examples: 1,
            ..v1::BeginUpdateRequest::default()
        };
        let text = match &probe.call {
            Call::Get => told(client.get_update(v1::GetUpdateRequest { update_id }).await),
            Call::Finish => told(client.finish_update(v1::FinishUpdateRequest { update_id }).await),
            Call::Send => told(site.send(chunks(asked, &one_hot(0, 8), 0)).await),
            Call::Download => told(site.download(asked, 0).await),
            Call::Watch => {
                let watched = client.watch_run(v1::WatchRunRequest { run_id: asked.to_owned() }).await;
                told(watched.map(|_| "a stream"))
            }
            Call::Begin => told(site.begin_as(announced(asked, &digest(b"probe"))).await),
            Call::BeginWith => match site.begin_as(announced(own, asked)).await {
                Ok(begun) => format!("{begun:?}").replace(&begun.update_id, "NEW"),
                Err(status) => told::<()>(Err(status)),
            },
            Call::Route(method, path) => {
                let admin = match probe.by {
                    By::Viewer => self.viewer.clone(),
                    _ => self.viewer.with_token(Some(&site.token)),
                };
                route(&admin, method, path, asked)
            }
        };
        text.replace(asked, "ASKED")
    }

    /// What `b` may know of the run that it shares with `a`: how many were accepted, and nothing of who and what.
    async fn shared_run_tells_only_counts(&self) {
        let listed = self.b.client.clone().list_runs(v1::ListRunsRequest {}).await.expect("a list");
        let text = format!("{listed:?}");
        assert!(text.contains(&self.shared) && text.contains("accepted: 1"), "{text}");
        for secret in self.secrets.iter().chain([&self.a]) {
            assert!(!text.contains(secret.as_str()), "the list tells {secret}: {text}");
        }
    }
}

/// A refusal with everything that comes with it, but for the time.
fn told<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
    let status = match result {
        Ok(answer) => return format!("{answer:?}"),
        Err(status) => status,
    };
    let mut headers: Vec<String> = status
        .metadata()
        .clone()
        .into_headers()
        .iter()
        .filter(|(name, _)| !is_of_the_moment(name.as_str()))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    let code: Code = status.code();
    format!("{code:?} {} {:?} {headers:?}", status.message(), status.details())
}

fn route(admin: &Admin, method: &str, path: &str, asked: &str) -> String {
    let path = ["{run}", "{site}", "{token}", "{digest}", "{fingerprint}", "{tag}"]
        .iter()
        .fold(path.to_owned(), |path, part| path.replace(part, asked))
        .replace("{number}", "1");
    let headers = [("content-type", "application/json"), ("connection", "close")];
    let answer = admin.request(method, &path, &headers, b"{}");
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !is_of_the_moment(name.as_str()))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    format!("{} {} {headers:?}", answer.status, String::from_utf8_lossy(&answer.body))
}

/// How tokens are compared takes the same time whatever differs: a token is looked up by its hash, or the hashes are compared in
/// constant time. So nowhere in the server's source does a token itself stand beside `==`, and the rows know only hashes.
#[test]
fn tokens_are_compared_by_their_hashes_alone() {
    let source = |path: &str| {
        let path = format!("{}/../server/src/{path}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let auth = source("auth.rs");
    assert!(auth.contains("hash(token).as_bytes().ct_eq(self.hash.as_bytes())"), "the admin's token");
    let compared: Vec<&str> =
        auth.lines().filter(|line| line.contains("==") && !line.contains("ErrorKind")).collect();
    // That of a token's own checksum with its own text: it tells nothing of any other token.
    assert_eq!(compared.len(), 1, "{compared:?}");
    assert!(compared[0].contains("checksum(text) == end"), "{compared:?}");
    for edge in ["grpc/mod.rs", "http/auth.rs"] {
        let text = source(edge);
        assert!(
            text.contains("let hash = auth::hash(token)") || text.contains("auth::hash(token))"),
            "{edge}"
        );
        assert!(text.contains("token_by_hash(hash)"), "{edge}");
        assert!(!text.contains("token =="), "{edge}");
    }
    assert!(source("store/tokens.rs").contains("WHERE hash = $1"), "rows are found by the hash");
}
