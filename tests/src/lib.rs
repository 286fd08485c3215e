#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod admin;
mod browser;
mod bucket;
pub mod checkpoint;
mod database;
pub mod floods;
pub mod h2;
mod http_proxy;
mod issuer;
mod process;
mod program;
mod proxy;
mod receiver;
pub mod rooms;
mod self_signed;
mod server;
mod site;
pub mod stored;
mod wait;

pub use admin::{Admin, Answer};
pub use browser::Browser;
pub use bucket::Bucket;
pub use database::{Database, postgres_program};
pub use http_proxy::{HttpProxy, ProxyRules, TlsProxy};
pub use issuer::{Desk, Issuer, IssuerKey, now};
pub use process::{is_stopped, tell};
pub use program::SiteProgram;
pub use proxy::{Fault, Proxy, Way};
pub use receiver::{Receiver, Told};
pub use self_signed::SelfSigned;
pub use server::{Options, Server, client_binary, server_binary, signing_keys};
pub use site::{Bearer, Client, Refusal, Sending, Site, assert_refused, chunks, digest, last};
pub use wait::{PATIENCE, eventually};

/// Makes of each `async fn claim(database: Database)` two tests, `claim::on_sqlite` and `claim::on_postgres`.
#[macro_export]
macro_rules! on_both_databases {
    ($($claim:ident),+ $(,)?) => {
        $(
            mod $claim {
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_sqlite() {
                    super::$claim($crate::Database::sqlite()).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn on_postgres() {
                    super::$claim($crate::Database::postgres().await).await;
                }
            }
        )+
    };
}
