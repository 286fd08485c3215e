//! Sites: which there are, and one with all that is known of it.

use axum::{
    Extension, Form,
    extract::{State, rejection::FormRejection},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    overview::since,
    page::{self, Refused, Viewer},
    run::{Confirmed, confirmation},
    table::{
        Column::{Number, Text, Unseen},
        table,
    },
    text::{ago, bytes, digest, number, plural, state, when, when_said},
};
use crate::{
    auth,
    error::{Error, Result},
    http::{
        Api,
        certificates::Certificate,
        problem::Path,
        tokens::{self, MadeToken, Token},
    },
    model::{self, FailedCall, Holder, Role, Run, Site, SiteDetails, Update},
    round::Millis,
    store::Actor,
};

/// So many of its updates are shown.
const MOST_UPDATES: u32 = 50;

/// All sites.
pub(super) async fn list(State(api): State<Api>, viewer: Viewer) -> std::result::Result<Response, Refused> {
    let (now, sites) = (api.store.now().await?, api.store.sites().await?);
    let runs = api.store.open_runs_of_sites().await?;
    let main = html! {
        h1 { "Sites" }
        @if sites.is_empty() {
            p.card { "No site is enrolled yet. " code { "fedbasin admin enrol" } " enrols one." }
        } @else {
            (table(
                "Sites",
                "Sites, by id",
                &[Text("Site"), Text("Last seen"), Number("Open runs"), Text("Enrolled")],
                &html! {
                    @for site in &sites {
                        tr {
                            th scope="row" data-name="Site" { a href={ "/sites/" (site.id) } { (site.id) } }
                            td data-name="Last seen" { (seen(site, now)) }
                            td.number data-name="Open runs" { (runs.get(&site.id).copied().unwrap_or(0)) }
                            td data-name="Enrolled" { (when(site.created_at_ms)) }
                        }
                    }
                },
            ))
        }
    };
    Ok(viewer.page("Sites", Some(5), &main)?)
}

fn seen(site: &Site, now: Millis) -> Markup {
    html! { @match site.last_seen_at_ms { Some(at) => { (ago(at, now)) } None => { "never" } } }
}

async fn find(api: &Api, id: &str) -> Result<SiteDetails> {
    model::check_id("site", id).map_err(|error| Error::not_found(error.message()))?;
    api.store.site(id).await
}

/// One site.
pub(super) async fn show(
    State(api): State<Api>,
    Path(site): Path<String>,
    viewer: Viewer,
) -> std::result::Result<Response, Refused> {
    let found = find(&api, &site).await?;
    let main = the_site(&api, found, &viewer, None).await?;
    Ok(viewer.page(&format!("Site {site}"), None, &main)?)
}

async fn the_site(
    api: &Api,
    found: SiteDetails,
    viewer: &Viewer,
    made: Option<&MadeToken>,
) -> Result<Markup> {
    let SiteDetails { site, certificates, tokens, failed_calls, .. } = found;
    let now = api.store.now().await?;
    let runs = api.store.runs_of_site(&site.id).await?;
    let updates = api.store.newest_updates_of(&site.id, MOST_UPDATES).await?;
    let certificates: Vec<Certificate> =
        certificates.into_iter().map(|certificate| Certificate::of(certificate, now)).collect();
    let tokens = viewer
        .may(Role::Admin)
        .then(|| tokens.into_iter().map(|token| Token::of(token, now)).collect::<Vec<_>>());
    Ok(html! {
        h1 { "Site " (site.id) }
        dl.facts {
            div { dt { "Last seen" } dd {
                @match site.last_seen_at_ms { Some(at) => { (since(at, now)) } None => { "never" } }
            } }
            div { dt { "Enrolled" } dd { (when(site.created_at_ms)) } }
            div { dt { "Takes part in" } dd { (plural(runs.len(), "run", "runs")) } }
        }
        @if let Some(made) = made { (given_once(made)) }
        (errors(&updates))
        (told(&failed_calls, now))
        (participation(&runs))
        (history(&updates))
        (of_certificates(&certificates))
        @if let Some(tokens) = &tokens { (of_tokens(&site, tokens)) }
    })
}

