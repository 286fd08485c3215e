//! `fedbasin admin ...`.

use std::path::Path;

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use rebasin::Digest;
use serde_json::{Value, json};

use super::{
    args::{AdminArgs, AdminCommand, CreateRunArgs, Implausible, Role, Strategy, TokenArgs},
    audit, state, token,
};
use crate::{
    admin::{
        Admin,
        types::{Certificates, NewRun, PlausibilityPolicy, Policy, Round, Run, Site, TokenRecord},
    },
    connect::Address,
    error::{Error, Result},
    files::{SecretFile, no_spec, read_spec_text},
    progress::{Screen, bytes},
};

pub(super) fn dispatch(args: AdminArgs, screen: &Screen) -> Result<()> {
    let address = Address { url: args.server, ca: args.ca, insecure: args.insecure, identity: None };
    let uri = address.check()?;
    let admin = Admin::new(address, token(args.token_file.as_deref(), "FEDBASIN_ADMIN_TOKEN")?)?;
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
        AdminCommand::Sites => {
            let sites = admin.sites()?;
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
            show_run(&create_run(&admin, args)?, screen)
        }
        AdminCommand::Runs => {
            let runs = admin.runs()?;
            screen.answer(&json!({ "runs": runs }), || runs_table(&runs))
        }
        AdminCommand::Run { id } => show_run(&admin.run(&id)?, screen),
        AdminCommand::Rounds { id } => {
            let rounds = admin.rounds(&id)?;
            screen.answer(&json!({ "rounds": rounds }), || rounds_table(&rounds))
        }
        AdminCommand::Round { id, number } => {
            let round = admin.round(&id, number)?;
            screen.answer(&round, || round_text(&round))
        }
        AdminCommand::Pause { id, because } => show_run(&admin.because(because.reason).pause(&id)?, screen),
        AdminCommand::Resume { id, because } => show_run(&admin.because(because.reason).resume(&id)?, screen),
        AdminCommand::Cancel { id, because } => show_run(&admin.because(because.reason).cancel(&id)?, screen),
        AdminCommand::Model { id, number, output, server_keys } => {
            let (digest, size) = admin.model(&id, number, &output, screen)?;
            let signature = audit::keep_signature(&admin, (&id, number), &output, server_keys.as_deref())?;
            let value =
                json!({ "digest": digest.to_string(), "size": size, "file": output, "signature": signature });
            screen.answer(&value, || {
                format!(
                    "model {digest}: {size} bytes in {}, signed: {}",
                    output.display(),
                    signature.display()
                )
            })
        }
        AdminCommand::Remerge { id, number, because } => {
            let round = admin.because(because.reason).remerge(&id, number)?;
            screen.answer(&round, || {
                format!("run {id}: round {number} is merged again as round {}", round.number)
            })
        }
        AdminCommand::Keys { output } => audit::keys(&admin, output.as_deref(), screen),
        AdminCommand::Audit { from, limit, run } => audit::list(&admin, from, limit, run.as_deref(), screen),
        AdminCommand::AuditExport { output } => audit::export(&admin, &output, screen),
    }
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

fn create_run(admin: &Admin, args: CreateRunArgs) -> Result<Run> {
    let cohort_size = u32::try_from(args.cohort.len()).unwrap_or(u32::MAX);
    if args.quorum > cohort_size {
        return Err(Error::usage(
            format_args!("a quorum of {} cannot be reached by {cohort_size} sites", args.quorum),
            "--quorum",
            "lower it or name more sites in --cohort",
        ));
    }
    let spec = args.spec.as_deref().map(read_spec).transpose()?;
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

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(header);
    table
}

fn tokens_table(tokens: &[TokenRecord]) -> String {
    let mut table = table(&["token", "of", "state", "expires", "last used", "label"]);
    for token in tokens {
        let of = match (&token.site, &token.role) {
            (Some(site), _) => format!("site {site}"),
            (None, role) => role.clone().unwrap_or_default(),
        };
        table.add_row([
            &token.id,
            &of,
            &token.state,
            &token.expires_at,
            token.last_used_at.as_deref().unwrap_or("never"),
            &token.label,
        ]);
    }
    table.to_string()
}

