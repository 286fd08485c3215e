//! One run of two rounds of two sites, in which something befalls the processes when they come to a point.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fedbasin_tests::{
    PATIENCE, Server, SiteProgram,
    checkpoint::{f32s, file},
    eventually, is_stopped, tell,
};
use sqlx::{AnyConnection, Row as _};

use crate::{
    ROUNDS,
    checker::{Checker, number, text},
    worlds::{Left, Processes, World},
};

/// What befalls them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// Those of the server's that come there are killed, and started again.
    Killed,
    /// Those of the server's that come there sleep (SIGSTOP) for so long.
    Asleep(Duration),
    /// A worker sleeps there beyond its lease; another takes its work over, and sleeps at the same point while the first wakes up.
    Relieved,
    /// The sites' programs are killed, and started again.
    SiteKilled,
}

/// A point, and what happens there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crash<'a> {
    pub(crate) world: World,
    pub(crate) point: &'a str,
    /// The how manieth time that a process comes there.
    pub(crate) time: u32,
    pub(crate) fault: Fault,
    /// Whether a site sends the same bytes in both rounds.
    pub(crate) alike: bool,
}

/// How many processes came to the point.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Met {
    pub(crate) killed: usize,
    pub(crate) stopped: usize,
}

/// Longer than a lease.
const SLEEP: Duration = Duration::from_millis(1200);

/// Longer than the database lets a transaction be idle.
const SLEEP_IN_TRANSACTION: Duration = Duration::from_millis(5500);

/// Points within a transaction: whoever sleeps there holds locks, until the database ends its session.
const IN_TRANSACTION: [&str; 9] = [
    "align.leased",
    "align.written",
    "merge.leased",
    "publish.released",
    "publish.checkpoint-recorded",
    "publish.saved",
    "publish.signed",
    "audit.held",
    "audit.appended",
];

/// Points where a site has trained and not noted it yet: what it trained is lost with it.
const UNNOTED: [&str; 3] = ["train.ended", "train.kept", "site.written"];

/// What site `index` sends in a round: who it is, and which round.
fn checkpoint(index: usize, round: u32, width: usize) -> Vec<u8> {
    let mut values = vec![0.0; width];
    values[index] = 1.0;
    values[2] = round as f32;
    file(&[f32s("counted", &[width], &values)])
}

