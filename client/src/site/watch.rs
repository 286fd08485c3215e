//! A run's status, as it changes, over any number of connections.

use std::time::{Duration, Instant};

use fedbasin_proto::v1::{RunState, RunStatus, WatchRunRequest};
use tonic::{Code, Status, Streaming};

use crate::{
    connect::Client,
    error::{Error, Result, does_not_answer},
    progress::Screen,
    retry::{Backoff, Patience},
};

/// Follows one run.
pub(super) struct Watch {
    client: Client,
    run_id: String,
    stream: Option<Streaming<RunStatus>>,
    backoff: Backoff,
    screen: Screen,
    /// Until when an unknown run may still appear.
    unknown_until: Option<Instant>,
    said_unknown: bool,
}

impl Watch {
    pub(super) fn new(client: Client, run_id: &str, patience: Patience, screen: Screen) -> Self {
        Self {
            client,
            run_id: run_id.to_owned(),
            stream: None,
            backoff: Backoff::new(patience),
            screen,
            unknown_until: None,
            said_unknown: false,
        }
    }

    /// Lets a run that is not known yet appear within `time`.
    pub(super) fn waiting_for_run(mut self, time: Duration) -> Self {
        self.unknown_until = Instant::now().checked_add(time);
        self
    }

    /// Ends the present stream; the next status comes from a new one.
    pub(super) fn close(&mut self) {
        self.stream = None;
    }

    /// The next status: at once the present one where no stream is open, otherwise the next that the server sends.
    /// Connects again as long as patience lasts.
    ///
    /// # Errors
    /// No such run for this site, no valid token, or the server is away for too long.
    pub(super) async fn next(&mut self) -> Result<RunStatus> {
        loop {
            let status = match self.step().await {
                Ok(status) => {
                    if self.backoff.failures() > 1 {
                        self.screen.say(format_args!("run {}: the server answers again", self.run_id));
                    }
                    self.backoff.reset();
                    self.unknown_until = None;
                    return Ok(status);
                }
                Err(status) => status,
            };
            self.stream = None;
            if status.code() == Code::NotFound
                && self.unknown_until.is_some_and(|until| Instant::now() < until)
            {
                if !self.said_unknown {
                    self.said_unknown = true;
                    self.screen.say(format_args!(
                        "run {}: not there yet, or not for this site; waiting",
                        self.run_id
                    ));
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
            let place = format!("watching run {} at {}", self.run_id, self.client.url());
            if !self.backoff.allows(&status) {
                return Err(Error::from_status(&status, place));
            }
            // One lost connection is ordinary: the server was restarted, or a proxy ended an idle stream.
            if self.backoff.failures() == 1 {
                let away = does_not_answer(self.client.url(), &status);
                self.screen.say(format_args!("run {}: {away}", self.run_id));
            }
            if !self.backoff.wait().await {
                return Err(Error::gave_up(
                    &status,
                    place,
                    "check the address (the gRPC port? https://?) and that the server runs, then start the same command again",
                ));
            }
        }
    }

    async fn step(&mut self) -> Result<RunStatus, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let request = WatchRunRequest { run_id: self.run_id.clone() };
                self.stream.insert(self.client.watch_run(request).await?.into_inner())
            }
        };
        stream.message().await?.ok_or_else(|| Status::unavailable("the server ended the stream"))
    }

    /// Waits until the run is over. Never fails: what goes on meanwhile matters more than watching it.
    pub(super) async fn end(&mut self) -> RunStatus {
        loop {
            match self.next().await {
                Ok(status)
                    if matches!(
                        status.state(),
                        RunState::Complete | RunState::Failed | RunState::Cancelled
                    ) =>
                {
                    return status;
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_secs(10)).await,
            }
        }
    }
}
