//! `fedbasin admin extend`, `clone`, `models`, `site`, `events`.

use std::{
    fmt::{self, Write as _},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    super::args::{AdminSiteCommand as SiteCommand, CloneFrom, ModelsCommand, OperateCommand, PolicyArgs},
    show::{show_run, table, tokens_table},
};
use crate::{
    admin::{
        Admin,
        operate::{CloneRun, Event, FailedCall, Model, OtherPolicy, SiteDetails, Update},
    },
    error::Result,
    files::SecretFile,
    progress::{Screen, bytes},
};

/// Before a stream of events that broke off is opened again.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) fn dispatch(admin: Admin, command: OperateCommand, screen: &Screen) -> Result<()> {
    match command {
        OperateCommand::Extend { id, rounds, deadline_seconds, because } => {
            show_run(&admin.because(because.reason).extend(&id, rounds, deadline_seconds)?, screen)
        }
        OperateCommand::Clone { id, new_id, cohort, from, seed, policy, because } => {
            let from = from.map(|from| match from {
                CloneFrom::Seed => "seed".to_owned(),
                CloneFrom::Newest => "newest".to_owned(),
            });
            let new = CloneRun { id: new_id, cohort, from, seed_digest: seed, policy: other(&policy) };
            show_run(&admin.because(because.reason).clone_run(&id, &new)?, screen)
        }
        OperateCommand::Updates { id, round, site, state } => {
            let updates = admin.updates(&id, round, site.as_deref(), state.as_deref())?;
            screen.answer(&json!({ "updates": updates }), || updates_table(&updates))
        }
        OperateCommand::Models { command } => models(admin, command, screen),
        OperateCommand::Site { command } => site(admin, command, screen),
        OperateCommand::Events { run, after } => events(&admin, run.as_deref(), after, screen),
    }
}

fn other(policy: &PolicyArgs) -> OtherPolicy {
    OtherPolicy {
        rounds: policy.rounds,
        quorum: policy.quorum,
        deadline_seconds: policy.deadline_seconds,
        max_updates: policy.max_updates,
        failed_rounds_allowed: policy.failed_rounds_allowed,
        min_open_seconds: policy.min_open_seconds,
        keep_models: policy.keep_models,
        keep_updates: policy.keep_updates,
    }
}

fn updates_table(updates: &[Update]) -> String {
    let mut table =
        table(&["update", "round", "site", "state", "size", "examples", "accepted", "withdrawn", "reason"]);
    for update in updates {
        table.add_row([
            &update.id,
            &update.round.to_string(),
            &update.site,
            &update.state,
            &bytes(update.size),
            &update.num_examples.to_string(),
            update.accepted_at.as_deref().unwrap_or_default(),
            update.withdrawn_at.as_deref().unwrap_or_default(),
            update.reason.as_deref().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn models(admin: Admin, command: ModelsCommand, screen: &Screen) -> Result<()> {
    let model = match command {
        ModelsCommand::List { run, tag } => {
            let models = admin.models(run.as_deref(), tag.as_deref())?;
            return screen.answer(&json!({ "models": models }), || models_table(&models));
        }
        ModelsCommand::Show { digest } => admin.model_by_digest(&digest)?,
        ModelsCommand::Download { digest, output } => {
            let size = admin.model_content(digest, &output, screen)?;
            let value = json!({ "digest": digest.to_string(), "size": size, "file": output });
            return screen.answer(&value, || format!("model {digest}: {size} bytes in {}", output.display()));
        }
        ModelsCommand::Promote { digest, run, because } => {
            admin.because(because.reason).promote(&digest, run.as_deref())?
        }
        ModelsCommand::Tag { digest, tag, because } => {
            admin.because(because.reason).tag(&digest, &tag, true)?
        }
        ModelsCommand::Untag { digest, tag, because } => {
            admin.because(because.reason).tag(&digest, &tag, false)?
        }
    };
    screen.answer(&model, || models_table(std::slice::from_ref(&model)))
}

fn models_table(models: &[Model]) -> String {
    let mut table = table(&["model", "size", "run", "round", "published", "tags", ""]);
    for model in models {
        for published in &model.published {
            let marks = match (published.promoted, model.kept) {
                (true, _) => "promoted",
                (false, true) => "",
                (false, false) => "let go",
            };
            table.add_row([
                &model.digest,
                &bytes(model.size),
                &published.run,
                &published.round.to_string(),
                published.published_at.as_deref().unwrap_or_default(),
                &model.tags.join(" "),
                marks,
            ]);
        }
    }
    table.to_string()
}

fn site(admin: Admin, command: SiteCommand, screen: &Screen) -> Result<()> {
    match command {
        SiteCommand::Show { site } => {
            let site = admin.site(&site)?;
            screen.answer(&site, || site_text(&site))
        }
        SiteCommand::Revoke { site, because } => {
            let site = admin.because(because.reason).revoke_site(&site)?;
            screen.answer(&site, || site_text(&site))
        }
        SiteCommand::Rotate { site, label, days, old_tokens_seconds, output, because } => {
            let admin = admin.because(because.reason);
            // Shown once: where it is to be kept is made sure of first.
            let kept = output.as_deref().map(SecretFile::new).transpose()?;
            let made = admin.rotate(&site, &label, days, old_tokens_seconds)?;
            let Some(kept) = kept else { return screen.answer(&made, || made.token.clone()) };
            kept.write(&made.token)?;
            let listed = &made.listed;
            screen.answer(&json!({ "listed": listed, "file": output }), || {
                format!("token {}: it opens nothing after {}", listed.id, listed.expires_at)
            })
        }
    }
}

fn site_text(site: &SiteDetails) -> String {
    let counted = |counts: &std::collections::BTreeMap<String, u64>| {
        let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
        if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
    };
    let last = site.site.last_seen_at.as_deref().unwrap_or("never");
    let mut text = format!("site {}: enrolled {}, last seen {last}\n", site.site.id, site.site.created_at);
    _ = writeln!(text, "runs: {}\nupdates: {}", counted(&site.runs), counted(&site.updates));
    for update in &site.arriving {
        _ = writeln!(
            text,
            "arriving: run {}, round {}, {} of {}, {:.0} bytes/s",
            update.run,
            update.round,
            bytes(update.received_bytes),
            bytes(update.size),
            update.bytes_per_second
        );
    }
    for certificate in &site.certificates {
        let days = certificate.days_left.map(|days| format!(", {days} days left")).unwrap_or_default();
        _ = writeln!(text, "certificate {}: {}{days}", certificate.fingerprint, certificate.state);
    }
    for told in &site.failed_calls {
        let FailedCall { rpc, code, message, times, last_at, .. } = told;
        _ = writeln!(text, "{rpc} failed {times} times, last {last_at}: {code}: {message}");
    }
    match &site.tokens {
        Some(tokens) => text + &tokens_table(tokens),
        None => text,
    }
}

/// For ever: a stream that broke off is opened again after the last event that was seen. What the server refuses ends it.
fn events(admin: &Admin, run: Option<&str>, mut after: Option<u64>, screen: &Screen) -> Result<()> {
    loop {
        after = admin.events(run, after, |event| screen.event(&event))?;
        screen.remark("the stream of events ended; it is opened again");
        thread::sleep(PAUSE);
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.data["at"].as_str().unwrap_or_default(), self.event)?;
        for name in ["run", "round", "site", "object", "digest", "reason"] {
            match &self.data[name] {
                Value::Null => {}
                Value::String(text) => write!(f, " {name}={text}")?,
                value => write!(f, " {name}={value}")?,
            }
        }
        Ok(())
    }
}
