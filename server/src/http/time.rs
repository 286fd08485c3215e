//! Times on the wire: ISO 8601, UTC.

pub(super) use crate::model::iso;
