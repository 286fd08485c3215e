//! A line that fails: a TCP proxy in this process, between a site and a server.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::AbortHandle,
};

/// Which bytes are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the site to the server.
    Up,
    /// From the server to the site.
    Down,
}

/// What happens once so many bytes went that way.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Both ends lose the connection.
    Cut,
    /// Nothing goes on for so long; then all does.
    Stall(Duration),
    /// Each further block waits for so long.
    Delay(Duration),
    /// The server loses the connection, the site is not told.
    HalfOpen,
    /// The last bytes arrive twice.
    Duplicate,
}

/// A running proxy. Each new connection meets the next of its faults; when they are used up, nothing fails any more.
#[derive(Debug)]
pub struct Proxy {
    /// What a site takes for the server.
    pub url: String,
    faults: Faults,
    accepting: AbortHandle,
}

type Faults = Arc<Mutex<VecDeque<(Way, usize, Fault)>>>;

impl Proxy {
    /// Starts one before the server at `url`.
    ///
    /// # Panics
    /// Where it cannot listen.
    pub async fn start(url: &str, faults: impl IntoIterator<Item = (Way, usize, Fault)>) -> Self {
        let server = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let faults: Faults = Arc::new(Mutex::new(faults.into_iter().collect()));
        let mine = Arc::clone(&faults);
        let accepting = tokio::spawn(async move {
            while let Ok((site, _)) = listener.accept().await {
                // A server that is away refuses: the site sees its connection end.
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let fault = mine.lock().expect("the faults").pop_front();
                tokio::spawn(connect(site, server, fault));
            }
        });
        Self { url, faults, accepting: accepting.abort_handle() }
    }

    /// How many faults no connection has met yet.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.faults.lock().expect("the faults").len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connect(site: TcpStream, server: TcpStream, fault: Option<(Way, usize, Fault)>) {
    let of = |way: Way| fault.filter(|(faulty, ..)| *faulty == way).map(|(_, after, fault)| (after, fault));
    let ((mut site_in, mut site_out), (mut server_in, mut server_out)) =
        (site.into_split(), server.into_split());
    // When one way ends, so does the other.
    let half_open = tokio::select! {
        half_open = pump(&mut site_in, &mut server_out, of(Way::Up)) => half_open,
        half_open = pump(&mut server_in, &mut site_out, of(Way::Down)) => half_open,
    };
    drop((server_in, server_out));
    if half_open {
        // The site's side stays open, and nobody listens behind it.
        let mut nowhere = vec![0; 1 << 14];
        while site_in.read(&mut nowhere).await.is_ok_and(|count| count > 0) {}
    }
}

/// Moves bytes until one end is gone or the fault says so; tells whether the site is not to learn of it.
async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, fault: Option<(usize, Fault)>) -> bool {
    let half_open = fault.is_some_and(|(_, fault)| matches!(fault, Fault::HalfOpen));
    move_bytes(from, to, fault).await.is_ok() && half_open
}

/// Ends well only where a fault ends it.
async fn move_bytes(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut fault: Option<(usize, Fault)>,
) -> std::io::Result<()> {
    let (mut block, mut moved, mut delay) = (vec![0; 1 << 14], 0, Duration::ZERO);
    loop {
        let count = from.read(&mut block).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = &block[..count];
        if let Some((after, what)) = fault.filter(|(after, _)| moved + count >= *after) {
            fault = None;
            let (before, rest) = bytes.split_at(after.saturating_sub(moved));
            to.write_all(before).await?;
            match what {
                Fault::Cut | Fault::HalfOpen => return Ok(()),
                Fault::Stall(time) => tokio::time::sleep(time).await,
                Fault::Delay(time) => delay = time,
                Fault::Duplicate => to.write_all(before).await?,
            }
            bytes = rest;
        }
        tokio::time::sleep(delay).await;
        to.write_all(bytes).await?;
        moved += count;
    }
}
