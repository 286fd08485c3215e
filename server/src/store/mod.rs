//! The only SQL, and the only checkpoint storage.
//!
//! One set of statements serves Postgres and SQLite: plain types (text, 64-bit integers), and three words that differ
//! and are filled in by `Store::sql`: the database's clock, and the two row locks that only Postgres has (SQLite has
//! one writer at a time, and every transaction here begins as that writer).

mod audit;
mod bytes;
mod certificates;
mod checkpoints;
mod compared;
mod due;
mod encryption;
mod evaluations;
mod extend;
mod failed_calls;
mod figures;
mod fsck;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod graphs;
mod magnitudes;
mod models;
mod notices;
mod objects;
mod once;
mod part;
mod parts;
mod retention;
mod rounds;
mod runs;
mod schema;
mod site;
mod sites;
mod source;
mod staging;
mod tokens;
mod traces;
mod updates;
mod webhooks;
mod withdrawals;
mod work;

use std::{
    collections::HashSet,
    ops::{Deref, DerefMut},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use fedbasin_cipher::WrappingKey;
use fedbasin_proof::Record;
use sqlx::{
    Any, AnyConnection, AnyPool, AssertSqlSafe, Row as _, Transaction, any::AnyPoolOptions, any::AnyRow,
};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::task::AbortOnDropHandle;

use self::objects::Objects;
pub use self::{
    audit::{Actor, Inclusion, MOST_RECORDS},
    bytes::Object,
    checkpoints::StoredCheckpoint,
    due::{ExpiringCertificate, QuorumAtRisk, SilentSite},
    figures::{ByName, Figures, OpenRound},
    fsck::Finding,
    graphs::StoredGraph,
    once::{MadeCall, Once},
    part::Part,
    rounds::Reconciled,
    source::StoredSource,
    staging::{Kind, Scratch, Sealed, Staging},
    tokens::Alive,
    updates::WantedUpdates,
    webhooks::{Delivery, DeliveryState},
    work::{AlignWork, Aligned, DeliverWork, Lease, MergeInput, MergeWork},
};
pub(crate) use self::{once::in_use as key_in_use, work::RETRY_PAUSE};
use crate::{
    config::{Config, Notify, Webhook},
    error::{Code, Error, Result},
    round::Millis,
    telemetry::Telemetry,
    traces::Traces,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Postgres,
    Sqlite,
}

/// Rows and bytes. Cheap to clone; all clones are one store.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    dialect: Dialect,
    /// On whose behalf it writes.
    actor: Arc<Actor>,
    /// Whose turn it is to write, where only one can.
    writer: Arc<tokio::sync::Mutex<()>>,
    objects: Objects,
    /// What keys of updates are encrypted with.
    wrapping_key: Option<Arc<WrappingKey>>,
    staging_dir: Arc<Path>,
    /// Names of the scratch files of this process.
    scratch: Arc<Mutex<HashSet<String>>>,
    changes: watch::Sender<u64>,
    /// [`crate::config::Limits::max_align_memory_bytes`].
    max_align_memory: u64,
    /// [`crate::config::Limits::max_assignment_width`].
    max_assignment_width: usize,
    /// What a checkpoint's header may say.
    header_limits: rebasin::Limits,
    telemetry: Telemetry,
    traces: Traces,
    /// Who is told what happens.
    webhooks: Arc<[Webhook]>,
    /// When.
    notify: Arc<Notify>,
    /// Tells of what other processes commit, while a store lives.
    _notices: Option<Arc<AbortOnDropHandle<()>>>,
}

/// A transaction that writes.
struct Tx {
    tx: Transaction<'static, Any>,
    /// What the audit log is to say of it.
    records: Vec<Record>,
    /// Whether it appended to the log already.
    recorded: bool,
    /// SQLite's writer's place, until the transaction ends.
    _writer: Option<OwnedMutexGuard<()>>,
}

impl Tx {
    /// Has the audit log say this of the transaction, once it is committed.
    fn record(&mut self, record: Record) {
        self.records.push(record);
    }

    async fn commit(self) -> sqlx::Result<()> {
        self.tx.commit().await
    }

    async fn rollback(self) -> sqlx::Result<()> {
        self.tx.rollback().await
    }
}

impl Deref for Tx {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.tx
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.tx
    }
}

impl Store {
    /// Opens the database and the folder of `config`, and brings the schema up to date.
    ///
    /// # Errors
    /// [`Code::Unavailable`] with what could not be reached or made.
    pub async fn open(config: &Config) -> Result<Self> {
        let store = Self::connect(config).await?;
        store.migrate().await?;
        store.begin_log().await?;
        Ok(store)
    }

