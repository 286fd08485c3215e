#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
pub mod export;
pub mod head;
pub mod keys;
pub mod merkle;
pub mod model;
pub mod receipt;
pub mod record;

pub use self::{
    error::ProofError,
    head::{SignedHead, TreeHead},
    keys::{PublicKeys, SigningKeys},
    merkle::{Frontier, Hash},
    receipt::Receipt,
    record::{Record, Who},
};
