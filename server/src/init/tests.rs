use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::config::Config;

fn wish(folder: PathBuf) -> Wish {
    Wish {
        folder,
        hosts: vec!["fed.example".into()],
        behind_proxy: false,
        grpc_listen: None,
        http_listen: None,
        database_url_file: None,
    }
}

fn settings(made: &Made) -> Config {
    Config::from_toml(&fs::read_to_string(&made.settings).expect("a file")).expect("settings")
}

#[test]
fn where_it_listens_and_how_it_is_called_goes_by_who_is_to_reach_it() {
    let place = tempfile::tempdir().expect("a folder");
    let all = |name: &str, change: &dyn Fn(&mut Wish)| {
        let mut wish = wish(place.path().join(name));
        change(&mut wish);
        let made = init(&wish).expect(name);
        let config = settings(&made);
        assert_eq!(config.data_dir, made.folder.join("data"));
        (config.grpc.listen.to_string(), config.tls.is_some(), config.allow_clear_text, made.http)
    };
    let own = |at: &str, secure, clear, http: &str| (at.to_owned(), secure, clear, http.to_owned());
    assert_eq!(all("named", &|_| {}), own("0.0.0.0:50051", true, false, "https://localhost:8080"));
    assert_eq!(
        all("this machine", &|wish| wish.hosts.clear()),
        own("127.0.0.1:50051", true, false, "https://127.0.0.1:8080")
    );
    let behind = |wish: &mut Wish| {
        wish.hosts.clear();
        wish.behind_proxy = true;
    };
    assert_eq!(all("proxy", &behind), own("127.0.0.1:50051", false, false, "http://127.0.0.1:8080"));
    let elsewhere = |wish: &mut Wish| {
        behind(wish);
        wish.http_listen = Some(SocketAddr::from(([0, 0, 0, 0], 9000)));
    };
    assert_eq!(
        all("proxy elsewhere", &elsewhere),
        own("127.0.0.1:50051", false, true, "http://127.0.0.1:9000")
    );
}

#[test]
fn what_cannot_be_leaves_nothing_behind() {
    let place = tempfile::tempdir().expect("a folder");
    let refused = |change: &dyn Fn(&mut Wish)| {
        let mut wish = wish(place.path().join("new"));
        change(&mut wish);
        let said = init(&wish).expect_err("refused").message().to_owned();
        assert!(!wish.folder.exists(), "{said}");
        said
    };
    let said = refused(&|wish| wish.hosts = vec!["https://fed.example".into()]);
    assert!(said.contains("--host") && said.contains("neither a name nor an address"), "{said}");
    let said = refused(&|wish| wish.http_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0))));
    assert!(said.starts_with("--http-listen: 127.0.0.1:0 is another port at each start"), "{said}");
    let said = refused(&|wish| wish.database_url_file = Some(place.path().join("none")));
    assert!(said.starts_with("--database-url-file: cannot read "), "{said}");
}

#[test]
fn an_empty_folder_is_taken_and_any_other_left_as_it_is() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join("there");
    fs::create_dir(&folder).expect("a folder");
    let made = init(&wish(folder.clone())).expect("made");
    let token = fs::read(&made.admin_token).expect("a token");
    let said = init(&wish(folder.clone())).expect_err("refused").message().to_owned();
    assert!(said.contains("already, and nothing is overwritten"), "{said}");
    assert_eq!(fs::read(&made.admin_token).expect("a token"), token);

    let read_only = place.path().join("full");
    fs::create_dir(&read_only).expect("a folder");
    fs::write(read_only.join("pki"), "of somebody else").expect("a file");
    init(&wish(read_only.clone())).expect_err("refused");
    assert_eq!(fs::read_to_string(read_only.join("pki")).expect("a file"), "of somebody else");
}

#[test]
fn every_secret_is_its_owners_alone_and_stands_in_no_other_file() {
    let place = tempfile::tempdir().expect("a folder");
    let made = init(&wish(place.path().join("new"))).expect("made");
    let mode =
        |name: &str| fs::metadata(made.folder.join(name)).expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("pki")), (0o700, 0o700));
    for secret in ["admin-token", "signing-key.pem", "pki/authority.key", "pki/server.key"] {
        assert_eq!(mode(secret), 0o600, "{secret}");
    }
    let text = fs::read_to_string(&made.settings).expect("settings");
    let token = fs::read_to_string(&made.admin_token).expect("a token");
    assert!(!text.contains(token.trim()) && !text.contains("PRIVATE KEY"), "{text}");
}
