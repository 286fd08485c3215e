//! What an update is where it lies.

use futures::TryStreamExt as _;
use rebasin::Source as _;

use super::*;

/// Values that are found again in a file.
const MARK: f32 = 1.234_567_8;

/// Whether a file below `folder` holds the tensors' bytes.
fn lie_plain(folder: &Path) -> bool {
    let (plain, mark) = (checkpoint(MARK), MARK.to_le_bytes().repeat(4));
    assert!(plain.windows(mark.len()).any(|bytes| bytes == mark));
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(mark.len()).any(|found| found == mark))
            {
                return true;
            }
        }
    }
    false
}

impl World {
    async fn key_in_row(&self, table: &str) -> Option<String> {
        let query = format!("SELECT wrapped_key FROM {table} WHERE digest = $1");
        let digest = Digest::of(&checkpoint(MARK)).to_string();
        let row =
            sqlx::query(AssertSqlSafe(query)).bind(digest).fetch_one(&self.store.pool).await.expect("a row");
        row.try_get("wrapped_key").expect("a column")
    }

    async fn read(&self) -> Result<Vec<u8>> {
        let bytes = checkpoint(MARK);
        let object = self.store.object(&Digest::of(&bytes), 5..bytes.len() as u64).await?;
        let parts: Vec<_> = object.stream.try_collect().await?;
        let mut read = bytes[..5].to_vec();
        parts.iter().for_each(|part| read.extend_from_slice(part));
        Ok(read)
    }
}

#[test]
fn an_update_never_lies_plain_and_its_key_goes_with_it() {
    on_both(async |world| {
        world.run(&["a"], policy(2, 1)).await;
        let (bytes, folder) = (checkpoint(MARK), &world.config.data_dir);
        let update = world.begin("a", 1, &bytes).await.expect("begun");
        // In two stretches, and a process ends between them.
        let mut first = staging(&world.store, &update).await.expect("opened");
        first.append(&bytes[..bytes.len() - 7]).expect("the beginning");
        first.sync().expect("durable");
        drop(first);
        assert!(!lie_plain(folder), "while it arrives");
        let of_update = world.key_in_row("updates").await.expect("a key");
        world.accept(&update, &bytes).await.expect("accepted");
        assert!(!lie_plain(folder), "once it is accepted");
        assert_eq!(world.key_in_row("updates").await, None, "its key has one place");
        assert_eq!(world.key_in_row("checkpoints").await.as_ref(), Some(&of_update));
        assert_eq!(world.read().await.expect("there"), bytes);
        let source = world.store.source(&update.digest).await.expect("there");
        let mut some = vec![0; 11];
        source.read_at(bytes.len() as u64 - 13, &mut some).expect("within");
        assert_eq!(some, bytes[bytes.len() - 13..bytes.len() - 2]);

        let path = world.object_path(MARK).await.expect("stored");
        let kept = std::fs::read(&path).expect("its file");
        world.store.withdraw_update("a", &update.id).await.expect("withdrawn");
        assert_eq!(world.key_in_row("checkpoints").await, None);
        assert!(!path.exists() && kept.len() == bytes.len() && kept != bytes);
        // Somebody kept a copy of the file, and puts it back: there is no key.
        std::fs::write(&path, &kept).expect("written");
        assert_eq!(world.read().await.expect_err("not kept").code(), Code::NotFound);
        assert_eq!(world.store.key_of_update(&update).await.expect_err("over").code(), Code::Unavailable);
    });
}

#[test]
fn a_turned_down_update_has_no_key() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        let update = world.begin("a", 1, &checkpoint(MARK)).await.expect("begun");
        world.store.reject_update(&update.id, "a test says so").await.expect("rejected");
        assert_eq!(world.key_in_row("updates").await, None);
        world.begin("a", 1, &checkpoint(MARK)).await.expect("begun anew");
        world.store.cancel_run("run").await.expect("cancelled");
        let query = "SELECT COUNT(*) AS keys FROM updates WHERE wrapped_key IS NOT NULL";
        let row = sqlx::query(query).fetch_one(&world.store.pool).await.expect("read");
        assert_eq!(unsigned::<u64>(&row, "keys").expect("a count"), 0);
    });
}

#[test]
fn the_same_bytes_from_two_sites_are_one_file_with_one_key_until_both_are_withdrawn() {
    on_both(async |world| {
        world.run(&["a", "b", "c"], policy(1, 3)).await;
        let bytes = checkpoint(MARK);
        let mut updates = Vec::new();
        for site in ["a", "b"] {
            let update = world.begin(site, 1, &bytes).await.expect("begun");
            world.accept(&update, &bytes).await.expect("accepted");
            updates.push(update);
        }
        assert_eq!(world.read().await.expect("there"), bytes);
        world.store.withdraw_update("a", &updates[0].id).await.expect("withdrawn");
        assert_eq!(world.read().await.expect("still the other's"), bytes);
        // Its file is lost, and comes again: under the key that the row holds.
        std::fs::remove_file(world.object_path(MARK).await.expect("stored")).expect("removed");
        let again = world.begin("a", 1, &bytes).await.expect("begun");
        world.accept(&again, &bytes).await.expect("accepted");
        assert_eq!(world.read().await.expect("there again"), bytes);
        assert!(!lie_plain(&world.config.data_dir));
    });
}

#[test]
fn who_announces_the_same_bytes_keeps_no_key_alive() {
    on_both(async |world| {
        world.run(&["a", "b", "c"], policy(1, 3)).await;
        let bytes = checkpoint(MARK);
        let of_a = world.begin("a", 1, &bytes).await.expect("begun");
        world.accept(&of_a, &bytes).await.expect("accepted");
        let of_b = world.begin("b", 1, &bytes).await.expect("announced, and not a byte sent");
        world.store.withdraw_update("a", &of_a.id).await.expect("withdrawn");
        assert_eq!(world.key_in_row("checkpoints").await, None);
        assert_eq!(world.read().await.expect_err("erased").code(), Code::NotFound);
        world.accept(&of_b, &bytes).await.expect("its own bytes");
        assert_eq!(world.read().await.expect("stored anew"), bytes);
    });
}

#[test]
fn other_keys_or_none_say_so_and_what_lies_plain_needs_none() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        world.upload("a", 1, MARK).await.expect("accepted");
        let seed = world.store.put_checkpoint(world.sealed("seed", 3.0)).await.expect("stored").digest;
        let keyless = Store::open(&world.config).await.expect("a store");
        let strange = keyless.clone().encrypting(&[8; 32]);
        for store in [keyless, strange] {
            let error = store.source(&Digest::of(&checkpoint(MARK))).await.expect_err("no key");
            assert_eq!(error.code(), Code::DataLoss);
            assert!(error.message().contains("signing_key_file"), "{error}");
            store.source(&seed).await.expect("plain");
            let mut found = Vec::new();
            assert_eq!(store.fsck(true, &mut |finding| found.push(finding)).await.expect("looked at all"), 2);
            assert_eq!(found, [Finding::Locked { digest: Digest::of(&checkpoint(MARK)) }]);
        }
    });
}
