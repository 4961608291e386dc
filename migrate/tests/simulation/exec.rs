//! Tasks in virtual time: one thread, one order, no clock. A task that waits costs nothing, and one whose process is
//! killed ends where it waits, at any await.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// One run of one process. Its tasks end with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life(pub(crate) u64);

type Boxed = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    life: Life,
    /// Absent while it is polled.
    future: Option<Boxed>,
}

struct Timer {
    at: Duration,
    number: u64,
    waker: Waker,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

type Ready = Arc<Mutex<VecDeque<u64>>>;

struct TaskWaker {
    task: u64,
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        push(&self.ready, self.task);
    }
}

fn push(ready: &Ready, task: u64) {
    ready
        .lock()
        .expect("one thread, and it holds no lock")
        .push_back(task);
}

/// The tasks and the time.
pub(crate) struct Exec {
    now: Cell<Duration>,
    number: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    timers: RefCell<BinaryHeap<Reverse<Timer>>>,
    ready: Ready,
    /// Lives that ended while one of their tasks was polled.
    dead: RefCell<Vec<Life>>,
    polled: Cell<u64>,
}

impl Exec {
    pub(crate) fn new() -> Self {
        Self {
            now: Cell::new(Duration::ZERO),
            number: Cell::new(0),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            ready: Ready::default(),
            dead: RefCell::default(),
            polled: Cell::new(0),
        }
    }

    /// Virtual time since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.now.get()
    }

    /// How often a task was polled: the work of the run.
    pub(crate) fn polled(&self) -> u64 {
        self.polled.get()
    }

    /// A number that was not given out before.
    pub(crate) fn number(&self) -> u64 {
        self.number.set(self.number.get() + 1);
        self.number.get()
    }

    pub(crate) fn spawn(&self, life: Life, future: impl Future<Output = ()> + 'static) {
        if self.dead.borrow().contains(&life) {
            return;
        }
        let id = self.number();
        let task = Task {
            life,
            future: Some(Box::pin(future)),
        };
        self.tasks.borrow_mut().insert(id, task);
        push(&self.ready, id);
    }

    /// Ends everything, so that nothing of a run is left.
    pub(crate) fn clear(&self) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        let timers = std::mem::take(&mut *self.timers.borrow_mut());
        drop((tasks, timers));
    }

    /// Ends all tasks of a life where they are.
    pub(crate) fn kill(&self, life: Life) {
        let mut tasks = self.tasks.borrow_mut();
        let ids: Vec<u64> = tasks
            .iter()
            .filter(|(_, task)| task.life == life)
            .map(|(id, _)| *id)
            .collect();
        let ended: Vec<Task> = ids.iter().filter_map(|id| tasks.remove(id)).collect();
        drop(tasks);
        self.dead.borrow_mut().push(life);
        // What a future holds may reach for the tasks when it goes.
        drop(ended);
    }

    /// Ends after `time`.
    pub(crate) fn sleep(&self, time: Duration) -> Sleep<'_> {
        Sleep {
            exec: self,
            at: self.now() + time,
            set: false,
        }
    }

    /// Runs until `end`, or until `done` says so; `done` is asked whenever time has passed.
    pub(crate) fn run(&self, end: Duration, mut done: impl FnMut() -> bool) {
        loop {
            while let Some(id) = self.pop() {
                self.poll(id);
            }
            if done() {
                return;
            }
            let due = self
                .timers
                .borrow()
                .peek()
                .is_some_and(|Reverse(timer)| timer.at <= end);
            if !due {
                self.now.set(self.now().max(end));
                return;
            }
            let next = self.timers.borrow_mut().pop();
            if let Some(Reverse(timer)) = next {
                self.now.set(self.now().max(timer.at));
                timer.waker.wake();
            }
        }
    }

    fn pop(&self) -> Option<u64> {
        self.ready
            .lock()
            .expect("one thread, and it holds no lock")
            .pop_front()
    }

    fn poll(&self, id: u64) {
        let taken = self.tasks.borrow_mut().get_mut(&id).and_then(|task| {
            let life = task.life;
            task.future.take().map(|future| (life, future))
        });
        let Some((life, mut future)) = taken else { return };
        self.polled.set(self.polled() + 1);
        let waker = Waker::from(Arc::new(TaskWaker {
            task: id,
            ready: self.ready.clone(),
        }));
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        let killed = self.dead.borrow().contains(&life);
        match polled {
            Poll::Pending if !killed => {
                if let Some(task) = self.tasks.borrow_mut().get_mut(&id) {
                    task.future = Some(future);
                }
            }
            Poll::Pending | Poll::Ready(()) => {
                self.tasks.borrow_mut().remove(&id);
                drop(future);
            }
        }
    }
}

/// See [`Exec::sleep`].
pub(crate) struct Sleep<'a> {
    exec: &'a Exec,
    at: Duration,
    set: bool,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.exec.now() >= self.at {
            return Poll::Ready(());
        }
        if !self.set {
            self.set = true;
            let timer = Timer {
                at: self.at,
                number: self.exec.number(),
                waker: context.waker().clone(),
            };
            self.exec.timers.borrow_mut().push(Reverse(timer));
        }
        Poll::Pending
    }
}
