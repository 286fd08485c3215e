//! What is tried with bytes that nobody should trust. Each target ends for any bytes, without a panic, and what it reads well it
//! must write and read again the same. Each answers whether there was something to read.

#![forbid(unsafe_code)]

mod data;
mod edges;
#[path = "../../demo/src/idx.rs"]
mod idx;
mod maths;
mod proofs;

pub use self::{data::*, edges::*, maths::*, proofs::*};
