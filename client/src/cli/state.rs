//! Where is kept what an operator's calls saw of servers, and which folders are the program's own.

use std::path::PathBuf;

use tonic::transport::Uri;

use crate::{admin::Admin, progress::Screen};

/// Holds the server at an address to what it showed before, as a folder keeps it: the given one, or the one that is there for such things.
pub(super) fn hold(admin: Admin, given: Option<PathBuf>, address: &Uri, screen: &Screen) -> Admin {
    match given.or_else(|| own_folder("XDG_STATE_HOME", ".local/state")) {
        Some(folder) => admin.holding_to(&folder.join(name(address)), screen),
        None => {
            screen.remark(
                "no home folder, and no --state-dir: nothing is kept of the server, and a log that was rolled back is not noticed",
            );
            admin
        }
    }
}

/// `fedbasin` among what programs keep in the home folder of whoever calls: where a variable of the XDG Base Directory Specification
/// says, otherwise in `below_home`.
#[expect(
    clippy::disallowed_methods,
    reason = "the specification's variables hold for all programs and are no settings of ours"
)]
pub(super) fn own_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    // The specification: a path that is not absolute is to be ignored.
    let by_variable = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let by_home = || std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(below_home));
    by_variable.or_else(by_home).map(|folder| folder.join("fedbasin"))
}

/// The name of one server's folder: its host, its port, and the path where a proxy has it below one.
fn name(address: &Uri) -> String {
    let secure = address.scheme_str() == Some("https");
    let port = address.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let host = address.host().unwrap_or_default().to_ascii_lowercase();
    let path = address.path().trim_end_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    };
    format!("{}_{port}{}", escape(&host), escape(path))
}

#[cfg(test)]
mod tests;
