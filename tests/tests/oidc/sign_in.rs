//! From the dashboard to the provider and back: what a browser carries, and everything that signs nobody in.

use fedbasin_tests::{Admin, Answer, Database, Desk, Issuer, IssuerKey, Options, Server};
use serde_json::{Value, json};

/// Where the provider sends persons: to a path of the server, whatever its address.
const REDIRECT: &str = "https://fed.example/signin/return";
const SIGN_IN: &str = "[oidc.sign_in]\nredirect_url = \"https://fed.example/signin/return\"\n";

/// One person's browser, which keeps cookies where the test does.
struct World {
    issuer: Issuer,
    server: Server,
    browser: Admin,
    provider: Admin,
}

/// A way that has begun.
struct Way {
    cookie: String,
    /// Where the provider leads, as path and query of the server.
    back: String,
}

impl World {
    fn new(settings: &str, claims: impl FnOnce(&Issuer) -> Value) -> Self {
        let issuer = Issuer::start();
        let key = IssuerKey::ec("1");
        issuer.publish(&[key.jwk()]);
        let claims = claims(&issuer);
        issuer.opens(Desk::new(REDIRECT, key, claims));
        // Tables come after the keys of [oidc] itself.
        let config = format!("{}{settings}", issuer.settings("refresh_seconds = 1"));
        let server = Server::start_with(Database::sqlite(), Options { config, ..Options::default() });
        let browser = server.admin().with_token(None).without_redirects();
        let provider = Admin::new("", "none").with_token(None).without_redirects();
        Self { issuer, server, browser, provider }
    }

    fn as_viewer() -> Self {
        Self::new(SIGN_IN, |issuer| issuer.claims(&["see"]))
    }

    fn goes(&self, next: &str) -> Way {
        let sent = self.browser.request("GET", &format!("/signin/provider?next={next}"), &[], b"");
        assert_eq!(sent.status, 303, "{}", String::from_utf8_lossy(&sent.body));
        let set = sent.header("set-cookie");
        for part in ["HttpOnly", "SameSite=Lax", "Path=/signin/return", "Max-Age=600", "Secure"] {
            assert!(set.contains(part), "{set}");
        }
        let page = self.provider.request("GET", sent.header("location"), &[], b"");
        let html = String::from_utf8(page.body).expect("text");
        assert_eq!(page.status, 200, "{html}");
        let link = html.split("href=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a link");
        let back = link.replace("&amp;", "&").replace("https://fed.example", "");
        Way { cookie: set.split(';').next().expect("a cookie").to_owned(), back }
    }

    fn comes_back(&self, way: &Way) -> Answer {
        self.browser.request("GET", &way.back, &[("cookie", &way.cookie)], b"")
    }
}

/// The session's cookie that an answer sets.
fn session(answer: &Answer) -> Option<String> {
    let set = answer.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
    let found = set.into_iter().find(|set| set.starts_with("fedbasin_session="))?;
    for part in ["HttpOnly", "SameSite=Strict", "Secure"] {
        assert!(found.contains(part), "{found}");
    }
    found.split(';').next().map(str::to_owned)
}

