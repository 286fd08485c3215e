//! Receipts that an earlier process was ended before it could keep.

use std::time::Duration;

use fedbasin_proto::v1::{FinishUpdateRequest, Receipt, UpdateState};
use tonic::Request;

use super::Site;
use crate::error::{Error, Result};

impl Site {
    /// Asks for the receipts of updates that the server holds and this folder has none of. What is not answered now is asked for
    /// after the next status, or by the next start.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub(super) async fn settle(&mut self) -> Result<()> {
        for number in std::mem::take(&mut self.unsettled) {
            let dir = self.dir.round(number)?;
            let Some(mut ticket) = dir.ticket()? else { continue };
            let Some(id) = ticket.unsettled().map(str::to_owned) else { continue };
            match self.receipt(&id).await {
                Answer::Receipt(receipt) => {
                    if let Some(what) = ticket.differs_from(&receipt) {
                        return Err(Error::failed(
                            format_args!("the receipt is of another {what}"),
                            format_args!("update {id}"),
                            "do not go on; ask whoever runs the server",
                        ));
                    }
                    self.trust.receipt(&receipt)?;
                    self.unproved = Some(receipt.clone());
                    self.screen.say(format_args!(
                        "round {number}: sent by an earlier process, receipt {} digest {} examples {}",
                        receipt.update_id, receipt.digest, receipt.num_examples
                    ));
                    ticket.receipt = Some(receipt.into());
                    dir.save(&ticket)?;
                }
                // It is sent as any other, where its round still waits for it.
                Answer::NotHeld => {}
                Answer::None => self.unsettled.push(number),
            }
        }
        Ok(())
    }

    async fn receipt(&mut self, id: &str) -> Answer {
        let Some(update) = self.get_update(id).await else { return Answer::None };
        if !matches!(update.state(), UpdateState::Accepted | UpdateState::Aligned) {
            return Answer::NotHeld;
        }
        let mut request = Request::new(FinishUpdateRequest { update_id: id.to_owned() });
        request.set_timeout(Duration::from_secs(10));
        let answer = self.client.finish_update(request).await;
        match answer.ok().and_then(|answer| answer.into_inner().receipt) {
            Some(receipt) => Answer::Receipt(receipt),
            None => Answer::None,
        }
    }
}

/// What the server says of an update that was sent.
enum Answer {
    Receipt(Receipt),
    NotHeld,
    /// Nothing, now.
    None,
}
