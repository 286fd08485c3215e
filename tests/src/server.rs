//! A real server in a process of its own.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use sqlx::{AnyConnection, Connection as _};

use crate::{Admin, Database, PATIENCE, Site, eventually, is_stopped, tell};

/// Path of the server's program: the one that cargo built together with this test.
///
/// # Panics
/// Where the test does not lie in a target folder.
#[must_use]
pub fn server_binary() -> PathBuf {
    built("server-under-test")
}

/// Path of the client's program: the one that cargo built together with this test.
///
/// # Panics
/// Where the test does not lie in a target folder.
#[must_use]
pub fn client_binary() -> PathBuf {
    built("client-under-test")
}

/// target/<profile>
fn profile() -> PathBuf {
    // target/<profile>/deps/<this test>
    let test = std::env::current_exe().expect("the path of this test");
    test.ancestors().nth(2).expect("a test lies two folders deep").to_owned()
}

/// Signing keys that all servers of tests have, so that several may share a database, and a restored one goes on: made by whoever comes
/// first.
///
/// # Panics
/// Where the file can be neither found nor made.
#[must_use]
pub fn signing_keys() -> PathBuf {
    let path = profile().join("signing-keys-of-tests.pem");
    if !path.exists() {
        let own = tempfile::NamedTempFile::new_in(profile()).expect("a file");
        fs::write(own.path(), fedbasin_proof::SigningKeys::generate().expect("random")).expect("written");
        // Another process may have been faster: then its file counts.
        let _ = own.persist_noclobber(&path);
    }
    path
}

