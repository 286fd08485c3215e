//! The first day of who runs a server: `fedbasin-server init`, and the guide `docs/FIRST-DAY.md`, each command of it as it stands there; and sites
//! behind an HTTP proxy.

mod guide;
mod init;
mod place;
mod through_proxy;
