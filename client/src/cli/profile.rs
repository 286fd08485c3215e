//! Servers by name, as an operator keeps them in a file; and which server, token and authority a call is for, of all that says so.
//!
//! What is typed goes before what the environment says, and that before a profile. A profile that is typed (`--profile`) counts as typed.
//! A profile's token and authority are for its own server: with another address they are not taken.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    args::{AdminArgs, ProfileCommand},
    environment, state,
};
use crate::{
    connect::{Address, Token},
    error::{Error, Result},
    files::{check_token, create_private, folder_of, read_text, read_token, write_error, write_private},
    progress::Screen,
};

/// Where nothing else says so: the server's own default, on this machine.
const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";
const SERVER_VARIABLE: &str = "FEDBASIN_ADMIN_SERVER";
const TOKEN_VARIABLE: &str = "FEDBASIN_ADMIN_TOKEN";
const PROFILE_VARIABLE: &str = "FEDBASIN_PROFILE";
/// A file larger than this is none of ours.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_profile: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

/// One server. There is no place for a token: it stands in a file of its own, or in the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    server: String,
    /// Paths that are not absolute begin at the folder of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
}

/// All profiles, and where they are kept.
#[derive(Debug)]
struct Profiles {
    path: PathBuf,
    file: File,
}

/// The profile that is taken.
struct Chosen<'a> {
    name: &'a str,
    profile: &'a Profile,
    /// Whether it was named on the command line.
    typed: bool,
}

/// Which server a call is for, and with what.
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) token: Token,
    /// Where the address was taken from, where it was not typed.
    pub(super) origin: Option<String>,
}

/// What environment variables say; a test says it itself.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Target {
    /// # Errors
    /// The profiles cannot be read, one that is named is not there, there is no token, or the address makes no sense.
    pub(super) fn of(args: &AdminArgs) -> Result<Self> {
        Self::within(args, &environment)
    }

    fn within(args: &AdminArgs, environment: Environment<'_>) -> Result<Self> {
        let profiles = Profiles::open(args.config.as_deref(), Absent::Refused)?;
        let chosen = match &profiles {
            Some(profiles) => profiles.chosen(args.profile.as_deref(), environment)?,
            None => None,
        };
        if let (Some(name), None) = (&args.profile, &chosen) {
            return Err(unknown(name, "no file of profiles"));
        }
        let typed = chosen.as_ref().filter(|chosen| chosen.typed);
        let by_variable = environment(SERVER_VARIABLE);
        let (url, of_profile) = match (&args.server, typed, &by_variable, &chosen) {
            (Some(url), ..) => (url.clone(), None),
            (None, Some(chosen), ..) | (None, None, None, Some(chosen)) => {
                (chosen.profile.server.clone(), Some(chosen))
            }
            (None, None, Some(url), _) => (url.clone(), None),
            (None, None, None, None) => (DEFAULT_SERVER.to_owned(), None),
        };
        let origin = match of_profile {
            Some(chosen) => {
                let file = profiles.as_ref().map(|profiles| profiles.path.display().to_string());
                Some(format!("by profile {} of {}", chosen.name, file.unwrap_or_default()))
            }
            None if args.server.is_none() => {
                by_variable.map(|_| format!("by the variable {SERVER_VARIABLE}"))
            }
            None => None,
        };
        let own = chosen.as_ref().filter(|chosen| same_server(&chosen.profile.server, &url));
        let below = profiles.as_ref().map(|profiles| folder_of(&profiles.path)).unwrap_or(Path::new(""));
        let ca =
            args.ca.clone().or_else(|| own.and_then(|own| own.profile.ca.as_ref()).map(|ca| below.join(ca)));
        let address = Address { url, ca, insecure: args.insecure, identity: None };
        address.check().map_err(|error| error.coming_from(origin.as_deref()))?;
        let token_file = own.and_then(|own| own.profile.token_file.as_ref()).map(|file| below.join(file));
        let by_variable = environment(TOKEN_VARIABLE);
        let text = match (&args.token_file, token_file, by_variable) {
            (Some(path), ..) => read_token(path)?,
            (None, Some(path), None) => read_token(&path)?,
            // The variable's is for another server, unless a flag or a variable named this one, too.
            (None, Some(path), Some(_)) if of_profile.is_some() => read_token(&path)?,
            (None, _, Some(text)) => check_token(text.trim(), TOKEN_VARIABLE)?,
            (None, None, None) => return Err(no_token(chosen.as_ref(), own.is_some())),
        };
        Ok(Self { address, token: Token::new(text), origin })
    }
}