impl Crash<'_> {
    /// Lets it happen, and checks what is left when all is over.
    pub(crate) async fn run(&self) -> Met {
        let mut processes = Processes::start(self.world).await;
        let tokens = ["a", "b"].map(|id| processes.server().admin().enrol(id));
        // None runs meanwhile: each sweeps when it starts.
        processes.all.iter_mut().for_each(Server::kill);
        let left = processes.leave_things_behind();
        self.start(&mut processes).await;
        let waker = Waker::start(self, &processes);
        let mut met = Met::default();
        self.create_run(&mut processes, &mut met).await;
        let mut sites = self.start_sites(&processes, &tokens);
        if self.fault == Fault::Relieved {
            met.stopped += self.relieve(&mut processes, &mut sites).await;
        }
        eventually(&format!("{self:?}: the run ends"), || {
            met.killed += processes.revive();
            for site in sites.iter_mut().filter(|_| self.fault == Fault::SiteKilled) {
                if site.was_killed() {
                    met.killed += 1;
                    site.start_again();
                }
            }
            all_ended(&mut sites).then_some(())
        })
        .await;
        for site in &mut sites {
            assert_eq!(site.ends().await, Some(0), "{self:?}: {}", site.read("log"));
        }
        self.settles(&mut processes, &left, &mut met).await;
        met.stopped += waker.end();
        let trained_again = usize::from(UNNOTED.contains(&self.point));
        Checker { processes: &processes, sites: &sites, trained_again, alike: self.alike }.check().await;
        met
    }

    /// Starts the server's processes again, as they meet the point.
    async fn start(&self, processes: &mut Processes) {
        let (serving, working) = processes.parts();
        match self.fault {
            Fault::SiteKilled => processes.all.iter_mut().for_each(Server::start_again),
            Fault::Relieved => {
                // The second worker comes later.
                serving.iter_mut().for_each(Server::start_again);
                working[0].start_again_until(&format!("{}:{}:stop", self.point, self.time)).await;
            }
            Fault::Killed | Fault::Asleep(_) => {
                let stop = if self.fault == Fault::Killed { "" } else { ":stop" };
                for process in &mut processes.all {
                    process.start_again_until(&format!("{}:{}{stop}", self.point, self.time)).await;
                }
            }
        }
    }

    fn keeps_all(&self) -> bool {
        !self.point.starts_with("retire.")
    }

    /// An operator whose answer was lost asks again.
    async fn create_run(&self, processes: &mut Processes, met: &mut Met) {
        let admin = processes.server().admin();
        let mut run = SiteProgram::run(ROUNDS);
        if !self.keeps_all() {
            run["policy"]["keep_models"] = 1.into();
            run["policy"]["keep_updates"] = 0.into();
        }
        let (json, run) = ([("content-type", "application/json")], run.to_string());
        eventually(&format!("{self:?}: the run is created"), || {
            let answer = admin.try_request("POST", "/v1/runs", &json, run.as_bytes());
            if self.fault == Fault::Killed {
                met.killed += processes.revive();
            }
            answer.is_ok_and(|answer| matches!(answer.status, 201 | 409)).then_some(())
        })
        .await;
    }

    fn start_sites(&self, processes: &Processes, tokens: &[String; 2]) -> [SiteProgram; 2] {
        let kills = self.fault == Fault::SiteKilled;
        // Several chunks, where a site is killed between them.
        let width = if kills { 750_000 } else { 3 };
        let until = kills.then(|| format!("{}:{}", self.point, self.time));
        [(0, 1), (1, 3)].map(|(index, num_examples)| {
            let mut mine = Vec::new();
            for round in 1..=ROUNDS {
                mine.push(checkpoint(index, if self.alike { 1 } else { round }, width));
            }
            let grpc = &processes.server_of(index).grpc;
            SiteProgram::start_until(grpc, &tokens[index], &mine, num_examples, until.as_deref())
        })
    }

    /// What comes after the run's end may be the point too.
    async fn settles(&self, processes: &mut Processes, left: &[Left], met: &mut Met) {
        let mut rows = processes.server().rows().await;
        let begun = Instant::now();
        loop {
            met.killed += processes.revive();
            let swept = !left.iter().any(|thing| processes.is_there(thing));
            if swept && (self.keeps_all() || lets_go(&mut rows).await) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{self:?}: what was left over is not swept");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The first worker sleeps at the point, and the second takes its work over. Once the first is awake it sees that it was relieved,
    /// and what the second holds is as it was. How many slept.
    async fn relieve(&self, processes: &mut Processes, sites: &mut [SiteProgram]) -> usize {
        let mut rows = processes.server().rows().await;
        let (_, workers) = processes.parts();
        let [first, second] = workers else { panic!("a world of two workers") };
        let what = format!("{self:?}: a worker sleeps");
        eventually(&what, || (first.is_stopped() || all_ended(sites)).then_some(())).await;
        if !first.is_stopped() {
            second.start_again();
            return 0;
        }
        let in_transaction = IN_TRANSACTION.contains(&self.point);
        tokio::time::sleep(if in_transaction { SLEEP_IN_TRANSACTION } else { SLEEP }).await;
        let came = Instant::now();
        second.start_again_until(&format!("{}:1:stop", self.point)).await;
        let what = format!("{self:?}: another takes over");
        eventually(&what, || (second.is_stopped() || all_ended(sites)).then_some(())).await;
        let relieved = second.is_stopped();
        let (before, said) = (leases(&mut rows).await, first.log().len());
        first.pause(false);
        // What it had committed already is done, and nobody else's.
        if !self.point.ends_with(".committed") {
            assert!(relieved, "{self:?}: the run ended, and nobody took over");
            self.writes_nothing(first, said, &before, &mut rows).await;
        }
        if !relieved {
            return 1;
        }
        let said = second.log().len();
        // Until it is time to renew the lease.
        tokio::time::sleep(SLEEP / 3).await;
        second.pause(false);
        // Its locks were its own all the time: what it holds is done, and its own renewal is not in the way.
        if in_transaction && came.elapsed() < SLEEP_IN_TRANSACTION / 2 {
            let done = |log: &str| log.contains("update aligned") || log.contains("round published");
            let what = format!("{self:?}: the other does what it took over");
            let log = eventually(&what, || Some(second.log()).filter(|log| done(&log[said..]))).await;
            assert!(!log[said..].contains("failed"), "{self:?}: it does so at once: {}", &log[said..]);
        }
        2
    }

    /// Who slept says that it was relieved, after what it said before; and what others held as it woke up is as it was.
    async fn writes_nothing(&self, who: &Server, before: usize, held: &Leases, rows: &mut AnyConnection) {
        let begun = Instant::now();
        loop {
            let log = who.log();
            let told = ["lease was lost", "failed"].iter().any(|word| log[before..].contains(word));
            let now = leases(rows).await;
            for (name, lease) in held.iter().filter(|(_, lease)| lease.token.is_some()) {
                // A larger fence is of a lease that was taken since.
                if now[name].fence == lease.fence {
                    assert_eq!(now[name], *lease, "{self:?}: {name} is another's");
                }
            }
            if told {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{self:?}: who slept does not say that it was relieved:\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn all_ended(sites: &mut [SiteProgram]) -> bool {
    sites.iter_mut().all(|site| site.child.try_wait().expect("its status").is_some() && !site.was_killed())
}

/// Where a piece of work stands.
#[derive(Debug, PartialEq)]
struct Lease {
    fence: i64,
    state: String,
    token: Option<String>,
}

type Leases = BTreeMap<String, Lease>;

async fn leases(rows: &mut AnyConnection) -> Leases {
    let query = "SELECT id AS name, fence, state, lease_token FROM updates
                 UNION ALL SELECT 'round ' || number, fence, state, lease_token FROM rounds";
    let mut leases = Leases::new();
    for row in sqlx::query(query).fetch_all(rows).await.expect("the rows") {
        let token = row.try_get("lease_token").expect("a token or none");
        let lease = Lease { fence: number(&row, "fence"), state: text(&row, "state"), token };
        leases.insert(text(&row, "name"), lease);
    }
    leases
}

/// Whether no update's bytes are kept or wait to be removed, by the rows.
async fn lets_go(rows: &mut AnyConnection) -> bool {
    let query = "SELECT COUNT(*) AS waiting FROM checkpoints WHERE object IS NOT NULL
                 AND (removed_at_ms IS NOT NULL OR digest IN (SELECT digest FROM updates))";
    let row = sqlx::query(query).fetch_one(rows).await;
    number(&row.expect("a count"), "waiting") == 0
}

/// Wakes whoever sleeps, after a while.
struct Waker {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Waker {
    fn start(crash: &Crash<'_>, processes: &Processes) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let Fault::Asleep(time) = crash.fault else { return Self { over, thread: None } };
        let (ids, told): (Vec<u32>, _) = (processes.all.iter().map(Server::id).collect(), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut woken = 0;
            while !told.load(Ordering::Relaxed) {
                for &id in ids.iter().filter(|id| is_stopped(**id)) {
                    std::thread::sleep(time);
                    tell(id, "CONT");
                    woken += 1;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            woken
        });
        Self { over, thread: Some(thread) }
    }

    /// How many it woke.
    fn end(mut self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().expect("it does not panic"))
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
