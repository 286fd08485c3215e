#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

// First: its macro is used by those below.
#[macro_use]
mod failpoint;

pub mod admin;
pub mod certificate;
pub mod chart;
mod cli;
pub mod connect;
pub mod download;
pub mod error;
pub mod files;
#[cfg(feature = "fuzzing")]
pub mod fuzzed;
pub mod graph;
pub mod kit;
pub mod offline;
pub mod progress;
mod proxy;
pub mod retry;
pub mod site;
pub mod trust;
pub mod upload;

pub use cli::main_with;
pub use error::{Error, Result};
#[cfg(feature = "failpoints")]
pub use failpoint::POINTS as FAILPOINTS;