/// The newest things that were not as the site wished, in the words that it was told.
fn errors(updates: &[Update]) -> Markup {
    let refused: Vec<&Update> =
        updates.iter().filter(|update| update.state.reason().is_some()).take(5).collect();
    html! {
        @if !refused.is_empty() {
            section aria-labelledby="errors" {
                h2 #errors { "Last refusals, as the site was told" }
                ul.problems {
                    @for update in refused {
                        li.note.warn {
                            (state(update.state.name())) " " (of_round(update)) ", " (when(update.begun_at_ms)) ": "
                            (update.state.reason().unwrap_or_default())
                        }
                    }
                }
            }
        }
    }
}

/// What calls of its were answered that failed.
fn told(calls: &[FailedCall], now: Millis) -> Markup {
    html! {
        @if !calls.is_empty() {
            section aria-labelledby="told" {
                h2 #told { "Calls that failed, as the site was told" }
                (table(
                    "Calls that failed, as the site was told",
                    "What the site called and was answered, the newest first",
                    &[Text("Call"), Text("Code"), Text("Answer"), Number("Times"), Text("Last")],
                    &html! {
                        @for call in calls {
                            tr {
                                th scope="row" data-name="Call" { (call.rpc) }
                                td data-name="Code" { code { (call.code) } }
                                td data-name="Answer" { (call.message) }
                                td.number data-name="Times" { (call.times) }
                                td data-name="Last" { (since(call.last_at_ms, now)) }
                            }
                        }
                    },
                ))
            }
        }
    }
}

fn of_round(update: &Update) -> Markup {
    html! { a href={ "/runs/" (update.run_id) "/rounds/" (update.round) } { (update.run_id) ", round " (update.round) } }
}

fn participation(runs: &[Run]) -> Markup {
    html! {
        section aria-labelledby="participation" {
            h2 #participation { "Runs" }
            @if runs.is_empty() { p { "It is in no run's cohort." } } @else {
                ul.plain {
                    @for run in runs {
                        li { a href={ "/runs/" (run.id) } { (run.id) } " " (state(run.state.name()))
                            " " (run.rounds_published) " of " (run.policy.rounds) " rounds published" }
                    }
                }
            }
        }
    }
}

fn history(updates: &[Update]) -> Markup {
    html! {
        section aria-labelledby="history" {
            h2 #history { "Updates" }
            @if updates.is_empty() { p { "It has sent none." } } @else {
                (table(
                    "Updates",
                    "Its updates, the newest first",
                    &[Text("Round"), Text("State"), Text("Announced"), Text("Update"), Number("Examples"),
                      Text("Its own figures")],
                    &html! {
                        @for update in updates {
                            tr {
                                th scope="row" data-name="Round" { (of_round(update)) }
                                td data-name="State" {
                                    (state(update.state.name()))
                                    @if update.withdrawn_at_ms.is_some() { " " (state("withdrawn")) }
                                }
                                td data-name="Announced" { (when(update.begun_at_ms)) }
                                td data-name="Update" { (digest(&update.digest.to_string())) " " (bytes(update.size)) }
                                td.number data-name="Examples" { (update.num_examples) }
                                td data-name="Its own figures" {
                                    @if update.metrics.is_empty() { "–" }
                                    @for (name, value) in &update.metrics { span.figure { (name) " " (number(*value)) } " " }
                                }
                            }
                        }
                    },
                ))
            }
        }
    }
}

fn of_certificates(certificates: &[Certificate]) -> Markup {
    html! {
        section aria-labelledby="certificates" {
            h2 #certificates { "Certificates" }
            @if certificates.is_empty() { p { "It came with none." } } @else {
                (table(
                    "Certificates",
                    "Certificates that it came with",
                    &[Text("Fingerprint"), Text("State"), Text("Expires"), Number("Days left"), Text("Last used")],
                    &html! {
                        @for certificate in certificates {
                            tr {
                                th scope="row" data-name="Fingerprint" { (digest(&certificate.fingerprint)) }
                                td data-name="State" { (state(certificate.state)) }
                                td data-name="Expires" { (when_said(certificate.expires_at.as_deref())) }
                                td.number data-name="Days left" {
                                    @match certificate.days_left { Some(days) => { (days) } None => { "–" } }
                                }
                                td data-name="Last used" { (when_said(certificate.last_used_at.as_deref())) }
                            }
                        }
                    },
                ))
            }
        }
    }
}

