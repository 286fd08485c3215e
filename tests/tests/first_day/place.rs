//! A place where commands are typed as a document has them: both programs in `PATH` by their own names, a home folder of its own, and
//! what stays in the foreground ended with it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use fedbasin_tests::{PATIENCE, client_binary, eventually, server_binary};

/// What the programs look at and a caller may have set.
const MEANS_SOMETHING: [&str; 15] = [
    "FEDBASIN_SERVER",
    "FEDBASIN_TOKEN",
    "FEDBASIN_ADMIN_SERVER",
    "FEDBASIN_ADMIN_TOKEN",
    "FEDBASIN_STATE_DIR",
    "FEDBASIN_PROFILE",
    "XDG_STATE_HOME",
    "XDG_CONFIG_HOME",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "FEDBASIN_CONFIG",
];

/// One folder, and all that is started in it.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place =
            Self { folder: tempfile::Builder::new().prefix("first day ").tempdir().expect("a folder") };
        for name in ["bin", "elsewhere"] {
            fs::create_dir(place.path(name)).expect("a folder");
        }
        symlink(server_binary(), place.path("bin/fedbasin-server")).expect("a name");
        symlink(client_binary(), place.path("bin/fedbasin")).expect("a name");
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A POSIX shell that runs `script` in `folder`, by its home folder, with what the caller's environment says to the programs taken away.
    pub(crate) fn shell(&self, folder: &Path, script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-euc", &format!("PATH=\"$PLACE/bin:$PATH\"\n{script}")]).current_dir(folder);
        for name in MEANS_SOMETHING {
            shell.env_remove(name);
        }
        shell.env("PLACE", self.folder.path()).env("HOME", folder).stdin(Stdio::null());
        shell
    }

    /// Runs `script` in a folder where nothing is, to its end.
    pub(crate) fn types(&self, script: &str) -> Output {
        self.shell(&self.path("elsewhere"), script).output().expect("a shell")
    }
}

/// A command that stays in the foreground; it and all that it started are killed when dropped.
pub(crate) struct Foreground {
    child: Child,
    /// The two addresses of a server.
    pub(crate) grpc: String,
    pub(crate) http: String,
}

impl Foreground {
    /// Starts a command by a shell.
    pub(crate) fn starts(mut shell: Command) -> Self {
        let child = shell.process_group(0).spawn().expect("a shell");
        Self { child, grpc: String::new(), http: String::new() }
    }

    /// Waits until it ended by itself, and did well.
    pub(crate) async fn ends(mut self) {
        let ended = || self.child.try_wait().expect("its status");
        let status = eventually("a command in the foreground ends", ended).await;
        assert!(status.success(), "it ended with {status}");
    }

    /// Starts a server by a shell and waits until it listens.
    pub(crate) fn serves(mut shell: Command) -> Self {
        let mut child = shell.process_group(0).stdout(Stdio::piped()).spawn().expect("a shell");
        let stdout = child.stdout.take().expect("its output is piped");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        // Ended with this, also where it never listens.
        let mut server = Self { child, grpc: String::new(), http: String::new() };
        let line = receiver.recv_timeout(PATIENCE).expect("the server says that it listens");
        let both = line.strip_prefix("listening grpc=").and_then(|rest| rest.split_once(" http="));
        let (grpc, http) = both.unwrap_or_else(|| panic!("{line}"));
        (server.grpc, server.http) = (grpc.to_owned(), http.to_owned());
        server
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let group = self.child.id();
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status();
        }
        let _ = self.child.wait();
        // What it started holds its folder and its ports until it is gone, too.
        let begun = Instant::now();
        while lives(group) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether a process of this group runs yet.
fn lives(group: u32) -> bool {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut statuses = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    // `id (name) state parent group …`; the name may hold anything.
    statuses.any(|status| {
        let rest = status.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let mut words = rest.split(' ');
        words.next().is_some_and(|state| state != "Z") && words.nth(1) == Some(&group.to_string())
    })
}

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// What a command said on standard output, where all went well.
pub(crate) fn said(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