/// Nothing holds a token; `own` tells whether the server is the profile's.
fn no_token(chosen: Option<&Chosen<'_>>, own: bool) -> Error {
    let nor = match chosen {
        Some(chosen) if own => format!(", and profile {} names no token_file", chosen.name),
        Some(chosen) => format!(", and what profile {} names is for its own server alone", chosen.name),
        None => String::new(),
    };
    let place = format!("neither --token-file nor {TOKEN_VARIABLE} is given{nor}");
    Error::usage(
        "no token",
        place,
        "give one of them, or a profile that names its file (`fedbasin admin profile add`)",
    )
}

fn same_server(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

fn unknown(name: &str, place: impl std::fmt::Display) -> Error {
    Error::usage(
        format_args!("there is no profile {name}"),
        place,
        "see `fedbasin admin profile list`, or make it with `fedbasin admin profile add`",
    )
}

/// What to make of a named file that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    Refused,
    /// It is to be made.
    Empty,
}

impl Profiles {
    /// The profiles of the named file, or of the usual one, which may be absent. Nothing where there is no place for such a file.
    fn open(named: Option<&Path>, absent: Absent) -> Result<Option<Self>> {
        let usual =
            || state::own_folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("config.toml"));
        let Some(path) = named.map(Path::to_owned).or_else(usual) else { return Ok(None) };
        // What a link leads to is read and written; the link stays.
        let path = match fs::canonicalize(&path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if named.is_some() && absent == Absent::Refused {
                    return Err(Error::usage("is not there", path.display(), "check --config"));
                }
                return Ok(Some(Self { path, file: File::default() }));
            }
            Err(error) => return Err(crate::files::read_error(&path, &error)),
        };
        let file = parse(&read_text(&path, MAX_FILE_BYTES)?)
            .map_err(|(what, remedy)| Error::failed(what, path.display(), remedy))?;
        Ok(Some(Self { path, file }))
    }

    /// The one that is typed, or that the environment names, or the default one.
    fn chosen<'a>(
        &'a self,
        typed: Option<&'a str>,
        environment: Environment<'_>,
    ) -> Result<Option<Chosen<'a>>> {
        let by_variable = environment(PROFILE_VARIABLE);
        let name = typed.or(by_variable.as_deref()).or(self.file.default_profile.as_deref());
        let Some(name) = name else { return Ok(None) };
        let (name, profile) =
            self.file.profiles.get_key_value(name).ok_or_else(|| unknown(name, self.path.display()))?;
        Ok(Some(Chosen { name, profile, typed: typed.is_some() }))
    }

    /// Writes the file, for its owner alone. What stood in it beside the profiles (comments) is gone.
    fn write(&self) -> Result<()> {
        let text = toml::to_string(&self.file).map_err(|error| {
            Error::failed(error, self.path.display(), "is there something in it that is no text?")
        })?;
        let folder = folder_of(&self.path);
        create_private(folder).map_err(|error| write_error(folder, &error))?;
        write_private(&self.path, text.as_bytes())
    }

    fn described(&self, name: &str, profile: &Profile) -> serde_json::Value {
        let below = |path: &Option<PathBuf>| path.as_ref().map(|path| folder_of(&self.path).join(path));
        json!({
            "name": name,
            "server": profile.server,
            "token_file": below(&profile.token_file),
            "ca": below(&profile.ca),
            "default": self.file.default_profile.as_deref() == Some(name),
        })
    }
}

/// The file's text, or what is wrong with it and what to do. Nothing of the text is repeated: there may be a token in it.
fn parse(text: &str) -> Result<File, (String, &'static str)> {
    let file: File = toml::from_str(text).map_err(|error| {
        let what = error.message().lines().next().unwrap_or_default().to_owned();
        let remedy = match what.contains("unknown field `token`") {
            true => {
                "no token stands in this file: put it into one of its own that only you may read, name that as token_file, and revoke the token if others could read it"
            }
            false => "correct it; it holds default_profile, and [profiles.NAME] with server, token_file, ca",
        };
        (what, remedy)
    })?;
    match &file.default_profile {
        Some(name) if !file.profiles.contains_key(name) => {
            Err((format!("default_profile is {name}, of which there is no [profiles.{name}]"), "correct it"))
        }
        _ => Ok(file),
    }
}

