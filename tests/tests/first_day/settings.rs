//! `docs/SETTINGS.md` is made from what is true: the structs that settings are read into, their documentation and their defaults, the flags of
//! the command line, and the sample `deploy/fedbasin.toml`, which must name each of them too.

use std::{collections::BTreeMap, fs, path::Path};

use fedbasin_server::config::Config;

const STRUCTS: [&str; 5] = [
    include_str!("../../../server/src/config.rs"),
    include_str!("../../../server/src/config/limits.rs"),
    include_str!("../../../server/src/config/oidc.rs"),
    include_str!("../../../server/src/config/otlp.rs"),
    include_str!("../../../server/src/config/webhooks.rs"),
];
const COMMAND_LINE: &str = include_str!("../../../server/src/cli.rs");
const SAMPLE: &str = include_str!("../../../deploy/fedbasin.toml");
const PAGE: &str = include_str!("../../../docs/SETTINGS.md");

/// Which setting a flag goes before, where its name does not say it.
const FLAGS: [(&str, &str); 9] = [
    ("objects_url", "objects.url"),
    ("s3_endpoint", "objects.endpoint"),
    ("log_format", "log.json"),
    ("grpc_listen", "grpc.listen"),
    ("http_listen", "http.listen"),
    ("tls_cert", "tls.cert_file"),
    ("tls_key", "tls.key_file"),
    ("tls_client_ca", "tls.client_ca_file"),
    ("webhook_secret", "webhook_secret"),
];

/// A field of a struct that settings are read into.
#[derive(Debug, Clone)]
struct Field {
    name: String,
    kind: String,
    doc: String,
    /// What serde says of it.
    attributes: String,
}

/// All structs by name.
fn structs() -> BTreeMap<String, Vec<Field>> {
    let mut found = BTreeMap::new();
    for source in STRUCTS {
        for part in source.split("\npub struct ").skip(1) {
            let Some((name, body)) = part.split_once(" {\n") else { continue };
            let (body, _) = body.split_once("\n}").expect("a struct ends");
            let (mut fields, mut doc, mut attributes) = (Vec::new(), Vec::new(), String::new());
            for line in body.lines().map(str::trim) {
                if let Some(text) = line.strip_prefix("/// ") {
                    doc.push(text);
                } else if line.starts_with("#[") {
                    attributes.push_str(line);
                } else if let Some((field, kind)) =
                    line.strip_prefix("pub ").and_then(|rest| rest.split_once(": "))
                {
                    fields.push(Field {
                        name: field.to_owned(),
                        kind: kind.trim_end_matches(',').to_owned(),
                        doc: plain(&doc.join(" ")),
                        attributes: std::mem::take(&mut attributes),
                    });
                    doc.clear();
                }
            }
            found.insert(name.to_owned(), fields);
        }
    }
    found
}

/// Documentation for whoever does not read the source: links are the names that they lead to.
fn plain(doc: &str) -> String {
    let mut text = doc.replace("[`", "`").replace("`]", "`").replace('|', "\\|");
    for owner in ["Limits::", "Webhook::", "Otlp::", "Tls::", "Work::", "super::Config::"] {
        text = text.replace(owner, "");
    }
    text
}

/// One line of the page.
struct Setting {
    key: String,
    default: String,
    unit: &'static str,
    flag: String,
    reason: String,
}

fn settings() -> Vec<Setting> {
    let (structs, defaults, flags) = (structs(), defaults(), flags());
    let mut all = Vec::new();
    fields_of("Config", "", &structs, &mut |key, field| all.push(setting(key, field, &defaults, &flags)));
    all
}

