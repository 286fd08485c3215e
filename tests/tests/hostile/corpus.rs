//! What a case is, what answers it, and the ground that all cases of a class are tried on.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use fedbasin_tests::{
    Admin, Answer as HttpAnswer, Database, Options, PATIENCE, Refusal, Sending, Server, Site,
    checkpoint::{Entry, f32s, file, read_f32},
    chunks,
};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// Most memory that a case may make the server's process take.
pub(crate) const MOST_MEMORY: u64 = 64 << 20;

/// One hostile input.
pub(crate) struct Case<How> {
    pub(crate) name: &'static str,
    /// Which kind of inputs it is one of.
    kind: &'static str,
    /// How it is made.
    pub(crate) how: How,
    /// The stable code that answers it; `taken` where it is harmless and is answered as if all were well, `cut` where the connection
    /// or the stream ends instead.
    pub(crate) expected: &'static str,
    /// What the message says; empty where the code says all.
    pub(crate) says: &'static str,
}

pub(crate) fn case<How>(
    name: &'static str,
    how: How,
    expected: &'static str,
    says: &'static str,
) -> Case<How> {
    Case { name, kind: "", how, expected, says }
}

/// Cases of one kind.
pub(crate) fn of_kind<How>(kind: &'static str, mut cases: Vec<Case<How>>) -> Vec<Case<How>> {
    cases.iter_mut().for_each(|case| case.kind = kind);
    cases
}

pub(crate) fn names<How>(cases: Vec<Case<How>>) -> Vec<&'static str> {
    let name = |case: Case<How>| {
        assert!(!case.kind.is_empty(), "{}: of no kind", case.name);
        case.name
    };
    cases.into_iter().map(name).collect()
}

/// What a case cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tried {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    /// Until it was answered, with all steps that lead to it.
    pub(crate) took: Duration,
    /// So many bytes more memory the server's process took.
    pub(crate) more: u64,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: String,
    pub(crate) grpc: Option<Code>,
    pub(crate) http: Option<u16>,
    pub(crate) message: String,
}

impl Answer {
    pub(crate) fn taken(what: impl std::fmt::Debug) -> Self {
        Self { code: "taken".into(), grpc: None, http: None, message: format!("{what:?}") }
    }

    pub(crate) fn cut(how: impl std::fmt::Display) -> Self {
        Self { code: "cut".into(), grpc: None, http: None, message: how.to_string() }
    }
}

impl<T: std::fmt::Debug> From<Result<T, Status>> for Answer {
    fn from(result: Result<T, Status>) -> Self {
        match result {
            Ok(answer) => Self::taken(answer),
            Err(status) => {
                let Refusal { code, name, message } = status.into();
                Self { code: name, grpc: Some(code), http: None, message }
            }
        }
    }
}

impl From<HttpAnswer> for Answer {
    fn from(answer: HttpAnswer) -> Self {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status < 400 {
            return Self::taken(text);
        }
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let is_problem =
            answer.header("content-type") == "application/problem+json" && problem["status"] == answer.status;
        let code = problem["code"].as_str().filter(|_| is_problem).map(str::to_owned);
        Self {
            code: code.unwrap_or_else(|| format!("http-{}", answer.status)),
            grpc: None,
            http: Some(answer.status),
            message: problem["detail"].as_str().map_or(text.clone(), str::to_owned),
        }
    }
}

/// What each stable code is on each edge: the contract, written down a second time.
const CODES: &[(&str, Code, u16)] = &[
    ("invalid-argument", Code::InvalidArgument, 422),
    ("invalid-checkpoint", Code::InvalidArgument, 422),
    ("invalid-graph", Code::InvalidArgument, 422),
    ("not-found", Code::NotFound, 404),
    ("conflict", Code::AlreadyExists, 409),
    ("idempotency-key-reused", Code::InvalidArgument, 422),
    ("idempotency-key-in-use", Code::Aborted, 409),
    ("round-closed", Code::FailedPrecondition, 409),
    ("round-full", Code::Aborted, 409),
    ("not-published", Code::FailedPrecondition, 409),
    ("incomplete", Code::FailedPrecondition, 409),
    ("offset-mismatch", Code::Aborted, 409),
    ("out-of-range", Code::OutOfRange, 416),
    ("too-large", Code::ResourceExhausted, 413),
    ("unauthenticated", Code::Unauthenticated, 401),
    ("forbidden", Code::PermissionDenied, 403),
    ("method-not-allowed", Code::Unimplemented, 405),
];

