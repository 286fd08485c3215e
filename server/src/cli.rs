//! The command line `fedbasin-server`.

mod audit;
mod init;
mod pki;

use std::{
    ffi::OsString,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use self::{audit::AuditCommand, init::InitArgs, pki::PkiCommand};
use crate::{
    config::{Config, Objects, Secret, Tls},
    error::{Error, Result},
    files::read_given,
    graphs,
    healthcheck::healthcheck,
    serve, signing,
    store::Store,
};

#[derive(Debug, Parser)]
#[command(
    name = "fedbasin-server",
    version,
    about = "Collects, aligns, merges, records and publishes models"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a folder with all that a first server needs (settings, keys, certificates, the operator's token), and say how to go on
    Init(InitArgs),
    /// Serve sites (gRPC) and operators (HTTP), and do the work: align, merge, publish
    Serve(ServeArgs),
    /// Do the work only: align, merge, publish. Any number, beside any number of `serve`, on one Postgres and one [objects]
    Work(StorageArgs),
    /// Bring the database's schema up to date, then end
    Migrate(MigrateArgs),
    /// Compare all rows with all stored bytes, say what is missing, altered or orphaned, and change nothing
    Fsck(FsckArgs),
    /// Check or export the audit log; needs the database, no running server
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Derive and verify the spec of the graph on standard input, within limits; for the server itself
    #[command(name = graphs::SUBCOMMAND, hide = true)]
    VerifyGraph { memory_bytes: u64, seconds: u64 },
    /// Make a private authority, and certificates for the server and its sites; needs no server
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Ask a running server whether it is ready; for container health checks
    Healthcheck(HealthArgs),
    /// Print a script that lets a shell complete this program's commands and options
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write manual pages of this program and all its commands into a folder
    Man {
        /// The folder, for instance ~/.local/share/man/man1; it is made if it is not there
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where rows and bytes are.
#[derive(Debug, Args)]
struct StorageArgs {
    /// Settings (TOML); the flags below go before it
    #[arg(long, value_name = "FILE", env = "FEDBASIN_CONFIG")]
    config: Option<PathBuf>,
    /// Folder for checkpoints, uploads under way, the embedded database [default: fedbasin-data]
    #[arg(long, value_name = "DIR", env = "FEDBASIN_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// postgres://… or sqlite://… [default: SQLite in the data folder]
    #[arg(long, value_name = "URL", env = "FEDBASIN_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// File that holds the database URL, for secrets mounted as files
    #[arg(long, value_name = "FILE", env = "FEDBASIN_DATABASE_URL_FILE", conflicts_with = "database_url")]
    database_url_file: Option<PathBuf>,
    /// s3://bucket/prefix or file:///folder, shared by several processes [default: a folder in the data folder]
    #[arg(long, value_name = "URL", env = "FEDBASIN_OBJECTS_URL")]
    objects_url: Option<String>,
    /// Address of an S3-compatible server [default: Amazon's]
    #[arg(long, value_name = "URL", env = "FEDBASIN_S3_ENDPOINT")]
    s3_endpoint: Option<String>,
    /// Keys that receipts, models and the audit log are signed with, and updates encrypted (PEM); all processes of one database need the same [default: made in the data folder]
    #[arg(long, value_name = "PEM", env = "FEDBASIN_SIGNING_KEY_FILE")]
    signing_key_file: Option<PathBuf>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT", env = "FEDBASIN_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// What signs the notices of webhooks that name no secret_file; give it in the environment, not on the command line
    #[arg(long, value_name = "SECRET", env = "FEDBASIN_WEBHOOK_SECRET", hide_env_values = true, hide = true)]
    webhook_secret: Option<String>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    storage: StorageArgs,
    /// gRPC address; port 0 takes a free one [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR", env = "FEDBASIN_GRPC_LISTEN")]
    grpc_listen: Option<SocketAddr>,
    /// HTTP address; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "FEDBASIN_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
    /// Certificate chain (PEM) for both addresses
    #[arg(long, value_name = "PEM", env = "FEDBASIN_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, value_name = "PEM", env = "FEDBASIN_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authority that signs sites' certificates (PEM); absent: sites show tokens only
    #[arg(long, value_name = "PEM", env = "FEDBASIN_TLS_CLIENT_CA")]
    tls_client_ca: Option<PathBuf>,
    /// Speak clear text beyond this machine: a proxy ends TLS before this server
    #[arg(long, env = "FEDBASIN_ALLOW_CLEAR_TEXT")]
    allow_clear_text: bool,
    /// File that holds the admin token [default: one is made in the data folder]
    #[arg(long, value_name = "FILE", env = "FEDBASIN_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// The admin token; give it in the environment, not on the command line, where others can read it
    #[arg(long, value_name = "TOKEN", env = "FEDBASIN_ADMIN_TOKEN", hide_env_values = true, hide = true)]
    admin_token: Option<String>,
}

#[derive(Debug, Args)]
struct MigrateArgs {
    /// Let this role of Postgres use the database without owning it: it can serve and work, and only append to the audit log
    #[arg(long, value_name = "ROLE")]
    grant_to: Option<String>,
    #[command(flatten)]
    storage: StorageArgs,
}

#[derive(Debug, Args)]
struct FsckArgs {
    /// Compare sizes only, instead of reading and hashing every byte
    #[arg(long)]
    sizes_only: bool,
    #[command(flatten)]
    storage: StorageArgs,
}

#[derive(Debug, Args)]
struct HealthArgs {
    /// The HTTP edge of the server
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "FEDBASIN_HEALTHCHECK_ADDR")]
    address: SocketAddr,
    /// Its settings: with [tls] in them the check speaks TLS and trusts that certificate alone
    #[arg(long, value_name = "FILE", env = "FEDBASIN_CONFIG")]
    config: Option<PathBuf>,
    /// Its certificate, where the settings do not name it
    #[arg(long, value_name = "PEM", env = "FEDBASIN_TLS_CERT")]
    tls_cert: Option<PathBuf>,
}

impl HealthArgs {
    fn ask(self) -> Result<()> {
        let configured = read_config(self.config.as_deref())?.tls.map(|tls| tls.cert_file);
        healthcheck(self.address, self.tls_cert.or(configured).as_deref())
    }
}

fn read_config(path: Option<&Path>) -> Result<Config> {
    let Some(path) = path else { return Ok(Config::default()) };
    let text = read_given("--config", path)?;
    Config::from_toml(&text).map_err(|error| Error::invalid(format!("--config: {}: {error}", path.display())))
}

/// The URL in a file that a flag or a setting names.
fn read_database_url(setting: &str, path: &Path) -> Result<Secret> {
    Ok(Secret::new(read_given(setting, path)?.trim()))
}

impl StorageArgs {
    fn into_config(self) -> Result<Config> {
        let mut config = read_config(self.config.as_deref())?;
        if let Some(folder) = self.data_dir {
            config.data_dir = folder;
        }
        if let Some(url) = self.database_url {
            config.database_url = Some(Secret::new(url));
        }
        let named = self.database_url_file.map(|path| ("--database-url-file", path));
        let in_settings = config.database_url_file.clone().map(|path| ("database_url_file", path));
        if let Some((setting, path)) = named.or(in_settings.filter(|_| config.database_url.is_none())) {
            config.database_url = Some(read_database_url(setting, &path)?);
        }
        if let Some(url) = self.objects_url {
            let (endpoint, region) =
                config.objects.map_or((None, None), |objects| (objects.endpoint, objects.region));
            config.objects = Some(Objects { url, endpoint, region });
        }
        if let (Some(objects), Some(endpoint)) = (&mut config.objects, self.s3_endpoint) {
            objects.endpoint = Some(endpoint);
        }
        if let Some(path) = self.signing_key_file {
            config.signing_key_file = Some(path);
        }
        if let Some(format) = self.log_format {
            config.log.json = format == LogFormat::Json;
        }
        config.webhook_secret = self.webhook_secret.map(Secret::new);
        Ok(config)
    }
}

impl ServeArgs {
    fn into_config(self) -> Result<Config> {
        let mut config = self.storage.into_config()?;
        if let Some(listen) = self.grpc_listen {
            config.grpc.listen = listen;
        }
        if let Some(listen) = self.http_listen {
            config.http.listen = listen;
        }
        config.allow_clear_text |= self.allow_clear_text;
        if let (Some(cert_file), Some(key_file)) = (self.tls_cert, self.tls_key) {
            let (client_ca_file, client_certificates) =
                config.tls.map(|tls| (tls.client_ca_file, tls.client_certificates)).unwrap_or_default();
            config.tls = Some(Tls { cert_file, key_file, client_ca_file, client_certificates });
        }
        match (&mut config.tls, self.tls_client_ca) {
            (_, None) => {}
            (Some(tls), Some(path)) => tls.client_ca_file = Some(path),
            (None, Some(_)) => {
                return Err(Error::invalid(
                    "--tls-client-ca: needs --tls-cert and --tls-key, or [tls] in the settings",
                ));
            }
        }
        if let Some(path) = self.admin_token_file {
            config.admin_token_file = Some(path);
        }
        config.admin_token = self.admin_token.map(Secret::new);
        Ok(config)
    }
}

/// Runs the whole program with these arguments (the first is its name) and gives its exit code: 0, 2 for wrong
/// usage, 1 for everything else.
pub fn main_with<I>(args: I) -> ExitCode
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let program = args.first().cloned().unwrap_or_else(|| "fedbasin-server".into());
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing better can be done when even that cannot be printed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match cli.command {
        Command::Init(args) => args.run(&program),
        Command::Serve(args) => run(args.into_config(), serve::serve),
        Command::Work(args) => run(args.into_config(), serve::work),
        Command::Migrate(args) => {
            run(args.storage.into_config(), async |config| migrate(&config, args.grant_to.as_deref()).await)
        }
        Command::Audit(command) => command.run(),
        Command::Fsck(args) => {
            run(args.storage.into_config(), async |config| fsck(&config, !args.sizes_only).await)
        }
        Command::VerifyGraph { memory_bytes, seconds } => return graphs::child(memory_bytes, seconds),
        Command::Pki(command) => command.run(),
        Command::Healthcheck(args) => args.ask(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fedbasin-server", &mut script);
            // A closed pipe is no reason to fail.
            let _ = std::io::stdout().write_all(&script);
            Ok(())
        }
        Command::Man { folder } => man(&folder),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fedbasin-server: {}", error.message().replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

/// Runs a part of the program with its settings, its logging and a runtime.
fn run(config: Result<Config>, part: impl AsyncFnOnce(Config) -> Result<()>) -> Result<()> {
    let config = config?;
    serve::init_logging(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Error::internal(format_args!("no runtime: {error}")))?.block_on(part(config))
}

/// Writes a page of each command.
fn man(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|error| Error::invalid(format!("cannot write {}: {error}", folder.display())))
}

async fn migrate(config: &Config, grant_to: Option<&str>) -> Result<()> {
    let store = Store::open(config).await?;
    match grant_to {
        Some(role) => store.grant_to(role).await,
        None => Ok(()),
    }
}

/// Prints one line a finding, and a summary; an error if anything is damaged.
async fn fsck(config: &Config, whole: bool) -> Result<()> {
    let mut store = Store::open_as_it_is(config).await?;
    // Sizes are seen without keys, and so are bytes that lie plain.
    if whole && let Some(key) = signing::storage_key(config)? {
        store = store.encrypting(&key);
    }
    let (mut damaged, mut orphans) = (0_u64, 0_u64);
    let checkpoints = store
        .fsck(whole, &mut |finding| {
            *if finding.is_damage() { &mut damaged } else { &mut orphans } += 1;
            println!("{finding}");
        })
        .await?;
    let read = if whole { "every byte read" } else { "sizes compared" };
    println!("{checkpoints} checkpoints, {read}: {damaged} damaged; {orphans} orphans");
    match damaged {
        0 => Ok(()),
        _ => Err(Error::internal(format!("{damaged} pointers or checkpoints are damaged, see above"))),
    }
}
