//! The first day of who runs a server: `fedbasin-server init`, and the guide `docs/FIRST-DAY.md`, each command of it as it stands there; and sites
//! behind an HTTP proxy.

mod clocks;
mod guide;
mod init;
mod place;
mod settings;
mod start;
mod through_proxy;
mod volume;
