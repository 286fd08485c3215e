//! The processes that a run needs, and where their bytes lie.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use fedbasin_tests::{Bucket, Database, Options, Server, checkpoint::one_hot, digest};

/// Longer than any step of a run takes, as a rule; a sleeper is soon relieved.
const WORK: &str = "poll_ms = 100\nlease_seconds = 1\n";

/// An upload that no row tells of.
const NO_UPDATE: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum World {
    /// One process, SQLite, its own folder.
    One,
    /// One process that serves and two that work, Postgres, a folder that all see.
    Many,
    /// Two processes that serve, a site at each, and two that work, Postgres, an S3-compatible server.
    Bucket,
}

impl World {
    /// Where processes come to that point: the `turn`-th of those worlds.
    pub(crate) fn of(point: &str, turn: usize) -> Self {
        // Linking is done in folders; and what lies in a bucket is as young as the test.
        if point == "upload.linked" || point.starts_with("sweep.object") {
            return [Self::One, Self::Many][turn % 2];
        }
        [Self::One, Self::Many, Self::Bucket][turn % 3]
    }

    /// The same, where one worker can relieve another.
    pub(crate) fn of_workers(turn: usize) -> Self {
        [Self::Many, Self::Bucket][turn % 2]
    }
}

/// Where checkpoints and uploads lie.
enum Storage {
    Own,
    Folder(tempfile::TempDir),
    Bucket { bucket: Arc<Bucket>, prefix: String },
}

/// One for all tests of this process that run at the same time; ended with the last of them.
fn bucket() -> Arc<Bucket> {
    static RUNNING: Mutex<Weak<Bucket>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().expect("no test panics while it starts one");
    running.upgrade().unwrap_or_else(|| {
        let bucket = Arc::new(Bucket::start());
        *running = Arc::downgrade(&bucket);
        bucket
    })
}

/// The processes of a world, and what they share.
pub(crate) struct Processes {
    /// First those that serve.
    pub(crate) all: Vec<Server>,
    serving: usize,
    storage: Storage,
}

impl Processes {
    pub(crate) async fn start(world: World) -> Self {
        let (storage, options) = match world {
            World::One => {
                let options = Options { config: format!("[work]\n{WORK}"), ..Options::default() };
                let all = vec![Server::start_with(Database::sqlite(), options)];
                return Self { all, serving: 1, storage: Storage::Own };
            }
            World::Many => {
                let shared = tempfile::tempdir().expect("a folder");
                let options = Options::in_folder(shared.path());
                (Storage::Folder(shared), options)
            }
            World::Bucket => {
                static RUNS: AtomicU32 = AtomicU32::new(0);
                let (bucket, prefix) = (bucket(), format!("run-{}", RUNS.fetch_add(1, Ordering::Relaxed)));
                let options = bucket.options_under(&prefix);
                (Storage::Bucket { bucket, prefix }, options)
            }
        };
        let mut all = vec![Server::start_with(Database::postgres().await, options.only_serving(WORK))];
        let serving = if world == World::Bucket { 2 } else { 1 };
        for index in 1..serving + 2 {
            all.push(all[0].beside(index >= serving));
        }
        Self { all, serving, storage }
    }

    /// One that serves.
    pub(crate) fn server(&self) -> &Server {
        &self.all[0]
    }

    /// Whom the `index`-th site speaks to.
    pub(crate) fn server_of(&self, index: usize) -> &Server {
        &self.all[index % self.serving]
    }

    /// Those that serve, and those that work.
    pub(crate) fn parts(&mut self) -> (&mut [Server], &mut [Server]) {
        self.all.split_at_mut(self.serving)
    }

    /// Starts each that was killed again, without the point; tells how many those were.
    pub(crate) fn revive(&mut self) -> usize {
        let mut killed = 0;
        for process in &mut self.all {
            if process.was_killed() {
                killed += 1;
                process.start_again();
            }
        }
        killed
    }

    fn folder(&self) -> Option<PathBuf> {
        match &self.storage {
            Storage::Own => Some(self.server().data_dir().join("objects")),
            Storage::Folder(shared) => Some(shared.path().to_owned()),
            Storage::Bucket { .. } => None,
        }
    }

    /// The bytes that are stored under a name, read where they lie.
    pub(crate) fn stored(&self, name: &str) -> Option<Vec<u8>> {
        match &self.storage {
            Storage::Bucket { bucket, prefix } => bucket.get(&format!("{prefix}/{name}")),
            _ => fs::read(self.folder()?.join(name)).ok(),
        }
    }

    /// What killed processes of long ago may have left: bytes that no row tells of, and an upload's bytes without an update.
    pub(crate) fn leave_things_behind(&self) -> Vec<Left> {
        let mut left = Vec::new();
        for process in &self.all {
            left.push(Left::file(process.data_dir().join("staging").join(NO_UPDATE), b"half"));
        }
        let part = format!("uploads/{NO_UPDATE}/{:020}", 0);
        match &self.storage {
            Storage::Own => {}
            Storage::Folder(shared) => left.push(Left::file(shared.path().join(&part), b"half")),
            Storage::Bucket { bucket, prefix } => {
                bucket.put(&format!("{prefix}/{part}"), b"half");
                left.push(Left::Object(part));
            }
        }
        if let Some(folder) = self.folder() {
            let orphan = one_hot(0, 9);
            let object = folder.join("checkpoints").join(digest(&orphan));
            left.push(Left::file(object.clone(), &orphan));
            let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            let file = fs::File::options().write(true).open(&object).expect("the object");
            file.set_modified(long_ago).expect("its time");
        }
        left
    }

    pub(crate) fn is_there(&self, left: &Left) -> bool {
        match left {
            Left::File(path) => path.exists(),
            Left::Object(name) => self.stored(name).is_some(),
        }
    }
}

/// Something that a sweep should remove.
pub(crate) enum Left {
    File(PathBuf),
    Object(String),
}

impl Left {
    fn file(path: PathBuf, bytes: &[u8]) -> Self {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).expect("its folder");
        fs::write(&path, bytes).expect("a file");
        Self::File(path)
    }
}
