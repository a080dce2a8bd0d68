//! Tasks in which code of others, such as a store, may panic.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::shared::Shared;

/// What comes of `task`; None when it panics.
pub(super) async fn caught<T>(task: impl Future<Output = T>) -> Option<T> {
    let mut task = pin!(task);
    let ended = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
        Ok(state) => state.map(Some),
        Err(_) => Poll::Ready(None),
    });
    ended.await
}

/// Runs a task that consuming depends on: if it panics, consuming ends with an error.
pub(super) async fn watched(shared: Arc<Shared>, task: impl Future<Output = ()>) {
    if caught(task).await.is_none() {
        shared.fail("a task of the consumer has panicked".to_owned());
    }
}
