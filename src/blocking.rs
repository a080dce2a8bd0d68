//! Runs reads that may wait for a disk.

use std::fmt;
use std::sync::Arc;

type Hook = dyn Fn(&mut dyn FnMut()) + Send + Sync;

/// Runs a read that may wait for a disk, the way that the embedder said.
#[derive(Clone, Default)]
pub(crate) struct Blocking(Option<Arc<Hook>>);

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").finish_non_exhaustive()
    }
}

impl Blocking {
    pub(crate) fn by(hook: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        Blocking(Some(Arc::new(hook)))
    }

    /// Runs `read`, once, on this thread.
    pub(crate) fn run<T>(&self, mut read: impl FnMut() -> T) -> T {
        let Some(hook) = &self.0 else { return read() };
        let mut result = None;
        hook(&mut || {
            if result.is_none() {
                result = Some(read());
            }
        });
        result.unwrap_or_else(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A4: the hook is asked, and the read happens once whatever it does.
    #[test]
    fn a_read_happens_once_whatever_the_hook_does() {
        let runs = |blocking: Blocking| {
            let mut runs = 0;
            assert_eq!(blocking.run(|| ((runs += 1), 7)).1, 7);
            runs
        };
        assert_eq!(runs(Blocking::default()), 1);
        assert_eq!(runs(Blocking::by(|read| read())), 1);
        assert_eq!(runs(Blocking::by(|_| {})), 1);
        assert_eq!(
            runs(Blocking::by(|read| {
                read();
                read();
            })),
            1
        );
    }
}
