//! Pages of lists.

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::Deserialize;

use super::{
    Api,
    problem::{Problem, Query},
};
use crate::{
    error::{Error, Result},
    store::Part,
};

/// Which part of a list is asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// How many entries at the most; absent: as many as the server gives at once (`limits.max_page_size`).
    limit: Option<usize>,
    /// The entries after this one: `next` of the page before. Absent: from the first.
    after: Option<String>,
}

/// The same, checked.
pub(super) struct Page {
    pub(super) limit: usize,
    after: Option<String>,
}

/// As a store that reads no more than a page is asked for it.
impl<'a> From<&'a Page> for Part<'a> {
    fn from(page: &'a Page) -> Self {
        Self { after: page.after.as_deref(), limit: page.limit }
    }
}

impl FromRequestParts<Api> for Page {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> std::result::Result<Self, Problem> {
        let Query(asked) = Query::<Asked>::from_request_parts(parts, api).await?;
        Ok(Self::new(asked, api.admission.limits().max_page_size)?)
    }
}

impl Page {
    /// What is asked for, of a server that gives no more than `most` entries at once.
    pub(super) fn new(asked: Asked, most: usize) -> Result<Self> {
        Self::of_parts(asked.limit, asked.after, most)
    }

    /// The same of a list that is asked for more than its page.
    pub(super) fn of_parts(limit: Option<usize>, after: Option<String>, most: usize) -> Result<Self> {
        let limit = limit.unwrap_or(most);
        if !(1..=most).contains(&limit) {
            let detail = format!("limit: {limit} is not within 1 and the {most} of limits.max_page_size");
            return Err(Error::invalid(detail));
        }
        Ok(Self { limit, after })
    }

    /// The entries of this page, and after which one the next page begins, if there is one.
    ///
    /// # Errors
    /// Nothing is named as the page begins.
    pub(super) fn of<T>(
        self,
        entries: Vec<T>,
        name: impl Fn(&T) -> String,
    ) -> Result<(Vec<T>, Option<String>)> {
        let first = match &self.after {
            None => 0,
            Some(after) => match entries.iter().position(|entry| name(entry) == *after) {
                Some(place) => place + 1,
                None => return Err(Part::unknown()),
            },
        };
        Ok(self.cut(entries.into_iter().skip(first).collect(), name))
    }

    /// The same of entries that begin where the page does, of which there is one more if it is not the last.
    pub(super) fn cut<T>(self, mut entries: Vec<T>, name: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
        let is_more = entries.len() > self.limit;
        entries.truncate(self.limit);
        let next = entries.last().filter(|_| is_more).map(name);
        (entries, next)
    }
}

#[cfg(test)]
mod tests;
