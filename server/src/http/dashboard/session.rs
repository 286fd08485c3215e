//! Who sits before the browser: a cookie that holds a token, so that every replica knows it and it ends with the token.

use axum::{
    Form,
    extract::{Request, State, rejection::FormRejection},
    middleware::Next,
    response::{IntoResponse as _, Redirect, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts};
use maud::{Markup, html};
use serde::Deserialize;

use super::page::{self, Frame, Refused};
use crate::{
    auth::oidc::{self, Oidc},
    error::{Code, Error, Result},
    http::{Api, auth, problem::Query},
};

const COOKIE: &str = "fedbasin_session";
/// Browsers keep no longer cookies, name and attributes included.
const MOST_COOKIE_BYTES: usize = 4000;
/// Where one goes who came for nothing else.
const HOME: &str = "/";

/// The token that a browser sends in its cookie.
pub(in crate::http) fn token(headers: &HeaderMap) -> Option<String> {
    decode(sent(headers, COOKIE)?)
}

/// What a browser sends in a cookie. Of several with one name none counts.
pub(super) fn sent<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut found = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value);
    let (Some(value), None) = (found.next(), found.next()) else { return None };
    Some(value)
}

/// A token may hold what a cookie may not. A JWT does not, and is long: it goes as it is, told from others by its dots.
fn encode(token: &str) -> String {
    if is_plain_jwt(token) { token.to_owned() } else { URL_SAFE_NO_PAD.encode(token) }
}

fn decode(value: &str) -> Option<String> {
    if is_plain_jwt(value) {
        return Some(value.to_owned());
    }
    String::from_utf8(URL_SAFE_NO_PAD.decode(value).ok()?).ok().filter(|token| !token.is_empty())
}

fn is_plain_jwt(text: &str) -> bool {
    oidc::is_jwt(text) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether a browser speaks TLS, with this server or, as the call or the settings tell, with a proxy before it. Who lies here has but a cookie that
/// is sent more rarely.
pub(super) fn over_tls(api: &Api, headers: &HeaderMap) -> bool {
    let back_from_provider = || api.people.oidc.as_ref().is_some_and(Oidc::comes_back_over_tls);
    api.tls.is_some() || says_tls(headers) || back_from_provider()
}

fn says_tls(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = text("origin").and_then(|origin| origin.split_once("://")).map(|(scheme, _)| scheme);
    // Of several proxies the first is the one that the browser speaks with.
    let forwarded = text("x-forwarded-proto").and_then(|schemes| schemes.split(',').next()).map(str::trim);
    [origin, forwarded].into_iter().flatten().any(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// The cookie that holds a token, or that ends one. It is the browser's until it is closed; sent to this server alone, only from its own
/// pages and, if `over_tls`, only over TLS.
fn cookie(over_tls: bool, token: Option<&str>) -> Result<HeaderValue> {
    let secure = if over_tls { "; Secure" } else { "" };
    let (value, end) = match token {
        Some(token) => (encode(token), ""),
        None => (String::new(), "; Max-Age=0"),
    };
    let text = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{end}");
    if text.len() > MOST_COOKIE_BYTES {
        return Err(Error::invalid("the token is longer than a browser's cookie can be; use one made here"));
    }
    let mut value = HeaderValue::from_str(&text).map_err(Error::internal)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Lets those through who hold a token for it; others are asked for one.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    if let Err(error) = from_here(&parts) {
        return Refused::from(error).into_response();
    }
    let Some(token) = token(&parts.headers) else { return to_sign_in(&api, &parts, false) };
    // Nothing but the cookie counts here.
    let Ok(mut bearer) = HeaderValue::from_str(&format!("Bearer {token}")) else {
        return to_sign_in(&api, &parts, true);
    };
    bearer.set_sensitive(true);
    parts.headers.insert(header::AUTHORIZATION, bearer);
    let end = match auth::enter(&api, &mut parts).await {
        Ok(end) => end,
        Err(error) if error.code() == Code::Unauthenticated => return to_sign_in(&api, &parts, true),
        Err(error) => return Refused::from(error).into_response(),
    };
    match auth::go_on(&api, end, Request::from_parts(parts, body), next).await {
        Ok(response) => response,
        Err(error) => Refused::from(error).into_response(),
    }
}

/// Lets nothing through that another site's page sent.
pub(super) async fn only_from_here(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match from_here(&parts) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => Refused::from(error).into_response(),
    }
}

/// Whether what changes something was sent by a page of this server, as browsers tell.
fn from_here(parts: &Parts) -> Result<()> {
    if parts.method == Method::GET || parts.method == Method::HEAD || is_own(&parts.headers, &parts.uri) {
        return Ok(());
    }
    Err(Error::new(
        Code::Forbidden,
        "this was not sent by a page of this server; open the page here and try again",
    ))
}

fn is_own(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // Where a browser says how it came, that is all there is to know; it says so over TLS, and on its own machine.
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    let host = uri.authority().map(http::uri::Authority::as_str).or_else(|| text("host"));
    let origin = text("origin").and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    matches!((origin, host), (Some(origin), Some(host)) if origin.eq_ignore_ascii_case(host))
}

/// Sends a person to sign in, and back afterwards; who asks for a part of a page is told only that it is time to.
fn to_sign_in(api: &Api, parts: &Parts, ended: bool) -> Response {
    let path = parts.uri.path_and_query().map_or(HOME, |path| path.as_str());
    let back = if parts.method == Method::GET { local(path) } else { HOME };
    let mut response = if page::is_part(&parts.headers) {
        StatusCode::UNAUTHORIZED.into_response()
    } else {
        let query = query_of(back, ended);
        Redirect::to(&format!("/signin?{query}")).into_response()
    };
    if ended && let Ok(value) = cookie(over_tls(api, &parts.headers), None) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

/// The query that leads back, and tells whether a session ended.
fn query_of(next: &str, ended: bool) -> String {
    let mut query = String::from("next=");
    for byte in next.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => query.push(byte.into()),
            _ => query.push_str(&format!("%{byte:02X}")),
        }
    }
    if ended {
        query.push_str("&ended=true");
    }
    query
}

/// The path, where it is one of this server and nothing that a browser would take for another's; else home.
pub(super) fn local(path: &str) -> &str {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if path.starts_with('/') && !path.starts_with("//") && plain && path.len() <= 2000 { path } else { HOME }
}

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    next: String,
    #[serde(default)]
    ended: bool,
}

