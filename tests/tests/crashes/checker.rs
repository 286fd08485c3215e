//! Reads the rows, the stored bytes and the sites' receipts, and nothing of the server's code but what computes means. (`fsck`, which
//! is the server's, is asked last: it must find the same.)

use std::{collections::BTreeMap, path::Path};

use fedbasin_proof::{Frontier, Record, merkle};
use fedbasin_tests::{SiteProgram, checkpoint::read_f32, digest, stored};
use rebasin::{Alignment, FileSource, Input, Layout, Source, Spec};
use serde_json::Value;
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{ROUNDS, worlds::Processes};

/// What is held against what.
pub(crate) struct Checker<'a> {
    pub(crate) processes: &'a Processes,
    pub(crate) sites: &'a [SiteProgram],
    /// How often a site may have trained beyond once a round: where it was killed before it could note that it had.
    pub(crate) trained_again: usize,
    /// Whether each site sent the same bytes in all rounds.
    pub(crate) alike: bool,
}

/// The rows, and a copy of each checkpoint that they say is kept.
struct Found {
    run: AnyRow,
    rounds: Vec<AnyRow>,
    /// The updates that count.
    counted: Vec<AnyRow>,
    kept: BTreeMap<String, Vec<u8>>,
    copies: tempfile::TempDir,
}

