//! A collector of traces (OpenTelemetry, OTLP over HTTP).

use std::path::PathBuf;

use reqwest::Url;
use serde::Deserialize;

/// Where spans go. Without these settings none are made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// The collector's address; `/v1/traces` is added to it. `http://` beyond this machine only without [`Otlp::headers_file`].
    pub endpoint: String,
    /// File with headers that go along, `name: value` a line: a collector's key.
    #[serde(default)]
    pub headers_file: Option<PathBuf>,
    /// Which part of the traces that begin here is exported, 0 to 1. One that a caller began goes by what the caller says.
    #[serde(default = "all")]
    pub sample_ratio: f64,
    /// Authorities that vouch for the collector's certificate, PEM; absent: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

fn all() -> f64 {
    1.0
}

impl Otlp {
    /// Where spans are posted, if that may be.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn address(&self) -> Result<Url, String> {
        // What stands there may hold a key.
        let wrong = |what: &str| Err(format!("otlp.endpoint: it {what}"));
        let text = format!("{}/v1/traces", self.endpoint.trim_end_matches('/'));
        let Ok(url) = Url::parse(&text) else { return wrong("is no URL") };
        let has_more = url.password().is_some() || url.query().is_some() || url.fragment().is_some();
        if has_more || !url.username().is_empty() {
            return wrong(
                "has a name, a password, a query or a fragment in it; a key belongs into otlp.headers_file",
            );
        }
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.headers_file.is_none() || super::allowed(&text, true).is_ok() => Ok(url),
            _ => {
                wrong("must begin with https:// (http:// only without otlp.headers_file, or on this machine)")
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(format!("otlp.sample_ratio: {} is not within 0 and 1", self.sample_ratio));
        }
        self.address().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_collector_gets_no_key_in_clear_text_beyond_this_machine() {
        let otlp = |more: &str| Config::from_toml(&format!("[otlp]\n{more}\n"));
        let posted =
            |more: &str| otlp(more).expect(more).otlp.expect("set").address().expect("checked").to_string();
        assert_eq!(posted("endpoint = \"http://collector:4318\""), "http://collector:4318/v1/traces");
        assert_eq!(
            posted("endpoint = \"https://traces.example/otlp/\""),
            "https://traces.example/otlp/v1/traces"
        );
        let key = "headers_file = \"key\"";
        assert!(otlp(&format!("endpoint = \"http://127.0.0.1:4318\"\n{key}")).is_ok());
        assert!(otlp(&format!("endpoint = \"https://traces.example\"\n{key}")).is_ok());
        for bad in [
            &format!("endpoint = \"http://collector:4318\"\n{key}"),
            "endpoint = \"https://u:p@traces.example\"",
            "endpoint = \"https://traces.example?key=1\"",
            "endpoint = \"collector:4318\"",
            "endpoint = \"https://traces.example\"\nsample_ratio = 1.5",
        ] {
            assert!(otlp(bad).expect_err(bad).contains("otlp."), "{bad}");
        }
    }
}
