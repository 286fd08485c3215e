//! Who may use what: the house's rules as data, and a reader that finds breaches in source text.
//!
//! The reader knows comments, literals, `use` trees and written-out paths. It does not resolve re-exports or macros: it
//! keeps honest people honest.

mod paths;

pub use paths::{Mention, mentions, unsafe_lines};

/// The one file with `unsafe`: a checked door to a kernel that multiplies matrices.
pub const UNSAFE: &str = "rebasin/src/gemm.rs";

/// Packages of ours that a package may depend on, in whatever way (also for its tests).
pub const DIRECTION: &[(&str, &[&str])] = &[
    ("rebasin", &[]),
    ("fedbasin-graph", &["rebasin"]),
    ("fedbasin-proof", &[]),
    ("fedbasin-cipher", &[]),
    ("fedbasin-proto", &[]),
    (
        "fedbasin-server",
        &["rebasin", "fedbasin-graph", "fedbasin-proof", "fedbasin-cipher", "fedbasin-proto"],
    ),
    ("fedbasin-client", &["rebasin", "fedbasin-graph", "fedbasin-proof", "fedbasin-proto"]),
    ("fedbasin-demo", &["rebasin", "fedbasin-proto", "fedbasin-server", "fedbasin-client"]),
    (
        "fedbasin-tests",
        &[
            "rebasin",
            "fedbasin-proof",
            "fedbasin-cipher",
            "fedbasin-proto",
            "fedbasin-server",
            "fedbasin-client",
            "fedbasin-demo",
        ],
    ),
];

/// Crates from the field that the pure room may depend on. Any other needs a decision.
pub const REBASIN_DEPENDENCIES: &[&str] = &[
    "gemm",
    "bytemuck",
    "half",
    "hex",
    "matrixmultiply",
    "ndarray",
    "pulp",
    "rand",
    "rand_chacha",
    "rayon",
    "safetensors",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
];

/// One room's rule.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Files whose path begins so, relative to the repository.
    pub room: &'static str,
    /// But not those whose path begins with one of these.
    pub except: &'static [&'static str],
    /// Paths that must not be mentioned: a crate, or a path within one.
    pub never: &'static [&'static str],
    /// Why.
    pub because: &'static str,
}

/// rebasin's algorithms, as opposed to its types.
const ALGORITHMS: [&str; 21] = [
    "rebasin::Activations",
    "rebasin::align",
    "rebasin::align_canonically",
    "rebasin::align_from",
    "rebasin::assign",
    "rebasin::assignment",
    "rebasin::barrier",
    "rebasin::canonical_order",
    "rebasin::canonical_scale",
    "rebasin::interpolate",
    "rebasin::matching",
    "rebasin::mean",
    "rebasin::merge_many",
    "rebasin::merge_measured",
    "rebasin::merge_to",
    "rebasin::merging",
    "rebasin::optimality",
    "rebasin::path",
    "rebasin::rescale",
    "rebasin::straight_through",
    "rayon",
];

/// What makes a room impure.
const IMPURE: [&str; 14] = [
    "tokio",
    "futures",
    "tonic",
    "axum",
    "sqlx",
    "tracing",
    "log",
    "std::time",
    "std::env",
    "std::net",
    "std::process",
    "std::thread",
    "rand::rng",
    "rand::random",
];

/// What calls somebody.
const CALLS: [&str; 16] = [
    "reqwest",
    "ureq",
    "hyper::client",
    "hyper_util::client",
    "tonic::transport::Channel",
    "tonic::transport::Endpoint",
    "std::net::TcpStream::connect",
    "std::net::TcpStream::connect_timeout",
    "std::net::UdpSocket",
    "tokio::net::TcpSocket",
    "tokio::net::TcpStream::connect",
    "tokio::net::UdpSocket",
    "TcpStream::connect",
    "TcpStream::connect_timeout",
    "net::TcpStream::connect",
    "net::UdpSocket",
];

