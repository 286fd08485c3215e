//! `cargo demo`: see the library's documentation.

use std::process::ExitCode;

fn main() -> ExitCode {
    fedbasin_demo::main_with(std::env::args_os().collect())
}
