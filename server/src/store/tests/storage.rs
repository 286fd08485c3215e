//! Bytes: who may read them, what is stored under a digest, what is swept.

use super::*;

#[test]
fn what_a_killed_process_left_in_the_staging_folder_is_swept_and_what_is_in_use_is_not() {
    on_both(async |world| {
        let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let write = |name: &str, modified: Option<std::time::SystemTime>| {
            let file = std::fs::File::create(world.store.staging_dir.join(name)).expect("a file");
            if let Some(modified) = modified {
                file.set_modified(modified).expect("set");
            }
        };
        let mine = world.store.scratch(Kind::Merge);
        for name in ["merge-old", "seed-old", mine.name()] {
            write(name, Some(old));
        }
        write("seed-new", None);
        world.store.sweep_staging().await.expect("swept");
        let mut names = world.store.staged_names().expect("listed");
        names.sort();
        assert_eq!(names, [mine.name(), "seed-new"], "that of this process, and one that may be another's");
        drop(mine);
        assert_eq!(world.store.staged_names().expect("listed"), ["seed-new"], "it goes with its guard");
    });
}

#[test]
fn a_site_reads_references_and_global_models_but_not_anothers_update() {
    on_both(async |world| {
        world.store.create_site("stranger", "hash-stranger", YEAR).await.expect("enrolled");
        world.run(&["a", "b"], policy(2, 2)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        world.upload("b", 1, 2.0).await.expect("accepted");
        world.tick().await;
        let global = world.publish(3.0).await;
        world.tick().await;
        let may = async |site, digest| world.store.site_may_read(site, &digest).await.expect("asked");
        assert!(may("a", global).await && may("b", global).await);
        assert!(!may("stranger", global).await);
        let of_a = Digest::of(&checkpoint(1.0));
        assert_eq!(world.round(1).await.reference, Some(of_a), "it was the founding reference");
        assert!(!may("b", of_a).await, "yet another site's update is not for download");
    });
}

#[test]
fn what_is_stored_under_a_digest_has_it_whatever_became_of_the_file() {
    on_both(async |world| {
        // As long after the last write as it takes for a file's time to be another one.
        let overwrite = |path: &std::path::Path, bytes: &[u8]| {
            let modified =
                || std::fs::metadata(path).and_then(|metadata| metadata.modified()).expect("a time");
            let sealed_at = modified();
            while modified() == sealed_at {
                std::fs::write(path, bytes).expect("another writer");
            }
        };
        let sealed = world.sealed("model", 1.0);
        let (digest, size) = (sealed.digest, sealed.size);
        overwrite(&sealed.path, &checkpoint(2.0));
        let error = world.store.put_checkpoint(sealed).await.expect_err("other bytes of the same size");
        assert_eq!(error.code(), Code::Internal, "{error}");
        assert!(world.store.checkpoint(&digest).await.expect("read").is_none(), "no row");
        assert!(world.store.object(&digest, 0..size).await.is_err(), "no bytes");

        world.store.discard_staging("model");
        let sealed = world.sealed("model", 1.0);
        let mut longer = checkpoint(1.0);
        longer.extend_from_slice(b"late");
        overwrite(&sealed.path, &longer);
        world.store.put_checkpoint(sealed).await.expect("the sealed bytes are there");
        assert_eq!(world.store.object(&digest, 0..size).await.expect("there").size, size, "and only they");
    });
}

#[test]
fn what_lay_long_in_the_staging_folder_is_not_swept_before_its_row_comes() {
    on_both(async |world| {
        let bytes = checkpoint(1.0);
        let mut staging = world.store.staging("model", bytes.len() as u64, None).expect("opened");
        staging.append(&bytes).expect("fits");
        let file = std::fs::File::options().write(true).open(world.store.staging_dir.join("model"));
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        file.expect("there").set_modified(long_ago).expect("set");
        let stored = world.store.put_object(&staging.seal(None).expect("whole")).await.expect("stored");
        world.store.sweep_objects().await.expect("swept");
        assert!(world.config.data_dir.join("objects/checkpoints").join(stored.place.object).exists());
    });
}

#[test]
fn bytes_that_no_row_tells_of_are_not_stored_and_old_ones_are_swept() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        let late = world.begin("a", 1, &checkpoint(2.0)).await.expect("begun");
        world.upload("a", 1, 1.0).await.expect("accepted");
        let error = world.accept(&late, &checkpoint(2.0)).await.expect_err("another one is held");
        assert_eq!(error.code(), Code::Conflict);
        let held = world.object_path(1.0).await.expect("its bytes are stored");
        assert!(world.object_path(2.0).await.is_none(), "its bytes were not stored");

        let beside = |value| held.with_file_name(format!("{}.again", Digest::of(&checkpoint(value))));
        for (path, age) in
            [(held.clone(), 3700), (beside(1.0), 3700), (beside(3.0), 3700), (beside(4.0), 3500)]
        {
            std::fs::write(&path, b"bytes").expect("written");
            let file = std::fs::File::options().write(true).open(&path).expect("opened");
            let time = file.metadata().expect("read").modified().expect("a time") - Duration::from_secs(age);
            file.set_modified(time).expect("set");
        }
        world.store.sweep_objects().await.expect("swept");
        assert!(held.exists(), "it has a row");
        assert!(!beside(1.0).exists(), "a row tells of that digest, but not of these bytes");
        assert!(!beside(3.0).exists(), "old, and no row");
        assert!(beside(4.0).exists(), "its row may be about to come");
    });
}

