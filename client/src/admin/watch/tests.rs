use serde_json::{Value, json};

use super::*;

fn run(state: &str) -> Run {
    serde_json::from_value(json!({
        "id": "pilot", "state": state, "strategy": "mean", "cohort": ["a", "b"], "rounds_published": 0,
        "policy": { "rounds": 2, "quorum": 1, "deadline_seconds": 60 }, "created_at": "2024-01-01T00:00:00Z",
    }))
    .unwrap()
}

fn round(number: u32, state: &str, sites: &[Value]) -> Round {
    serde_json::from_value(json!({
        "number": number, "state": state, "opened_at": "2024-01-01T00:00:00Z",
        "deadline_at": "2024-01-01T00:01:00Z", "sites": sites,
    }))
    .unwrap()
}

fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn what_stays_as_it_is_is_told_once() {
    let mut watched = Watched::default();
    assert!(watched.see_run(&run("open")).is_some());
    assert_eq!(watched.see_run(&run("open")), None);
    let collecting = round(1, "collecting", &[json!({ "site": "a", "state": "silent" })]);
    let at = Instant::now();
    let first = watched.see_round(&run("open"), &collecting, at, None);
    assert_eq!(
        lines(&first),
        ["round 1: collecting, 1 sites, quorum 1, until 2024-01-01T00:01:00Z", "round 1, site a: silent"]
    );
    // Time that passes is no change.
    let later = OffsetDateTime::parse("2024-01-01T00:00:30Z", &Rfc3339).unwrap();
    assert_eq!(watched.see_round(&run("open"), &collecting, at, Some(later)), []);
    assert_eq!(watched.round().unwrap().seconds_left, Some(30));
}

#[test]
fn an_update_on_its_way_has_percent_and_rate() {
    let mut watched = Watched::default();
    let begun = Instant::now();
    let on_its_way = |received: u64| {
        let site = json!({ "site": "a", "state": "receiving", "size": 1000, "received_bytes": received });
        round(1, "collecting", &[site])
    };
    watched.see_round(&run("open"), &on_its_way(100), begun, None);
    let later = begun + Duration::from_secs(2);
    let changes = watched.see_round(&run("open"), &on_its_way(500), later, None);
    assert_eq!(lines(&changes), ["round 1, site a: receiving 50 %, 500 B of 1.0 kB, 200 B/s"]);
    let json = serde_json::to_value(&changes[0]).unwrap();
    assert_eq!((&json["change"], &json["bytes_per_second"]), (&json!("site"), &json!(200)));
    // Where nothing more came only the rate falls.
    let later = later + Duration::from_secs(2);
    assert_eq!(watched.see_round(&run("open"), &on_its_way(500), later, None), []);
}

#[test]
fn the_end_of_a_round_is_told_after_what_its_sites_did() {
    let mut watched = Watched::default();
    let alignment = json!({ "groups": [
        { "name": "g", "size": 8, "moved": 0.5 }, { "name": "h", "size": 3, "moved": 0.0 },
    ]});
    let sites = [
        json!({ "site": "a", "state": "aligned", "alignment": alignment }),
        json!({ "site": "b", "state": "rejected", "reason": "it holds NaN" }),
    ];
    let mut published = round(1, "published", &sites);
    published.global_digest = Some("00ff".into());
    let changes = watched.see_round(&run("open"), &published, Instant::now(), None);
    assert_eq!(
        lines(&changes),
        [
            "round 1, site a: aligned, 4 of 11 units moved",
            "round 1, site b: rejected: it holds NaN",
            "round 1: published, model 00ff",
        ]
    );
}

#[test]
fn another_round_begins_with_no_site_of_the_one_before() {
    let mut watched = Watched::default();
    let sites = [json!({ "site": "a", "state": "aligned" }), json!({ "site": "b", "state": "silent" })];
    watched.see_round(&run("open"), &round(1, "published", &sites), Instant::now(), None);
    let changes = watched.see_round(&run("open"), &round(2, "collecting", &sites[1..]), Instant::now(), None);
    assert_eq!(changes.len(), 2, "the round, and b, which is silent again: {changes:?}");
    assert_eq!(watched.sites().count(), 1);
}

#[test]
fn time_is_told_in_its_two_largest_units() {
    for (seconds, expected) in
        [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3661, "1 h 1 min"), (90_000, "1 d 1 h")]
    {
        assert_eq!(time_left(seconds), expected);
    }
}
