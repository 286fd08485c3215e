//! Bodies that go no further than what their call was opened with.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};

use crate::sessions;

/// A body that breaks off once `end` comes: as an error, so that nobody takes a part of it for the whole.
struct Until<E> {
    body: Body,
    end: Option<Pin<Box<E>>>,
}

/// The body, until `end` comes.
pub(super) fn until(body: Body, end: impl Future<Output = ()> + Send + 'static) -> Body {
    Body::new(Until { body, end: Some(Box::pin(end)) })
}

impl<E: Future<Output = ()>> hyper::body::Body for Until<E> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        if end.as_mut().poll(context).is_ready() {
            self.end = None;
            return Poll::Ready(Some(Err(axum::Error::new(sessions::ended()))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
