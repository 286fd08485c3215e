//! The database of one test: SQLite in the server's data folder, or a fresh one in a real Postgres.

use std::{path::PathBuf, sync::Arc};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

const VARIABLE: &str = "FEDBASIN_TEST_POSTGRES_URL";

/// The database that a test's servers use. A Postgres one is dropped with the last clone.
#[derive(Debug, Clone)]
pub struct Database(Option<Arc<Postgres>>);

#[derive(Debug)]
struct Postgres {
    /// Where databases can be created.
    cluster: String,
    name: String,
}

impl Database {
    /// SQLite, in the server's data folder: what it does by default.
    #[must_use]
    pub fn sqlite() -> Self {
        Self(None)
    }

    /// A fresh database in the cluster of `FEDBASIN_TEST_POSTGRES_URL`.
    ///
    /// # Panics
    /// Where that is not set, or leads nowhere: a test that needs Postgres must not pass without it.
    pub async fn postgres() -> Self {
        #[expect(clippy::disallowed_methods, reason = "how tests/run hands over the cluster that it started")]
        let cluster = std::env::var(VARIABLE).unwrap_or_else(|_| {
            panic!("{VARIABLE} is not set: run `tests/run tests`, which starts a Postgres, or name one of your own")
        });
        // Unique among processes of this machine and, by the counter, within this one.
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("fedbasin_test_{}_{number}", std::process::id());
        // A database of that name can only be left over from a dead process with the same id.
        statement(&cluster, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .await
            .expect("no old database");
        statement(&cluster, format!("CREATE DATABASE {name}")).await.expect("a database for this test");
        Self(Some(Arc::new(Postgres { cluster, name })))
    }

    /// The URL for the server; `None` for SQLite.
    ///
    /// # Panics
    /// Where the cluster's URL is none.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let postgres = self.0.as_ref()?;
        let (before, after) = postgres.cluster.split_once('?').unwrap_or((&postgres.cluster, ""));
        let (host, _) = before.rsplit_once('/').expect("a URL that ends in /database");
        let query = if after.is_empty() { String::new() } else { format!("?{after}") };
        Some(format!("{host}/{}{query}", postgres.name))
    }
}

/// A role of Postgres that may connect and no more; gone with this.
#[derive(Debug)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// The URL of the database, as this role.
    pub url: String,
    cluster: String,
}

impl Database {
    /// A new role that may connect to this database.
    ///
    /// # Panics
    /// On SQLite, or where it cannot be made.
    pub async fn role(&self) -> Role {
        let postgres = self.0.as_ref().expect("a database in Postgres");
        let (cluster, name) = (postgres.cluster.clone(), format!("{}_app", postgres.name));
        // One left over owns nothing: its database is gone.
        statement(&cluster, format!("DROP ROLE IF EXISTS {name}")).await.expect("no old role");
        statement(&cluster, format!("CREATE ROLE {name} LOGIN PASSWORD 'of-a-test'")).await.expect("a role");
        let url = self.url().expect("a URL");
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        Role { url: format!("{scheme}://{name}:of-a-test@{host}"), name, cluster }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let (cluster, name) = (self.cluster.clone(), self.name.clone());
        // As for databases. What it was granted goes with the database: it is dropped then, by whoever makes it again.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let _ = runtime.block_on(statement(&cluster, format!("DROP ROLE IF EXISTS {name}")));
            std::io::Result::Ok(())
        });
        let _ = dropping.join();
    }
}

/// A program of Postgres, where its packages put it if it is not on the path.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn postgres_program(name: &str) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "where programs are is for the system to say")]
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let packaged = versions.map(|version| version.path().join("bin").join(name));
    let found = on_path.chain(packaged).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: it comes with Postgres's client programs"))
}

async fn statement(cluster: &str, sql: String) -> sqlx::Result<()> {
    let options: PgConnectOptions = cluster.parse()?;
    let mut connection = PgConnection::connect_with(&options).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let (cluster, name) = (self.cluster.clone(), self.name.clone());
        // Drop may run inside a runtime, which cannot be blocked on: use another thread and its own runtime. A
        // database that stays behind harms nobody, so errors are let go.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            let _ = runtime.block_on(statement(&cluster, sql));
            std::io::Result::Ok(())
        });
        let _ = dropping.join();
    }
}
