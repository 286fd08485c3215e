#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod derive;
mod domain;
mod emit;
mod error;
mod evaluate;
mod graph;
mod infer;
mod onnx;
mod rules;
mod runtime;
mod scale;
mod sizes;
mod verify;
mod wire;

pub use self::{
    derive::{Derived, Pinned, derive},
    error::GraphError,
    evaluate::{Evaluation, InputData, Output},
    graph::Graph,
    verify::{Certificate, Mutation, Resized, VerifyOptions, verify},
};
