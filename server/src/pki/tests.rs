use x509_parser::prelude::{FromDer as _, Pem, X509Certificate};

use super::*;
use crate::tls::Peer;

fn kit() -> Kit {
    let server = "https://fed.example:50051".to_owned();
    Kit { server, run: Some("pilot".to_owned()), keys: None, authorities: Vec::new() }
}

fn der(path: &Path) -> Vec<u8> {
    let text = fs::read(path).expect("a file");
    let pem = Pem::iter_from_buffer(&text).next().expect("one").expect("PEM");
    pem.contents
}

#[test]
fn a_site_gets_all_it_needs_signed_by_the_authority_and_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().expect("a folder");
    let authority = Authority::init(&place.path().join("pki"), "test").expect("made");
    let folder = place.path().join("a");
    let fingerprint = authority.issue_site("a", &kit(), None, 90, &folder).expect("issued");

    let certificate = der(&folder.join("site.pem"));
    let (_, parsed) = X509Certificate::from_der(&certificate).expect("a certificate");
    let signer = der(&authority.certificate());
    let (_, signer) = X509Certificate::from_der(&signer).expect("a certificate");
    parsed.verify_signature(Some(signer.public_key())).expect("signed by it");
    assert!(signer.is_ca() && !parsed.is_ca());
    let usage = parsed.extended_key_usage().expect("one").expect("said").value;
    assert!(usage.client_auth && !usage.server_auth);
    let peer = Peer::of(&certificate).expect("a site's");
    assert_eq!((peer.site.as_str(), &peer.fingerprint), ("a", &fingerprint));
    // The signature's other way of being written gives no other name.
    let mut rewritten = certificate.clone();
    *rewritten.last_mut().expect("bytes") ^= 1;
    assert_eq!(Peer::of(&rewritten).expect("a site's").fingerprint, fingerprint);
    let issued = fs::read_to_string(place.path().join("pki/issued.txt")).expect("a file");
    assert!(issued.starts_with(&format!("{fingerprint} a expires ")), "{issued}");

    let mode = |path: &str| fs::metadata(folder.join(path)).expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("site.key")), (0o700, 0o600));
    let text = fs::read_to_string(folder.join("kit.toml")).expect("a file");
    assert_eq!(text, "site = \"a\"\nserver = \"https://fed.example:50051\"\nrun = \"pilot\"\n");
}

#[test]
fn of_a_request_only_the_key_counts() {
    let place = tempfile::tempdir().expect("a folder");
    let authority = Authority::init(&place.path().join("pki"), "test").expect("made");
    let key = KeyPair::generate().expect("a key");
    let mut wish = CertificateParams::new(["other.example".to_owned()]).expect("names");
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.subject_alt_names.push(SanType::URI(identity_uri("b").as_str().try_into().expect("ASCII")));
    let request = wish.serialize_request(&key).expect("a request").pem().expect("PEM");
    let folder = place.path().join("a");
    authority.issue_site("a", &kit(), Some(&request), 1, &folder).expect("issued");
    let certificate = der(&folder.join("site.pem"));
    assert_eq!(Peer::of(&certificate).expect("a site's").site, "a");
    let (_, parsed) = X509Certificate::from_der(&certificate).expect("a certificate");
    assert!(!parsed.is_ca());
    assert!(!folder.join("site.key").exists(), "the key stays where it was made");
    let bad = authority.issue_site("b", &kit(), Some("no request"), 1, &place.path().join("b"));
    assert!(bad.expect_err("no request").message().contains("--request"));
}

#[test]
fn nothing_that_is_there_is_overwritten_but_the_servers_certificate() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join("pki");
    assert!(Authority::open(&folder).expect_err("none yet").message().contains("pki init"));
    let authority = Authority::init(&folder, "test").expect("made");
    assert!(Authority::init(&folder, "test").expect_err("again").message().contains("already"));
    authority.issue_site("a", &kit(), None, 1, &place.path().join("a")).expect("issued");
    assert!(authority.issue_site("a", &kit(), None, 1, &place.path().join("a")).is_err());
    assert!(authority.issue_site("../a", &kit(), None, 1, &place.path().join("c")).is_err());
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let (cert, _) = authority.issue_server(&hosts, 1).expect("issued");
    let first = fs::read(&cert).expect("a file");
    authority.issue_server(&hosts, 1).expect("issued");
    assert_ne!(fs::read(&cert).expect("a file"), first);
    for bad in ["a b", "https://fed.example", "", "fed.example:1"] {
        let refused = authority.issue_server(&[bad.to_owned()], 1).expect_err(bad);
        assert!(refused.message().contains("--host"), "{}", refused.message());
    }
    authority.issue_server(&[format!("{}.example", "a".repeat(63))], 1).expect("a long name");
    for (server, run) in
        [("http://fed.example:1", None), ("https://", None), ("https://fed.example:1", Some("My Run"))]
    {
        let kit = Kit { server: server.to_owned(), run: run.map(str::to_owned), ..kit() };
        let folder = place.path().join("bad");
        authority.issue_site("a", &kit, None, 1, &folder).expect_err(server);
        assert!(!folder.exists(), "nothing is left of {server}");
    }
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 5, "nothing is left beside them");
}

#[test]
fn a_kit_trusts_both_authorities_while_one_takes_the_others_place_and_a_mixed_folder_signs_nothing() {
    let place = tempfile::tempdir().expect("a folder");
    let [old, new] =
        ["old", "new"].map(|name| Authority::init(&place.path().join(name), "test").expect("made"));
    let [of_old, of_new] = [&old, &new].map(|made| fs::read_to_string(made.certificate()).expect("a file"));
    let trusted = |name: &str| {
        let kit = place.path().join(name).join("authority.pem");
        tls::certificates("kit", &kit).expect("certificates")
    };
    let [own_old, own_new] = [&old, &new].map(|made| made.certificates().expect("one").remove(0));

    // As it is appended to the old one's file, the old one still signs, and its kits trust both.
    fs::write(old.certificate(), format!("{of_old}{of_new}")).expect("written");
    old.issue_site("a", &kit(), None, 1, &place.path().join("a")).expect("issued");
    assert_eq!(trusted("a"), [own_old.clone(), own_new.clone()]);
    let authorities = old.certificates().expect("both");
    let both = Kit { authorities, ..kit() };
    new.issue_site("b", &both, None, 1, &place.path().join("b")).expect("issued");
    assert_eq!(trusted("b"), [own_new.clone(), own_old], "each once");
    new.issue_site("c", &kit(), None, 1, &place.path().join("c")).expect("issued");
    assert_eq!(trusted("c"), [own_new]);

    fs::write(old.certificate(), format!("{of_new}{of_old}")).expect("written");
    let refused = old.issue_site("d", &kit(), None, 1, &place.path().join("d")).expect_err("mixed");
    assert!(refused.message().contains("authority.key"), "{}", refused.message());
    assert!(!place.path().join("d").exists());
}
