#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod cli;
pub mod compare;
pub mod dataset;
pub mod eval;
pub mod figures;
pub mod idx;
pub mod model;
pub mod plot;
pub mod process;
pub mod report;
pub mod run;
pub mod screen;
pub mod site_evaluation;
pub mod site_training;
pub mod split;
pub mod table;
pub mod trainer;

pub use cli::main_with;