/// Each field of a structure with its key; of one that is a structure itself its fields, with its name before theirs.
fn fields_of(
    name: &str,
    before: &str,
    structs: &BTreeMap<String, Vec<Field>>,
    each: &mut impl FnMut(String, &Field),
) {
    for field in &structs[name] {
        let inner = field.kind.trim_start_matches("Option<").trim_start_matches("Vec<").trim_end_matches('>');
        let key = format!("{before}{}", field.name);
        if structs.get(inner).is_some_and(|fields| !fields.is_empty()) {
            let list = if field.kind.starts_with("Vec<") { "[]" } else { "" };
            fields_of(inner, &format!("{key}{list}."), structs, each);
        } else {
            each(key, field);
        }
    }
}

fn setting(
    key: String,
    field: &Field,
    defaults: &BTreeMap<String, String>,
    flags: &BTreeMap<String, String>,
) -> Setting {
    let in_sample = || {
        let written = |line: &&str| line.trim_start_matches("# ").starts_with(&format!("{} = ", field.name));
        let line = SAMPLE.lines().find(written).unwrap_or_else(|| panic!("{key}: not in the sample"));
        let value = line.split_once(" = ").map_or("", |(_, value)| value);
        value.split(" #").next().unwrap_or_default().trim().to_owned()
    };
    let has_default = field.attributes.contains("default");
    let default = match (defaults.get(&key).map(String::as_str), field.kind.as_str()) {
        (Some("None"), _) => "none".to_owned(),
        (Some(value), _) => value.to_owned(),
        (None, kind) if kind.starts_with("Option<") => "none".to_owned(),
        (None, "bool") if has_default => "false".to_owned(),
        (None, kind)
            if has_default
                && !field.attributes.contains("default = \"openid\"")
                && (kind.starts_with("Vec<") || kind.starts_with("HashSet<")) =>
        {
            "none".to_owned()
        }
        (None, _) if has_default => in_sample(),
        (None, _) => "must be given".to_owned(),
    };
    let flag = flags.get(&key).cloned().unwrap_or_default();
    let only_there = if field.attributes.contains("skip") { " (nowhere else)" } else { "" };
    let unit = unit(&field.name, &field.kind);
    Setting { default, unit, flag: format!("{flag}{only_there}"), reason: field.doc.clone(), key }
}

/// What a number counts, by the name's end; what a text is.
fn unit(name: &str, kind: &str) -> &'static str {
    let ends = [
        ("_bytes_per_second", "bytes a second"),
        ("_per_second_per_connection", "a second"),
        ("_per_second", "a second"),
        ("_per_minute_per_address", "a minute"),
        ("_per_minute_per_site", "a minute"),
        ("_per_minute_per_person", "a minute"),
        ("_bytes_in_flight", "bytes"),
        ("_bytes", "bytes"),
        ("_seconds", "seconds"),
        ("_ms", "milliseconds"),
        ("_fraction", "0 to 1"),
        ("sample_ratio", "0 to 1"),
        ("_file", "path"),
        ("_dir", "path"),
        ("listen", "address:port"),
        ("url", "URL"),
        ("endpoint", "URL"),
        ("issuer", "URL"),
    ];
    let by_name = ends.iter().find(|(end, _)| name.ends_with(end) || format!("_{name}").ends_with(end));
    match (by_name, kind) {
        (Some((_, unit)), _) => unit,
        (None, "bool") => "true or false",
        (None, "usize" | "u32" | "u64") => "count",
        (None, _) => "text",
    }
}

/// Each default by its key, as [`Config::default`] has it.
fn defaults() -> BTreeMap<String, String> {
    let (mut found, mut path) = (BTreeMap::new(), Vec::<String>::new());
    for line in format!("{:#?}", Config::default()).lines().map(str::trim).skip(1) {
        if let Some((name, rest)) = line.split_once(": ") {
            if rest.ends_with('{') {
                path.push(name.to_owned());
                continue;
            }
            let key = path.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".");
            found.insert(key, rest.trim_end_matches(',').to_owned());
        } else if line.starts_with('}') {
            path.pop();
        }
    }
    found
}

