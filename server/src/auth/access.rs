//! Who may call what: the one table of both edges. What stands nowhere in it, nobody may call, but for the gRPC edge's health and
//! reflection, which tell nothing of runs or sites.

use crate::model::Role;

/// The calls of the HTTP edge that need a token: method, path, and the least role that may.
pub const ROUTES: &[(&str, &str, Role)] = &[
    ("GET", "/v1/sites", Role::Viewer),
    ("GET", "/v1/runs", Role::Viewer),
    ("GET", "/v1/runs/{run}", Role::Viewer),
    ("GET", "/v1/runs/{run}/rounds", Role::Viewer),
    ("GET", "/v1/runs/{run}/rounds/{number}", Role::Viewer),
    ("GET", "/v1/runs/{run}/updates", Role::Viewer),
    ("GET", "/v1/graphs/{digest}", Role::Viewer),
    ("GET", "/v1/certificates", Role::Viewer),
    ("GET", "/v1/audit", Role::Viewer),
    ("GET", "/v1/audit/export", Role::Viewer),
    ("GET", "/v1/audit/growth", Role::Viewer),
    ("GET", "/v1/keys", Role::Viewer),
    ("GET", "/metrics", Role::Viewer),
    // What it tells of, the audit log tells, too.
    ("GET", "/v1/events", Role::Viewer),
    ("GET", "/v1/models", Role::Viewer),
    ("GET", "/v1/models/{digest}", Role::Viewer),
    // Its tokens are told administrators alone.
    ("GET", "/v1/sites/{site}", Role::Viewer),
    // A model may tell of the data that it was trained on.
    ("GET", "/v1/runs/{run}/rounds/{number}/model", Role::Operator),
    ("GET", "/v1/runs/{run}/rounds/{number}/model/signature", Role::Operator),
    ("GET", "/v1/models/{digest}/content", Role::Operator),
    ("POST", "/v1/models/{digest}/promote", Role::Operator),
    ("PUT", "/v1/models/{digest}/tags/{tag}", Role::Operator),
    ("DELETE", "/v1/models/{digest}/tags/{tag}", Role::Operator),
    ("POST", "/v1/runs", Role::Operator),
    ("POST", "/v1/runs/{run}/extend", Role::Operator),
    ("POST", "/v1/runs/{run}/clone", Role::Operator),
    ("POST", "/v1/runs/{run}/cancel", Role::Operator),
    ("POST", "/v1/runs/{run}/pause", Role::Operator),
    ("POST", "/v1/runs/{run}/resume", Role::Operator),
    ("POST", "/v1/runs/{run}/rounds/{number}/remerge", Role::Operator),
    ("POST", "/v1/checkpoints", Role::Operator),
    ("POST", "/v1/graphs", Role::Operator),
    ("GET", "/v1/webhooks/deliveries", Role::Operator),
    ("POST", "/v1/webhooks/deliveries/{delivery}/retry", Role::Operator),
    ("POST", "/v1/webhooks/{webhook}/test", Role::Operator),
    ("POST", "/v1/sites", Role::Admin),
    ("POST", "/v1/sites/{site}/tokens", Role::Admin),
    ("POST", "/v1/sites/{site}/rotate", Role::Admin),
    ("POST", "/v1/sites/{site}/revoke", Role::Admin),
    ("GET", "/v1/tokens", Role::Admin),
    ("POST", "/v1/tokens", Role::Admin),
    ("POST", "/v1/tokens/{token}/revoke", Role::Admin),
    ("POST", "/v1/certificates/{fingerprint}/revoke", Role::Admin),
];

/// The calls of the HTTP edge that need none: health, and the description of the others, for programs and for people.
pub const OPEN_ROUTES: &[(&str, &str)] = &[
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/docs/style.css"),
];

/// The dashboard's pages, for people in a browser: method, path, and the least role that may. Who calls is told by a cookie, and by
/// nothing else; what changes something comes from a page of this server's own.
pub const PAGES: &[(&str, &str, Role)] = &[
    ("GET", "/", Role::Viewer),
    ("GET", "/runs/{run}", Role::Viewer),
    ("GET", "/runs/{run}/rounds/{number}", Role::Viewer),
    ("GET", "/sites", Role::Viewer),
    ("GET", "/sites/{site}", Role::Viewer),
    ("GET", "/audit", Role::Viewer),
    ("GET", "/audit/export", Role::Viewer),
    ("POST", "/audit/verify", Role::Operator),
    ("GET", "/runs/{run}/rounds/{number}/model", Role::Operator),
    ("GET", "/runs/{run}/rounds/{number}/model/signature", Role::Operator),
    ("GET", "/runs/{run}/cancel", Role::Operator),
    ("POST", "/runs/{run}/cancel", Role::Operator),
    ("GET", "/runs/{run}/pause", Role::Operator),
    ("POST", "/runs/{run}/pause", Role::Operator),
    ("GET", "/runs/{run}/resume", Role::Operator),
    ("POST", "/runs/{run}/resume", Role::Operator),
    ("POST", "/sites/{site}/tokens", Role::Admin),
    ("GET", "/sites/{site}/tokens/{token}/revoke", Role::Admin),
    ("POST", "/sites/{site}/tokens/{token}/revoke", Role::Admin),
];

/// Those of its pages that need no session: to sign in and out, and what pages are drawn with.
pub const OPEN_PAGES: &[(&str, &str)] = &[
    ("GET", "/signin"),
    ("POST", "/signin"),
    ("GET", "/signin/provider"),
    ("GET", "/signin/return"),
    ("POST", "/signout"),
    ("GET", "/assets/{name}"),
];

/// The rpcs that a site may call. No person may call one, and no site a route.
pub const RPCS: &[&str] = &[
    "/fedbasin.v1.FedBasin/ListRuns",
    "/fedbasin.v1.FedBasin/WatchRun",
    "/fedbasin.v1.FedBasin/Download",
    "/fedbasin.v1.FedBasin/BeginUpdate",
    "/fedbasin.v1.FedBasin/SendUpdate",
    "/fedbasin.v1.FedBasin/FinishUpdate",
    "/fedbasin.v1.FedBasin/GetUpdate",
    "/fedbasin.v1.FedBasin/WithdrawUpdate",
    "/fedbasin.v1.FedBasin/ReportEvaluation",
    "/fedbasin.v1.FedBasin/GetServerKeys",
    "/fedbasin.v1.FedBasin/GetModelSignature",
    "/fedbasin.v1.FedBasin/ProveLog",
];

/// The least role that may call a route, as the router names it; nothing where nobody may. What answers GET answers HEAD.
#[must_use]
pub fn least_role(method: &str, route: &str) -> Option<Role> {
    let method = if method == "HEAD" { "GET" } else { method };
    let found = ROUTES.iter().chain(PAGES).find(|(known, path, _)| *known == method && *path == route);
    found.map(|(_, _, role)| *role)
}

/// Whether a site may call an rpc, by its path.
#[must_use]
pub fn site_may(rpc: &str) -> bool {
    RPCS.contains(&rpc)
}
