use super::*;

fn score(accuracy: f64) -> Score {
    Score { accuracy, loss: 1.0 - accuracy }
}

fn round(number: u32, units_moved: usize, naive: f64, aligned: f64, sites: &[f64]) -> Round {
    let model = |accuracy| Model { score: score(accuracy), digest: "ab".repeat(32) };
    let site = |&accuracy: &f64| SiteRound {
        site: "site-0".into(),
        model: model(accuracy),
        share: 0.5,
        moved: units_moved as f64 / 512.0,
        units_moved,
        l2: [9.0, 4.0],
        train_seconds: 1.5,
    };
    Round {
        round: number,
        sites: sites.iter().map(site).collect(),
        naive: score(naive),
        aligned: model(aligned),
        merge_many: score(aligned),
        ensemble: score(aligned),
        aligned_is_naive: units_moved == 0,
        seconds: 2.0,
    }
}

/// A report of these rounds.
pub(crate) fn report(rounds: Vec<Round>) -> Report {
    let site = |number: u8| Site {
        id: format!("site-{number}"),
        num_examples: 100,
        own_classes: vec![number],
        class_counts: vec![10; 10],
    };
    Report {
        format: "fedbasin.demo/1".into(),
        same_init: false,
        seed: 1,
        train_images: 200,
        test_images: 50,
        units: 512,
        sites: (0..2).map(site).collect(),
        rounds,
        all_data: score(0.86),
        barrier: Barrier {
            naive: 0.7,
            aligned: 0.01,
            naive_over_chord: 0.6,
            aligned_over_chord: 0.0,
            sites: ["site-0".into(), "site-1".into()],
            naive_losses: vec![0.5, 1.2, 0.6],
            aligned_losses: vec![0.5, 0.4, 0.6],
        },
        sentence: String::new(),
        seconds: 30.0,
    }
}

/// A report as a real run gives it.
pub(crate) fn usual() -> Report {
    report(vec![round(1, 500, 0.44, 0.84, &[0.80, 0.75]), round(2, 0, 0.86, 0.86, &[0.81, 0.82])])
}

#[test]
fn the_report_has_the_promised_shape() {
    let json = serde_json::to_value(usual()).unwrap();
    for (pointer, expected) in [
        ("/rounds/0/round", 1.0),
        ("/rounds/0/sites/0/accuracy", 0.80),
        ("/rounds/0/naive/accuracy", 0.44),
        ("/rounds/0/aligned/accuracy", 0.84),
        ("/rounds/0/merge_many/accuracy", 0.84),
        ("/rounds/0/ensemble/accuracy", 0.84),
        ("/all_data/accuracy", 0.86),
        ("/barrier/naive", 0.7),
        ("/barrier/aligned", 0.01),
    ] {
        assert_eq!(json.pointer(pointer).and_then(serde_json::Value::as_f64), Some(expected), "{pointer}");
    }
    for pointer in ["/rounds/1/sites/1/loss", "/rounds/1/aligned/loss", "/all_data/loss", "/sites/1/id"] {
        assert!(json.pointer(pointer).is_some(), "{pointer}");
    }
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), usual());
}

#[test]
fn the_sentence_tells_the_gain_of_the_first_round_and_claims_nothing_where_nothing_moved() {
    let text = sentence(&usual());
    assert!(
        text.contains("moved 1000 units and raised the mean's accuracy from 0.440 (naive) to 0.840"),
        "{text}"
    );
    assert!(text.contains("above the best single site (0.800)"), "{text}");
    assert!(text.contains("alignment moved 0 units and claims nothing"), "{text}");
    assert!(text.contains("0.860 by round 2"), "{text}");
    assert!(!text.contains(". ") && text.ends_with('.'), "one sentence: {text}");
}

#[test]
fn no_gain_is_claimed_when_nothing_moved_whatever_the_figures() {
    for (naive, aligned) in [(0.5, 0.9), (0.83, 0.83), (0.9, 0.5)] {
        let mut report =
            report(vec![round(1, 0, naive, aligned, &[0.8]), round(2, 0, naive, aligned, &[0.8])]);
        report.same_init = true;
        let text = sentence(&report);
        assert!(
            text.contains("moved 0 units") && text.contains("no gain from alignment is claimed"),
            "{text}"
        );
        for word in ["raised", "above", "better", "lifted", "improved"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
        assert!(text.contains("started from one model"), "{text}");
    }
}

#[test]
fn a_loss_or_a_tie_is_called_so() {
    let worse = sentence(&report(vec![round(1, 400, 0.8, 0.7, &[0.75])]));
    assert!(
        worse.contains("lowered") && worse.contains("no gain") && worse.contains("below the best"),
        "{worse}"
    );
    let tie = sentence(&report(vec![round(1, 400, 0.800, 0.805, &[0.80])]));
    assert!(tie.contains("no clear difference") && tie.contains("level with"), "{tie}");
    assert!(!worse.contains("raised") && !tie.contains("raised"));
}

#[test]
fn units_that_move_later_are_told_and_no_rounds_are_no_comparison() {
    let text = sentence(&report(vec![round(1, 0, 0.8, 0.8, &[0.7]), round(2, 3, 0.8, 0.81, &[0.7])]));
    assert!(text.contains("In round 1 alignment moved 0 units and no gain is claimed"), "{text}");
    assert!(text.contains("alignment moved 3 units in later rounds"), "{text}");
    assert!(sentence(&report(Vec::new())).contains("nothing to compare"));
}
