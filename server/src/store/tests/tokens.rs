//! What opens something, and until when.

use super::*;

#[test]
fn a_token_opens_what_it_was_made_for_until_it_expires_or_is_revoked() {
    on_both(async |world| {
        let store = &world.store;
        let person =
            store.create_token("hash-p", &Holder::Person(Role::Viewer), "Ada", YEAR).await.expect("made");
        let found = store.token_by_hash("hash-p").await.expect("read").expect("alive");
        assert_eq!((found.id.as_str(), &found.holder), (person.id.as_str(), &Holder::Person(Role::Viewer)));
        assert_eq!(store.token_by_hash("hash-q").await.expect("read"), None);

        store.create_token("hash-old", &Holder::Person(Role::Admin), "over", 0).await.expect("made");
        assert_eq!(store.token_by_hash("hash-old").await.expect("read"), None, "it has expired");

        let before = store.now().await.expect("a clock");
        let revoked = store.revoke_token(&person.id).await.expect("revoked");
        assert_eq!(store.token_by_hash("hash-p").await.expect("read"), None);
        let again = store.revoke_token(&person.id).await.expect("revoked already");
        assert_eq!(again.revoked_at_ms, revoked.revoked_at_ms);
        assert_eq!(store.revoke_token("nobody").await.expect_err("none").code(), Code::NotFound);
        let (ended, _) = store.ended_since(before).await.expect("read");
        assert!(ended.contains(&person.id));
        let listed = store.tokens().await.expect("listed");
        assert!(listed[0].created_at_ms >= listed[1].created_at_ms, "the newest first");
        assert!(listed.iter().any(|token| token.id == person.id && token.last_used_at_ms.is_some()));
    });
}

#[test]
fn a_site_has_two_tokens_at_the_most_so_that_one_can_take_the_others_place() {
    on_both(async |world| {
        let store = &world.store;
        let (_, first) = store.create_site("a", "hash-1", YEAR).await.expect("enrolled");
        let site = Holder::Site("a".to_owned());
        store.create_token("hash-2", &site, "the next", YEAR).await.expect("a second");
        let third = store.create_token("hash-3", &site, "too many", YEAR).await.expect_err("a third");
        assert_eq!(third.code(), Code::Conflict);
        for hash in ["hash-1", "hash-2"] {
            assert_eq!(store.token_by_hash(hash).await.expect("read").expect("alive").holder, site);
        }
        store.revoke_token(&first.id).await.expect("revoked");
        assert_eq!(store.token_by_hash("hash-1").await.expect("read"), None);
        store.create_token("hash-3", &site, "the next", YEAR).await.expect("there is room again");
        let stranger = Holder::Site("stranger".to_owned());
        let refused = store.create_token("hash-4", &stranger, "", YEAR).await.expect_err("not enrolled");
        assert_eq!(refused.code(), Code::NotFound);
    });
}

#[test]
fn a_certificate_opens_what_its_site_may_until_it_expires_or_is_revoked() {
    on_both(async |world| {
        let store = &world.store;
        store.create_site("a", "hash-a", YEAR).await.expect("enrolled");
        let now = store.now().await.expect("a clock");
        let opens = async |print: &str, site: &str, until: i64| {
            store.certificate_opens(print, site, until).await.expect("asked")
        };
        assert!(opens("one", "a", now + YEAR).await);
        assert!(!opens("two", "stranger", now + YEAR).await, "it is not enrolled");
        assert!(!opens("three", "a", now).await, "it has expired");
        let seen = store.certificates().await.expect("listed");
        assert_eq!(seen.len(), 1, "only what opened something is noted");
        assert_eq!((seen[0].site.as_deref(), seen[0].expires_at_ms), (Some("a"), Some(now + YEAR)));

        let revoked = store.revoke_certificate("one").await.expect("revoked");
        assert_eq!(revoked.site.as_deref(), Some("a"));
        assert!(!opens("one", "a", now + YEAR).await);
        let unseen = store.revoke_certificate("four").await.expect("revoked before it was seen");
        assert_eq!(unseen.site, None);
        assert!(!opens("four", "a", now + YEAR).await);
        let again = store.revoke_certificate("one").await.expect("revoked already");
        assert_eq!(again.revoked_at_ms, revoked.revoked_at_ms);
        let (ended, _) = store.ended_since(now).await.expect("read");
        assert!(ended.contains(&"one".to_owned()) && ended.contains(&"four".to_owned()));
        let site = store.sites().await.expect("listed");
        assert!(site[0].last_seen_at_ms.is_some(), "it was seen");
    });
}
