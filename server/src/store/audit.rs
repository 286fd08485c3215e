//! The audit log: records are appended in the transaction of what they record, and are never changed.
//!
//! The head's row is locked last of all rows and held until the transaction ends, so that places have no gaps, and a record is there
//! exactly if what it records is.

use fedbasin_proof::{
    Frontier, Hash, ProofError, PublicKeys, Record, SignedHead, TreeHead, Who,
    export::{self, Checker},
    merkle,
};
use sqlx::{Row as _, any::AnyRow};

use super::{Dialect, Once, Store, Tx, one_row, signed, unsigned};
use crate::error::{Code, Error, Result};

/// Most records that are read at once.
pub const MOST_RECORDS: u32 = 1000;

/// On whose behalf a store writes.
#[derive(Debug, Clone)]
pub struct Actor {
    /// Who.
    pub who: Who,
    /// The request's id.
    pub request: Option<String>,
    /// Why, where whoever acts says so.
    pub reason: Option<String>,
    /// What makes this call one that is made once.
    pub once: Option<Once>,
}

impl Actor {
    /// The server itself: what no request asked for.
    #[must_use]
    pub fn server() -> Self {
        Self { who: Who::server(), request: None, reason: None, once: None }
    }
}

/// A proof about the log's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    /// The record's line.
    pub line: String,
    /// Roots that show that it is in the tree (RFC 9162, section 2.1.3.1).
    pub proof: Vec<Hash>,
}

fn hash(row: &AnyRow, column: &'static str) -> Result<Hash> {
    let text: String = row.try_get(column)?;
    let bytes = hex::decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Error::internal(format_args!("audit log: {column} holds {text:?}, no SHA-256")))
}

fn head(row: &AnyRow) -> Result<(String, Frontier)> {
    let (size, frontier): (u64, String) = (unsigned(row, "size")?, row.try_get("frontier")?);
    let frontier = Frontier::from_hex(size, &frontier)
        .ok_or_else(|| Error::internal("audit log: the head's frontier is not of its size"))?;
    Ok((row.try_get("origin")?, frontier))
}