fn certificates_table(all: &Certificates) -> String {
    let mut table = table(&["certificate", "of", "state", "days left", "expires", "last used"]);
    for (whose, own) in [("the server", &all.server), ("the authority", &all.authority)] {
        let Some(own) = own else { continue };
        let state = if own.days_left < 0 { "expired" } else { "alive" };
        table.add_row(["", whose, state, &own.days_left.to_string(), &own.expires_at, ""]);
    }
    if all.clear_text {
        table.add_row(["", "the server", "CLEAR TEXT beyond its own machine", "", "", ""]);
    }
    for certificate in &all.certificates {
        let site =
            certificate.site.as_ref().map_or("nobody seen yet".to_owned(), |site| format!("site {site}"));
        table.add_row([
            &certificate.fingerprint,
            &site,
            &certificate.state,
            &certificate.days_left.map(|days| days.to_string()).unwrap_or_default(),
            certificate.expires_at.as_deref().unwrap_or_default(),
            certificate.last_used_at.as_deref().unwrap_or("never"),
        ]);
    }
    table.to_string()
}

fn sites_table(sites: &[Site]) -> String {
    let mut table = table(&["site", "enrolled", "last seen"]);
    for site in sites {
        table.add_row([&site.id, &site.created_at, site.last_seen_at.as_deref().unwrap_or("never")]);
    }
    table.to_string()
}

fn runs_table(runs: &[Run]) -> String {
    let mut table = table(&["run", "state", "strategy", "published", "round", "sites", "created"]);
    for run in runs {
        table.add_row([
            run.id.clone(),
            run.state.clone(),
            run.strategy.clone(),
            format!("{}/{}", run.rounds_published, run.policy.rounds),
            run.current_round.map_or_else(String::new, |round| round.to_string()),
            run.cohort.len().to_string(),
            run.created_at.clone(),
        ]);
    }
    table.to_string()
}

fn show_run(run: &Run, screen: &Screen) -> Result<()> {
    screen.answer(run, || run_text(run))
}

fn run_text(run: &Run) -> String {
    let mut table = table(&["run", &run.id]);
    let policy = &run.policy;
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            table.add_row([name.to_owned(), value]);
        }
    };
    row("state", run.state.clone());
    row("reason", run.reason.clone().unwrap_or_default());
    row("paused since", run.paused_at.clone().unwrap_or_default());
    row("strategy", run.strategy.clone());
    if run.spec.is_some() {
        let verified = match &run.graph_digest {
            Some(graph) => format!("verified, from graph {graph}"),
            None => "given, not verified by this server".to_owned(),
        };
        row("spec", verified);
    }
    row("rounds published", format!("{} of {}", run.rounds_published, policy.rounds));
    row("newest round", run.current_round.map(|round| round.to_string()).unwrap_or_default());
    row("cohort", run.cohort.join(", "));
    row("quorum", policy.quorum.to_string());
    row("deadline", format!("{} s", policy.deadline_seconds));
    let some = |count: Option<String>| count.unwrap_or_default();
    row("quorum is enough after", some(policy.min_open_seconds.map(|seconds| format!("{seconds} s"))));
    row("models kept", some(policy.keep_models.map(|count| format!("newest {count}"))));
    let best = policy.keep_best.as_ref();
    row("kept too", some(best.map(|best| format!("the model of the {} {}", best.goal, best.metric))));
    row(
        "a model's signature",
        if policy.name_participants { "names its sites" } else { "counts its sites" }.to_owned(),
    );
    row("values at most", some(policy.max_magnitude_factor.map(magnitudes)));
    if let Some(PlausibilityPolicy { max_distance_ratio: Some(ratio), min_cosine: Some(cosine), action }) =
        &policy.plausibility
    {
        let action = action.as_deref().unwrap_or("warn");
        row("implausible", format!("distance ratio above {ratio}, cosine below {cosine}: {action}"));
    }
    row("updates kept", some(policy.keep_updates.map(|count| format!("of the newest {count} rounds"))));
    row("seed", run.seed_digest.clone().unwrap_or_default());
    row("global model", run.global_digest.clone().unwrap_or_default());
    row("created", run.created_at.clone());
    table.to_string()
}

