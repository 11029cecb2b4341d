//! `kubectl-hearth`, which kubectl starts as `kubectl hearth`: wires the command line to the library.

use std::io;
use std::process::ExitCode;

use clap::Parser as _;
use kubectl_hearth::cli::Cli;
use kubectl_hearth::{Screen, run};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let mut screen = Screen::of_process(&mut out, &mut err);
    match run(cli, &mut screen).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            screen.fail(&failure);
            ExitCode::from(failure.code())
        }
    }
}
