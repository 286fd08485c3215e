//! A client of the HTTP edge.

use serde_json::{Value, json};
use ureq::{
    Agent,
    http::{HeaderMap, Request},
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::eventually;

/// Calls the HTTP edge, with a token or without.
#[derive(Debug, Clone)]
pub struct Admin {
    agent: Agent,
    url: String,
    token: Option<String>,
}

/// What the HTTP edge answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&self.body)))
    }

    /// A header's value, empty where it is absent.
    ///
    /// # Panics
    /// Where it is not text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header of text"))
    }

    /// Asserts that this is an error as `application/problem+json`, of that status and code, and returns its detail.
    ///
    /// # Panics
    /// Where it is not.
    pub fn assert_problem(&self, status: u16, code: &str) -> String {
        let shown = String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!(self.status, status, "{shown}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{shown}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{shown}");
        assert_eq!(problem["status"], status, "{shown}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "no {member}: {shown}");
        }
        problem["detail"].as_str().unwrap_or_default().to_owned()
    }
}

impl Admin {
    /// A client with an admin token.
    #[must_use]
    pub fn new(url: &str, token: &str) -> Self {
        Self { agent: agent(None), url: url.to_owned(), token: Some(token.to_owned()) }
    }

    /// The same with another token, or none.
    #[must_use]
    pub fn with_token(&self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self.clone() }
    }

    /// The same, trusting one certificate (PEM).
    ///
    /// # Panics
    /// Where that is none.
    #[must_use]
    pub fn trusting(&self, pem: &str) -> Self {
        let certificate = Certificate::from_pem(pem.as_bytes()).expect("a PEM certificate");
        Self { agent: agent(Some(certificate)), ..self.clone() }
    }

    /// The same; where it is sent elsewhere, that is the answer.
    #[must_use]
    pub fn without_redirects(&self) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(crate::PATIENCE))
            .max_redirects(0);
        Self { agent: config.build().into(), ..self.clone() }
    }

    /// One request; any status is an answer.
    ///
    /// # Panics
    /// Where there is no answer.
    #[must_use]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_request(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// One request; any status is an answer.
    ///
    /// # Errors
    /// Where there is no answer.
    ///
    /// # Panics
    /// Where the request cannot be built.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = match method {
            "GET" | "HEAD" => self.agent.run(request.body(()).expect("a request"))?,
            _ => self.agent.run(request.body(body.to_vec()).expect("a request"))?,
        };
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.body_mut().with_config().limit(1 << 30).read_to_vec()?,
        })
    }

    /// Signs in at the dashboard, without a browser: the session's cookie, as it is sent back.
    ///
    /// # Panics
    /// Where the token opens nothing, or a script or another site's page could use the cookie.
    #[must_use]
    pub fn sign_in(&self, token: &str) -> String {
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "same-origin")];
        let body = format!("token={token}&next=%2F");
        let answer = self.without_redirects().request("POST", "/signin", &headers, body.as_bytes());
        assert_eq!(answer.status, 303, "{}", String::from_utf8_lossy(&answer.body));
        let set = answer.header("set-cookie").to_owned();
        assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
        set.split(';').next().expect("a cookie").to_owned()
    }

    /// GET.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], &[])
    }

    /// POST of JSON.
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Enrols a site and returns its token.
    ///
    /// # Panics
    /// Where the server refuses.
    #[must_use]
    pub fn enrol(&self, site: &str) -> String {
        let answer = expect(&self.post("/v1/sites", &json!({ "id": site })), 201);
        answer["token"].as_str().expect("a token").to_owned()
    }

    /// Uploads a seed checkpoint and returns its digest.
    ///
    /// # Panics
    /// Where the server refuses.
    #[must_use]
    pub fn upload(&self, checkpoint: &[u8]) -> String {
        let headers = [("content-type", "application/octet-stream")];
        let answer = expect(&self.request("POST", "/v1/checkpoints", &headers, checkpoint), 201);
        answer["digest"].as_str().expect("a digest").to_owned()
    }

    /// Creates a run, waits until the reconciler opened its first round, and returns its id.
    ///
    /// # Panics
    /// Where the server refuses, or no round opens in time.
    pub fn create_run(&self, run: &Value) -> String {
        let run = expect(&self.post("/v1/runs", run), 201);
        let id = run["id"].as_str().expect("an id").to_owned();
        let start = std::time::Instant::now();
        while self.run(&id)["current_round"].is_null() {
            assert!(start.elapsed() < crate::PATIENCE, "no round of {id} opens");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        id
    }

    /// A run.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn run(&self, run: &str) -> Value {
        expect(&self.get(&format!("/v1/runs/{run}")), 200)
    }

    /// A round.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn round(&self, run: &str, number: u32) -> Value {
        expect(&self.get(&format!("/v1/runs/{run}/rounds/{number}")), 200)
    }

    /// What a round's record says of one site.
    ///
    /// # Panics
    /// Where it lists none of that id.
    #[must_use]
    pub fn round_site(&self, run: &str, number: u32, site: &str) -> Value {
        let round = self.round(run, number);
        let sites = round["sites"].as_array().expect("a list of sites");
        sites
            .iter()
            .find(|entry| entry["site"] == site)
            .unwrap_or_else(|| panic!("no {site} in {round}"))
            .clone()
    }

    /// A round's model.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn model(&self, run: &str, number: u32) -> Vec<u8> {
        let answer = self.get(&format!("/v1/runs/{run}/rounds/{number}/model"));
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        answer.body
    }

    /// Waits until a round is in a state, and returns it.
    ///
    /// # Panics
    /// Where that does not happen in time.
    pub async fn round_becomes(&self, run: &str, number: u32, state: &str) -> Value {
        let mut last = Value::Null;
        let path = format!("/v1/runs/{run}/rounds/{number}");
        let what = format!("round {number} of {run} becomes {state}");
        eventually(&what, || {
            let answer = self.get(&path);
            let round = if answer.status == 200 { answer.json() } else { Value::Null };
            let there = round["state"] == state;
            let over = ["published", "failed", "cancelled"].iter().any(|end| round["state"] == *end);
            assert!(there || !over, "{what}: it is {round}");
            last = round;
            there.then_some(())
        })
        .await;
        last
    }

    /// Waits until a run is in a state, and returns it.
    ///
    /// # Panics
    /// Where that does not happen in time.
    pub async fn run_becomes(&self, run: &str, state: &str) -> Value {
        eventually(&format!("run {run} becomes {state}"), || {
            let now = self.run(run);
            (now["state"] == state).then_some(now)
        })
        .await
    }
}

fn agent(trusted: Option<Certificate<'static>>) -> Agent {
    let mut config =
        Agent::config_builder().http_status_as_error(false).timeout_global(Some(crate::PATIENCE));
    if let Some(certificate) = trusted {
        let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[certificate])).build();
        config = config.tls_config(tls);
    }
    config.build().into()
}

fn expect(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()
}