/// `fedbasin admin profile ...`: no server is asked.
pub(super) fn dispatch(args: &AdminArgs, command: &ProfileCommand, screen: &Screen) -> Result<()> {
    let absent = if matches!(command, ProfileCommand::Add { .. }) { Absent::Empty } else { Absent::Refused };
    let mut profiles = Profiles::open(args.config.as_deref(), absent)?
        .ok_or_else(|| Error::failed("no home folder", "the file of profiles", "name it by --config"))?;
    match command {
        ProfileCommand::List => {
            let all: Vec<_> = profiles
                .file
                .profiles
                .iter()
                .map(|(name, profile)| profiles.described(name, profile))
                .collect();
            screen.answer(&json!({ "file": profiles.path, "profiles": all }), || table(&all))
        }
        ProfileCommand::Show { name } => {
            let chosen = profiles.chosen(name.as_deref().or(args.profile.as_deref()), &environment)?;
            let chosen = chosen.ok_or_else(|| {
                Error::failed(
                    "no profile is taken",
                    profiles.path.display(),
                    "name one, or say `fedbasin admin profile use`",
                )
            })?;
            let described = profiles.described(chosen.name, chosen.profile);
            screen.answer(&described, || table(std::slice::from_ref(&described)))
        }
        ProfileCommand::Add { name } => {
            profiles.add(name, args)?;
            profiles.changed(name, "kept", screen)
        }
        ProfileCommand::Use { name } => {
            if !profiles.file.profiles.contains_key(name) {
                return Err(unknown(name, profiles.path.display()));
            }
            profiles.file.default_profile = Some(name.clone());
            profiles.changed(name, "the default one", screen)
        }
        ProfileCommand::Remove { name } => {
            if profiles.file.profiles.remove(name).is_none() {
                return Err(unknown(name, profiles.path.display()));
            }
            profiles.file.default_profile.take_if(|default| default == name);
            profiles.changed(name, "removed", screen)
        }
    }
}

impl Profiles {
    /// What was typed, made sure of: a profile that cannot work is not kept.
    fn add(&mut self, name: &str, args: &AdminArgs) -> Result<()> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
            return Err(Error::usage("no name of a profile", name, "write 1 to 63 letters, digits, - and _"));
        }
        if self.file.profiles.contains_key(name) {
            return Err(Error::failed(
                format_args!("there is a profile {name} already"),
                self.path.display(),
                format_args!("remove it first: `fedbasin admin profile remove {name}`"),
            ));
        }
        let Some(server) = args.server.clone() else {
            return Err(Error::usage(
                "no server",
                "--server is not given",
                "name the server that is to be kept",
            ));
        };
        let address = Address { url: server, ca: args.ca.clone(), insecure: args.insecure, identity: None };
        address.check()?;
        address.authority()?;
        if let Some(file) = &args.token_file {
            read_token(file)?;
        }
        let absolute = |path: &Option<PathBuf>| -> Result<Option<PathBuf>> {
            let absolute = path.as_deref().map(std::path::absolute).transpose();
            absolute.map_err(|error| Error::failed(error, "the present folder", "write absolute paths"))
        };
        let profile =
            Profile { server: address.url, token_file: absolute(&args.token_file)?, ca: absolute(&args.ca)? };
        self.file.profiles.insert(name.to_owned(), profile);
        self.file.default_profile.get_or_insert_with(|| name.to_owned());
        Ok(())
    }

    fn changed(&self, name: &str, how: &str, screen: &Screen) -> Result<()> {
        self.write()?;
        let default = &self.file.default_profile;
        let value = json!({ "name": name, "file": self.path, "default_profile": default });
        screen.answer(&value, || {
            let default = default.as_deref().unwrap_or("none");
            format!("profile {name}: {how}, in {}; the default one: {default}", self.path.display())
        })
    }
}

fn table(profiles: &[serde_json::Value]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["profile", "default", "server", "token file", "authority"]);
    for profile in profiles {
        let text = |field: &str| profile[field].as_str().unwrap_or_default().to_owned();
        let default = if profile["default"] == true { "yes" } else { "" };
        table.add_row([text("name"), default.to_owned(), text("server"), text("token_file"), text("ca")]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests;
