#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

// First: its macro is used by those below.
#[macro_use]
mod failpoint;

mod addresses;
mod admission;
pub mod auth;
mod authorities;
pub mod cli;
pub mod config;
mod connections;
pub mod error;
mod files;
#[cfg(feature = "fuzzing")]
pub mod fuzzed;
mod graphs;
mod grpc;
mod healthcheck;
pub mod http;
mod init;
pub mod model;
pub mod pki;
mod rates;
mod requests;
pub mod round;
pub mod serve;
mod sessions;
pub mod signing;
pub mod store;
mod telemetry;
mod tls;
mod traces;
mod webhooks;
mod worker;

pub use self::cli::main_with;
#[cfg(feature = "failpoints")]
pub use self::failpoint::POINTS as FAILPOINTS;