/// The rules for source text.
pub const RULES: &[Rule] = &[
    Rule {
        room: "rebasin/src/",
        except: &[],
        never: &IMPURE,
        because: "rebasin is pure: no async, network, SQL, clocks, environment, logging",
    },
    Rule { room: "graph/src/", except: &[], never: &IMPURE, because: "graph is pure: bytes in, values out" },
    Rule {
        room: "proof/src/",
        except: &[],
        never: &IMPURE,
        because: "proof is pure: statements in, verdicts out",
    },
    Rule { room: "proof/src/", except: &[], never: &["std::fs"], because: "proof reads no files" },
    Rule {
        room: "cipher/src/",
        except: &[],
        never: &IMPURE,
        because: "cipher is pure but for random numbers",
    },
    Rule { room: "cipher/src/", except: &[], never: &["std::fs"], because: "cipher touches no files" },
    Rule { room: "graph/src/", except: &[], never: &["std::fs"], because: "graph reads no files" },
    Rule {
        room: "server/src/round/",
        except: &[],
        never: &[
            "crate",
            "super",
            "tokio",
            "futures",
            "tonic",
            "axum",
            "sqlx",
            "object_store",
            "tracing",
            "std::time",
            "std::env",
            "std::net",
            "std::fs",
            "std::io",
            "std::thread",
            "async",
        ],
        because: "the round's state machine is pure and knows nothing above it; time is an argument",
    },
    Rule {
        room: "server/src/store/",
        except: &[],
        never: &["tonic", "axum", "crate::grpc", "crate::http", "crate::worker"],
        because: "the store holds the only SQL and the only checkpoint storage, and is called by the rooms above it",
    },
    Rule {
        room: "server/src/store/",
        except: &[],
        never: &ALGORITHMS,
        because: "the store stores; the worker computes",
    },
    Rule {
        room: "server/src/worker/",
        except: &[],
        never: &["tonic", "axum", "sqlx", "crate::grpc", "crate::http"],
        because: "the worker knows the store, the round and the mathematics, not the edges, and no SQL",
    },
    Rule {
        room: "server/src/grpc/",
        except: &[],
        never: &["sqlx", "rayon", "axum", "object_store", "crate::http"],
        because: "an edge decodes, authenticates, calls, encodes: no SQL, no computing, nothing of the other edge",
    },
    Rule {
        room: "server/src/http/",
        except: &[],
        never: &["sqlx", "rayon", "tonic", "object_store", "crate::grpc"],
        because: "an edge decodes, authenticates, calls, encodes: no SQL, no computing, nothing of the other edge",
    },
    Rule {
        room: "server/src/",
        // Maps a database's and a bucket's errors to the table of codes.
        except: &["server/src/store/", "server/src/error.rs"],
        never: &["sqlx", "object_store"],
        because: "the only SQL and the only checkpoint storage is in server/src/store",
    },
    Rule {
        room: "server/src/",
        except: &["server/src/graphs.rs"],
        never: &["fedbasin_graph"],
        because: "a stranger's graph is read and run by a process of its own, which server/src/graphs.rs alone speaks to",
    },
    Rule {
        room: "server/src/webhooks/",
        except: &[],
        never: &["tonic", "axum", "sqlx", "rayon", "crate::grpc", "crate::http", "crate::worker"],
        because: "notices are rows that the store leases; who sends them knows neither the edges nor what is computed",
    },
    Rule {
        room: "server/src/",
        // The identity provider, the webhooks and the collector of traces that the settings name; the server itself, asked whether it is well.
        except: &[
            "server/src/authorities.rs",
            "server/src/auth/oidc/",
            "server/src/config/oidc.rs",
            "server/src/config/webhooks.rs",
            "server/src/webhooks/",
            "server/src/config/otlp.rs",
            "server/src/traces/",
            "server/src/healthcheck.rs",
        ],
        never: &CALLS,
        because: "no telemetry: the server calls its database, its object store, and the identity provider, webhooks and collector of traces that its operator names, and nobody else",
    },
    Rule {
        room: "client/src/",
        except: &[],
        never: &["sqlx", "axum", "fedbasin_server", "object_store"],
        because: "a client speaks the contract; it holds no database and nothing of the server",
    },
];

/// Finds breaches of [`RULES`] in one file. `path` is relative to the repository, with `/`.
#[must_use]
pub fn breaches(path: &str, source: &str) -> Vec<String> {
    if is_test(path) {
        return Vec::new();
    }
    let rules = RULES.iter().filter(|rule| in_room(path, rule));
    let mut found = Vec::new();
    let mentions = mentions(source);
    for rule in rules {
        for mention in &mentions {
            for never in rule.never {
                if within(&absolute(path, &mention.path), never) || within(&mention.path, never) {
                    found.push(format!(
                        "{path}:{}: mentions {}; {}",
                        mention.line, mention.path, rule.because
                    ));
                }
            }
        }
    }
    found
}

/// Finds breaches of [`DIRECTION`] in one package's dependencies.
#[must_use]
pub fn wrong_direction(package: &str, dependencies: &[&str]) -> Vec<String> {
    let Some((_, may)) = DIRECTION.iter().find(|(name, _)| *name == package) else {
        return vec![format!("package {package} is not in the table of directions: decide where it stands")];
    };
    let ours = |name: &&&str| DIRECTION.iter().any(|(package, _)| package == *name);
    let wrong = dependencies.iter().filter(ours).filter(|name| !may.contains(name));
    wrong.map(|name| format!("{package} depends on {name}; it may only on {may:?}")).collect()
}

/// Tests stand in sibling files and may set a scene with anything.
fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/testing")
}

/// A room `a/b/` is the folder and the file `a/b.rs`.
fn in_room(path: &str, rule: &Rule) -> bool {
    let inside = |room: &str| {
        let file = room.strip_suffix('/').map(|folder| format!("{folder}.rs"));
        path.starts_with(room) || file.as_deref() == Some(path)
    };
    inside(rule.room) && !rule.except.iter().any(|room| inside(room))
}

fn within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `super::x` as `crate::…::x`, seen from a file.
fn absolute(file: &str, path: &str) -> String {
    if !path.starts_with("super") {
        return path.to_owned();
    }
    let inner = file.split_once("/src/").map_or(file, |(_, inner)| inner);
    let mut modules: Vec<&str> =
        inner.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    let mut rest = path;
    while let Some(after) = rest.strip_prefix("super") {
        modules.pop();
        rest = after.strip_prefix("::").unwrap_or(after);
    }
    let mut absolute = vec!["crate"];
    absolute.extend(modules);
    absolute.extend(rest.split("::").filter(|part| !part.is_empty()));
    absolute.join("::")
}

#[cfg(test)]
mod tests;