/// The page to sign in.
pub(super) async fn form(State(api): State<Api>, Query(asked): Query<Asked>) -> Response {
    let told = asked.ended.then_some("What you signed in with opens nothing any more: sign in again.");
    the_form(&api, &asked.next, told, StatusCode::OK)
}

pub(super) fn the_form(api: &Api, next: &str, told: Option<&str>, status: StatusCode) -> Response {
    let main: Markup = html! {
        h1 { "Sign in" }
        @if let Some(told) = told { p.note.bad role="alert" { (told) } }
        form.card.narrow method="post" action="/signin" {
            input type="hidden" name="next" value=(local(next));
            label for="token" { "Token" }
            input #token type="password" name="token" required autocomplete="current-password" autofocus
                spellcheck="false" aria-describedby="which";
            p #which.hint {
                "One that an administrator made for you, or the admin token of this server."
                @if api.people.oidc.is_some() {
                    " An ID token (a JWT) of the identity provider that this server trusts opens it, too."
                }
            }
            button type="submit" { "Sign in" }
        }
        @if api.people.oidc.as_ref().is_some_and(Oidc::signs_in) {
            p.narrow { a.button href={ "/signin/provider?" (query_of(local(next), false)) } { "Sign in with your organisation" } }
        }
    };
    let mut response = page::whole(&Frame { title: "Sign in", role: None, path: "/signin" }, &main);
    *response.status_mut() = status;
    response
}

#[derive(Deserialize)]
pub(super) struct SignIn {
    token: String,
    #[serde(default)]
    next: String,
}

/// Signs in with a token.
pub(super) async fn sign_in(
    State(api): State<Api>,
    extensions: Extensions,
    headers: HeaderMap,
    form: std::result::Result<Form<SignIn>, FormRejection>,
) -> std::result::Result<Response, Refused> {
    let Form(asked) = form.map_err(page::bad_form)?;
    let token = asked.token.trim();
    if token.is_empty() || token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Ok(the_form(&api, &asked.next, Some("That is no token."), StatusCode::UNPROCESSABLE_ENTITY));
    }
    match begun(&api, &extensions, &headers, token).await {
        Ok(set) => Ok(([(header::SET_COOKIE, set)], Redirect::to(local(&asked.next))).into_response()),
        Err(error) if error.code() == Code::Unauthenticated => {
            let told = "That token opens nothing here: it is unknown, expired or revoked.";
            Ok(the_form(&api, &asked.next, Some(told), StatusCode::UNAUTHORIZED))
        }
        Err(error) if error.code() == Code::InvalidArgument => {
            Ok(the_form(&api, &asked.next, Some(error.message()), StatusCode::UNPROCESSABLE_ENTITY))
        }
        Err(error) => Err(error.into()),
    }
}

/// The cookie of a session that begins with a token, where that opens something here.
pub(super) async fn begun(
    api: &Api,
    extensions: &Extensions,
    headers: &HeaderMap,
    token: &str,
) -> Result<HeaderValue> {
    let caller = auth::identify(api, extensions, token).await?;
    tracing::info!(person.role = caller.role.name(), "signed in at the dashboard");
    cookie(over_tls(api, headers), Some(token))
}

/// Signs out: the browser forgets the token.
pub(super) async fn sign_out(
    State(api): State<Api>,
    headers: HeaderMap,
) -> std::result::Result<Response, Refused> {
    let set = cookie(over_tls(&api, &headers), None)?;
    Ok(([(header::SET_COOKIE, set)], Redirect::to("/signin")).into_response())
}

#[cfg(test)]
mod tests;
