//! Questions that several callers ask at once are asked once, and all of them get the answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::error::PgError;

pub(super) type Answering<T> = BoxFuture<'static, Result<T, PgError>>;
/// An answer for all who ask before it is there.
pub(super) type Answer<T> = Shared<Answering<T>>;

/// Asks in a task of its own: a caller may be polled as rarely as its client likes, and must not keep the others
/// waiting. The task holds the answer, too, so the question gets its answer even if all callers leave.
pub(super) fn asked<T: Clone + Send + Sync + 'static>(
    question: impl Future<Output = Result<T, PgError>> + Send + 'static,
) -> Answer<T> {
    let question = AssertUnwindSafe(question).catch_unwind();
    let answer = async move { question.await.unwrap_or(Err(PgError::Closed)) }.boxed().shared();
    tokio::spawn(answer.clone());
    answer
}

/// Something that all users share, and that is made anew when it is no longer of use. Callers that come while it is
/// being made share the result.
pub(super) struct Made<T>(Mutex<Option<Answer<Arc<T>>>>);

impl<T> Default for Made<T> {
    fn default() -> Self {
        Made(Mutex::default())
    }
}

impl<T: Send + Sync + 'static> Made<T> {
    pub(super) async fn get(
        &self,
        is_of_use: impl Fn(&T) -> bool,
        make: impl Future<Output = Result<T, PgError>> + Send + 'static,
    ) -> Result<Arc<T>, PgError> {
        let made = {
            let mut made = self.0.lock();
            let kept = made.take().filter(|made| match made.peek() {
                Some(Ok(it)) => is_of_use(it),
                Some(Err(_)) => false,
                None => true,
            });
            let kept = kept.unwrap_or_else(|| asked(async move { make.await.map(Arc::new) }));
            made.insert(kept).clone()
        };
        made.await
    }
}