fn built(name: &str) -> PathBuf {
    let path = profile().join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --package fedbasin-tests --bins`",
        path.display()
    );
    path
}

const ANY_PORT: &str = "127.0.0.1:0";

/// How a test wants its server.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Further TOML for the configuration file, for instance `[limits]`.
    pub config: String,
    /// PEM files of a certificate and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Further lines of `[tls]`.
    pub more_tls: String,
    /// The admin token, by file; without it the server makes its own.
    pub admin_token: Option<String>,
    /// Variables of its environment.
    pub environment: Vec<(&'static str, String)>,
    /// Whether it only works (`work`), and has no addresses.
    pub only_works: bool,
    /// Whether it makes its own signing keys, instead of those that tests share.
    pub own_keys: bool,
    /// How many files it may open before it asks for more (the soft limit); without it, as many as the test may.
    pub open_files: Option<u32>,
}

impl Options {
    /// A server that keeps its bytes in a folder that others see too.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { config: format!("[objects]\nurl = \"file://{}\"\n", folder.display()), ..Self::default() }
    }

    /// One of several servers, which leaves the work to others; `work` are further lines of `[work]`.
    #[must_use]
    pub fn only_serving(self, work: &str) -> Self {
        Self {
            config: format!("{}[work]\nin_serve = false\n{work}\n", self.config),
            admin_token: Some("an-admin-token-of-all-replicas-0123456789".into()),
            ..self
        }
    }
}

/// A running server with a data folder and a database of its own; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    /// URL of the gRPC edge.
    pub grpc: String,
    /// URL of the HTTP edge.
    pub http: String,
    /// Folder of everything this server writes.
    pub folder: tempfile::TempDir,
    options: Options,
    database: Database,
}

impl Server {
    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// Where it does not, with its log.
    #[must_use]
    pub fn start(database: Database) -> Self {
        Self::start_with(database, Options::default())
    }

    /// Starts one with options and waits until it listens.
    ///
    /// # Panics
    /// Where it does not, with its log.
    #[must_use]
    pub fn start_with(database: Database, options: Options) -> Self {
        Self::start_restored(database, options, |_, _| {})
    }

    /// Starts one on what `restore` puts into its database (the URL of an empty one, or none for SQLite) and its data folder.
    ///
    /// # Panics
    /// Where it does not listen, with its log.
    #[must_use]
    pub fn start_restored(
        database: Database,
        options: Options,
        restore: impl FnOnce(Option<&str>, &Path),
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("fedbasin-test-").tempdir().expect("a temporary folder");
        let mut server =
            Self { child: None, grpc: String::new(), http: String::new(), folder, options, database };
        restore(server.database_url().as_deref(), &server.data_dir());
        if let Err(error) = server.run(ANY_PORT, ANY_PORT, None) {
            panic!("{error}");
        }
        server
    }

    /// Another process on the same database, with the same options but a data folder of its own.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn beside(&self, only_works: bool) -> Self {
        Self::start_with(self.database.clone(), Options { only_works, ..self.options.clone() })
    }

    /// Stops the process where it stands (SIGSTOP), or lets it go on.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn pause(&self, stop: bool) {
        tell(self.id(), if stop { "STOP" } else { "CONT" });
    }

    /// Whether it was stopped, by a test or by itself (`FEDBASIN_FAILPOINT`), and does not go on yet.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.child.as_ref().is_some_and(|child| is_stopped(child.id()))
    }

    /// Its process's id.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// Kills the server as a power cut would (SIGKILL) and waits until it is gone.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a running server");
        child.kill().expect("the server can be killed");
        child.wait().expect("the server is gone");
    }

    /// Tells the server to end (SIGTERM) and waits until it is gone.
    ///
    /// # Panics
    /// Where it does not run or does not end in time.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("a running server");
        tell(child.id(), "TERM");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status;
            }
            if begun.elapsed() > PATIENCE {
                // Not left behind, whatever it waits for.
                let _ = child.kill();
                panic!("the server does not end, its log is:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again, at the same addresses, on what it left behind.
    ///
    /// # Panics
    /// Where it still runs, or does not start.
    pub fn start_again(&mut self) {
        if let Err(error) = self.try_start_again(None) {
            panic!("{error}");
        }
    }

    /// The same with a point where it ends or stops itself (`FEDBASIN_FAILPOINT`), which it may come to before it listens. One that
    /// serves must not stop before.
    ///
    /// # Panics
    /// Where it still runs, or does not start.
    pub async fn start_again_until(&mut self, failpoint: &str) {
        if self.try_start_again(Some(failpoint)).is_err() && !self.is_stopped() {
            eventually("the server is gone", || self.was_killed().then_some(())).await;
        }
    }

    /// Whether its process was ended by SIGKILL, so that it can be started again.
    ///
    /// # Panics
    /// Where it ended in another way.
    pub fn was_killed(&mut self) -> bool {
        let Some(child) = &mut self.child else { return true };
        let Some(status) = child.try_wait().expect("its status") else { return false };
        assert_eq!(
            status.signal(),
            Some(9),
            "the server ended by itself ({status}); its log is:\n{}",
            self.log()
        );
        self.child = None;
        true
    }

    fn try_start_again(&mut self, failpoint: Option<&str>) -> Result<(), String> {
        assert!(self.child.is_none(), "the server still runs");
        let (grpc, http) = match self.options.only_works {
            true => (ANY_PORT.to_owned(), ANY_PORT.to_owned()),
            false => (address(&self.grpc).to_owned(), address(&self.http).to_owned()),
        };
        self.run(&grpc, &http, failpoint)
    }

    /// The same as [`Server::start_with`], where it may refuse to start.
    ///
    /// # Errors
    /// What it printed and its log.
    ///
    /// # Panics
    /// Where no folder can be made.
    pub fn try_start(database: Database, options: Options) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("fedbasin-test-").tempdir().expect("a temporary folder");
        let mut server =
            Self { child: None, grpc: String::new(), http: String::new(), folder, options, database };
        server.run(ANY_PORT, ANY_PORT, None).map(|()| server)
    }

    /// What a command of the server's program says with this one's settings, and whether it succeeds.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn says(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.program(arguments).output().expect("the program runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// What `fsck` says of all rows and bytes, and whether it found damage.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn fsck(&self) -> (bool, String) {
        self.says(&["fsck"])
    }

    /// What another process says that is started with the same settings, and how it ends.
    ///
    /// # Panics
    /// Where the program does not run.
    #[must_use]
    pub fn start_another(&self) -> (Option<i32>, String) {
        let output = self.program(&["work"]).output().expect("the program runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder for what an operator's program keeps of this server: not the home folder of whoever runs the tests.
    #[must_use]
    pub fn operators_dir(&self) -> PathBuf {
        self.folder.path().join("operator")
    }

    /// The URL of its Postgres database; `None` where it uses SQLite, in the data folder.
    #[must_use]
    pub fn database_url(&self) -> Option<String> {
        self.database.url()
    }

    /// A connection to its database, whichever that is.
    ///
    /// # Panics
    /// Where the database is not reached.
    pub async fn rows(&self) -> AnyConnection {
        sqlx::any::install_default_drivers();
        let sqlite = || format!("sqlite://{}", self.data_dir().join("fedbasin.sqlite").display());
        AnyConnection::connect(&self.database_url().unwrap_or_else(sqlite))
            .await
            .expect("the server's database")
    }

    /// The admin token that is in force.
    ///
    /// # Panics
    /// Where the server wrote none.
    #[must_use]
    pub fn admin_token(&self) -> String {
        let file = self.data_dir().join("admin-token");
        match &self.options.admin_token {
            Some(token) => token.clone(),
            None => fs::read_to_string(file).expect("the generated admin token").trim().to_owned(),
        }
    }

    /// A client of the HTTP edge, with the admin token.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(&self.http, &self.admin_token())
    }

    /// Enrols a site and connects as it.
    ///
    /// # Panics
    /// Where the server refuses.
    #[must_use]
    pub fn site(&self, id: &str) -> Site {
        Site::new(id, &self.grpc, &self.admin().enrol(id))
    }

    /// Resident memory of the server's process, in bytes.
    ///
    /// # Panics
    /// Where it does not run or the system has no `/proc`.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:").expect("a running server on a system with /proc")
    }

    /// The most memory that its process had resident since it started, or since [`Server::forget_peak`], in bytes; nothing once it
    /// has ended.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<u64> {
        self.status_bytes("VmHWM:")
    }

    /// Lets [`Server::peak_bytes`] begin again with what is resident now.
    ///
    /// # Panics
    /// Where it does not run or the system keeps no such figure.
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.id()), "5").expect("the peak can be forgotten");
    }

    /// A size that the process's status tells; nothing where it tells none, as one that has ended.
    fn status_bytes(&self, field: &str) -> Option<u64> {
        let id = self.child.as_ref()?.id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kib * 1024)
    }

    /// The paths of the uploads whose files the server's process holds open; those that were removed end in `(deleted)`.
    ///
    /// # Panics
    /// Where it does not run or the system has no `/proc`.
    #[must_use]
    pub fn open_uploads(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.id())).expect("the process's files");
        // A file may be closed between listing and reading.
        let paths = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        paths.filter(|path| path.starts_with(self.data_dir().join("staging"))).collect()
    }

    fn run(&mut self, grpc: &str, http: &str, failpoint: Option<&str>) -> Result<(), String> {
        let log_path = self.folder.path().join("server.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path).expect("a log file");
        self.write_config(grpc, http);
        let mut command = self.program(&[if self.options.only_works { "work" } else { "serve" }]);
        command.envs(failpoint.map(|point| ("FEDBASIN_FAILPOINT", point)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("the server's program starts");
        let stdout = child.stdout.take().expect("its output is piped");
        self.child = Some(child);

        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let begun = Instant::now();
        let line = loop {
            match receiver.recv_timeout(Duration::from_millis(100)) {
                Err(mpsc::RecvTimeoutError::Timeout) if begun.elapsed() < PATIENCE && !self.is_stopped() => {}
                line => break line.unwrap_or_default(),
            }
        };
        if self.options.only_works && line == "working" {
            return Ok(());
        }
        let found = line.strip_prefix("listening grpc=").and_then(|rest| rest.split_once(" http="));
        let Some((grpc, http)) = found else {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            return Err(format!("the server does not listen; it printed {line:?}, and its log is:\n{log}"));
        };
        (self.grpc, self.http) = (grpc.to_owned(), http.to_owned());
        Ok(())
    }

    /// The server's program with its settings.
    fn program(&self, subcommand: &[&str]) -> Command {
        let mut command = match self.options.open_files {
            None => Command::new(server_binary()),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", &format!("ulimit -S -n {files} && exec \"$0\" \"$@\"")])
                    .arg(server_binary());
                shell
            }
        };
        command.args(subcommand).arg("--config").arg(self.config_path()).current_dir(self.folder.path());
        if let Some(url) = self.database.url() {
            // A password belongs in the environment, not on a command line.
            command.env("FEDBASIN_DATABASE_URL", url);
        }
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn config_path(&self) -> PathBuf {
        self.folder.path().join("fedbasin.toml")
    }

    fn write_config(&self, grpc: &str, http: &str) {
        let mut toml = String::new();
        let _ = writeln!(toml, "data_dir = {:?}", self.data_dir());
        if let Some(token) = &self.options.admin_token {
            let file = self.folder.path().join("given-admin-token");
            fs::write(&file, format!("{token}\n")).expect("a token file");
            let _ = writeln!(toml, "admin_token_file = {file:?}");
        }
        if !self.options.own_keys {
            let _ = writeln!(toml, "signing_key_file = {:?}", signing_keys());
        }
        let _ = writeln!(toml, "[grpc]\nlisten = {grpc:?}\n[http]\nlisten = {http:?}");
        if let Some((cert, key)) = &self.options.tls {
            let _ =
                writeln!(toml, "[tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n{}", self.options.more_tls);
        }
        toml.push_str(&self.options.config);
        fs::write(self.config_path(), toml).expect("a configuration file");
    }

    /// Everything the server logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        Path::join(self.folder.path(), "server.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- the server's log ----\n{}", self.log());
        }
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, address)| address)
}
