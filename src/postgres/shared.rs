//! What several ask for at once is asked once, and told to all of them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::error::PgError;

pub(super) type Answering<T> = BoxFuture<'static, Result<T, PgError>>;
/// An answer for everybody who asks for it before it is there.
pub(super) type Answer<T> = Shared<Answering<T>>;

/// Asks in a task of its own: whoever is told as well may not be polled for as long as its client likes, and must not keep others waiting.
/// That task is told too, so that it is known to be answered where nobody else waits for it any more.
pub(super) fn asked<T: Clone + Send + Sync + 'static>(
    question: impl Future<Output = Result<T, PgError>> + Send + 'static,
) -> Answer<T> {
    let question = AssertUnwindSafe(question).catch_unwind();
    let answer = async move { question.await.unwrap_or(Err(PgError::Closed)) }.boxed().shared();
    tokio::spawn(answer.clone());
    answer
}

/// Something that is made for all who want it, and anew when it is of no use any more. Whoever comes while it is made shares what becomes
/// of that.
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