impl<How> Case<How> {
    /// What is wrong with an answer, if anything is.
    fn fault(&self, answer: &Answer) -> Option<String> {
        let known = CODES.iter().find(|(code, ..)| *code == answer.code);
        let pair = known.is_none_or(|(_, grpc, http)| {
            answer.grpc.is_none_or(|code| code == *grpc) && answer.http.is_none_or(|status| status == *http)
        });
        let wrong = answer.code != self.expected || !pair || !answer.message.contains(self.says);
        let unclean = answer.message.chars().any(char::is_control) && answer.code != "taken";
        (wrong || unclean).then(|| {
            format!("{}: wanted {} saying {:?}, got {answer:?}", self.name, self.expected, self.says)
        })
    }
}

/// A future that borrows the ground.
pub(crate) type Steps<'a> = Pin<Box<dyn Future<Output = Answer> + 'a>>;

/// The tensors of the ground's run. Site `h`'s update has `counted` 1 0, site `x`'s 0 1: the model spells out who was counted.
pub(crate) fn entries(counted: [f32; 2]) -> Vec<Entry> {
    let raw = |name: &str, dtype: &str, shape: &[usize], data: &[u8]| Entry {
        name: name.into(),
        dtype: dtype.into(),
        shape: shape.into(),
        data: data.into(),
    };
    vec![
        f32s("counted", &[2], &counted),
        f32s("fc.bias", &[2], &[0.5, 1.0]),
        f32s("fc.weight", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        raw("half", "BF16", &[2], &[0x80, 0x3f, 0, 0]),
        raw("low", "F16", &[2], &[0, 0x3c, 0, 0]),
        raw("double", "F64", &[1], &1.0_f64.to_le_bytes()),
        raw("on", "BOOL", &[4], &[0, 1, 1, 0]),
        raw("steps", "I64", &[], &7_i64.to_le_bytes()),
    ]
}

/// Site `x`'s good update.
pub(crate) fn good() -> Vec<u8> {
    file(&entries([0.0, 1.0]))
}

pub(crate) fn spec() -> Value {
    json!({ "format": "fedbasin.spec/1", "groups": {}, "tensors": {
        "counted": [null], "fc.bias": [null], "fc.weight": [null, null], "half": [null], "low": [null], "double": [null],
        "on": [null], "steps": [],
    } })
}

/// A server with a round that collects: site `h` is honest and in the middle of its upload, site `x` is not.
pub(crate) struct Ground {
    pub(crate) server: Server,
    pub(crate) admin: Admin,
    pub(crate) run: String,
    pub(crate) x: Site,
    honest: Honest,
    tried: Vec<Tried>,
    faults: Vec<String>,
    read: usize,
}

/// An update that is under way all the time, some bytes after each case.
struct Honest {
    site: Site,
    update: String,
    size: u64,
    sending: Sending,
    parts: std::vec::IntoIter<fedbasin_proto::v1::UpdateChunk>,
}

impl Honest {
    async fn begin(site: Site, run: &str) -> Self {
        let bytes = file(&entries([1.0, 0.0]));
        let begun = site.begin(run, 1, &bytes, 3).await.expect("an honest site's update");
        let mut parts = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            let mut part = chunks(&begun.update_id, std::slice::from_ref(byte), 0).remove(0);
            part.offset = at as u64;
            parts.push(part);
        }
        let sending = site.open_stream(&parts[..1]).await;
        parts.remove(0);
        Self { site, update: begun.update_id, size: bytes.len() as u64, sending, parts: parts.into_iter() }
    }

    /// Sends one more byte: the stream is still open.
    async fn goes_on(&mut self) {
        if let Some(part) = self.parts.next() {
            self.sending.sender.send(part).await.expect("an honest site's stream is still open");
        }
    }

    async fn lands(mut self) {
        while self.parts.len() > 0 {
            self.goes_on().await;
        }
        while self.sending.acknowledged().await.expect("progress") < self.size {}
        drop(self.sending);
        self.site.finish(&self.update).await.expect("an honest site's receipt");
    }
}

