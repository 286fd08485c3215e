//! Where courses take place: a database, one process (SQLite) or two that share storage (Postgres), and a hand from outside that
//! lets time pass and cuts connections.

use std::path::{Path, PathBuf};

use super::{
    super::*,
    list::{Parcel, SITES},
};

/// Longer than anything here may take, the store's own timeouts included.
const PATIENCE: Duration = Duration::from_secs(60);

/// Those that share a Postgres.
const PROCESSES: [&str; 2] = ["one", "other"];

/// A run that is over and keeps all it has: what another run lets go of must stay where this one needs it.
pub(super) const NEIGHBOUR: Parcel = Parcel { site: 0, other: false };

pub(super) struct Place {
    pub(super) replicas: Vec<Store>,
    configs: Vec<Config>,
    /// A connection that belongs to no store.
    hand: AnyPool,
    /// Where the replicas' stored bytes are.
    objects: PathBuf,
    /// How often each kind of call was polled the last time that it went well.
    pub(super) lengths: BTreeMap<&'static str, u32>,
    _folder: TempDir,
}

impl Place {
    pub(super) async fn new(postgres: Option<&str>) -> Self {
        let (config, folder) = config(postgres).await;
        let (mut configs, mut objects) = (vec![config.clone()], config.data_dir.join("objects"));
        if postgres.is_some() {
            objects = folder.path().join("shared");
            configs = PROCESSES.map(|name| shared(&config, &objects, name)).into();
        }
        let mut replicas = Vec::new();
        for config in &configs {
            replicas.push(open(config).await);
        }
        let url = match &config.database_url {
            Some(url) => url.expose().to_owned(),
            None => format!("sqlite://{}", config.data_dir.join("fedbasin.sqlite").display()),
        };
        let hand = AnyPoolOptions::new().max_connections(1).connect(&url).await.expect("the database");
        let place = Self { replicas, configs, hand, objects, lengths: BTreeMap::new(), _folder: folder };
        for site in SITES {
            place.replicas[0].create_site(site, &format!("hash-{site}"), YEAR).await.expect("enrolled");
        }
        place.neighbour().await.expect("another run");
        place
    }

    async fn neighbour(&self) -> Result<()> {
        let (store, id, site) = (&self.replicas[0], "neighbour", SITES[NEIGHBOUR.site]);
        let new = NewRun {
            cloned_from: None,
            id: id.into(),
            strategy: Strategy::Mean,
            spec: None,
            graph: None,
            policy: policy(1, 1),
            seed: None,
            cohort: vec![site.into()],
        };
        let run = store.create_run(new).await?;
        store.reconcile_run(&run).await?;
        let update = store.begin_update(site, &announced(id, 1, NEIGHBOUR)).await?;
        let sealed = |name: &str| {
            let mut staging = store.staging(name, update.size, Some(layout()))?;
            staging.append(NEIGHBOUR.bytes())?;
            staging.seal(Some(update.digest))
        };
        store.accept_update(&update, sealed(&update.id)?).await?;
        store.reconcile_run(&run).await?;
        let lease = store.lease_merge(LEASE).await?.expect("a round to merge");
        let scratch = store.scratch(Kind::Merge);
        store.finish_merge(&lease, &sealed(scratch.name())?, None, &[], &[], no_signature).await?;
        store.reconcile_run(&run).await?;
        Ok(())
    }

