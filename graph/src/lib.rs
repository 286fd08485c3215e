#![doc = include_str!("../README.md")]

mod derive;
mod domain;
mod emit;
mod error;
mod graph;
mod infer;
mod onnx;
mod rules;
mod runtime;
mod scale;
mod verify;
mod wire;

pub use self::{
    derive::{Derived, Pinned, derive},
    error::GraphError,
    graph::Graph,
    verify::{Certificate, VerifyOptions, verify},
};