    /// Opens the database and the folder of `config` as they are, and makes neither.
    ///
    /// # Errors
    /// [`Code::Unavailable`] with what could not be reached, or where the schema is not this program's.
    pub async fn open_as_it_is(config: &Config) -> Result<Self> {
        let (folder, file) = (&config.data_dir, config.data_dir.join("fedbasin.sqlite"));
        if config.database_url.is_none() && !file.is_file() {
            return Err(Error::new(
                Code::Unavailable,
                format!(
                    "data_dir: there is no database in {}; name the server's own folder",
                    folder.display()
                ),
            ));
        }
        let store = Self::connect(config).await?;
        store.check_schema().await?;
        Ok(store)
    }

    async fn connect(config: &Config) -> Result<Self> {
        // The database, a bucket and both edges use rustls; one provider for the process. An earlier one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let staging_dir = config.data_dir.join("staging");
        make_folder(&staging_dir).map_err(|error| {
            Error::new(Code::Unavailable, format!("data_dir: cannot make {}: {error}", staging_dir.display()))
        })?;
        let objects = Objects::open(config.objects.as_ref(), &config.data_dir)?;
        let (url, dialect) = match &config.database_url {
            Some(url) if url.expose().starts_with("postgres") => (url.expose().to_owned(), Dialect::Postgres),
            Some(url) if url.expose().starts_with("sqlite:") => (url.expose().to_owned(), Dialect::Sqlite),
            Some(_) => {
                return Err(Error::invalid("database_url: begins neither with postgres:// nor with sqlite:"));
            }
            None => {
                let file = config.data_dir.join("fedbasin.sqlite");
                (format!("sqlite://{}?mode=rwc", file.display()), Dialect::Sqlite)
            }
        };
        let pool = connect(&url, dialect).await?;
        let changes = watch::Sender::new(0);
        let notices = match dialect {
            Dialect::Postgres => {
                Some(Arc::new(AbortOnDropHandle::new(tokio::spawn(notices::listen(url, changes.clone())))))
            }
            Dialect::Sqlite => None,
        };
        Ok(Self {
            pool,
            dialect,
            actor: Arc::new(Actor::server()),
            writer: Arc::default(),
            objects,
            wrapping_key: None,
            staging_dir: staging_dir.into(),
            scratch: Arc::default(),
            changes,
            _notices: notices,
            max_align_memory: config.limits.max_align_memory_bytes,
            max_assignment_width: config.limits.max_assignment_width,
            header_limits: config.limits.of_header(),
            webhooks: config.webhooks.clone().into(),
            notify: Arc::new(config.notify.clone()),
            telemetry: Telemetry::default(),
            traces: Traces::default(),
        })
    }

    /// Bytes that are free in the data folder.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(&*self.staging_dir).map_err(std::io::Error::from)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// The database's clock.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when the database does not answer.
    pub async fn now(&self) -> Result<Millis> {
        let row = sqlx::query(self.sql("SELECT {now} AS now_ms")).fetch_one(&self.pool).await?;
        Ok(row.try_get("now_ms")?)
    }

    /// The figures of this process.
    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Wakes when something was committed: through this process, or, on Postgres, through another one. A hint: the rows are the
    /// truth.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Begins a transaction that will write. Where no error ends it, it ends by a commit, or by a rollback that is waited for: one that
    /// is only dropped keeps its locks a moment longer, and whoever skips locked rows then overlooks work.
    async fn begin(&self) -> Result<Tx> {
        let since = tokio::time::Instant::now();
        let (begin, writer) = match self.dialect {
            Dialect::Postgres => ("BEGIN", None),
            // Take the writer's place at once: a reader that becomes a writer could fail. Who waits for it waits here, in turn, and
            // not in SQLite, where each would hold a connection, and who looks at a lucky moment comes first.
            Dialect::Sqlite => ("BEGIN IMMEDIATE", Some(Arc::clone(&self.writer).lock_owned().await)),
        };
        // In a task of its own, which begins it to the end whatever becomes of who asked (a site that breaks off its call): dropped
        // before Postgres answered, sqlx would forget the transaction, and the connection would lie in the pool within it.
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move {
            Ok(Tx {
                tx: pool.begin_with(begin).await?,
                records: Vec::new(),
                recorded: false,
                _writer: writer,
            })
        });
        let begun = begun.await.map_err(Error::internal)?;
        self.telemetry.acquired(since.elapsed());
        begun
    }

    /// Commits what others do not wait for.
    async fn commit_quietly(&self, mut tx: Tx) -> Result<()> {
        self.append_records(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// Commits what others act on, and wakes who waits for changes. Whatever that is, the audit log says it.
    async fn commit(&self, mut tx: Tx) -> Result<()> {
        if tx.records.is_empty() && !tx.recorded {
            return Err(Error::internal("a change was to be committed of which the audit log says nothing"));
        }
        self.append_records(&mut tx).await?;
        if self.dialect == Dialect::Postgres {
            notices::notify(&mut tx).await?;
        }
        tx.commit().await?;
        self.changed();
        Ok(())
    }

    /// Ends a transaction that may have found nothing to change.
    async fn settle(&self, tx: Tx) -> Result<()> {
        match tx.records.is_empty() {
            true => Ok(tx.rollback().await?),
            false => self.commit(tx).await,
        }
    }

    /// The time inside a transaction.
    async fn now_in(&self, rows: &mut AnyConnection) -> Result<Millis> {
        let row = sqlx::query(self.sql("SELECT {now} AS now_ms")).fetch_one(&mut *rows).await?;
        Ok(row.try_get("now_ms")?)
    }

    /// Fills in the words in which the two databases differ. `text` is a literal of this module: no input is in it.
    fn sql(&self, text: &'static str) -> AssertSqlSafe<String> {
        let (now, for_update, skip_locked) = match self.dialect {
            Dialect::Postgres => (
                "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT",
                "FOR UPDATE",
                ["FOR UPDATE OF o SKIP LOCKED", "FOR UPDATE OF u SKIP LOCKED", "FOR UPDATE OF d SKIP LOCKED"],
            ),
            Dialect::Sqlite => ("CAST(unixepoch('subsec') * 1000 AS INTEGER)", "", ["", "", ""]),
        };
        AssertSqlSafe(
            text.replace("{now}", now)
                .replace("{for_update}", for_update)
                .replace("{skip_locked_o}", skip_locked[0])
                .replace("{skip_locked_u}", skip_locked[1])
                .replace("{skip_locked_d}", skip_locked[2]),
        )
    }
}

/// Makes a folder that nobody else may look into; one that is there stays as its owner made it.
pub(crate) fn make_folder(folder: &Path) -> std::io::Result<()> {
    std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700).create(folder)
}

