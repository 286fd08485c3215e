use fedbasin_proof::SigningKeys;
use serde_json::json;

use super::*;

/// What no name may bring into a page.
const HOSTILE: &str = "<script>alert(1)</script>\"'&";

fn keys() -> SigningKeys {
    SigningKeys::from_pem(&SigningKeys::generate().expect("random")).expect("keys")
}

/// What a page shows of a model `global` whose signature is of `signed`, by keys that are the server's or others.
fn shown(provenance: Value, signed: &str, global: &str, by_others: bool) -> String {
    let statement = ModelStatement { name: "pilot-round-3".into(), digest: signed.into(), provenance };
    let (server, others) = (keys(), keys());
    let bundle = statement.sign(if by_others { &others } else { &server }).expect("signed");
    Manifest(ModelStatement::open(&bundle, &server.public())).show(global).into_string()
}

fn digest_of(byte: char) -> String {
    String::from(byte).repeat(64)
}

#[test]
fn all_that_is_signed_is_shown_also_what_a_later_server_adds() {
    let provenance = json!({
        "kind": "global", "run": "pilot", "round": 3, "strategy": "aligned", "reference": digest_of('b'),
        "participants": 5, "num_examples": 1700, "greatest_share_at_most": 0.4,
        "alignment": {
            "updates": 5, "nothing_moved": 2, "identity_certified": 1, "moved_mean": 0.25, "moved_most": 0.75,
            "distance_before_mean": 0.5, "distance_after_mean": 0.125, "scaled_least": null, "scaled_most": null,
            "refined": false,
        },
        "software": "fedbasin-server 9", "log_record": 71, "later": { "privacy": HOSTILE },
    });
    let html = shown(provenance, &digest_of('a'), &digest_of('a'), false);
    for said in [
        "pilot-round-3",
        "pilot, 3",
        "bbbbbbbbbbbb…",
        "5, not named",
        "1700",
        "at most 40 %",
        "5 updates, of 2 nothing moved, 1 proved to need no permutation; units moved: 25 % in the mean, 75 % at the most; \
         distance by the reference's length: 0.5000 before, 0.1250 after<",
        "fedbasin-server 9",
        "href=\"/audit?from=71\">record 71<",
        "later",
        "&lt;script&gt;",
    ] {
        assert!(html.contains(said), "{said}: {html}");
    }
    assert!(!html.contains("<script") && !html.contains("note bad") && !html.contains("MergeMany"), "{html}");
}

#[test]
fn participants_that_a_signature_names_are_a_table_and_what_is_absent_is_not_invented() {
    let participant =
        json!({ "site": "clinic-east", "digest": digest_of('c'), "share": 0.375, "moved": 0.5 });
    let html = shown(
        json!({ "participants": [participant], "alignment": null }),
        &digest_of('a'),
        &digest_of('a'),
        false,
    );
    for said in
        ["clinic-east", "cccccccccccc…", "37.5 %", "50 %", "nothing was aligned", "one of the updates"]
    {
        assert!(html.contains(said), "{said}: {html}");
    }
    assert!(!html.contains("Software") && !html.contains("record "), "{html}");
}

#[test]
fn a_signature_by_other_keys_shows_nothing_and_one_of_another_model_says_so() {
    let provenance = json!({ "run": "pilot", "round": 3, "software": "fedbasin-server 9" });
    let html = shown(provenance.clone(), &digest_of('a'), &digest_of('a'), true);
    assert!(html.contains("cannot be relied upon") && !html.contains("fedbasin-server 9"), "{html}");
    let html = shown(provenance, &digest_of('a'), &digest_of('d'), false);
    assert!(html.contains("signature of another model") && html.contains("aaaaaaaaaaaa…"), "{html}");
}
