//! The corpus of hostile inputs: one table, by class; each case says how it is made and what must answer it. All cases of a class are
//! tried against one server, in the middle of a round, while an honest site's update is under way. For all: the expected stable code,
//! no panic and no defect in the server's log, little memory, and in the end the round publishes the right model.
//!
//! Beside it: what a site learns of another one by asking (`probes`), and what a site does to the model by reordering its hidden
//! units (`scramble`).

mod admin;
mod bodies;
mod certificates;
mod corpus;
mod headers;
mod identity;
mod probes;
mod protocol;
mod run;
mod scramble;
mod steps;
mod values;
mod wire;

/// Fewest cases in all.
const FEWEST: usize = 150;

#[test]
fn the_corpus_is_large_and_every_case_has_a_name_of_its_own() {
    let classes = [
        ("headers of checkpoints", headers::names()),
        ("values of checkpoints", values::names()),
        ("gRPC and HTTP/2", wire::names()),
        ("protocol", protocol::names()),
        ("identity", identity::names()),
        ("admin API", admin::names()),
    ];
    let mut all = 0;
    for (class, mut names) in classes {
        println!("{:4} {class}", names.len());
        all += names.len();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "{class}: two cases have one name");
    }
    println!("{all:4} in all");
    assert!(all >= FEWEST, "{all} cases are fewer than {FEWEST}");
}