    /// Removes what the list before left, whether it ended well or not.
    pub(super) async fn clear(&mut self) {
        for replica in 0..self.replicas.len() {
            if self.replicas[replica].pool.is_closed() {
                self.open_again(replica).await;
            }
        }
        self.settle().await;
        for statement in [
            "DELETE FROM updates WHERE run_id <> 'neighbour'",
            "DELETE FROM rounds WHERE run_id <> 'neighbour'",
            "DELETE FROM run_sites WHERE run_id <> 'neighbour'",
            "DELETE FROM runs WHERE id <> 'neighbour'",
            "DELETE FROM checkpoints WHERE digest NOT IN (SELECT digest FROM updates)",
        ] {
            sqlx::query(statement).execute(&self.hand).await.expect("removed");
        }
        let kept = NEIGHBOUR.digest().to_string();
        for object in files(&self.objects.join("checkpoints")) {
            if !object.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&kept)) {
                std::fs::remove_file(object).expect("removed");
            }
        }
        let _ = std::fs::remove_dir_all(self.objects.join("uploads"));
        for store in &self.replicas {
            for file in files(&store.staging_dir) {
                std::fs::remove_file(file).expect("removed");
            }
        }
    }

    /// Lets time pass, for the rows.
    pub(super) async fn pass(&self, seconds: i64) {
        for statement in [
            "UPDATE rounds SET opened_at_ms = opened_at_ms - $1, deadline_at_ms = deadline_at_ms - $1,
             quorum_closes_at_ms = quorum_closes_at_ms - $1, lease_expires_at_ms = lease_expires_at_ms - $1 WHERE run_id <> 'neighbour'",
            "UPDATE updates SET begun_at_ms = begun_at_ms - $1, lease_expires_at_ms = lease_expires_at_ms - $1
             WHERE run_id <> 'neighbour'",
        ] {
            sqlx::query(statement).bind(seconds * 1000).execute(&self.hand).await.expect("moved");
        }
    }

    /// Lets time pass for the stored bytes: all were stored hours ago.
    #[expect(clippy::disallowed_methods, reason = "files know no other clock")]
    pub(super) fn age_objects(&self) {
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(4 * 3600);
        for object in files(&self.objects.join("checkpoints")) {
            let object = std::fs::File::open(object).expect("there");
            object.set_modified(long_ago).expect("its time is set");
        }
    }

    /// What uploads left among the stored bytes.
    pub(super) fn parts(&self) -> Vec<PathBuf> {
        let Ok(uploads) = std::fs::read_dir(self.objects.join("uploads")) else { return Vec::new() };
        uploads.flat_map(|upload| files(&upload.expect("an entry").path())).collect()
    }

    /// Ends a replica's process in order, and starts it again.
    pub(super) async fn open_again(&mut self, replica: usize) {
        within_patience("closing the pool", self.replicas[replica].pool.close()).await;
        self.replicas[replica] = open(&self.configs[replica]).await;
    }

    /// The database is gone while `call` goes on, and comes back. Gives what the call was told.
    pub(super) async fn without_database<T>(&mut self, replica: usize, call: impl Future<Output = T>) -> T {
        match self.replicas[replica].dialect {
            Dialect::Postgres => {
                self.cut(replica).await;
                within_patience("an answer without connections", call).await
            }
            Dialect::Sqlite => {
                let pool = self.replicas[replica].pool.clone();
                let both = futures::future::join(call, pool.close());
                let (told, ()) = within_patience("an answer without a pool", both).await;
                self.open_again(replica).await;
                told
            }
        }
    }

    /// Ends all connections of a process, and waits until they have ended.
    async fn cut(&self, replica: usize) {
        let all = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = $1";
        let rows = sqlx::query(all).bind(PROCESSES[replica]).fetch_all(&self.hand).await.expect("cut");
        let pids: Vec<String> = rows.iter().map(|row| row.get::<i32, _>(0).to_string()).collect();
        if !pids.is_empty() {
            // Who listens for notices is there again at once, as another process.
            let left = format!("SELECT COUNT(*) FROM pg_stat_activity WHERE pid IN ({})", pids.join(", "));
            within_patience("the connections end", self.until_none(&left)).await;
        }
    }

    /// Waits until the query counts nothing.
    async fn until_none(&self, query: &str) {
        loop {
            let row =
                sqlx::query(AssertSqlSafe(query.to_owned())).fetch_one(&self.hand).await.expect("asked");
            if row.try_get::<i64, _>(0).expect("a count") == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until what a call left that was dropped is rolled back, and no connection rests within a transaction.
    pub(super) async fn settle(&self) {
        for store in &self.replicas {
            let back = async {
                while store.pool.num_idle() < store.pool.size() as usize {
                    tokio::task::yield_now().await;
                }
            };
            within_patience("the connections come back", back).await;
        }
        match self.replicas[0].dialect {
            Dialect::Postgres => {
                let query = "SELECT COUNT(*) FROM pg_stat_get_activity(NULL)
                             WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())
                               AND state LIKE 'idle in transaction%'";
                // The database would end it by itself after five seconds.
                let ended = tokio::time::timeout(Duration::from_secs(3), self.until_none(query)).await;
                ended.expect("a connection lies in the pool within a transaction that nobody ends");
            }
            // Who began as the writer would keep this one from it.
            Dialect::Sqlite => {
                let tx = self.hand.begin_with("BEGIN IMMEDIATE").await.expect("nobody writes");
                tx.rollback().await.expect("rolled back");
            }
        }
    }
}

/// Waits for what must come to an end.
async fn within_patience<T>(what: &str, call: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// What a site says of its parcel.
pub(super) fn announced(run_id: &str, round: u32, parcel: Parcel) -> NewUpdate {
    NewUpdate {
        run_id: run_id.into(),
        round,
        digest: parcel.digest(),
        size: parcel.bytes().len() as u64,
        num_examples: 10,
        metrics: BTreeMap::new(),
    }
}

fn shared(config: &Config, objects: &Path, name: &str) -> Config {
    let url = format!("file://{}", objects.display());
    let database = config.database_url.as_ref().expect("a Postgres").expose();
    Config {
        data_dir: config.data_dir.join(name),
        database_url: Some(Secret::new(format!("{database}&application_name={name}"))),
        objects: Some(crate::config::Objects { url, endpoint: None, region: None }),
        ..config.clone()
    }
}

/// The files of a folder; none if it is not there.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()).collect()
}
