//! What `fedbasin admin` shows to people: tables and lines.

mod evaluations;

use comfy_table::{Table, presets::ASCII_MARKDOWN};

use crate::{
    admin::types::{AlignReport, Certificates, PlausibilityPolicy, Round, Run, Site, TokenRecord},
    error::Result,
    progress::{Screen, bytes},
};

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(header);
    table
}

pub(super) fn tokens_table(tokens: &[TokenRecord]) -> String {
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

pub(super) fn certificates_table(all: &Certificates) -> String {
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

pub(super) fn sites_table(sites: &[Site]) -> String {
    let mut table = table(&["site", "enrolled", "last seen"]);
    for site in sites {
        table.add_row([&site.id, &site.created_at, site.last_seen_at.as_deref().unwrap_or("never")]);
    }
    table.to_string()
}

pub(super) fn runs_table(runs: &[Run]) -> String {
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

pub(super) fn show_run(run: &Run, screen: &Screen) -> Result<()> {
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
    let naive = if policy.evaluate_naive { "made too, for sites to try" } else { "" };
    row("naive mean", naive.to_owned());
    row("values at most", some(policy.max_magnitude_factor.map(magnitudes)));
    if let Some(PlausibilityPolicy { max_distance_ratio: Some(ratio), min_cosine: Some(cosine), action }) =
        &policy.plausibility
    {
        let action = action.as_deref().unwrap_or("warn");
        row("implausible", format!("distance ratio above {ratio}, cosine below {cosine}: {action}"));
    }
    row("updates kept", some(policy.keep_updates.map(|count| format!("of the newest {count} rounds"))));
    row("seed", run.seed_digest.clone().unwrap_or_default());
    row("best round", run.best_round.map(|round| round.to_string()).unwrap_or_default());
    row("global model", run.global_digest.clone().unwrap_or_default());
    row("created", run.created_at.clone());
    table.to_string()
}

fn magnitudes(factor: f64) -> String {
    if factor == 0.0 { "any".to_owned() } else { format!("{factor} times the reference's") }
}

pub(super) fn rounds_table(rounds: &[Round]) -> String {
    let mut table = table(&[
        "round",
        "state",
        "updates",
        "opened",
        "closed",
        "global model",
        "loss",
        "accuracy",
        "reason",
    ]);
    for round in rounds {
        let held =
            round.sites.iter().filter(|site| matches!(site.state.as_str(), "accepted" | "aligned")).count();
        let mean = round.evaluations.global.as_ref();
        table.add_row([
            if round.best { format!("{}, the best", round.number) } else { round.number.to_string() },
            round.state.clone(),
            format!("{held}/{}", round.sites.len()),
            round.opened_at.clone(),
            round.closed_at.clone().unwrap_or_default(),
            round.global_digest.as_deref().map(short).unwrap_or_default(),
            evaluations::loss(mean.and_then(|mean| mean.loss)),
            evaluations::accuracy(mean.and_then(|mean| mean.accuracy)),
            round.reason.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

/// `groups`: with a table of each update's groups.
pub(super) fn round_text(round: &Round, groups: bool) -> String {
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
        "best partner",
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
            alignment.map(|report| percent(report.moved)).unwrap_or_default(),
            alignment.and_then(least_matched).map(percent).unwrap_or_default(),
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
    text.push_str(&format!("\n{table}"));
    text.push_str(&evaluations::text(round));
    if groups {
        text.push_str(&format!("\n{}", groups_table(round)));
    }
    text + &warnings
}

fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

/// Of the groups that a search matched, the least fraction of units that have the partner they fit best.
fn least_matched(report: &AlignReport) -> Option<f64> {
    report.groups.iter().filter_map(|group| group.margins).map(|margins| margins.best).reduce(f64::min)
}

/// How each group of each update was aligned, and how surely its units have their partners.
fn groups_table(round: &Round) -> Table {
    let mut table = table(&[
        "site",
        "group",
        "units",
        "moved",
        "distance",
        "best partner",
        "5 % margin",
        "median margin",
    ]);
    for site in &round.sites {
        for group in site.alignment.iter().flat_map(|report| &report.groups) {
            let margin = |part: fn(&rebasin::Margins) -> f64| group.margins.as_ref().map(part);
            table.add_row([
                site.site.clone(),
                group.name.clone(),
                group.size.to_string(),
                percent(group.moved),
                format!("{:.3} -> {:.3}", group.l2_before, group.l2_after),
                margin(|margins| margins.best).map(percent).unwrap_or_default(),
                margin(|margins| margins.p5).map(|p5| format!("{p5:.3}")).unwrap_or_default(),
                margin(|margins| margins.median).map(|median| format!("{median:.3}")).unwrap_or_default(),
            ]);
        }
    }
    table
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