async fn connect(url: &str, dialect: Dialect) -> Result<AnyPool> {
    sqlx::any::install_default_drivers();
    let (connections, settings): (u32, &'static [&'static str]) = match dialect {
        Dialect::Postgres => (
            16,
            &[
                "SET statement_timeout = '30s'",
                "SET lock_timeout = '10s'",
                // Shorter than others wait for its locks: a process that sleeps within a transaction keeps nobody from going on.
                // Nothing but statements is waited for within one.
                "SET idle_in_transaction_session_timeout = '5s'",
            ],
        ),
        Dialect::Sqlite => (
            8,
            &[
                "PRAGMA busy_timeout = 10000",
                "PRAGMA journal_mode = WAL",
                "PRAGMA synchronous = FULL",
                // For each connection: the system keeps the pages too.
                "PRAGMA cache_size = -512",
                "PRAGMA foreign_keys = ON",
                // A key that was destroyed is overwritten.
                "PRAGMA secure_delete = ON",
            ],
        ),
    };
    let options = AnyPoolOptions::new()
        .acquire_timeout(Duration::from_secs(10))
        .max_connections(connections)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for &setting in settings {
                    sqlx::Executor::execute(&mut *connection, setting).await?;
                }
                Ok(())
            })
        })
        // Where a full disk ends a transaction, SQLite has rolled it back already, and sqlx counts it as open for good.
        .before_acquire(|connection, _| {
            let is_free = !sqlx::Connection::is_in_transaction(connection);
            Box::pin(async move { Ok(is_free) })
        });
    options.connect(url).await.map_err(|error| {
        // The URL may hold a password: it is not repeated.
        Error::new(
            Code::Unavailable,
            format!(
                "database_url: cannot connect: {error}; check the URL, and that the database runs and lets this role in"
            ),
        )
    })
}

/// Makes sure that a statement met exactly one row.
fn one_row(result: &sqlx::any::AnyQueryResult, what: &str) -> Result<()> {
    match result.rows_affected() {
        1 => Ok(()),
        rows => Err(Error::internal(format_args!("{what}: {rows} rows met, not one"))),
    }
}

/// A column that holds a count, an id or a size.
fn unsigned<T: TryFrom<i64>>(row: &AnyRow, column: &'static str) -> Result<T> {
    let value: i64 = row.try_get(column)?;
    T::try_from(value).map_err(|_| Error::internal(format_args!("column {column} holds {value}")))
}

/// A column that holds text of a checked form.
fn parsed<T: std::str::FromStr>(row: &AnyRow, column: &'static str) -> Result<T> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| Error::internal(format_args!("column {column} holds {text:?}")))
}

/// The same where the column may be null.
fn parsed_optional<T: std::str::FromStr>(row: &AnyRow, column: &'static str) -> Result<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| text.parse().map_err(|_| Error::internal(format_args!("column {column} holds {text:?}"))))
        .transpose()
}

/// A column that holds a JSON document.
fn document<T: serde::de::DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| {
        serde_json::from_str(&text).map_err(|error| Error::internal(format_args!("column {column}: {error}")))
    })
    .transpose()
}

/// A document for a column.
fn to_json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

/// A count or size for a column.
fn signed(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::invalid(format!("{value} is too large a number")))
}

#[cfg(test)]
mod tests;
