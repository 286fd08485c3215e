//! The way to the identity provider and back, for who signs in with a browser.

use axum::{
    extract::State,
    response::{IntoResponse as _, Redirect, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Extensions, HeaderMap, HeaderValue, header};
use maud::html;
use serde::Deserialize;

use super::{
    page::{self, Frame, Refused},
    session::{self, begun, local, over_tls, the_form},
};
use crate::{
    auth::oidc::{
        Oidc,
        sign_in::{Way, said},
    },
    config::RETURN,
    error::{Code, Error, Result},
    http::{Api, problem::Query},
};

/// What a browser carries there and back: the secret that the way began with, and where to go afterwards.
const COOKIE: &str = "fedbasin_way";
/// So long a person may take at the provider, in seconds.
const PATIENCE_SECONDS: u32 = 600;

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    next: String,
}

/// Sends a person to the provider.
pub(super) async fn go(
    State(api): State<Api>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> std::result::Result<Response, Refused> {
    let oidc = provider(&api)?;
    let way = Way::new()?;
    let url = oidc.begin(&way).await?;
    let value = format!("{}.{}", way.secret(), URL_SAFE_NO_PAD.encode(local(&asked.next)));
    let set = cookie(over_tls(&api, &headers), Some(&value))?;
    Ok(([(header::SET_COOKIE, set)], Redirect::to(url.as_str())).into_response())
}

fn provider(api: &Api) -> Result<&Oidc> {
    api.people
        .oidc
        .as_ref()
        .ok_or_else(|| Error::not_found("this server trusts no identity provider; use a token"))
}

/// What the provider sends a browser back with (RFC 6749, sections 4.1.2 and 4.1.2.1; RFC 9207).
#[derive(Deserialize)]
pub(super) struct Back {
    #[serde(default)]
    state: String,
    code: Option<String>,
    error: Option<String>,
    iss: Option<String>,
}

/// Signs a person in who comes back from the provider.
pub(super) async fn come_back(
    State(api): State<Api>,
    extensions: Extensions,
    headers: HeaderMap,
    Query(back): Query<Back>,
) -> std::result::Result<Response, Refused> {
    let carried = session::sent(&headers, COOKIE).and_then(|value| value.split_once('.'));
    let (secret, page) = carried.unwrap_or_default();
    let next =
        URL_SAFE_NO_PAD.decode(page).ok().and_then(|page| String::from_utf8(page).ok()).unwrap_or_default();
    let next = local(&next);
    let session = match token(&api, secret, &back).await {
        Ok(token) => begun(&api, &extensions, &headers, &token).await,
        Err(error) => Err(error),
    };
    let mut response = match session {
        Ok(set) => ([(header::SET_COOKIE, set)], on_to(next)?).into_response(),
        Err(error)
            if matches!(error.code(), Code::Unauthenticated | Code::InvalidArgument | Code::Forbidden) =>
        {
            the_form(&api, next, Some(error.message()), error.code().http())
        }
        Err(error) => Refused::from(error).into_response(),
    };
    // One way, one return.
    response.headers_mut().append(header::SET_COOKIE, cookie(over_tls(&api, &headers), None)?);
    Ok(response)
}

/// The ID token for what a browser brings back, where this is the browser that went.
async fn token(api: &Api, secret: &str, back: &Back) -> Result<String> {
    let oidc = provider(api)?;
    let way = Way::of(secret);
    if secret.is_empty() || !way.is_state(&back.state) {
        return Err(Error::new(
            Code::Unauthenticated,
            "this sign-in did not begin in this browser, or too long ago; sign in again",
        ));
    }
    if back.iss.as_deref().is_some_and(|issuer| oidc.is_other(issuer)) {
        return Err(Error::new(
            Code::Unauthenticated,
            "another identity provider than this server's sent you here (iss); sign in again from this page",
        ));
    }
    match (&back.code, &back.error) {
        (Some(code), None) => oidc.end(&way, code).await,
        (_, error) => {
            tracing::debug!(oidc.error = said(error.as_deref()), "the identity provider signed nobody in");
            Err(Error::new(Code::Unauthenticated, "the identity provider did not sign you in; sign in again"))
        }
    }
}

/// A page that leads on at once. A redirect would not do: who was sent here by another site's page is still on the way from there, and browsers
/// keep the session's cookie back until a page of this server asks.
fn on_to(next: &str) -> Result<Response> {
    let main = html! { h1 { "Signed in" } p { a href=(next) { "Go on" } } };
    let mut response = page::whole(&Frame { title: "Signed in", role: None, path: "" }, &main);
    let refresh = HeaderValue::from_str(&format!("0;url={next}")).map_err(Error::internal)?;
    response.headers_mut().insert(header::REFRESH, refresh);
    Ok(response)
}

/// Unlike that of a session it goes along when the provider's page sends a person here; it opens nothing.
fn cookie(over_tls: bool, value: Option<&str>) -> Result<HeaderValue> {
    let secure = if over_tls { "; Secure" } else { "" };
    let seconds = value.map_or(0, |_| PATIENCE_SECONDS);
    let text = format!(
        "{COOKIE}={}; Path={RETURN}; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}",
        value.unwrap_or_default()
    );
    let mut value = HeaderValue::from_str(&text).map_err(Error::internal)?;
    value.set_sensitive(true);
    Ok(value)
}