#[test]
fn what_is_missing_cut_altered_or_orphaned_is_found() {
    on_both(async |world| {
        world.run(&["a"], policy(1, 1)).await;
        world.upload("a", 1, 1.0).await.expect("accepted");
        for value in [2.0, 3.0, 4.0] {
            world.store.put_checkpoint(world.sealed("seed", value)).await.expect("stored");
            world.store.discard_staging("seed");
        }
        let look = async |whole| {
            let mut found = Vec::new();
            let count = world.store.fsck(whole, &mut |finding| found.push(finding)).await.expect("looked");
            assert_eq!(count, 4);
            found
        };
        assert_eq!(look(true).await, [], "all is well");

        let folder = world.config.data_dir.join("objects/checkpoints");
        let path = async |value| world.object_path(value).await.expect("stored");
        let digest = |value| Digest::of(&checkpoint(value));
        std::fs::remove_file(path(2.0).await).expect("removed");
        let size = checkpoint(3.0).len() as u64;
        std::fs::write(path(3.0).await, &checkpoint(3.0)[..20]).expect("cut");
        std::fs::write(path(4.0).await, checkpoint(5.0)).expect("other bytes of the same size");
        std::fs::write(folder.join(digest(6.0).to_string()), checkpoint(6.0)).expect("written");
        let missing = Finding::Missing { digest: digest(2.0) };
        let cut = Finding::Size { digest: digest(3.0), expected: size, found: 20 };
        let altered = Finding::Altered { digest: digest(4.0), found: digest(5.0) };
        let orphan = Finding::Orphan { key: format!("checkpoints/{}", digest(6.0)), size };
        let found = look(true).await;
        for finding in [&missing, &cut, &altered, &orphan] {
            assert!(found.contains(finding), "{finding} is not among {found:?}");
        }
        assert_eq!(found.len(), 4, "{found:?}");
        let found = look(false).await;
        assert!(!found.contains(&altered) && found.len() == 3, "sizes alone: {found:?}");
        assert_eq!(found.iter().filter(|finding| finding.is_damage()).count(), 2);
    });
}

#[test]
fn nobody_else_may_look_into_the_data_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("data");
    let config = Config { data_dir: data_dir.clone(), ..Config::default() };
    runtime.block_on(Store::open(&config)).expect("a store");
    for made in [data_dir.clone(), data_dir.join("staging"), data_dir.join("objects")] {
        let mode = std::fs::metadata(&made).expect("made").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", made.display());
    }
}

#[test]
fn who_opened_the_keys_has_the_logs_head_at_once() {
    // An answer without it would be to a client as a log that was taken away.
    on_both(async |world| {
        let signer = crate::signing::Signer::open(&world.config, &world.store).await.expect("keys");
        let head = signer.head().expect("a head").head;
        assert_eq!(head, world.store.log_head().await.expect("the log's head"));
    });
}
