//! What no server can undercut on this machine: the disk and the loopback device by themselves.

use std::{
    fs::File,
    io::{self, Read as _},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::Instant,
};

const BLOCK: usize = 1 << 20;

/// Bytes that no file system can leave out.
fn block() -> Vec<u8> {
    (0..BLOCK).map(|place| (place % 251) as u8).collect()
}

/// Has the system hold so many bytes of a file, and give the memory back: what a virtual machine's host took back meanwhile is there again,
/// so that neither a round nor a floor waits for it (where hosts do that, the first use takes ten times as long as every other).
pub fn touch(folder: &Path, bytes: u64) -> io::Result<()> {
    write(&mut tempfile::tempfile_in(folder)?, &block(), bytes)
}

/// Seconds until `files` threads have each written a new file of `bytes` bytes in `folder`, and synced it.
pub fn disk(folder: &Path, bytes: u64, files: usize) -> io::Result<f64> {
    let place = tempfile::tempdir_in(folder)?;
    let block = block();
    let begun = Instant::now();
    in_threads(files, |file| {
        let mut file = File::create(place.path().join(file.to_string()))?;
        write(&mut file, &block, bytes)?;
        file.sync_all()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    place.close()?;
    // What removing them costs is nobody's time.
    File::open(folder)?.sync_all()?;
    Ok(seconds)
}

/// Seconds until `bytes` bytes have gone over each of `lines` connections at once, from a thread to a thread.
pub fn loopback(bytes: u64, lines: usize) -> io::Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let block = block();
    let begun = Instant::now();
    in_threads(2 * lines, |thread| {
        if thread < lines {
            return write(&mut TcpStream::connect(address)?, &block, bytes);
        }
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; BLOCK];
        while stream.read(&mut buffer)? > 0 {}
        Ok(())
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds until `files` threads have each computed the SHA-256 of `bytes` bytes that lie in memory.
pub fn digests(bytes: u64, files: usize) -> io::Result<f64> {
    let block = block();
    let begun = Instant::now();
    in_threads(files, |_| {
        let mut hasher = Sha256(rebasin::Hasher::default());
        write(&mut hasher, &block, bytes)?;
        std::hint::black_box(hasher.0.finish());
        Ok(())
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

struct Sha256(rebasin::Hasher);

impl io::Write for Sha256 {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(out: &mut impl io::Write, block: &[u8], bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        // At most a block, so it fits.
        let count = left.min(block.len() as u64) as usize;
        out.write_all(&block[..count])?;
        left -= count as u64;
    }
    Ok(())
}

fn in_threads(count: usize, work: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of a floor panicked")))
        })
    })
}
