//! The `ouro` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ouro::server::main(&ouro::cli::parse())
}