fn signs_nobody_in(answer: &Answer, status: u16, says: &str) {
    let html = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!((answer.status, session(answer)), (status, None), "{html}");
    assert!(html.contains(says), "{says}: {html}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_from_the_provider_is_signed_in_where_they_wanted_to_go() {
    let world = World::as_viewer();
    for (next, to) in [("%2Fsites%3Fa%3Db", "/sites?a=b"), ("https%3A%2F%2Fevil.example", "/"), ("", "/")] {
        let way = world.goes(next);
        let back = world.comes_back(&way);
        let html = String::from_utf8_lossy(&back.body).into_owned();
        assert_eq!(back.status, 200, "{html}");
        assert_eq!(back.header("refresh"), format!("0;url={to}"));
        assert!(html.contains("Signed in"), "{html}");
        let cookie = session(&back).expect("a session");
        let shown = world.browser.request("GET", "/sites", &[("cookie", &cookie)], b"");
        assert_eq!(shown.status, 200);
        // As a viewer, and no more.
        let headers = [("cookie", cookie.as_str()), ("sec-fetch-site", "same-origin")];
        assert_eq!(world.browser.request("POST", "/audit/verify", &headers, b"").status, 403);
        // What the way was begun with ends with it, and the code opens nothing twice.
        let mut set = back.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
        assert!(set.any(|set| set.starts_with("fedbasin_way=;") && set.contains("Max-Age=0")));
        signs_nobody_in(
            &world.comes_back(&way),
            401,
            ">the identity provider gave no ID token for this sign-in; sign in again<",
        );
    }
    let form = world.browser.request("GET", "/signin?next=/sites", &[], b"");
    let html = String::from_utf8_lossy(&form.body).into_owned();
    assert!(html.contains("href=\"/signin/provider?next=/sites\""), "{html}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_the_provider_knows_is_shown_to_it_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("client-secret");
    std::fs::write(&file, "a secret: with+all/of=it\n").expect("a file");
    let settings = format!("{SIGN_IN}client_secret_file = {file:?}\nscopes = [\"openid\", \"groups\"]\n");
    let world = World::new(&settings, |issuer| issuer.claims(&["see"]));
    let nothing = settings.replace("client-secret", "no-secret");
    let config = format!("{}{nothing}", world.issuer.settings(""));
    let options = Options { config, ..Options::default() };
    let error = Server::try_start(Database::sqlite(), options).expect_err("there is no such file");
    assert!(error.contains("oidc.sign_in.client_secret_file: cannot read"), "{error}");
    signs_nobody_in_with_another_secret(&world);
    world.issuer.at_its_desk(|desk| desk.secret = Some("a secret: with+all/of=it".into()));
    assert!(session(&world.comes_back(&world.goes(""))).is_some());
    let log = world.server.log();
    assert!(!log.contains("a secret") && !log.contains("code-"), "{log}");
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(world.comes_back(&world.goes("")).status, 500);
    assert!(world.server.log().contains("oidc.sign_in.client_secret_file"), "{}", world.server.log());
}

fn signs_nobody_in_with_another_secret(world: &World) {
    world.issuer.at_its_desk(|desk| desk.secret = Some("another".into()));
    signs_nobody_in(
        &world.comes_back(&world.goes("")),
        401,
        ">the identity provider gave no ID token for this sign-in; sign in again<",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_did_not_begin_here_or_brings_something_else_is_not_signed_in() {
    let world = World::as_viewer();
    let way = world.goes("");
    let other = world.goes("");
    let with = |cookie: &str, back: &str| world.browser.request("GET", back, &[("cookie", cookie)], b"");
    // The provider's answer in another browser, or in none that began: an attacker's link.
    for cookie in [
        "",
        "fedbasin_way=",
        "fedbasin_way=x",
        "fedbasin_way=.Lw",
        &other.cookie.replace("fedbasin_way=", "fedbasin_way=A"),
    ] {
        signs_nobody_in(&with(cookie, &other.back), 401, "did not begin in this browser");
    }
    signs_nobody_in(&with(&way.cookie, &other.back), 401, "did not begin in this browser");
    let both = format!("{}; {}", way.cookie, other.cookie);
    signs_nobody_in(&with(&both, &other.back), 401, "did not begin in this browser");
    // The right state with something else.
    let state = other.back.split('&').find(|part| part.starts_with("state=")).expect("a state");
    for (query, status, says) in [
        (format!("{state}&error=access_denied&error_description=%3Cb%3E"), 401, "did not sign you in"),
        (state.to_owned(), 401, "did not sign you in"),
        (format!("{state}&code=x&error=y"), 401, "did not sign you in"),
        (format!("{state}&code="), 422, "code: is none"),
        (format!("{state}&code={}", "x".repeat(3000)), 422, "code: is none"),
        (
            format!("{state}&code=code-other"),
            401,
            ">the identity provider gave no ID token for this sign-in; sign in again<",
        ),
        (format!("{state}&code=x&iss=https%3A%2F%2Fevil.example"), 401, "another identity provider"),
        (format!("{state}&{state}&code=x"), 422, "duplicate"),
        ("code=x".to_owned(), 401, "did not begin in this browser"),
    ] {
        let answer = with(&other.cookie, &format!("/signin/return?{query}"));
        signs_nobody_in(&answer, status, says);
        assert!(!String::from_utf8_lossy(&answer.body).contains("<b>"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_the_provider_that_is_not_for_this_sign_in_opens_nothing() {
    let world = World::as_viewer();
    let right = world.issuer.claims(&["see"]);
    let with = |name: &str, value: Value| {
        let mut claims = right.clone();
        claims[name] = value;
        claims
    };
    for (claims, nonce, status, says) in [
        (
            right.clone(),
            Some("replayed"),
            401,
            ">the ID token was given for another sign-in (nonce); sign in again<",
        ),
        (with("aud", json!("another")), None, 401, "another audience"),
        (with("iss", json!("https://evil.example")), None, 401, "another issuer"),
        (with("exp", json!(1)), None, 401, "has expired"),
        (world.issuer.claims(&["other"]), None, 403, "gives no role here"),
        (with("more", json!("x".repeat(4000))), None, 422, "longer than a browser"),
    ] {
        let way = world.goes("");
        world.issuer.at_its_desk(|desk| {
            (desk.claims, desk.nonce) = (claims, nonce.map(str::to_owned));
        });
        signs_nobody_in(&world.comes_back(&way), status, says);
        world.issuer.at_its_desk(|desk| (desk.claims, desk.nonce) = (right.clone(), None));
    }
    // One of 2,700 bytes, as providers with many groups make them, fits into a cookie.
    world.issuer.at_its_desk(|desk| desk.claims = with("more", json!("x".repeat(1800))));
    assert!(session(&world.comes_back(&world.goes(""))).is_some_and(|cookie| cookie.len() > 2600));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_provider_is_away_a_person_is_told_and_without_a_way_there_is_none() {
    let world = World::as_viewer();
    world.issuer.goes_away();
    let told = world.browser.request("GET", "/signin/provider", &[], b"");
    signs_nobody_in(&told, 503, "does not answer");

    let without = World::new("", |issuer| issuer.claims(&["see"]));
    for path in ["/signin/provider", "/signin/return?code=x&state=y"] {
        let answer = without.browser.request("GET", path, &[], b"");
        assert!(matches!(answer.status, 401 | 404), "{path}: {}", answer.status);
    }
    let form = without.browser.request("GET", "/signin", &[], b"");
    assert!(!String::from_utf8_lossy(&form.body).contains("your organisation"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_brings_codes_as_fast_as_they_like_does_not_reach_the_provider_as_often() {
    let world = World::as_viewer();
    let way = world.goes("");
    let state = way.back.split('&').find(|part| part.starts_with("state=")).expect("a state");
    let path = format!("/signin/return?{state}&code=guessed");
    let mut told = 0;
    for _ in 0..400 {
        let answer = world.browser.request("GET", &path, &[("cookie", &way.cookie)], b"");
        match answer.status {
            401 => told += 1,
            429 => {
                assert!(told >= 300, "{told}");
                return;
            }
            status => panic!("{status}"),
        }
    }
    panic!("400 codes in a row reached the provider");
}
