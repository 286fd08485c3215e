//! Parts of lists, of which no more is read than is asked for.

use crate::error::{Error, Result};

/// So many entries of a list, and one more where there are more, after one of them.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The name of the entry before; none: from the first.
    pub after: Option<&'a str>,
    /// How many.
    pub limit: usize,
}

impl Part<'_> {
    /// That there is no such entry.
    pub(crate) fn unknown() -> Error {
        Error::invalid("after: the list has no such entry; take `next` of the page before, or begin anew")
    }

    /// How many entries are read.
    pub(super) fn count(&self) -> Result<i64> {
        i64::try_from(self.limit.saturating_add(1)).map_err(Error::internal)
    }
}
