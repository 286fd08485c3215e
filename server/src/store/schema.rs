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
    /// `0001_NAME.sql`, in both folders.
    file: &'static str,
    name: &'static str,
    postgres: &'static str,
    sqlite: &'static str,
}

impl Step {
    /// The number that its file begins with.
    fn version(&self) -> Result<i64> {
        let number = self.file.split('_').next().unwrap_or_default();
        number.parse().map_err(|error| Error::internal(format_args!("migration {}: {error}", self.file)))
    }
}

/// Each by its file and its name, in order.
macro_rules! steps {
    ($($file:literal $name:literal),*) => {
        [$(Step {
            file: $file,
            name: $name,
            postgres: include_str!(concat!("../../../migrations/postgres/", $file)),
            sqlite: include_str!(concat!("../../../migrations/sqlite/", $file)),
        }),*]
    };
}

const STEPS: &[Step] = &steps!["0001_rounds.sql" "rounds", "0002_graphs.sql" "graphs", "0003_keeping.sql" "keeping", "0004_access.sql" "access", "0005_audit.sql" "audit",
    "0006_plausibility.sql" "plausibility", "0007_withdrawals.sql" "withdrawals", "0008_encryption.sql" "encryption",
    "0009_evaluations.sql" "evaluations", "0010_models.sql" "models", "0011_webhooks.sql" "webhooks"];

/// What the newest step makes of the schema.
fn newest() -> Result<i64> {
    STEPS.last().map_or(Ok(0), Step::version)
}

impl Store {
    /// Brings the schema up to date.
    pub(super) async fn migrate(&self) -> Result<()> {
        let mut migrations = Vec::with_capacity(STEPS.len());
        for step in STEPS {
            let sql = match self.dialect {
                Dialect::Postgres => step.postgres,
                Dialect::Sqlite => step.sqlite,
            };
            let (version, name) = (step.version()?, step.name.into());
            let kind = MigrationType::Simple;
            migrations.push(Migration::new(version, name, kind, sql.into_sql_str(), false));
        }
        Migrator::with_migrations(migrations).run(&self.pool).await.map_err(|error| {
            Error::new(
                Code::Unavailable,
                format!("database: the schema cannot be brought up to date: {error}"),
            )
        })
    }

    /// Whether the schema is the one that this program was built for.
    pub(crate) async fn check_schema(&self) -> Result<()> {
        let query = sqlx::query("SELECT MAX(version) AS version FROM _sqlx_migrations WHERE success");
        let found = match query.fetch_one(&self.pool).await {
            Ok(row) => row.try_get::<Option<i64>, _>("version")?.unwrap_or_default(),
            // No such table: nobody made a schema yet.
            Err(sqlx::Error::Database(_)) => 0,
            Err(error) => return Err(error.into()),
        };
        let newest = newest()?;
        if found == newest {
            return Ok(());
        }
        let advice = match found {
            0 => "nobody made one yet; name the server's own database",
            found if found < newest => {
                "run `fedbasin-server migrate` first, or use the program that serves it"
            }
            _ => "use the newer program that serves it",
        };
        Err(Error::new(
            Code::Unavailable,
            format!(
                "database: its schema is of version {found}, this program's of version {newest}; {advice}"
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::STEPS;

    #[test]
    fn steps_are_numbered_in_order_and_named_as_their_files() {
        let mut last = 0;
        for step in STEPS {
            let version = step.version().expect("a number");
            assert!(version > last, "{} comes after {last}", step.file);
            assert_eq!(step.file, format!("{version:04}_{}.sql", step.name));
            last = version;
        }
    }

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
            let names: Vec<_> = STEPS.iter().map(|step| step.file).collect();
            assert_eq!(files.iter().filter_map(|file| file.file_name()?.to_str()).collect::<Vec<_>>(), names);
            for (file, text) in files.iter().zip(text) {
                assert_eq!(std::fs::read_to_string(file).expect("a text"), text, "{}", file.display());
            }
        }
    }
}