impl Ground {
    pub(crate) async fn new(database: Database, options: Options) -> Self {
        let limits = "[limits]\nmax_checkpoint_bytes = 4194304\nidle_timeout_seconds = 600\n";
        let config = format!("{limits}{}", options.config);
        let server = Server::start_with(database, Options { config, ..options });
        let admin = server.admin();
        let (h, x) = (server.site("h"), server.site("x"));
        Self::with(server, admin, h, x).await
    }

    /// The same with sites and an operator that reach the server in another way.
    pub(crate) async fn with(server: Server, admin: Admin, h: Site, x: Site) -> Self {
        let seed = admin.upload(&file(&entries([0.0, 0.0])));
        let run = admin.create_run(&json!({
            "spec": spec(), "strategy": "aligned", "cohort": ["h", "x"], "seed_digest": seed,
            "policy": { "rounds": 1, "quorum": 2, "deadline_seconds": 3600 },
        }));
        let honest = Honest::begin(h, &run).await;
        // What a first update makes the process load is no case's.
        let begun = x.begin(&run, 1, &good(), 1).await.expect("an update");
        x.send(chunks(&begun.update_id, &good(), 0)).await.expect("its bytes");
        let read = server.log().len();
        Self { server, admin, run, x, honest, tried: Vec::new(), faults: Vec::new(), read }
    }

    /// A run of its own, with the ground's layout, for a case that needs one.
    pub(crate) fn run_of(&self, cohort: &[&str], rounds: u32) -> String {
        self.admin.create_run(&json!({
            "spec": spec(), "strategy": "aligned", "cohort": cohort,
            "policy": { "rounds": rounds, "quorum": cohort.len(), "deadline_seconds": 3600 },
        }))
    }

    /// Tries all cases of a class, and then that nothing was harmed; says what each cost.
    pub(crate) async fn try_all<How>(
        mut self,
        cases: Vec<Case<How>>,
        attempt: impl AsyncFn(&Self, &How) -> Answer,
    ) -> Vec<Tried> {
        for case in &cases {
            self.server.forget_peak();
            let before = self.server.resident_bytes();
            let begun = Instant::now();
            let answer = tokio::time::timeout(PATIENCE, attempt(&self, &case.how)).await;
            let took = begun.elapsed();
            match answer {
                Ok(answer) => self.faults.extend(case.fault(&answer)),
                Err(_) => self.faults.push(format!("{}: no answer", case.name)),
            }
            let peak = self.server.peak_bytes().expect("the server still runs");
            let more = peak.saturating_sub(before);
            if more > MOST_MEMORY {
                self.faults.push(format!("{}: the server took {more} bytes more memory", case.name));
            }
            self.tried.push(Tried { name: case.name, kind: case.kind, took, more });
            self.log_is_clean(case.name);
            self.honest.goes_on().await;
        }
        self.ends().await
    }

    /// Nothing in the log that tells of a defect, or that an input wrote there as if the server had.
    fn log_is_clean(&mut self, name: &str) {
        let log = self.server.log();
        let new = &log[self.read..];
        let bad = ["panicked", "internal error", "error.code=\"internal\"", "\u{1b}"];
        let is_bad = |line: &&str| line.starts_with("INJECTED") || bad.iter().any(|bad| line.contains(bad));
        for line in new.lines().filter(is_bad) {
            self.faults.push(format!("{name}: the log says {line:?}"));
        }
        self.read = log.len();
    }

    async fn ends(self) -> Vec<Tried> {
        let longest = self.tried.iter().max_by_key(|tried| tried.took);
        let most = self.tried.iter().map(|tried| tried.more).max().unwrap_or_default();
        println!("{} cases, the most memory for one of them: {} KiB", self.tried.len(), most >> 10);
        if let Some(Tried { name, kind, took, .. }) = longest {
            println!("the longest, of {kind}: {name}, {} ms", took.as_millis());
        }
        self.honest.lands().await;
        self.x.upload(&self.run, 1, &good(), 1).await.expect("a good update after all that");
        self.admin.round_becomes(&self.run, 1, "published").await;
        assert_eq!(read_f32(&self.admin.model(&self.run, 1), "counted"), [0.75, 0.25]);
        assert!(self.faults.is_empty(), "{} faults:\n{}", self.faults.len(), self.faults.join("\n"));
        self.tried
    }
}
