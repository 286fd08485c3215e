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
    model::{self, Holder, Role, Run, Site, Update},
    round::Millis,
    store::Actor,
};

/// So many of its updates are shown.
const MOST_UPDATES: u32 = 50;

/// All sites.
pub(super) async fn list(State(api): State<Api>, viewer: Viewer) -> std::result::Result<Response, Refused> {
    let (now, sites) = (api.store.now().await?, api.store.sites().await?);
    let runs = api.store.figures().await?.runs_of_sites;
    let main = html! {
        h1 { "Sites" }
        @if sites.is_empty() {
            p.card { "No site is enrolled yet. " code { "fedbasin admin enrol" } " enrols one." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Sites, a table" {
                table.stack {
                    caption.unseen { "Sites, by id" }
                    thead { tr {
                        th scope="col" { "Site" } th scope="col" { "Last seen" } th.number scope="col" { "Open runs" }
                        th scope="col" { "Enrolled" }
                    } }
                    tbody {
                        @for site in &sites {
                            tr {
                                th scope="row" data-name="Site" { a href={ "/sites/" (site.id) } { (site.id) } }
                                td data-name="Last seen" { (seen(site, now)) }
                                td.number data-name="Open runs" { (runs.get(&site.id).copied().unwrap_or(0)) }
                                td data-name="Enrolled" { (when(site.created_at_ms)) }
                            }
                        }
                    }
                }
            }
        }
    };
    Ok(viewer.page("Sites", Some(5), &main)?)
}

fn seen(site: &Site, now: Millis) -> Markup {
    html! { @match site.last_seen_at_ms { Some(at) => { (ago(at, now)) } None => { "never" } } }
}

async fn find(api: &Api, id: &str) -> Result<Site> {
    let unknown = || Error::not_found("there is no site of that id");
    model::check_id("site", id).map_err(|_| unknown())?;
    api.store.sites().await?.into_iter().find(|site| site.id == id).ok_or_else(unknown)
}

/// One site.
pub(super) async fn show(
    State(api): State<Api>,
    Path(site): Path<String>,
    viewer: Viewer,
) -> std::result::Result<Response, Refused> {
    let site = find(&api, &site).await?;
    let main = the_site(&api, &site, &viewer, None).await?;
    Ok(viewer.page(&format!("Site {}", site.id), None, &main)?)
}

async fn the_site(api: &Api, site: &Site, viewer: &Viewer, made: Option<&MadeToken>) -> Result<Markup> {
    let now = api.store.now().await?;
    let runs = api.store.runs_of_site(&site.id).await?;
    let updates = api.store.newest_updates_of(&site.id, MOST_UPDATES).await?;
    let mut certificates = api.store.certificates().await?;
    certificates.retain(|certificate| certificate.site.as_deref() == Some(&site.id));
    let certificates: Vec<Certificate> =
        certificates.into_iter().map(|certificate| Certificate::of(certificate, now)).collect();
    let tokens: Option<Vec<Token>> = match viewer.may(Role::Admin) {
        true => {
            let mut tokens = api.store.tokens().await?;
            tokens.retain(|token| matches!(&token.holder, Holder::Site(holder) if *holder == site.id));
            Some(tokens.into_iter().map(|token| Token::of(token, now)).collect())
        }
        false => None,
    };
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
        (participation(&runs))
        (history(&updates))
        (of_certificates(&certificates))
        @if let Some(tokens) = &tokens { (of_tokens(site, tokens)) }
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
                div.scroll tabindex="0" role="region" aria-label="Updates, a table" {
                    table.stack {
                        caption.unseen { "Its updates, the newest first" }
                        thead { tr {
                            th scope="col" { "Round" } th scope="col" { "State" } th scope="col" { "Announced" }
                            th scope="col" { "Update" } th.number scope="col" { "Examples" } th scope="col" { "Its own figures" }
                        } }
                        tbody { @for update in updates {
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
                        } }
                    }
                }
            }
        }
    }
}

fn of_certificates(certificates: &[Certificate]) -> Markup {
    html! {
        section aria-labelledby="certificates" {
            h2 #certificates { "Certificates" }
            @if certificates.is_empty() { p { "It came with none." } } @else {
                div.scroll tabindex="0" role="region" aria-label="Certificates, a table" {
                    table.stack {
                        caption.unseen { "Certificates that it came with" }
                        thead { tr {
                            th scope="col" { "Fingerprint" } th scope="col" { "State" } th scope="col" { "Expires" }
                            th.number scope="col" { "Days left" } th scope="col" { "Last used" }
                        } }
                        tbody { @for certificate in certificates {
                            tr {
                                th scope="row" data-name="Fingerprint" { (digest(&certificate.fingerprint)) }
                                td data-name="State" { (state(certificate.state)) }
                                td data-name="Expires" { (when_said(certificate.expires_at.as_deref())) }
                                td.number data-name="Days left" {
                                    @match certificate.days_left { Some(days) => { (days) } None => { "–" } }
                                }
                                td data-name="Last used" { (when_said(certificate.last_used_at.as_deref())) }
                            }
                        } }
                    }
                }
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
                div.scroll tabindex="0" role="region" aria-label="Tokens, a table" {
                    table.stack {
                        caption.unseen { "Its tokens, the newest first" }
                        thead { tr {
                            th scope="col" { "Label" } th scope="col" { "State" } th scope="col" { "Expires" }
                            th scope="col" { "Last used" } th scope="col" { span.unseen { "What can be done" } }
                        } }
                        tbody { @for token in tokens {
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
                        } }
                    }
                }
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
    let site = find(&api, &site).await?;
    let label = new.label.trim();
    let life = tokens::checked_life(label, None)?;
    let acting = Api { store: api.store.acting_as(actor), ..api.clone() };
    let holder = Holder::Site(site.id.clone());
    let made = tokens::make(&acting, auth::SITE_PREFIX, holder, label, life).await?;
    let main = the_site(&api, &site, &viewer, Some(&made)).await?;
    Ok(viewer.page(&format!("Site {}", site.id), None, &main)?)
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
    let site = find(api, site).await?;
    let mut tokens = api.store.tokens().await?.into_iter();
    let is_it = |found: &model::Token| {
        found.id == token && matches!(&found.holder, Holder::Site(holder) if *holder == site.id)
    };
    tokens.find(is_it).ok_or_else(|| Error::not_found("this site has no such token"))
}
