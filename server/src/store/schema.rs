//! The schema: the files of `migrations/`, compiled in.
//!
//! Named here one by one: sqlx's macro that reads a folder would compile both databases' drivers a second time, for the compiler.

use sqlx::{
    Row as _, SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

use super::{Dialect, Store};
use crate::error::{Code, Error, Result};

/// One step of the schema, for either database.
struct Step {
    name: &'static str,
    postgres: &'static str,
    sqlite: &'static str,
}

/// `0001_NAME.sql` and so on, in order.
macro_rules! steps {
    ($($file:literal $name:literal),*) => {
        [$(Step {
            name: $name,
            postgres: include_str!(concat!("../../../migrations/postgres/", $file)),
            sqlite: include_str!(concat!("../../../migrations/sqlite/", $file)),
        }),*]
    };
}

const STEPS: &[Step] = &steps!["0001_rounds.sql" "rounds", "0002_graphs.sql" "graphs", "0003_keeping.sql" "keeping", "0004_access.sql" "access", "0005_audit.sql" "audit",
    "0006_plausibility.sql" "plausibility", "0007_withdrawals.sql" "withdrawals", "0008_encryption.sql" "encryption",
    "0009_evaluations.sql" "evaluations", "0010_models.sql" "models"];

impl Store {
    /// Brings the schema up to date.
    pub(super) async fn migrate(&self) -> Result<()> {
        let migrations = (1..).zip(STEPS).map(|(version, step)| {
            let sql = match self.dialect {
                Dialect::Postgres => step.postgres,
                Dialect::Sqlite => step.sqlite,
            };
            Migration::new(version, step.name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        });
        Migrator::with_migrations(migrations.collect()).run(&self.pool).await.map_err(|error| {
            Error::new(
                Code::Unavailable,
                format!("database: the schema cannot be brought up to date: {error}"),
            )
        })
    }

    /// Whether the schema is the one that this program was built for.
    pub(super) async fn check_schema(&self) -> Result<()> {
        let newest = sqlx::query("SELECT MAX(version) AS version FROM _sqlx_migrations WHERE success");
        let found = match newest.fetch_one(&self.pool).await {
            Ok(row) => row.try_get::<Option<i64>, _>("version")?.unwrap_or_default(),
            // No such table: nobody made a schema yet.
            Err(sqlx::Error::Database(_)) => 0,
            Err(error) => return Err(error.into()),
        };
        if usize::try_from(found).ok() == Some(STEPS.len()) {
            return Ok(());
        }
        let advice = match usize::try_from(found).unwrap_or_default() {
            0 => "nobody made one yet; name the server's own database",
            found if found < STEPS.len() => {
                "run `fedbasin-server migrate` first, or use the program that serves it"
            }
            _ => "use the newer program that serves it",
        };
        Err(Error::new(
            Code::Unavailable,
            format!(
                "database: its schema is of version {found}, this program's of version {}; {advice}",
                STEPS.len()
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::STEPS;

    #[test]
    fn every_file_of_both_folders_is_a_step() {
        for (folder, text) in [
            ("postgres", STEPS.iter().map(|step| step.postgres).collect::<Vec<_>>()),
            ("sqlite", STEPS.iter().map(|step| step.sqlite).collect()),
        ] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(folder);
            let mut files: Vec<_> = std::fs::read_dir(&folder)
                .expect("the folder")
                .map(|entry| entry.expect("a file").path())
                .collect();
            files.sort();
            let names: Vec<_> =
                STEPS.iter().enumerate().map(|(i, step)| format!("{:04}_{}.sql", i + 1, step.name)).collect();
            assert_eq!(files.iter().filter_map(|file| file.file_name()?.to_str()).collect::<Vec<_>>(), names);
            for (file, text) in files.iter().zip(text) {
                assert_eq!(std::fs::read_to_string(file).expect("a text"), text, "{}", file.display());
            }
        }
    }
}
