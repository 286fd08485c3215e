use std::cell::Cell;

use fedbasin_proto::v1::RoundStatus;

use super::*;

#[test]
fn a_runs_name_becomes_one_plain_folder_name() {
    assert_eq!(default_work_dir("run-7").to_str(), Some("fedbasin-run-7"));
    assert_eq!(default_work_dir("../x").to_str(), Some("fedbasin-___x"));
}

/// A run whose first round opens at the `opens`-th look.
async fn look(looks: &Cell<u32>, opens: u32, state: RunState) -> Result<RunStatus> {
    looks.set(looks.get() + 1);
    let round = (looks.get() >= opens).then(|| RoundStatus { number: 1, ..RoundStatus::default() });
    let mut run = RunStatus { run_id: "r".into(), round, ..RunStatus::default() };
    run.set_state(state);
    Ok(run)
}

#[tokio::test]
async fn an_upload_waits_for_the_first_round() {
    let looks = Cell::new(0);
    let wait = Duration::from_secs(60);
    let found = newest_round(async || look(&looks, 3, RunState::Open).await, wait).await;
    assert_eq!((found.unwrap(), looks.get()), (1, 3));
}

#[tokio::test]
async fn an_upload_does_not_wait_for_ever_nor_for_a_run_that_is_over() {
    for (state, wait, most) in
        [(RunState::Open, Duration::from_millis(20), 100), (RunState::Cancelled, Duration::from_secs(600), 1)]
    {
        let looks = Cell::new(0);
        let error = newest_round(async || look(&looks, u32::MAX, state).await, wait).await.unwrap_err();
        assert!(looks.get() <= most, "{error}");
        assert!(error.to_string().contains("has no round"), "{error}");
    }
}
