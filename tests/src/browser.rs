//! A real browser, driven over WebDriver (W3C) and, for what that does not know, Chromium's own protocol.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use ureq::Agent;

use crate::PATIENCE;

/// No picture is higher, in pixels.
const MOST_HIGH: f64 = 8000.0;
const DRIVER: &str = "FEDBASIN_TEST_CHROMEDRIVER";
const AXE: &str = "FEDBASIN_TEST_AXE";
/// The member that names an element (WebDriver, section 12).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A headless Chromium with a profile of its own; ended when dropped.
#[derive(Debug)]
pub struct Browser {
    agent: Agent,
    driver: Child,
    /// URL of the session.
    session: String,
    folder: tempfile::TempDir,
    axe: String,
}

#[expect(clippy::disallowed_methods, reason = "how tests/run hands over what it installed")]
fn given(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// Where there is no chromedriver, no Chromium or no axe: a test that needs a browser must not pass without.
    #[must_use]
    pub fn start() -> Self {
        let program = given(DRIVER).unwrap_or_else(|| "chromedriver".into());
        let axe = given(AXE).unwrap_or_else(|| {
            panic!("{AXE} is not set: run `tests/run tests`, which installs axe, or name an axe.min.js")
        });
        let axe = fs::read_to_string(&axe).unwrap_or_else(|error| panic!("{AXE}: {axe}: {error}"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = fs::File::create(folder.path().join("driver.log")).expect("a log file");
        // Free a moment ago; the driver does not answer where another took it meanwhile.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let address = address.expect("a free port");
        let driver = Command::new(&program)
            .arg(format!("--port={}", address.port()))
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let driver = driver.unwrap_or_else(|error| {
            panic!("{program}: {error}: run `tests/run tests`, which installs chromium-driver, or name one in {DRIVER}")
        });
        let agent = Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        let mut browser =
            Self { agent: agent.build().into(), driver, session: format!("http://{address}"), folder, axe };
        browser.open(&program);
        browser
    }

    fn open(&mut self, program: &str) {
        let begun = Instant::now();
        while self.try_call("GET", "/status", &Value::Null).is_err() {
            assert!(
                begun.elapsed() < PATIENCE && matches!(self.driver.try_wait(), Ok(None)),
                "{program} does not answer"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::create_dir_all(self.downloads()).expect("a folder");
        let mut arguments: Vec<String> = [
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1440,900",
            "--hide-scrollbars",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--user-data-dir={}", self.folder.path().join("profile").display()));
        let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        if root {
            // Chromium's own sandbox takes no root.
            arguments.push("--no-sandbox".into());
        }
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let opened = self.call("POST", "/session", &capabilities);
        let id = opened["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {opened}"));
        self.session = format!("{}/session/{id}", self.session);
        let downloads = json!({ "behavior": "allow", "downloadPath": self.downloads() });
        self.own("Browser.setDownloadBehavior", &downloads);
    }

    /// Where what it downloads lands.
    #[must_use]
    pub fn downloads(&self) -> PathBuf {
        self.folder.path().join("downloads")
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let url = format!("{}{path}", self.session);
        let answer = match method {
            "GET" => self.agent.get(&url).call(),
            "DELETE" => self.agent.delete(&url).call(),
            _ => self.agent.post(&url).send_json(body),
        };
        let mut answer = answer.map_err(|error| format!("{method} {path}: {error}"))?;
        let text = answer.body_mut().with_config().limit(1 << 28).read_to_vec();
        let text = text.map_err(|error| format!("{method} {path}: {error}"))?;
        let value: Value =
            serde_json::from_slice(&text).map_err(|error| format!("{method} {path}: {error}"))?;
        match answer.status().is_success() {
            true => Ok(value["value"].clone()),
            false => Err(format!("{method} {path} {body}: {}", value["value"]["message"])),
        }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A command of Chromium's own protocol.
    fn own(&self, command: &str, parameters: &Value) -> Value {
        self.call("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Panics
    /// Where it cannot be.
    pub fn go(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url }));
    }

    /// The page's URL.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn url(&self) -> String {
        self.call("GET", "/url", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    fn element(&self, css: &str) -> String {
        let found = self.call("POST", "/element", &json!({ "using": "css selector", "value": css }));
        found[ELEMENT].as_str().unwrap_or_else(|| panic!("no {css}: {found}")).to_owned()
    }

    /// Clicks the first element that a selector finds.
    ///
    /// # Panics
    /// Where it finds none, or none that can be clicked.
    pub fn click(&self, css: &str) {
        let id = self.element(css);
        self.call("POST", &format!("/element/{id}/click"), &json!({}));
    }

    /// Types into the first element that a selector finds.
    ///
    /// # Panics
    /// Where it finds none that takes text.
    pub fn write(&self, css: &str, text: &str) {
        let id = self.element(css);
        self.call("POST", &format!("/element/{id}/value"), &json!({ "text": text }));
    }

    /// What a script returns.
    ///
    /// # Panics
    /// Where it fails.
    #[must_use]
    pub fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The visible text of the page's main part.
    ///
    /// # Panics
    /// Where the page has none.
    #[must_use]
    pub fn text(&self) -> String {
        let text = self.run("return document.getElementById('main')?.innerText ?? ''");
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page's main part says something, without touching the page.
    ///
    /// # Panics
    /// Where it does not in time.
    pub fn says(&self, what: &str) {
        let begun = Instant::now();
        loop {
            let text = self.text();
            if text.contains(what) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what:?}; {} says:\n{text}", self.url());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What was downloaded under that name, once it is whole.
    ///
    /// # Panics
    /// Where it does not come in time.
    #[must_use]
    pub fn downloaded(&self, name: &str) -> Vec<u8> {
        let (path, begun) = (self.downloads().join(name), Instant::now());
        // It has another name until it is whole.
        while !path.exists() {
            assert!(begun.elapsed() < PATIENCE, "{name} is not downloaded");
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::read(path).expect("a file")
    }

    /// Makes the page so wide, and light or dark.
    ///
    /// # Panics
    /// Where the browser refuses.
    pub fn looks(&self, width: u32, dark: bool) {
        let height = if width < 600 { 740 } else { 900 };
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.own("Emulation.setDeviceMetricsOverride", &size);
        let scheme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.own("Emulation.setEmulatedMedia", &json!({ "features": [scheme] }));
    }

    /// The whole page as PNG; of a very long one its beginning.
    ///
    /// # Panics
    /// Where the browser gives none.
    #[must_use]
    pub fn picture(&self) -> Vec<u8> {
        let size = self.own("Page.getLayoutMetrics", &json!({}))["cssContentSize"].clone();
        let height = size["height"].as_f64().unwrap_or_default().min(MOST_HIGH);
        self.picture_within(&json!({ "x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1 }))
    }

    /// The first element that a selector finds, and nothing around it.
    ///
    /// # Panics
    /// Where it finds none, or the browser gives no picture.
    #[must_use]
    pub fn picture_of(&self, css: &str) -> Vec<u8> {
        let place = "const box = document.querySelector(arguments_css).getBoundingClientRect();
                     return { x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height, scale: 1 }";
        self.picture_within(&self.run(&place.replace("arguments_css", &json!(css).to_string())))
    }

    fn picture_within(&self, clip: &Value) -> Vec<u8> {
        let asked = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let taken = self.own("Page.captureScreenshot", &asked);
        STANDARD.decode(taken["data"].as_str().unwrap_or_default()).expect("a picture in base64")
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.call("POST", "/se/log", &json!({ "type": kind }));
        entries.as_array().cloned().unwrap_or_default()
    }

    /// What the console said since the last look that is an error or a warning.
    ///
    /// # Panics
    /// Where the browser does not tell.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.log("browser").into_iter();
        entries
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .map(|entry| entry.to_string())
            .collect()
    }

    /// The addresses that its pages asked for since the last look.
    ///
    /// # Panics
    /// Where the browser does not tell.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let mut urls = Vec::new();
        for entry in self.log("performance") {
            let text = entry["message"].as_str().unwrap_or_default();
            let message: Value = serde_json::from_str(text).unwrap_or_default();
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                urls.push(message["params"]["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
        }
        urls
    }

    /// What axe finds serious or critical on the page: a rule and the elements.
    ///
    /// # Panics
    /// Where axe does not run.
    #[must_use]
    pub fn barriers(&self) -> Vec<String> {
        let script = format!(
            "{}; const done = arguments[arguments.length - 1];
             axe.run(document, {{ resultTypes: ['violations'] }}).then(
               (found) => done(found.violations.filter((v) => ['serious', 'critical'].includes(v.impact))
                 .map((v) => `${{v.id}}: ${{v.nodes.map((n) => n.html + ' ' + n.failureSummary).join(' | ')}}`)),
               (error) => done(['axe: ' + error]));",
            self.axe
        );
        let found = self.call("POST", "/execute/async", &json!({ "script": script, "args": [] }));
        let found = found.as_array().unwrap_or_else(|| panic!("axe says {found}")).iter();
        found.map(|barrier| barrier.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Whether the page is no wider than what it is shown in.
    ///
    /// # Panics
    /// Where the browser does not tell.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            == true
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser; then the driver.
        let _ = self.try_call("DELETE", "", &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
