//! The command line: parses, calls the library, and turns the outcome into lines and an exit code.

mod admin;
mod args;
mod audit;
mod profile;
mod shells;
mod site;
mod state;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, error::ErrorKind};

use crate::{
    connect::{Address, Token},
    error::{Error, Result, one_line},
    files::{check_token, read_token},
    graph,
    kit::Kit,
    offline,
    progress::Screen,
    trust::TrustOptions,
};
use args::{AuditCommand, Cli, Command, SpecCommand};

/// Runs the whole command line; `args` begins with the program's name. Exit code 0: done; 2: wrong usage; 3 and 4: a
/// run that was watched failed, or was cancelled; 1: anything else, with one line on standard error that says what, where, and what to do.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &args),
    };
    let screen = Screen::detect(cli.json);
    match dispatch(cli.command, &screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(command: Command, screen: &Screen) -> Result<()> {
    match command {
        Command::Site { command } => site::dispatch(command, screen),
        Command::Admin(args) => admin::dispatch(args, screen),
        Command::Spec { command } => match command {
            SpecCommand::Mlp { checkpoint, output } => offline::spec_mlp(&checkpoint, &output, screen),
            SpecCommand::Conv { checkpoint, output } => offline::spec_conv(&checkpoint, &output, screen),
            SpecCommand::Derive { model, checkpoint, pin, output } => {
                graph::spec_derive(&graph::DeriveJob { model, checkpoint, pin, output }, screen)
            }
            SpecCommand::Verify { spec, model, seed } => graph::spec_verify(&spec, &model, seed, screen),
            SpecCommand::Check { spec, checkpoint } => offline::spec_check(&spec, &checkpoint, screen),
        },
        Command::Permute { spec, seed, input, output } => {
            offline::permute(&spec, seed, &input, &output, screen)
        }
        Command::Scale { spec, input, output } => offline::scale(&spec, &input, &output, screen),
        Command::Align(args) => offline::align(&args.into(), screen),
        Command::Merge(args) => offline::merge(&args.into(), screen),
        Command::Barrier(args) => offline::barrier(&args.into(), screen),
        Command::Audit { command: AuditCommand::Verify { export, keys, seen } } => {
            audit::verify_export(&export, keys.as_deref(), seen.as_deref(), screen)
        }
        Command::Completions { shell } => shells::completions(shell, screen),
        Command::Man { folder } => shells::man(&folder, screen),
        Command::VerifyModel { model, signature, keys } => {
            audit::verify_model(&model, signature.as_deref(), &keys, screen)
        }
    }
}

/// Help and version are answers; anything else is wrong usage, in one line.
fn usage(error: &clap::Error, args: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is no reason to fail.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            complain(&one_line(&["a command is missing", "arguments", &see_help(args)]));
            ExitCode::from(2)
        }
        _ => {
            let text = error.to_string();
            let what = text.split("\n\n").next().unwrap_or_default();
            let what = what.trim_start_matches("error: ");
            // clap's tips are the what-to-do, where it has one.
            let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: ")).unwrap_or_default();
            let remedy = if !tip.is_empty() {
                tip.to_owned()
            } else if error.kind() == ErrorKind::MissingRequiredArgument && what.contains("--server") {
                format!("or set FEDBASIN_SERVER; {}", see_help(args))
            } else {
                see_help(args)
            };
            complain(&one_line(&[what, "arguments", &remedy]));
            ExitCode::from(2)
        }
    }
}

/// Which help says more: that of the command that was meant, as far as it can be told.
fn see_help(args: &[OsString]) -> String {
    let mut command = &Cli::command();
    let mut names = vec!["fedbasin"];
    for argument in args.iter().skip(1).filter_map(|argument| argument.to_str()) {
        let Some(found) = command.find_subcommand(argument) else { continue };
        command = found;
        names.push(argument);
    }
    format!("see `{} --help`", names.join(" "))
}

fn complain(line: &str) {
    // Nowhere is left to say that this failed.
    let _ = writeln!(io::stderr(), "fedbasin: {line}");
}

/// The secret from the file if one is named, otherwise from the environment. There is no option that holds the secret
/// itself: a command line can be read by everyone on the machine.
fn token(file: Option<&Path>, variable: &str) -> Result<Token> {
    let text = match file {
        Some(path) => read_token(path)?,
        None => match environment(variable) {
            Some(text) => check_token(text.trim(), variable)?,
            None => {
                return Err(Error::usage(
                    "no token",
                    format_args!("neither --token-file nor {variable} is given"),
                    "give one of them",
                ));
            }
        },
    };
    Ok(Token::new(text))
}

#[expect(clippy::disallowed_methods, reason = "a secret must not be an option, so clap cannot read it")]
fn environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.is_empty())
}

/// What a site's command line says of the server: what the kit says, where one is named.
struct Contact {
    address: Address,
    token: Option<Token>,
    run: Option<String>,
    trust: TrustOptions,
}

impl Contact {
    fn of(args: &args::SiteServerArgs, variable: &str) -> Result<Self> {
        let own = &args.address;
        let Some(folder) = &args.kit else {
            let address = Address {
                url: own.server.clone().unwrap_or_default(),
                ca: own.ca.clone(),
                insecure: own.insecure,
                identity: None,
            };
            address.check()?;
            return Ok(Self {
                address,
                token: Some(token(args.token_file.as_deref(), variable)?),
                run: None,
                trust: args.trust(None),
            });
        };
        let Kit { address, run, server_keys, .. } = Kit::read(folder)?;
        address.check()?;
        let token = args.token_file.as_deref().map(read_token).transpose()?.map(Token::new);
        Ok(Self { address, token, run, trust: args.trust(server_keys) })
    }
}

/// The run that is named, on the command line or by the kit.
fn named_run(named: Option<String>, by_kit: Option<&String>) -> Result<String> {
    named
        .or_else(|| by_kit.cloned())
        .ok_or_else(|| Error::usage("no run", "neither --run nor the kit names one", "name it by --run"))
}
