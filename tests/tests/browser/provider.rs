//! A person who signs in at an identity provider, in a real browser: for which the provider's page is another site's.

use fedbasin_tests::{Browser, Database, Desk, Issuer, IssuerKey, Options, Server};

use super::{has_no_barriers, is_quiet};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_signs_in_at_the_provider_and_lands_where_they_wanted_to_go() {
    let issuer = Issuer::start();
    let key = IssuerKey::ec("1");
    issuer.publish(&[key.jwk()]);
    let redirect = "http://127.0.0.1:1/signin/return";
    issuer.opens(Desk::new(redirect, key, issuer.claims(&["see"])));
    let config = format!("{}[oidc.sign_in]\nredirect_url = {redirect:?}\n", issuer.settings(""));
    let server = Server::start_with(Database::sqlite(), Options { config, ..Options::default() });
    issuer.at_its_desk(|desk| desk.lands = Some(format!("{}/signin/return", server.http)));

    let browser = Browser::start();
    browser.looks(1440, false);
    browser.go(&format!("{}/audit", server.http));
    has_no_barriers(&browser, "/signin");
    browser.click("a.button");
    browser.says("Sign in as Ada");
    assert!(browser.url().starts_with("http://localhost:"), "{}", browser.url());
    _ = browser.complaints();
    browser.click("#in");
    browser.says("Audit");
    assert!(browser.url().ends_with("/audit"), "{}", browser.url());
    is_quiet(&browser, None);
    // And stays so from page to page.
    browser.go(&format!("{}/sites", server.http));
    browser.says("Sites");
    assert_eq!(browser.run("return document.querySelector('form.out .role').innerText"), "viewer");
    browser.click("form.out button");
    browser.says("Token");
    browser.go(&format!("{}/sites", server.http));
    assert!(browser.url().contains("/signin?next="), "{}", browser.url());
}
