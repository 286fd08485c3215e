//! `fedbasin admin ...`.

mod operate;
mod show;
mod watch;
mod webhooks;

use std::path::Path;

use rebasin::Digest;
use serde_json::{Value, json};

use super::{
    args::{AdminArgs, AdminCommand, CreateRunArgs, Implausible, Role, Strategy, TokenArgs},
    audit,
    profile::{self, Target},
    state,
};
use crate::{
    admin::{
        Admin,
        types::{NewRun, PlausibilityPolicy, Policy, Run},
    },
    error::{Error, Result},
    files::{SecretFile, no_spec, read_spec_text},
    progress::Screen,
};
use show::{certificates_table, round_text, rounds_table, runs_table, show_run, sites_table, tokens_table};

pub(super) fn dispatch(args: AdminArgs, screen: &Screen) -> Result<()> {
    if let AdminCommand::Profile { command } = &args.command {
        return profile::dispatch(&args, command, screen);
    }
    let Target { address, token, origin } = Target::of(&args)?;
    let uri = address.check()?;
    let admin = Admin::new(address, token)?.taken_from(origin);
    let admin = state::hold(admin, args.state_dir, &uri, screen);
    match args.command {
        AdminCommand::Enrol { site, output, days, because } => {
            enrol(&admin.because(because.reason), &site, output.as_deref(), days, screen)
        }
        AdminCommand::Token(args) => make_token(&admin.because(args.because.reason.clone()), &args, screen),
        AdminCommand::Tokens => {
            let tokens = admin.tokens()?;
            screen.answer(&json!({ "tokens": tokens }), || tokens_table(&tokens))
        }
        AdminCommand::Revoke { id, because } => {
            let token = admin.because(because.reason).revoke_token(&id)?;
            screen.answer(&token, || format!("token {}: revoked", token.id))
        }
        AdminCommand::Sites { matching } => {
            let sites = admin.sites(matching.as_deref())?;
            screen.answer(&json!({ "sites": sites }), || sites_table(&sites))
        }
        AdminCommand::Certificates => {
            let certificates = admin.certificates()?;
            screen.answer(&certificates, || certificates_table(&certificates))
        }
        AdminCommand::RevokeCertificate { fingerprint, because } => {
            let certificate = admin.because(because.reason).revoke_certificate(&fingerprint)?;
            screen.answer(&certificate, || format!("certificate {}: revoked", certificate.fingerprint))
        }
        AdminCommand::Checkpoint { file, because } => {
            let checkpoint = admin.because(because.reason).put_checkpoint(&file)?;
            screen.answer(&checkpoint, || checkpoint.digest.clone())
        }
        AdminCommand::Graph { file, because } => {
            let graph = admin.because(because.reason).put_graph(&file)?;
            screen.answer(&graph, || graph.digest.clone())
        }
        AdminCommand::CreateRun(mut args) => {
            let admin = admin.because(args.because.reason.take());
            show_run(&create_run(&admin, args, screen)?, screen)
        }
        AdminCommand::Runs { state, site } => {
            let runs = admin.runs(state.as_deref(), site.as_deref())?;
            screen.answer(&json!({ "runs": runs }), || runs_table(&runs))
        }
        AdminCommand::Run { id } => show_run(&admin.run(&id)?, screen),
        AdminCommand::Rounds { id, state } => {
            let rounds = admin.rounds(&id, state.as_deref())?;
            screen.answer(&json!({ "rounds": rounds }), || rounds_table(&rounds))
        }
        AdminCommand::Round { id, number, groups } => {
            let round = admin.round(&id, number)?;
            screen.answer(&round, || round_text(&round, groups))
        }
        AdminCommand::Watch(args) => watch::watch(&admin, &args, screen),
        AdminCommand::Pause { id, because } => show_run(&admin.because(because.reason).pause(&id)?, screen),
        AdminCommand::Resume { id, because } => show_run(&admin.because(because.reason).resume(&id)?, screen),
        AdminCommand::Cancel { id, because } => show_run(&admin.because(because.reason).cancel(&id)?, screen),
        AdminCommand::Model { id, number, output, server_keys } => {
            model(&admin, (&id, number), &output, server_keys.as_deref(), screen)
        }
        AdminCommand::Remerge { id, number, because } => {
            let again = admin.because(because.reason).remerge(&id, number)?;
            screen.answer(&again, || {
                format!("run {id}: round {number} is merged again as round {}", again.number)
            })
        }
        // It needs no server, and was done above.
        AdminCommand::Profile { .. } => Ok(()),
        AdminCommand::Webhooks(command) => webhooks::dispatch(admin, command, screen),
        AdminCommand::Keys { output } => audit::keys(&admin, output.as_deref(), screen),
        AdminCommand::Audit { from, limit, run, site, action } => {
            let records = admin.audit(from, limit, run.as_deref(), site.as_deref(), action.as_deref())?;
            screen.answer(&records, || audit::table(&records))
        }
        AdminCommand::AuditExport { output } => audit::export(&admin, &output, screen),
        AdminCommand::Operate(command) => operate::dispatch(admin, command, screen),
    }
}

