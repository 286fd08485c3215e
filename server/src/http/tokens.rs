//! Tokens: make, list, revoke.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Api,
    auth::Acting,
    page::{Asked, Page},
    problem::{Body, Path, Problem},
    time::iso,
};
use crate::{
    auth,
    config::Secret,
    error::{Error, Result},
    model::{self, DAY_MS, Holder, Role, standing},
    round::Millis,
};

/// How long a token opens something, in days, where nothing else is asked for.
const DAYS: u32 = 90;
/// And at the most.
const MOST_DAYS: u32 = 366;
/// In characters.
const MOST_LABEL: usize = 200;

/// A token to be made for a person.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    role: Role,
    /// Whose it is, in words; shown in the list.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    label: String,
    /// Days until it opens nothing, 1 to 366; absent: 90.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 366)]
    expires_in_days: Option<u32>,
}

/// A token to be made for a site.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSiteToken {
    /// In words; shown in the list.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    label: String,
    /// Days until it opens nothing, 1 to 366; absent: 90.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 366)]
    expires_in_days: Option<u32>,
}

/// A token, shown this once.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct MadeToken {
    /// What its holder authenticates with. Only its hash is kept here.
    pub(super) token: String,
    #[serde(flatten)]
    pub(super) listed: Token,
}

/// A token as it is listed.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Token {
    /// By which it is revoked.
    pub(super) id: String,
    /// Whose it is, if a site's.
    pub(super) site: Option<String>,
    /// What its holder may do, if a person's.
    pub(super) role: Option<Role>,
    pub(super) label: String,
    /// `alive`, `expired` or `revoked`.
    pub(super) state: &'static str,
    pub(super) created_at: String,
    pub(super) expires_at: String,
    pub(super) revoked_at: Option<String>,
    /// To about half a minute.
    pub(super) last_used_at: Option<String>,
}

/// All tokens, the newest first.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct TokenList {
    tokens: Vec<Token>,
    /// Where the next page begins (`after`), if this is not the last one.
    next: Option<String>,
}

impl Token {
    pub(super) fn of(token: model::Token, now: Millis) -> Self {
        let (site, role) = match token.holder {
            Holder::Site(site) => (Some(site), None),
            Holder::Person(role) => (None, Some(role)),
        };
        Self {
            id: token.id,
            site,
            role,
            label: token.label,
            state: standing(token.revoked_at_ms, Some(token.expires_at_ms), now),
            created_at: iso(token.created_at_ms),
            expires_at: iso(token.expires_at_ms),
            revoked_at: token.revoked_at_ms.map(iso),
            last_used_at: token.last_used_at_ms.map(iso),
        }
    }
}

impl MadeToken {
    /// A token that was made just now.
    pub(super) fn of(secret: &Secret, made: model::Token) -> Self {
        let now = made.created_at_ms;
        Self { token: secret.expose().to_owned(), listed: Token::of(made, now) }
    }
}

/// How long a token is to open something, in milliseconds.
pub(super) fn life(days: Option<u32>) -> Result<Millis> {
    match days.unwrap_or(DAYS) {
        days @ 1..=MOST_DAYS => Ok(Millis::from(days) * DAY_MS),
        days => Err(Error::invalid(format!("expires_in_days: {days} is not within 1 and {MOST_DAYS}"))),
    }
}

/// How long a token of that label is to open something, in milliseconds, if it can be made.
pub(super) fn checked_life(label: &str, days: Option<u32>) -> Result<Millis> {
    if label.chars().count() > MOST_LABEL || label.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "label: at most {MOST_LABEL} characters, without control characters"
        )));
    }
    life(days)
}

impl NewToken {
    /// How long it is to open something, in milliseconds, if it can be made.
    pub(super) fn check(&self) -> Result<Millis> {
        checked_life(&self.label, self.expires_in_days)
    }
}

impl NewSiteToken {
    /// How long it is to open something, in milliseconds, if it can be made.
    pub(super) fn check(&self) -> Result<Millis> {
        checked_life(&self.label, self.expires_in_days)
    }
}

pub(super) async fn make(
    api: &Api,
    prefix: &str,
    holder: Holder,
    label: &str,
    life: Millis,
) -> Result<MadeToken> {
    let secret = auth::new_token(prefix)?;
    let made = api.store.create_token(&auth::hash(secret.expose()), &holder, label, life).await?;
    tracing::info!(token.id = made.id, token.holder = ?made.holder, "token made");
    Ok(MadeToken::of(&secret, made))
}

/// Makes a token for a person and gives it once.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", security(("token" = [])), request_body = NewToken, responses(
    (status = 201, body = MadeToken),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    Acting(api): Acting,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    let life = new.check().map_err(Problem::of_body)?;
    let made = make(&api, auth::ADMIN_PREFIX, Holder::Person(new.role), &new.label, life).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Makes a further token for a site and gives it once: two may open something at the same time, so that one takes the other's place
/// without a pause.
#[utoipa::path(post, path = "/v1/sites/{site}/tokens", tag = "tokens", security(("token" = [])),
    params(("site" = String, Path, description = "The site's id.")), request_body = NewSiteToken, responses(
    (status = 201, body = MadeToken),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create_for_site(
    Acting(api): Acting,
    Path(site): Path<String>,
    Body(new): Body<NewSiteToken>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    let life = new.check().map_err(Problem::of_body)?;
    let made = make(&api, auth::SITE_PREFIX, Holder::Site(site), &new.label, life).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// All tokens, the newest first, without what would open anything.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", security(("token" = [])), params(Asked), responses(
    (status = 200, body = TokenList),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(State(api): State<Api>, page: Page) -> Result<Json<TokenList>, Problem> {
    let now = api.store.now().await?;
    let (tokens, next) = page.of(api.store.tokens().await?, |token| token.id.clone())?;
    let tokens = tokens.into_iter().map(|token| Token::of(token, now)).collect();
    Ok(Json(TokenList { tokens, next }))
}

/// Revokes a token: it opens nothing from now on, at every replica; a site's streams that it opened end within five seconds.
#[utoipa::path(post, path = "/v1/tokens/{token}/revoke", tag = "tokens", security(("token" = [])),
    params(("token" = String, Path, description = "The token's id, from the list.")), responses(
    (status = 200, body = Token),
    (status = 401, body = Problem, content_type = "application/problem+json"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn revoke(Acting(api): Acting, Path(token): Path<String>) -> Result<Json<Token>, Problem> {
    let revoked = api.store.revoke_token(&token).await?;
    tracing::info!(token.id = revoked.id, "token revoked");
    let now = api.store.now().await?;
    Ok(Json(Token::of(revoked, now)))
}
