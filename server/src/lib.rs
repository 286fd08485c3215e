#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod auth;
pub mod cli;
pub mod config;
pub mod error;
mod graphs;
mod grpc;
mod healthcheck;
pub mod http;
pub mod model;
pub mod round;
pub mod serve;
pub mod store;
mod worker;

pub use self::cli::main_with;
