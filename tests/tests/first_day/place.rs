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
};

use fedbasin_tests::{PATIENCE, client_binary, server_binary};

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

    /// A POSIX shell that runs `script` in `folder`, with nothing of the caller's environment that means something to the programs.
    pub(crate) fn shell(&self, folder: &Path, script: &str) -> Command {
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut shell = Command::new("sh");
        shell.args(["-euc", script]).current_dir(folder).env_clear().stdin(Stdio::null());
        shell.env("PATH", format!("{}:{system}", self.path("bin").display())).env("HOME", folder);
        shell
    }

    /// Runs `script` in a folder where nothing is, to its end.
    pub(crate) fn types(&self, script: &str) -> Output {
        self.shell(&self.path("elsewhere"), script).output().expect("a shell")
    }
}

/// A command that stays in the foreground; it and all that it started are killed when dropped.
pub(crate) struct Foreground(Child);

impl Foreground {
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
        let server = Self(child);
        let line = receiver.recv_timeout(PATIENCE).expect("the server says that it listens");
        assert!(line.starts_with("listening grpc="), "{line}");
        server
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            tell_group(self.0.id());
        }
        let _ = self.0.wait();
    }
}

/// Ends a shell and the program that it waits for.
fn tell_group(id: u32) {
    let _ = Command::new("kill").args(["-KILL", "--", &format!("-{id}")]).status();
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