fn of_tokens(site: &Site, tokens: &[Token]) -> Markup {
    let path = format!("/sites/{}/tokens", site.id);
    html! {
        section aria-labelledby="tokens" {
            h2 #tokens { "Tokens" }
            @if !tokens.is_empty() {
                (table(
                    "Tokens",
                    "Its tokens, the newest first",
                    &[Text("Label"), Text("State"), Text("Expires"), Text("Last used"), Unseen("What can be done")],
                    &html! {
                        @for token in tokens {
                            tr {
                                th scope="row" data-name="Label" { @if token.label.is_empty() { (token.id) } @else { (token.label) } }
                                td data-name="State" { (state(token.state)) }
                                td data-name="Expires" { (when_said(Some(&token.expires_at))) }
                                td data-name="Last used" { (when_said(token.last_used_at.as_deref())) }
                                td data-name="Do" {
                                    @if token.state == "alive" {
                                        a href={ (path) "/" (token.id) "/revoke" } { "Revoke…" span.unseen { " the token " (token.label) } }
                                    }
                                }
                            }
                        }
                    },
                ))
            }
            form.card.narrow method="post" action=(path) {
                h3 { "Make a further token" }
                label for="label" { "Label (optional)" }
                input #label type="text" name="label" maxlength="200" autocomplete="off";
                p.hint { "It is shown once and opens things for 90 days. Two of a site may be alive at a time." }
                button type="submit" { "Make a token" }
            }
        }
    }
}

fn given_once(made: &MadeToken) -> Markup {
    html! {
        section.note.good aria-labelledby="made" {
            h2 #made { "A token was made" }
            p { "It is shown this once: give it to the site." }
            p { code #made-token { (made.token) } }
        }
    }
}

/// What a token is to be.
#[derive(Deserialize)]
pub(super) struct NewToken {
    #[serde(default)]
    label: String,
}

/// Makes a further token, and shows it once.
pub(super) async fn make_token(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    viewer: Viewer,
    form: std::result::Result<Form<NewToken>, FormRejection>,
) -> std::result::Result<Response, Refused> {
    let Form(new) = form.map_err(page::bad_form)?;
    find(&api, &site).await?;
    let label = new.label.trim();
    let life = tokens::checked_life(label, None)?;
    let acting = Api { store: api.store.acting_as(actor), ..api.clone() };
    let holder = Holder::Site(site.clone());
    let made = tokens::make(&acting, auth::SITE_PREFIX, holder, label, life).await?;
    let main = the_site(&api, find(&api, &site).await?, &viewer, Some(&made)).await?;
    Ok(viewer.page(&format!("Site {site}"), None, &main)?)
}

/// Asks once more.
pub(super) async fn ask_revoke(
    State(api): State<Api>,
    Path((site, token)): Path<(String, String)>,
    viewer: Viewer,
) -> std::result::Result<Response, Refused> {
    let token = find_token(&api, &site, &token).await?;
    let (back, what) = (
        format!("/sites/{site}"),
        "It opens nothing from then on, and what it opened ends within five seconds, at every replica.",
    );
    let name = format!("Revoke the token {:?} of {site}", token.label);
    let action = format!("/sites/{site}/tokens/{}/revoke", token.id);
    let main = confirmation(&action, &back, (&name, what), true);
    Ok(viewer.page("Revoke a token", None, &main)?)
}

/// Revokes a token.
pub(super) async fn revoke_token(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path((site, token)): Path<(String, String)>,
    form: std::result::Result<Form<Confirmed>, FormRejection>,
) -> std::result::Result<Response, Refused> {
    let Form(confirmed) = form.map_err(page::bad_form)?;
    let token = find_token(&api, &site, &token).await?;
    let acting = confirmed.acting(&api, actor)?;
    let revoked = acting.store.revoke_token(&token.id).await?;
    tracing::info!(token.id = revoked.id, "token revoked");
    Ok(Redirect::to(&format!("/sites/{site}")).into_response())
}

/// A token of that site.
async fn find_token(api: &Api, site: &str, token: &str) -> Result<model::Token> {
    let site = find(api, site).await?.site;
    let mut tokens = api.store.tokens().await?.into_iter();
    let is_it = |found: &model::Token| {
        found.id == token && matches!(&found.holder, Holder::Site(holder) if *holder == site.id)
    };
    tokens.find(is_it).ok_or_else(|| Error::not_found("this site has no such token"))
}
