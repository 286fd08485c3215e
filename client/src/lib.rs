#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod admin;
pub mod chart;
mod cli;
pub mod connect;
pub mod download;
pub mod error;
pub mod files;
pub mod graph;
pub mod offline;
pub mod progress;
pub mod retry;
pub mod site;
pub mod upload;

pub use cli::main_with;
pub use error::{Error, Result};
