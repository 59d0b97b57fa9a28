//! The `ouro` program.

use std::process::ExitCode;

use ouro::cli::{self, Mode};
use ouro::server;

fn main() -> ExitCode {
    let args = cli::parse();
    if let Some(command) = &args.command {
        return cli::run(command);
    }
    if args.hot_restart_version {
        println!("{}", server::hot_restart_version());
        return ExitCode::SUCCESS;
    }
    match args.mode {
        Mode::Validate => server::validate(args.config_path.as_deref()),
        Mode::Serve => server::serve(&args.into()),
    }
}
