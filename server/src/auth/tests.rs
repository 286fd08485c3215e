use super::*;

#[test]
fn a_bearer_value_is_taken_apart_strictly() {
    let with = |values: &[&'static str]| {
        let values = values.iter().map(|value| http::HeaderValue::from_static(value));
        values.map(|value| (http::header::AUTHORIZATION, value)).collect::<http::HeaderMap>()
    };
    assert_eq!(bearer(&with(&["Bearer abc"])), Some("abc"));
    assert_eq!(bearer(&with(&["bearer abc"])), Some("abc"));
    for bad in ["abc", "Bearer", "Bearer ", "Basic abc"] {
        assert_eq!(bearer(&with(&[bad])), None, "{bad}");
    }
    assert_eq!(bearer(&with(&[])), None);
    assert_eq!(bearer(&with(&["Bearer abc", "Bearer abc"])), None);
}

#[test]
fn tokens_differ_and_only_the_right_one_is_admin() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
    let admin = Admin::from_config(&config).expect("made");
    let written = std::fs::read_to_string(folder.path().join("admin-token")).expect("written");
    assert!(admin.is(written.trim()));
    assert!(!admin.is("fba_other"));
    assert!(Admin::from_config(&config).expect("read again").is(written.trim()), "it is kept");
    assert_ne!(new_token("x").expect("random").expose(), new_token("x").expect("random").expose());
}

#[test]
fn a_short_admin_token_is_refused() {
    let config = Config { admin_token: Some(Secret::new("short")), ..Config::default() };
    assert!(Admin::from_config(&config).expect_err("short").message().contains("16 characters"));
}

#[test]
fn a_mistyped_token_is_known_by_its_checksum() {
    let token = new_token(SITE_PREFIX).expect("random");
    let token = token.expose();
    assert!(is_whole(token, SITE_PREFIX));
    assert!(!is_whole(token, ADMIN_PREFIX), "a site's is no person's");
    for place in 0..token.len() {
        let mut other = token.as_bytes().to_vec();
        other[place] = if other[place] == b'A' { b'B' } else { b'A' };
        assert!(!is_whole(std::str::from_utf8(&other).expect("ASCII"), SITE_PREFIX), "character {place}");
    }
    for bad in ["", SITE_PREFIX, &token[..token.len() - 1], &format!("{token}A"), &"ä".repeat(27)] {
        assert!(!is_whole(bad, SITE_PREFIX), "{bad}");
    }
}
