//! The frame of every page, what pages are drawn with, and pages that refuse.

use std::sync::LazyLock;

use axum::{
    extract::{FromRequestParts, rejection::FormRejection},
    response::{Html, IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use maud::{DOCTYPE, Markup, html};
use sha2::{Digest as _, Sha256};

use crate::{
    error::{Code, Error, Result},
    http::{
        Api,
        problem::{Path, Problem},
    },
    model::Role,
};

/// A page's script asks by this header for what is in `<main>` alone.
const PART: &str = "x-fragment";

/// A file that pages name by its content, so that a browser may keep it for ever.
struct Asset {
    name: String,
    kind: &'static str,
    text: &'static str,
}

static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        ("style", "css", "text/css; charset=utf-8", include_str!("style.css")),
        ("live", "js", "text/javascript; charset=utf-8", include_str!("live.js")),
        ("icon", "svg", "image/svg+xml", include_str!("icon.svg")),
    ]
    .map(|(stem, end, kind, text)| Asset { name: format!("{stem}-{}.{end}", hash(text)), kind, text })
});

fn hash(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..8])
}

/// A file that pages are drawn with.
pub(super) async fn asset(Path(name): Path<String>) -> std::result::Result<Response, Refused> {
    let found = ASSETS.iter().find(|asset| asset.name == name);
    let asset = found.ok_or_else(|| Error::not_found("there is no such file; reload the page"))?;
    let headers =
        [(header::CONTENT_TYPE, asset.kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
    Ok((headers, asset.text).into_response())
}

/// What stands around a page's own words.
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    /// Of who looks at it; absent before that is known.
    pub(super) role: Option<Role>,
    pub(super) path: &'a str,
}

/// The places of the menu.
const MENU: [(&str, &str); 3] = [("/", "Overview"), ("/sites", "Sites"), ("/audit", "Audit")];

/// A whole page.
pub(super) fn whole(frame: &Frame<'_>, main: &Markup) -> Response {
    let main = html! { main #main tabindex="-1" { (main) } };
    Html(framed(frame, &main).into_string()).into_response()
}

fn framed(frame: &Frame<'_>, main: &Markup) -> Markup {
    let [style, live, icon] = &*ASSETS;
    let is_here = |path: &str| match path {
        "/" => frame.path == "/" || frame.path.starts_with("/runs"),
        path => frame.path.starts_with(path),
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (frame.title) " · fedbasin" }
                link rel="icon" type="image/svg+xml" href={ "/assets/" (icon.name) };
                link rel="stylesheet" href={ "/assets/" (style.name) };
                script src={ "/assets/" (live.name) } defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    a.brand href="/" { "fedbasin" }
                    @if let Some(role) = frame.role {
                        nav aria-label="Main" {
                            ul {
                                @for (path, name) in MENU {
                                    li { a href=(path) aria-current=[is_here(path).then_some("page")] { (name) } }
                                }
                            }
                        }
                        form.out method="post" action="/signout" {
                            span.role { (role.name()) }
                            button.plain type="submit" { "Sign out" }
                        }
                    }
                }
                (main)
                footer { "fedbasin " (env!("CARGO_PKG_VERSION")) }
            }
        }
    }
}

/// Whether a page's script asks for a part.
pub(super) fn is_part(headers: &HeaderMap) -> bool {
    headers.get(PART).is_some_and(|value| value == "main")
}

/// Who looks at a page, and how it is asked for.
pub(super) struct Viewer {
    pub(super) role: Role,
    path: String,
    is_part: bool,
    /// What the browser has already.
    known: Option<HeaderValue>,
}

impl FromRequestParts<Api> for Viewer {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> std::result::Result<Self, Refused> {
        let role = parts.extensions.get::<Role>().copied();
        Ok(Self {
            role: role.ok_or_else(|| Error::internal("a page was asked for without a caller"))?,
            path: parts.uri.path().to_owned(),
            is_part: is_part(&parts.headers),
            known: parts.headers.get(header::IF_NONE_MATCH).cloned(),
        })
    }
}

impl Viewer {
    /// Whether who looks may do what takes that role.
    pub(super) fn may(&self, least: Role) -> bool {
        self.role >= least
    }

    /// A page; where something is still to happen, its script asks again after so many seconds.
    ///
    /// # Errors
    /// None that is expected: a header that cannot be made.
    pub(super) fn page(&self, title: &str, live: Option<u32>, main: &Markup) -> Result<Response> {
        let main = html! { main #main tabindex="-1" data-live=[live] { (main) } };
        let frame = Frame { title, role: Some(self.role), path: &self.path };
        let mut response = if self.is_part {
            let main = main.into_string();
            let tag = HeaderValue::from_str(&format!("\"{}\"", hash(&main))).map_err(Error::internal)?;
            let mut response = match self.known == Some(tag.clone()) {
                true => StatusCode::NOT_MODIFIED.into_response(),
                false => Html(main).into_response(),
            };
            response.headers_mut().insert(header::ETAG, tag);
            response
        } else {
            Html(framed(&frame, &main).into_string()).into_response()
        };
        response.headers_mut().insert(header::VARY, HeaderValue::from_static(PART));
        Ok(response)
    }
}

/// A page that says why there is no other.
pub(super) struct Refused {
    status: u16,
    detail: String,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Problem::from(error).into()
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { status: problem.status, detail: problem.detail }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let title = status.canonical_reason().unwrap_or("Error");
        let main = html! {
            h1 { (title) }
            p.note.bad role="alert" { (self.detail) }
            p { a href="/" { "To the overview" } }
        };
        let mut response = whole(&Frame { title, role: None, path: "" }, &main);
        *response.status_mut() = status;
        response
    }
}

/// A form that cannot be read.
#[expect(clippy::needless_pass_by_value, reason = "what an extractor gives is mapped by it")]
pub(super) fn bad_form(rejection: FormRejection) -> Refused {
    let code = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        _ => Code::InvalidArgument,
    };
    Error::new(code, format!("form: {}", rejection.body_text())).into()
}

/// An answer that a browser saves under that name.
pub(super) fn as_file(mut response: Response, name: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    response
}