impl Store {
    /// The same store, whose changes are recorded as this actor's.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Self {
        Self { actor: actor.into(), ..self.clone() }
    }

    /// Makes the log's head where there is none yet.
    pub(super) async fn begin_log(&self) -> Result<()> {
        // Whoever may only append to the log may not make one.
        let there = sqlx::query("SELECT 1 FROM audit_head WHERE id = 1").fetch_optional(&self.pool).await?;
        if there.is_some() {
            return Ok(());
        }
        let origin = format!("fedbasin-log-{}", uuid::Uuid::now_v7().simple());
        sqlx::query(
            "INSERT INTO audit_head (id, origin, size, frontier) VALUES (1, $1, 0, '') ON CONFLICT (id) DO NOTHING",
        )
        .bind(origin)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Appends what a transaction is to record, as its last act; gives the place of the last one.
    pub(super) async fn append_records(&self, tx: &mut Tx) -> Result<Option<u64>> {
        let records = std::mem::take(&mut tx.records);
        if records.is_empty() {
            return Ok(None);
        }
        tx.recorded = true;
        if let Some(once) = &self.actor.once {
            self.note_made(tx, once).await?;
        }
        let row =
            sqlx::query(self.sql("SELECT origin, size, frontier FROM audit_head WHERE id = 1 {for_update}"))
                .fetch_one(&mut **tx)
                .await?;
        let (_, mut frontier) = head(&row)?;
        failpoint!("audit.held");
        // The time is asked for once the row is held: it grows with the places.
        let now = self.now_in(tx).await?;
        for mut record in records {
            (record.seq, record.at_ms) = (frontier.size(), now);
            record.who = self.actor.who.clone();
            record.request.clone_from(&self.actor.request);
            // Beside the server's own words, where it has some.
            if let Some(said) = &self.actor.reason {
                record.reason =
                    Some(record.reason.map_or_else(|| said.clone(), |own| format!("{own}: {said}")));
            }
            self.append_record(tx, &mut frontier, &record).await?;
        }
        let result = sqlx::query("UPDATE audit_head SET size = $1, frontier = $2 WHERE id = 1")
            .bind(signed(frontier.size())?)
            .bind(frontier.to_hex())
            .execute(&mut **tx)
            .await?;
        one_row(&result, "growing the audit log")?;
        failpoint!("audit.appended");
        Ok(Some(frontier.size() - 1))
    }

    async fn append_record(&self, tx: &mut Tx, frontier: &mut Frontier, record: &Record) -> Result<()> {
        let line = record.to_line().map_err(Error::internal)?;
        if line.len() > export::MOST_LINE_BYTES {
            return Err(Error::internal(format_args!(
                "a record of {} is too long to be checked",
                record.action
            )));
        }
        let leaf = merkle::leaf_hash(line.as_bytes());
        sqlx::query(
            "INSERT INTO audit_records (seq, line, hash, action, object, run_id) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(signed(record.seq)?)
        .bind(line)
        .bind(hex::encode(leaf))
        .bind(&record.action)
        .bind(&record.object)
        .bind(&record.run)
        .execute(&mut **tx)
        .await?;
        for (node, hash) in frontier.append(leaf) {
            sqlx::query("INSERT INTO audit_nodes (level, position, hash) VALUES ($1, $2, $3)")
                .bind(i64::from(node.level))
                .bind(signed(node.index)?)
                .bind(hex::encode(hash))
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    /// The log's head as it stands, unsigned.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn log_head(&self) -> Result<TreeHead> {
        let row = sqlx::query("SELECT origin, size, frontier FROM audit_head WHERE id = 1")
            .fetch_one(&self.pool)
            .await?;
        let (origin, frontier) = head(&row)?;
        Ok(TreeHead { origin, size: frontier.size(), root: frontier.root() })
    }

    /// Makes sure that whoever signs here signs with the keys that signed before; the first one's are noted.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] where they are others, saying what to do.
    pub async fn hold_log_keys(&self, keys: &PublicKeys) -> Result<()> {
        let pem = keys.to_pem();
        let mut tx = self.begin().await?;
        let row = sqlx::query(self.sql("SELECT keys FROM audit_head WHERE id = 1 {for_update}"))
            .fetch_one(&mut *tx)
            .await?;
        let known: Option<String> = row.try_get("keys")?;
        match known {
            Some(known) if known == pem => Ok(tx.rollback().await?),
            Some(known) => {
                tx.rollback().await?;
                let known = PublicKeys::from_pem(&known).map_err(Error::internal)?;
                Err(Error::invalid(format!(
                    "signing_key_file: holds the keys {}, this database's log is signed with {}; give every process \
                     of one database the same file",
                    keys.fingerprint(),
                    known.fingerprint()
                )))
            }
            None => {
                sqlx::query("UPDATE audit_head SET keys = $1 WHERE id = 1")
                    .bind(&pem)
                    .execute(&mut *tx)
                    .await?;
                tx.record(Record::of("log.keys-noted").object(&keys.fingerprint()));
                self.commit(tx).await
            }
        }
    }

    /// The public keys that the log is signed with, once something served.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn log_keys(&self) -> Result<Option<PublicKeys>> {
        let row = sqlx::query("SELECT keys FROM audit_head WHERE id = 1").fetch_one(&self.pool).await?;
        let keys: Option<String> = row.try_get("keys")?;
        keys.map(|pem| PublicKeys::from_pem(&pem)).transpose().map_err(Error::internal)
    }

    /// Lines of records from a place on, at most `limit` of them and of [`MOST_RECORDS`]; those of one run, where one is named.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn log_lines(&self, from: u64, limit: u32, run_id: Option<&str>) -> Result<Vec<String>> {
        let rows = self.log_rows(from, limit, run_id).await?;
        Ok(rows.into_iter().map(|(line, _)| line).collect())
    }

    /// The lines from a place on of the log of `size` records: as many as are read at once, one at the least.
    ///
    /// # Errors
    /// [`Code::DataLoss`] where there are none; those of the database.
    pub async fn log_page(&self, from: u64, size: u64) -> Result<Vec<String>> {
        let limit = u32::try_from(size - from).unwrap_or(MOST_RECORDS);
        let lines = self.log_lines(from, limit, None).await?;
        if lines.is_empty() {
            return Err(Error::data_loss(format_args!("record {from} of the audit log")));
        }
        Ok(lines)
    }

    /// Lines and the hashes that are kept of them.
    async fn log_rows(&self, from: u64, limit: u32, run_id: Option<&str>) -> Result<Vec<(String, Hash)>> {
        let query = match run_id {
            Some(_) => {
                "SELECT line, hash FROM audit_records WHERE seq >= $1 AND run_id = $3 ORDER BY seq LIMIT $2"
            }
            None => "SELECT line, hash FROM audit_records WHERE seq >= $1 ORDER BY seq LIMIT $2",
        };
        let query = sqlx::query(query).bind(signed(from)?).bind(i64::from(limit.min(MOST_RECORDS)));
        let rows = match run_id {
            Some(run_id) => query.bind(run_id),
            None => query,
        };
        let rows = rows.fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.try_get("line")?, hash(row, "hash")?))).collect()
    }

    /// Lines of all records of an action on an object.
    pub(super) async fn log_lines_of(&self, action: &str, object: &str) -> Result<Vec<String>> {
        let rows =
            sqlx::query("SELECT line FROM audit_records WHERE object = $1 AND action = $2 ORDER BY seq")
                .bind(object)
                .bind(action)
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(|row| Ok(row.try_get("line")?)).collect()
    }

    /// The place of the newest record of an action on an object.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn log_place(&self, action: &str, object: &str) -> Result<Option<u64>> {
        let row = sqlx::query("SELECT MAX(seq) AS seq FROM audit_records WHERE object = $1 AND action = $2")
            .bind(object)
            .bind(action)
            .fetch_one(&self.pool)
            .await?;
        let place: Option<i64> = row.try_get("seq")?;
        place.map(u64::try_from).transpose().map_err(Error::internal)
    }

    /// Shows that the log of `first` records is the beginning of that of `second`.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] where the log has not so many, or `first` is the larger.
    pub async fn prove_growth(&self, first: u64, second: u64) -> Result<Vec<Hash>> {
        self.check_length(second).await?;
        let ranges = merkle::consistency_ranges(first, second)
            .ok_or_else(|| Error::invalid(format!("first: {first} is more than second, {second}")))?;
        self.roots_of(&ranges).await
    }

    /// A record, and what shows that it is in the log of `size` records.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] where the log has not so many records, or not this one.
    pub async fn prove_record(&self, place: u64, size: u64) -> Result<Inclusion> {
        self.check_length(size).await?;
        let ranges = merkle::inclusion_ranges(place, size)
            .ok_or_else(|| Error::invalid(format!("record: {place} is beyond the {size} records")))?;
        let proof = self.roots_of(&ranges).await?;
        let mut lines = self.log_lines(place, 1, None).await?;
        let line = lines.pop().ok_or_else(|| Error::internal(format_args!("record {place} is gone")))?;
        Ok(Inclusion { line, proof })
    }

    async fn check_length(&self, size: u64) -> Result<()> {
        let have = self.log_head().await?.size;
        if size > have {
            return Err(Error::invalid(format!("{size} records are asked for, the audit log has {have}")));
        }
        Ok(())
    }

    async fn roots_of(&self, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Hash>> {
        let mut roots = Vec::with_capacity(ranges.len());
        for range in ranges {
            let mut hashes = Vec::new();
            for node in merkle::subtrees(range) {
                hashes.push(self.log_node(node).await?);
            }
            roots.extend(merkle::fold(&hashes));
        }
        Ok(roots)
    }

    async fn log_node(&self, node: merkle::Node) -> Result<Hash> {
        let query = match node.level {
            0 => sqlx::query("SELECT hash FROM audit_records WHERE seq = $1").bind(signed(node.index)?),
            level => sqlx::query("SELECT hash FROM audit_nodes WHERE position = $1 AND level = $2")
                .bind(signed(node.index)?)
                .bind(i64::from(level)),
        };
        let row = query.fetch_optional(&self.pool).await?;
        let row =
            row.ok_or_else(|| Error::internal(format_args!("audit log: the node {node:?} is missing")))?;
        hash(&row, "hash")
    }

    /// Lets a role of Postgres use the database without owning it: it may read and write rows, and only append to the audit log.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] on SQLite, or for a name that is none.
    pub async fn grant_to(&self, role: &str) -> Result<()> {
        if self.dialect == Dialect::Sqlite {
            return Err(Error::invalid("--grant-to: SQLite knows no roles; use it with postgres://"));
        }
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let of_all = ["public", "current_user", "current_role", "session_user", "user"].contains(&role);
        if role.is_empty() || role.len() > 63 || !role.bytes().all(plain) || of_all {
            return Err(Error::invalid(format!(
                "--grant-to: {role:?} is not the name of one role, 1 to 63 of a-z, 0-9 and _"
            )));
        }
        let statements = [
            format!("GRANT USAGE ON SCHEMA public TO {role}"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"),
            format!("REVOKE UPDATE, DELETE, TRUNCATE ON audit_records, audit_nodes FROM {role}"),
            format!("REVOKE INSERT, DELETE, TRUNCATE ON audit_head FROM {role}"),
            format!("REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON _sqlx_migrations, schema_floor FROM {role}"),
        ];
        let mut tx = self.begin().await?;
        for statement in statements {
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .execute(&mut *tx)
                .await
                .map_err(|error| Error::new(Code::Unavailable, format!("--grant-to: {role}: {error}")))?;
        }
        self.commit_quietly(tx).await
    }

    /// Reads the whole log, record by record, compares it with its nodes, its head and a head that was seen before, and rounds,
    /// updates and checkpoints with their records; `each` is told every record.
    ///
    /// # Errors
    /// [`Code::DataLoss`](crate::error::Code) with the first thing that is wrong.
    pub async fn verify_log(
        &self,
        seen: Option<&SignedHead>,
        mut each: impl FnMut(&Record),
    ) -> Result<TreeHead> {
        let head = self.log_head().await?;
        let broken = |error: ProofError| Error::new(Code::DataLoss, error.to_string());
        let mut checker = Checker::against(seen);
        while checker.frontier().size() < head.size {
            let from = checker.frontier().size();
            let limit = u32::try_from(head.size - from).unwrap_or(MOST_RECORDS);
            let rows = self.log_rows(from, limit, None).await?;
            if rows.is_empty() {
                return Err(Error::new(
                    Code::DataLoss,
                    format!("the audit log: record {from} is missing, its head says {} records", head.size),
                ));
            }
            for (line, kept) in rows {
                let (record, made) = checker.record(&line).map_err(broken)?;
                each(&record);
                if kept != merkle::leaf_hash(line.as_bytes()) {
                    return Err(other_hash(merkle::Node { level: 0, index: record.seq }));
                }
                for (node, hash) in made {
                    match self.log_node(node).await {
                        Ok(found) if found == hash => {}
                        Err(error) if error.code() == Code::Unavailable => return Err(error),
                        _ => return Err(other_hash(node)),
                    }
                }
            }
        }
        let beyond = sqlx::query("SELECT 1 FROM audit_records WHERE seq >= $1")
            .bind(signed(head.size)?)
            .fetch_optional(&self.pool)
            .await?;
        // Those that were appended since the head was read make it grow.
        if beyond.is_some() && self.log_head().await?.size == head.size {
            return Err(Error::new(
                Code::DataLoss,
                format!("the audit log: there are records beyond the {} of its head", head.size),
            ));
        }
        let span = checker.finish(&head, seen).map_err(broken)?;
        // What was there before the log began has no record.
        self.compare_rows(span.map_or(0, |(first, _)| first)).await?;
        Ok(head)
    }
}

/// A list for a record's details; a long one by its length and the SHA-256 of its JSON, so that no line is too long to be checked.
pub(super) fn listed(list: Vec<serde_json::Value>) -> serde_json::Value {
    const MOST: usize = 1000;
    if list.len() <= MOST {
        return list.into();
    }
    let count = list.len();
    let digest = rebasin::Digest::of(serde_json::Value::from(list).to_string().as_bytes());
    serde_json::json!({ "count": count, "sha256": digest.to_string() })
}

fn other_hash(node: merkle::Node) -> Error {
    Error::new(
        Code::DataLoss,
        format!(
            "the audit log: the hash that is kept of level {} at {} is not that of its records",
            node.level, node.index
        ),
    )
}
