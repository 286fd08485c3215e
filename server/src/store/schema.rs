//! The schema: the files of `migrations/`, compiled in.
//!
//! Named here one by one: sqlx's macro that reads a folder would compile both databases' drivers a second time, for the compiler.

use sqlx::{
    Row as _, SqlSafeStr as _,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
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
    "0009_evaluations.sql" "evaluations", "0010_models.sql" "models", "0011_webhooks.sql" "webhooks", "0012_paths.sql" "paths",
    "0013_failed_calls.sql" "failed_calls", "0014_floor.sql" "floor"];

/// What the newest step makes of the schema.
fn newest() -> Result<i64> {
    STEPS.last().map_or(Ok(0), Step::version)
}

impl Store {
    /// Brings the schema up to date, where this program does not work on it as it is: whoever may only use the schema need not be able to
    /// change it, and a newer one stays.
    ///
    /// # Errors
    /// [`Code::Unavailable`] where it is too new for this program, or a step fails.
    pub(super) async fn migrate(&self) -> Result<()> {
        let stand = self.stand().await?;
        if !matches!(stand, Stand::Older { .. }) {
            return stand.checked();
        }
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
        let Err(error) = Migrator::with_migrations(migrations).run(&self.pool).await else { return Ok(()) };
        let why = match error {
            MigrateError::Dirty(step) => {
                return Err(Error::new(
                    Code::Unavailable,
                    format!(
                        "database: step {step} of its schema was begun and did not end; restore the backup of before the upgrade, then start again"
                    ),
                ));
            }
            error => error.to_string(),
        };
        Err(Error::new(
            Code::Unavailable,
            format!("database: the schema cannot be brought up to date: {why}"),
        ))
    }

    /// Whether this program works on the schema: it is its own, or a newer one that says so.
    ///
    /// # Errors
    /// [`Code::Unavailable`], saying which program to use.
    pub(crate) async fn check_schema(&self) -> Result<()> {
        self.stand().await?.checked()
    }

    /// How the schema stands to this program.
    async fn stand(&self) -> Result<Stand> {
        let query = sqlx::query("SELECT MAX(version) AS version FROM _sqlx_migrations WHERE success");
        let found = match query.fetch_one(&self.pool).await {
            Ok(row) => row.try_get::<Option<i64>, _>("version")?.unwrap_or_default(),
            // No such table: nobody made a schema yet.
            Err(sqlx::Error::Database(_)) => 0,
            Err(error) => return Err(error.into()),
        };
        let newest = newest()?;
        if found <= newest {
            return Ok(if found == newest { Stand::Fits } else { Stand::Older { found } });
        }
        let oldest =
            sqlx::query("SELECT MAX(oldest) AS oldest FROM schema_floor").fetch_one(&self.pool).await?;
        match oldest.try_get::<Option<i64>, _>("oldest")? {
            Some(oldest) if oldest <= newest => Ok(Stand::Fits),
            _ => Ok(Stand::TooNew { found }),
        }
    }
}

/// How a schema stands to this program.
enum Stand {
    /// It lacks steps.
    Older { found: i64 },
    /// The program works on it.
    Fits,
    /// It has steps that the program does not know, and that it cannot work with.
    TooNew { found: i64 },
}

impl Stand {
    /// # Errors
    /// [`Code::Unavailable`] where the program does not work on it, saying which one does.
    fn checked(&self) -> Result<()> {
        let (found, advice) = match self {
            Self::Fits => return Ok(()),
            Self::Older { found: 0 } => (0, "nobody made one yet; name the server's own database"),
            Self::Older { found } => {
                (*found, "run `fedbasin-server migrate` first, or use the program that serves it")
            }
            Self::TooNew { found } => (*found, "use the newer program that serves it"),
        };
        let newest = newest()?;
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
