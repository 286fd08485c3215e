//! `fedbasin`, built together with the tests that start it.

fn main() -> std::process::ExitCode {
    fedbasin_client::main_with(std::env::args_os())
}
