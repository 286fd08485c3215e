use super::*;

#[test]
fn the_servers_line_is_understood() {
    let line = "listening grpc=http://127.0.0.1:4001 http=http://127.0.0.1:4002";
    let expected = ("http://127.0.0.1:4001".to_owned(), "http://127.0.0.1:4002".to_owned());
    assert_eq!(parse_listening(line), Some(expected));
    for other in ["", "listening", "listening http=http://x grpc=http://y", "started"] {
        assert_eq!(parse_listening(other), None, "{other}");
    }
}

#[test]
fn a_folder_to_keep_must_be_empty_and_a_temporary_one_goes_away() {
    let parent = tempfile::tempdir().unwrap();
    let new = parent.path().join("new");
    let folder = Folder::new(Some(&new)).unwrap();
    std::fs::write(folder.initial_model(), "").unwrap();
    drop(folder);
    assert!(Folder::new(Some(&new)).unwrap_err().to_string().contains("not empty"));
    let folder = Folder::new(None).unwrap();
    let path = folder.path.clone();
    std::fs::write(folder.initial_model(), "").unwrap();
    drop(folder);
    assert!(!path.exists());
}

#[test]
fn an_interruption_is_an_error() {
    assert!(go_on(&AtomicBool::new(false)).is_ok());
    assert!(go_on(&AtomicBool::new(true)).is_err());
}

/// A record of a published round with these files' digests.
fn record(folder: &Folder, number: u32) -> Round {
    let digest = |path: PathBuf| Digest::of(&std::fs::read(path).unwrap()).to_string();
    let sites: Vec<_> = (0..SITES)
        .map(|site| serde_json::json!({"site": site_id(site), "state": "aligned", "digest": digest(folder.update(site, number))}))
        .collect();
    serde_json::from_value(serde_json::json!({
        "number": number, "state": "published", "opened_at": "", "deadline_at": "",
        "global_digest": digest(folder.global_model(number)), "sites": sites
    }))
    .unwrap()
}

#[test]
fn a_file_that_did_not_go_through_the_server_is_noticed() {
    let folder = Folder::new(None).unwrap();
    std::fs::write(folder.global_model(1), "global").unwrap();
    for site in 0..SITES {
        std::fs::create_dir_all(folder.update(site, 1).parent().unwrap()).unwrap();
        std::fs::write(folder.update(site, 1), site_id(site)).unwrap();
        std::fs::write(folder.site(site).join("global.safetensors"), "global").unwrap();
    }
    let rounds = [record(&folder, 1)];
    check_copies(&folder, &rounds).unwrap();
    let told = |what: &str| {
        let error = check_copies(&folder, &rounds).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    std::fs::write(folder.site(2).join("global.safetensors"), "other").unwrap();
    told("last global model at site-2");
    std::fs::write(folder.update(3, 1), "other").unwrap();
    told("update of site-3 in round 1");
    let mut failed = rounds.clone();
    failed[0].state = "failed".to_owned();
    assert!(check_copies(&folder, &failed).unwrap_err().to_string().contains("round 1 is failed"));
}
