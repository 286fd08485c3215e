//! What shows that a server kept to its word: `fedbasin audit`, `verify-model`, and the log over the admin API.

use std::path::{Path, PathBuf};

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde_json::{Value, json};

use crate::{
    admin::{Admin, audit::Records},
    error::{Error, Result},
    files::write_bytes,
    progress::Screen,
    trust,
};

pub(super) fn verify_export(
    export: &Path,
    keys: Option<&Path>,
    seen: Option<&Path>,
    screen: &Screen,
) -> Result<()> {
    let verified = trust::verify_export(export, keys, seen)?;
    let (head, fingerprint) = (&verified.head.head, verified.keys.fingerprint());
    let value = json!({
        "origin": head.origin,
        "records": head.size,
        "keys": fingerprint,
        "keys_given": keys.is_some(),
        "first_at_ms": verified.span_ms.map(|(first, _)| first),
        "last_at_ms": verified.span_ms.map(|(_, last)| last),
    });
    screen.answer(&value, || {
        let whose = match keys {
            Some(_) => "the keys given",
            None => "its own keys: give --server-keys to know whose",
        };
        format!("{}: {} records, whole, signed with {fingerprint}, {whose}", head.origin, head.size)
    })
}

/// `MODEL.sig`.
fn beside(model: &Path) -> PathBuf {
    let mut path = model.as_os_str().to_owned();
    path.push(".sig");
    path.into()
}

pub(super) fn verify_model(
    model: &Path,
    signature: Option<&Path>,
    keys: &Path,
    screen: &Screen,
) -> Result<()> {
    let signature = signature.map_or_else(|| beside(model), Path::to_owned);
    let statement = trust::verify_model(model, &signature, keys)?;
    let value = json!({
        "name": statement.name,
        "digest": statement.digest,
        "provenance": statement.provenance,
    });
    screen.answer(&value, || {
        format!("{}: signed, digest {}, {}", statement.name, statement.digest, statement.provenance)
    })
}

pub(super) fn keys(admin: &Admin, output: Option<&Path>, screen: &Screen) -> Result<()> {
    let keys = admin.keys()?;
    if let Some(path) = output {
        write_bytes(path, keys.keys.as_bytes())?;
    }
    screen.answer(&keys, || match output {
        Some(path) => format!("keys {} in {}", keys.fingerprint, path.display()),
        None => keys.keys.trim_end().to_owned(),
    })
}

pub(super) fn export(admin: &Admin, output: &Path, screen: &Screen) -> Result<()> {
    let size = admin.audit_export(output)?;
    screen.answer(&json!({ "file": output, "size": size }), || {
        format!("{}: {size} bytes; check them with `fedbasin audit verify`", output.display())
    })
}

/// Fetches and checks the signature of a model that was just downloaded, and keeps it beside it. Without keys those that the server
/// names now are taken.
pub(super) fn keep_signature(
    admin: &Admin,
    (run, number): (&str, u32),
    model: &Path,
    keys: Option<&Path>,
) -> Result<PathBuf> {
    let bundle = admin.model_signature(run, number)?;
    let path = beside(model);
    write_bytes(&path, bundle.as_bytes())?;
    let statement = match keys {
        Some(keys) => trust::verify_model(model, &path, keys)?,
        None => {
            let named = fedbasin_proof::PublicKeys::from_pem(&admin.keys()?.keys);
            let named = named.map_err(|error| Error::failed(error, "the server's keys", "report it"))?;
            trust::verify_model_by(model, &path, &named)?
        }
    };
    let of = (&statement.provenance["run"], &statement.provenance["round"]);
    if of != (&json!(run), &json!(number)) {
        return Err(Error::failed(
            format_args!("it is signed as the model of round {} of run {}", of.1, of.0),
            path.display(),
            "do not use it; ask whoever runs the server",
        ));
    }
    Ok(path)
}

pub(super) fn table(records: &Records) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["record", "at", "action", "who", "run", "round", "site", "object", "reason"]);
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    for (place, record) in records.records.iter().enumerate() {
        let who = &record["who"];
        let who = match text(&who["name"]) {
            name if name.is_empty() => text(&who["kind"]),
            name => format!("{} {name}", text(&who["kind"])),
        };
        // A server of before tells milliseconds alone.
        let at = records.at.get(place).cloned().unwrap_or_else(|| text(&record["at_ms"]));
        let mut row = vec![text(&record["seq"]), at, text(&record["action"]), who];
        row.extend(["run", "round", "site", "object", "reason"].map(|field| text(&record[field])));
        table.add_row(row);
    }
    match records.next {
        Some(next) => format!("{table}\nmore from --from {next}"),
        None => table.to_string(),
    }
}