/// A round's model and its signature, which is checked and lies beside it.
fn model(
    admin: &Admin,
    (run, round): (&str, u32),
    output: &Path,
    server_keys: Option<&Path>,
    screen: &Screen,
) -> Result<()> {
    let (digest, size) = admin.model(run, round, output, screen)?;
    let signature = audit::keep_signature(admin, (run, round), output, server_keys)?;
    let value = json!({ "digest": digest.to_string(), "size": size, "file": output, "signature": signature });
    screen.answer(&value, || {
        format!("model {digest}: {size} bytes in {}, signed: {}", output.display(), signature.display())
    })
}

/// The token is shown once: where it is to be kept is made sure of before the site is enrolled.
fn enrol(admin: &Admin, site: &str, output: Option<&Path>, days: Option<u32>, screen: &Screen) -> Result<()> {
    let Some(path) = output else {
        let site = admin.enrol(site, days)?;
        // Without --json the token alone, for a pipe into what keeps secrets.
        return screen.answer(&site, || site.token.clone());
    };
    let kept = SecretFile::new(path)?;
    let site = admin.enrol(site, days)?;
    kept.write(&site.token)?;
    let value = json!({
        "id": site.id,
        "created_at": site.created_at,
        "token_id": site.token_id,
        "token_expires_at": site.token_expires_at,
        "file": path,
    });
    screen.answer(&value, || {
        format!(
            "site {}: enrolled, its token is in {} and opens nothing after {}",
            site.id,
            path.display(),
            site.token_expires_at
        )
    })
}

/// Shown once, like the one that a site is enrolled with.
fn make_token(admin: &Admin, args: &TokenArgs, screen: &Screen) -> Result<()> {
    let make = || match (&args.site, args.role) {
        (Some(site), _) => admin.create_site_token(site, &args.label, args.days),
        (None, role) => {
            let role = match role {
                Some(Role::Admin) => "admin",
                Some(Role::Operator) => "operator",
                // The smallest; the command line asks for one.
                Some(Role::Viewer) | None => "viewer",
            };
            admin.create_token(role, &args.label, args.days)
        }
    };
    let Some(path) = &args.output else {
        let made = make()?;
        return screen.answer(&made, || made.token.clone());
    };
    let kept = SecretFile::new(path)?;
    let made = make()?;
    kept.write(&made.token)?;
    let listed = &made.listed;
    screen.answer(&json!({ "listed": listed, "file": path }), || {
        format!("token {}: in {}, it opens nothing after {}", listed.id, path.display(), listed.expires_at)
    })
}

fn create_run(admin: &Admin, args: CreateRunArgs, screen: &Screen) -> Result<Run> {
    let cohort_size = u32::try_from(args.cohort.len()).unwrap_or(u32::MAX);
    if args.quorum > cohort_size {
        return Err(Error::usage(
            format_args!("a quorum of {} cannot be reached by {cohort_size} sites", args.quorum),
            "--quorum",
            "lower it or name more sites in --cohort",
        ));
    }
    let spec = args.spec.as_deref().map(read_spec).transpose()?;
    if args.graph.is_some() && args.seed.is_none() {
        screen.remark("a graph names no tensors that it does not use, such as BatchNorm's counters: sites whose checkpoints have some are refused, unless --seed shows the server one");
    }
    let seed_digest =
        args.seed.map(|seed| stored(seed, |path| Ok(admin.put_checkpoint(path)?.digest))).transpose()?;
    let graph_digest =
        args.graph.map(|graph| stored(graph, |path| Ok(admin.put_graph(path)?.digest))).transpose()?;
    let strategy = match args.strategy.unwrap_or(Strategy::Aligned) {
        Strategy::Aligned => "aligned",
        Strategy::Mean => "mean",
        Strategy::MergeMany => "merge-many",
    };
    admin.create_run(&NewRun {
        id: args.id,
        spec,
        graph_digest,
        strategy: strategy.to_owned(),
        seed_digest,
        cohort: args.cohort,
        policy: Policy {
            rounds: args.rounds,
            quorum: args.quorum,
            deadline_seconds: args.deadline_seconds,
            max_updates: args.max_updates,
            failed_rounds_allowed: args.failed_rounds_allowed,
            min_open_seconds: args.min_open_seconds,
            keep_models: args.keep_models,
            keep_best: args.keep_best,
            keep_updates: args.keep_updates,
            name_participants: args.name_participants,
            evaluate_naive: args.evaluate_naive,
            max_magnitude_factor: args.max_magnitude_factor,
            plausibility: plausibility(args.implausible, args.max_distance_ratio, args.min_cosine),
        },
    })
}

/// What was said of it; nothing where nothing was.
fn plausibility(
    action: Option<Implausible>,
    max_distance_ratio: Option<f64>,
    min_cosine: Option<f64>,
) -> Option<PlausibilityPolicy> {
    let action = action.map(|action| match action {
        Implausible::Warn => "warn".to_owned(),
        Implausible::Reject => "reject".to_owned(),
    });
    let policy = PlausibilityPolicy { max_distance_ratio, min_cosine, action };
    (policy != PlausibilityPolicy::default()).then_some(policy)
}

fn read_spec(path: &Path) -> Result<Value> {
    let text = read_spec_text(path)?;
    serde_json::from_str(&text).map_err(|error| no_spec(path, format_args!("not JSON: {error}")))
}

/// A digest stays one; a file is stored first.
fn stored(named: String, store: impl FnOnce(&Path) -> Result<String>) -> Result<String> {
    if named.parse::<Digest>().is_ok() && !Path::new(&named).exists() {
        return Ok(named);
    }
    store(Path::new(&named))
}