impl Checker<'_> {
    /// # Panics
    /// Where something was lost, counted twice or left half done.
    pub(crate) async fn check(&self) {
        let mut rows = self.processes.server().rows().await;
        let found = self.read(&mut rows).await;
        let state = (text(&found.run, "state"), number(&found.run, "rounds_published"));
        assert_eq!(state, ("complete".into(), i64::from(ROUNDS)), "the run ends");
        self.check_receipts(&mut rows, &found).await;
        for site in self.sites {
            let trained = site.read("seen.txt");
            let mut rounds: Vec<_> = trained.lines().filter_map(|line| line.split(' ').next()).collect();
            assert!(rounds.len() <= ROUNDS as usize + self.trained_again, "trained twice:\n{trained}");
            rounds.dedup();
            assert_eq!(rounds.len(), ROUNDS as usize, "each round is trained:\n{trained}");
        }
        assert_eq!(found.rounds.len(), ROUNDS as usize, "no round failed");
        for round in &found.rounds {
            found.check_round(round, if self.alike { 1 } else { number(round, "number") });
        }
        found.check_pointers();
        // Nothing that ended is still somebody's.
        for row in found.rounds.iter().chain(&found.counted) {
            assert_eq!(optional_text(row, "lease_token"), None, "a lease outlived its work");
        }
        Self::check_log(&mut rows).await;
        let (holds, said) = self.processes.server().fsck();
        assert!(holds, "{said}");
        let (whole, said) = self.processes.server().says(&["audit", "verify"]);
        assert!(whole, "{said}");
    }

    /// The log is the tree that its head says, and holds one record for each thing that happened.
    async fn check_log(rows: &mut AnyConnection) {
        let lines = sqlx::query("SELECT line FROM audit_records ORDER BY seq").fetch_all(&mut *rows).await;
        let mut frontier = Frontier::default();
        let mut times: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (place, row) in lines.expect("the records").iter().enumerate() {
            let line = text(row, "line");
            frontier.append(merkle::leaf_hash(line.as_bytes()));
            let record = Record::from_line(&line).expect("a record");
            assert_eq!(usize::try_from(record.seq).expect("small"), place, "no gaps");
            let what = record.object.or(record.round.map(|round| round.to_string())).unwrap_or_default();
            *times.entry((record.action, what)).or_default() += 1;
        }
        let head = sqlx::query("SELECT size, frontier FROM audit_head").fetch_one(&mut *rows).await;
        let head = head.expect("a head");
        assert_eq!(text(&head, "frontier"), frontier.to_hex(), "the head is that of the records");
        assert_eq!(u64::try_from(number(&head, "size")).ok(), Some(frontier.size()));
        let mut expect = async |query: &'static str, action: &str| {
            for row in sqlx::query(query).fetch_all(&mut *rows).await.expect("rows") {
                let what = text(&row, "what");
                assert_eq!(times.remove(&(action.to_owned(), what.clone())), Some(1), "{action} {what}");
            }
            assert!(!times.keys().any(|(found, _)| found == action), "{action} of what is not so: {times:?}");
        };
        expect("SELECT CAST(number AS TEXT) AS what FROM rounds", "round.opened").await;
        expect(
            "SELECT CAST(number AS TEXT) AS what FROM rounds WHERE state = 'published'",
            "round.published",
        )
        .await;
        expect("SELECT CAST(number AS TEXT) AS what FROM rounds WHERE state = 'published'", "round.merged")
            .await;
        expect("SELECT id AS what FROM updates", "update.announced").await;
        expect("SELECT id AS what FROM updates WHERE state IN ('accepted', 'aligned')", "update.accepted")
            .await;
        expect("SELECT id AS what FROM updates WHERE state = 'aligned'", "update.aligned").await;
    }

    async fn read(&self, rows: &mut AnyConnection) -> Found {
        let copies = tempfile::tempdir().expect("a folder");
        let mut kept = BTreeMap::new();
        let query = "SELECT digest, size, object, wrapped_key FROM checkpoints WHERE removed_at_ms IS NULL";
        for row in sqlx::query(query).fetch_all(&mut *rows).await.expect("the checkpoints") {
            let (name, object) = (text(&row, "digest"), text(&row, "object"));
            let bytes = self.processes.stored(&format!("checkpoints/{object}"));
            let bytes =
                bytes.unwrap_or_else(|| panic!("no bytes of checkpoint {name}, which a row tells of"));
            let bytes = stored::plain(&name, optional_text(&row, "wrapped_key"), bytes);
            assert_eq!(digest(&bytes), name, "stored bytes have the digest that their row tells");
            assert_eq!(i64::try_from(bytes.len()).ok(), Some(number(&row, "size")), "{name}");
            std::fs::write(copies.path().join(&name), &bytes).expect("a copy");
            kept.insert(name, bytes);
        }
        let query = "SELECT state, spec, layout, rounds_published, global_digest FROM runs";
        let run = sqlx::query(query).fetch_one(&mut *rows).await.expect("one run");
        let query = "SELECT number, state, reference_digest, global_digest, lease_token, model_retired_at_ms
                     FROM rounds ORDER BY number";
        let rounds = sqlx::query(query).fetch_all(&mut *rows).await.expect("the rounds");
        let query = "SELECT round, site_id, id, digest, num_examples, alignment, lease_token, retired_at_ms FROM updates
                     WHERE state IN ('accepted', 'aligned') ORDER BY round, site_id";
        let counted = sqlx::query(query).fetch_all(&mut *rows).await.expect("the updates");
        Found { run, rounds, counted, kept, copies }
    }

    /// Each receipt's update is there as it says, and counts once; nothing else counts, and nothing else was announced.
    async fn check_receipts(&self, rows: &mut AnyConnection, found: &Found) {
        let mut receipts = Vec::new();
        for site in self.sites {
            for round in 1..=ROUNDS {
                let ticket = site.read(&format!("fedbasin-pilot/round-{round}/ticket.json"));
                let value: Value = serde_json::from_str(&ticket).expect("a ticket");
                let field = |name: &str| match value["receipt"][name].as_str() {
                    Some(text) => text.to_owned(),
                    None => panic!("a site has no receipt of round {round}: {ticket}"),
                };
                receipts.push((i64::from(round), field("site_id"), field("update_id"), field("digest")));
            }
        }
        receipts.sort();
        let mut held = Vec::new();
        for row in &found.counted {
            held.push((number(row, "round"), text(row, "site_id"), text(row, "id"), text(row, "digest")));
        }
        assert_eq!(held, receipts, "what counts is what there are receipts for");
        let all = sqlx::query("SELECT COUNT(*) AS announced FROM updates").fetch_one(rows).await;
        let announced = number(&all.expect("a count"), "announced");
        assert_eq!(usize::try_from(announced), Ok(held.len()), "one update a site and round");
    }
}

