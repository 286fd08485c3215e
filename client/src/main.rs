//! The command line `fedbasin`.

use std::process::ExitCode;

fn main() -> ExitCode {
    fedbasin_client::main_with(std::env::args_os())
}