/// `--flag`, `VARIABLE` by the key that they go before.
fn flags() -> BTreeMap<String, String> {
    let (_, arguments) = COMMAND_LINE.split_once("struct StorageArgs {").expect("arguments");
    let (arguments, _) = arguments.split_once("struct MigrateArgs").expect("their end");
    let mut found = BTreeMap::new();
    let lines: Vec<&str> = arguments.lines().map(str::trim).collect();
    for pair in lines.windows(2) {
        let Some((_, rest)) = pair[0].split_once("env = \"") else { continue };
        let (variable, _) = rest.split_once('"').expect("a variable ends");
        let (name, _) = pair[1].split_once(':').expect("a field");
        let key = FLAGS.iter().find(|(flag, _)| *flag == name).map_or(name, |(_, key)| *key);
        let flag = format!("`--{}`, ", name.replace('_', "-"));
        // One that the help does not show is for the environment alone.
        let flag = if pair[0].contains("hide = true") { String::new() } else { flag };
        found.insert(key.to_owned(), format!("{flag}`{variable}`"));
    }
    found
}

fn page(settings: &[Setting]) -> String {
    let mut text = "# Settings of fedbasin-server\n\n\
        Every setting of the one TOML file (`--config FILE`, `FEDBASIN_CONFIG`), made by a test from the program's own documentation. A flag goes before a\n\
        variable, a variable before the file. Unknown keys are refused, and so are numbers that no server can work with. `[]` stands for each table of a list.\n\
        [`deploy/fedbasin.toml`](../deploy/fedbasin.toml) is such a file; `fedbasin-server init` makes one to begin with.\n"
        .to_owned();
    let table = |key: &str| key.rsplit_once('.').map_or("", |(table, _)| table).to_owned();
    let mut before = None;
    for setting in settings {
        let now = table(&setting.key);
        if before.as_ref() != Some(&now) {
            let title = match (now.as_str(), now.strip_suffix("[]")) {
                ("", _) => "Without a table".to_owned(),
                (_, Some(list)) => format!("`[[{list}]]`"),
                (table, None) => format!("`[{table}]`"),
            };
            text.push_str(&format!("\n## {title}\n\n| key | default | unit | flag, variable | what, and why |\n|---|---|---|---|---|\n"));
            before = Some(now);
        }
        let Setting { key, default, unit, flag, reason } = setting;
        text.push_str(&format!("| `{key}` | {default} | {unit} | {flag} | {reason} |\n"));
    }
    text
}

/// Tables that stand alone come first: TOML has it so, and so do readers.
fn in_order(mut settings: Vec<Setting>) -> Vec<Setting> {
    settings.sort_by_key(|setting| setting.key.contains('.'));
    settings
}

#[test]
fn the_page_lists_every_setting_as_the_program_has_it() {
    let settings = in_order(settings());
    assert!(settings.len() > 85, "{} settings: does the test still read the structs?", settings.len());
    for Setting { key, reason, .. } in &settings {
        assert!(reason.len() > 4, "{key}: nothing is said of it");
        let name = key.rsplit('.').next().unwrap_or_default();
        let written = |line: &str| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{name} = ")) || line.trim_start().starts_with(name)
        };
        let is_secret = ["admin_token", "webhook_secret"].contains(&name);
        assert!(is_secret || SAMPLE.lines().any(written), "{key}: not in deploy/fedbasin.toml");
    }
    let keys: Vec<&str> = settings.iter().map(|setting| setting.key.as_str()).collect();
    for key in flags().keys().filter(|key| *key != "config") {
        assert!(keys.contains(&key.as_str()), "the flag for {key} goes before no setting");
    }
    let text = page(&settings);
    if text != PAGE {
        let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("SETTINGS.md");
        fs::write(&fresh, text).expect("a file");
        panic!(
            "docs/SETTINGS.md is not of this program; if the change is meant: cp {} docs/SETTINGS.md",
            fresh.display()
        );
    }
}
