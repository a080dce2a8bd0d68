//! The numbered steps of a drive, where a test can suspend the thread that gets there.

/// A place between two instructions that the protocol must survive a suspension at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    HeadLoaded,
    StateLoaded,
    Resolved,
    SlotScanned,
    Install,
    Installed,
    Append,
    Link,
    Appended,
}

/// Says that the calling thread reached `step`.
#[inline(always)]
pub(super) fn step(step: Step) {
    #[cfg(all(test, equipoise_engine))]
    hook::reached(step);
    #[cfg(not(all(test, equipoise_engine)))]
    let _ = step;
}

#[cfg(all(test, equipoise_engine))]
pub(super) mod hook {
    use super::Step;
    use std::cell::RefCell;

    type Hook = Box<dyn FnMut(Step)>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Calls `hook` at every step of the calling thread from now on.
    pub(in crate::kernel) fn set(hook: impl FnMut(Step) + 'static) {
        HOOK.with(|slot| *slot.borrow_mut() = Some(Box::new(hook)));
    }

    pub(super) fn reached(step: Step) {
        let hook = HOOK.with(|slot| slot.borrow_mut().take());
        if let Some(mut hook) = hook {
            hook(step);
            HOOK.with(|slot| *slot.borrow_mut() = Some(hook));
        }
    }
}