impl Found {
    /// A published model is the mean of its updates: by its own words, and computed again, byte for byte. `mark` is what all sent.
    fn check_round(&self, round: &AnyRow, mark: i64) {
        assert_eq!(text(round, "state"), "published");
        let this = |row: &&AnyRow| number(row, "round") == number(round, "number");
        let updates: Vec<&AnyRow> = self.counted.iter().filter(this).collect();
        if updates.iter().all(|row| is_set(row, "retired_at_ms")) {
            let kept = updates.iter().any(|row| self.kept.contains_key(&text(row, "digest")));
            assert!(!kept, "what no row needs is removed");
            return;
        }
        assert!(!is_set(round, "model_retired_at_ms"), "where updates are kept, models are");
        let global = &self.kept[&text(round, "global_digest")];
        let values = read_f32(global, "counted");
        assert_eq!(values[..2], [0.25, 0.75], "each counted once");
        assert_eq!(values[2], mark as f32, "and with what it sent in this round");
        assert!(values[3..].iter().all(|value| *value == 0.0), "and nobody else");
        let layout: Layout = serde_json::from_str(&text(&self.run, "layout")).expect("a layout");
        let spec: Spec = serde_json::from_str(&text(&self.run, "spec")).expect("a spec");
        let spec = spec.check(&layout).expect("they fit");
        let (mut sources, mut alignments, mut examples) = (Vec::new(), Vec::new(), Vec::new());
        for row in &updates {
            sources.push(self.source(&text(row, "digest")));
            alignments
                .push(serde_json::from_str::<Alignment>(&text(row, "alignment")).expect("an alignment"));
            examples.push(u64::try_from(number(row, "num_examples")).expect("a count"));
        }
        let shares = rebasin::shares(&examples).expect("shares");
        let inputs: Vec<Input<'_>> = (0..updates.len())
            .map(|i| Input { source: &sources[i], alignment: Some(&alignments[i]), share: shares[i] })
            .collect();
        let reference = self.source(&text(round, "reference_digest"));
        let mut again = Vec::new();
        rebasin::merge_to(Some(&spec), &inputs, Some(&reference as &dyn Source), &mut again, &mut |_, _| {})
            .expect("a mean");
        assert!(again == *global, "computed again it is the same");
    }

    /// Every digest that somebody may still follow leads to bytes.
    fn check_pointers(&self) {
        let newest = self.rounds.last().map(|round| text(round, "global_digest"));
        assert_eq!(optional_text(&self.run, "global_digest"), newest, "the run's model is its last round's");
        let mut pointers = Vec::from_iter(newest);
        for round in self.rounds.iter().filter(|row| !is_set(row, "model_retired_at_ms")) {
            pointers.push(text(round, "global_digest"));
        }
        for update in self.counted.iter().filter(|row| !is_set(row, "retired_at_ms")) {
            pointers.push(text(update, "digest"));
        }
        for pointer in pointers {
            assert!(self.kept.contains_key(&pointer), "nothing is kept of checkpoint {pointer}");
        }
    }

    fn source(&self, digest: &str) -> FileSource {
        FileSource::open(&Path::join(self.copies.path(), digest)).expect("a checkpoint")
    }
}

fn is_set(row: &AnyRow, column: &str) -> bool {
    row.try_get::<Option<i64>, _>(column).unwrap_or_else(|error| panic!("{column}: {error}")).is_some()
}

fn optional_text(row: &AnyRow, column: &str) -> Option<String> {
    row.try_get(column).unwrap_or_else(|error| panic!("{column}: {error}"))
}

pub(crate) fn text(row: &AnyRow, column: &str) -> String {
    row.try_get(column).unwrap_or_else(|error| panic!("{column}: {error}"))
}

pub(crate) fn number(row: &AnyRow, column: &str) -> i64 {
    row.try_get(column).unwrap_or_else(|error| panic!("{column}: {error}"))
}
