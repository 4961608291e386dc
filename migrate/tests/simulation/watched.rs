//! A value that tasks watch. Those that wait are woken in the order in which they began to: tokio's `watch` wakes them in an
//! order of chance, and a seed would not say all.

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

pub(crate) struct Watched<T>(Rc<Shared<T>>);

struct Shared<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

/// What one task has seen of it.
pub(crate) struct Watching<T> {
    shared: Rc<Shared<T>>,
    seen: u64,
}

impl<T> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Rc::new(Shared {
            value: RefCell::new(value),
            version: Cell::default(),
            waiting: RefCell::default(),
        }))
    }

    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        self.0.value.borrow()
    }

    pub(crate) fn set(&self, value: T) {
        self.change(|place| *place = value);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.0.value.borrow_mut());
        self.0.version.set(self.0.version.get() + 1);
        for waiting in self.0.waiting.take() {
            waiting.wake();
        }
    }

    pub(crate) fn watch(&self) -> Watching<T> {
        Watching {
            shared: self.0.clone(),
            seen: self.0.version.get(),
        }
    }
}

impl<T> Watching<T> {
    /// Waits for a change that was not seen yet.
    pub(crate) async fn changed(&mut self) {
        poll_fn(|context| {
            let version = self.shared.version.get();
            if version != self.seen {
                self.seen = version;
                return Poll::Ready(());
            }
            let mut waiting = self.shared.waiting.borrow_mut();
            if !waiting.iter().any(|known| known.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits until the value is as wanted, and gives it.
    pub(crate) async fn wait_for(&mut self, wanted: impl Fn(&T) -> bool) -> T
    where
        T: Clone,
    {
        loop {
            self.seen = self.shared.version.get();
            let value = self.shared.value.borrow().clone();
            if wanted(&value) {
                return value;
            }
            self.changed().await;
        }
    }
}
