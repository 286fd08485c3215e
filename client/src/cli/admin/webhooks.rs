//! `fedbasin admin webhooks ...`.

use super::show::table;
use crate::{
    admin::{Admin, types::Delivery},
    cli::args::{NoticeState, WebhooksCommand},
    error::Result,
    progress::Screen,
};

pub(super) fn dispatch(admin: Admin, command: WebhooksCommand, screen: &Screen) -> Result<()> {
    match command {
        WebhooksCommand::List { state, limit } => {
            let deliveries = admin.deliveries(state.map(NoticeState::name), limit)?;
            screen.answer(&deliveries, || deliveries_table(&deliveries.deliveries))
        }
        WebhooksCommand::Retry { id, because } => {
            let notice = admin.because(because.reason).retry_delivery(&id)?;
            screen.answer(&notice, || format!("notice {}: sent to {} again", notice.id, notice.webhook))
        }
        WebhooksCommand::Test { name, because } => {
            let notice = admin.because(because.reason).test_webhook(&name)?;
            screen.answer(&notice, || {
                format!(
                    "notice {}: queued; `fedbasin admin webhooks list` tells what became of it",
                    notice.id
                )
            })
        }
    }
}

fn deliveries_table(deliveries: &[Delivery]) -> String {
    let mut table = table(&["notice", "webhook", "event", "of", "state", "tries", "queued", "last error"]);
    for notice in deliveries {
        table.add_row([
            &notice.id,
            &notice.webhook,
            &notice.event,
            &notice.subject,
            &notice.state,
            &notice.attempts.to_string(),
            &notice.created_at,
            notice.last_error.as_deref().unwrap_or_default(),
        ]);
    }
    table.to_string()
}
