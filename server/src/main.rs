//! The server's program: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fedbasin_server::main_with(std::env::args_os())
}