fn magnitudes(factor: f64) -> String {
    if factor == 0.0 { "any".to_owned() } else { format!("{factor} times the reference's") }
}

fn rounds_table(rounds: &[Round]) -> String {
    let mut table = table(&["round", "state", "updates", "opened", "closed", "global model", "reason"]);
    for round in rounds {
        let held =
            round.sites.iter().filter(|site| matches!(site.state.as_str(), "accepted" | "aligned")).count();
        table.add_row([
            round.number.to_string(),
            round.state.clone(),
            format!("{held}/{}", round.sites.len()),
            round.opened_at.clone(),
            round.closed_at.clone().unwrap_or_default(),
            round.global_digest.as_deref().map(short).unwrap_or_default(),
            round.reason.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn round_text(round: &Round) -> String {
    let mut text = format!("round {}: {}", round.number, round.state);
    for (name, value) in [
        ("reason", &round.reason),
        ("reference", &round.reference_digest),
        ("global model", &round.global_digest),
        ("model kept no longer since", &round.model_retired_at),
        ("closed", &round.closed_at),
    ] {
        if let Some(value) = value {
            text.push_str(&format!("\n{name}: {value}"));
        }
    }
    let mut table = table(&[
        "site",
        "state",
        "examples",
        "share",
        "moved",
        "distance",
        "of the others'",
        "cosine",
        "metrics",
        "reason",
    ]);
    let mut warnings = String::new();
    for site in &round.sites {
        let (alignment, plausibility) = (site.alignment.as_ref(), site.plausibility.as_ref());
        for warning in plausibility.iter().flat_map(|plausibility| &plausibility.warnings) {
            warnings.push_str(&format!("\nwarning: site {}: {warning}", site.site));
        }
        let metrics = site.metrics.iter().flatten().map(|(name, value)| format!("{name} {value:.4}"));
        table.add_row([
            site.site.clone(),
            match (site.state.as_str(), site.received_bytes, site.size) {
                ("receiving", Some(received), Some(size)) => {
                    format!("receiving {} of {}", bytes(received), bytes(size))
                }
                ("silent", _, _) => match &site.last_seen_at {
                    Some(at) => format!("silent since {at}"),
                    None => "silent, never seen".to_owned(),
                },
                (state, _, _) => state.to_owned(),
            },
            site.num_examples.map(|count| count.to_string()).unwrap_or_default(),
            site.share.map(|share| format!("{share:.3}")).unwrap_or_default(),
            alignment.map(|report| format!("{:.1} %", 100.0 * report.moved)).unwrap_or_default(),
            match (alignment, plausibility) {
                (Some(report), _) => format!("{:.3} -> {:.3}", report.l2_before, report.l2_after),
                (None, Some(plausibility)) => format!("{:.3}", plausibility.distance),
                (None, None) => String::new(),
            },
            ratio(plausibility.and_then(|plausibility| plausibility.distance_ratio)),
            plausibility
                .and_then(|plausibility| plausibility.cosine)
                .map(|cosine| format!("{cosine:.3}"))
                .unwrap_or_default(),
            metrics.collect::<Vec<_>>().join(", "),
            site.reason.clone().unwrap_or_default(),
        ]);
    }
    format!("{text}\n{table}{warnings}")
}

/// A multiple of the others'.
fn ratio(ratio: Option<f64>) -> String {
    match ratio {
        Some(ratio) if ratio < 1e6 => format!("{ratio:.2} x"),
        Some(ratio) => format!("{ratio:.1e} x"),
        None => String::new(),
    }
}

fn short(digest: &str) -> String {
    digest.chars().take(16).collect()
}
