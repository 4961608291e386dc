//! The network: messages that take time, are lost, come twice, or do not get through; questions and their answers.

use std::rc::Rc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::oneshot;

use crate::exec::Life;
use crate::node::{self, Daemon};
use crate::wire::{Answer, Ask, NoAnswer};
use crate::world::{Sim, WORLD};

/// For questions that the other end answers without any work; `node/src/sessions/notice.rs`.
pub(crate) const QUICK: Duration = Duration::from_secs(5);
/// For a cut, which stops a container.
pub(crate) const SLOW: Duration = Duration::from_secs(110);
/// How long a request that is relayed may take.
pub(crate) const RELAY: Duration = Duration::from_secs(30);
/// A connection to a machine that is not there fails after this.
const NO_ROUTE: Duration = Duration::from_millis(300);

/// Who was asked, and who waits for the answer.
pub(crate) type Asked = (usize, oneshot::Sender<Answer>);

/// Who reaches whom, and how well.
pub(crate) struct Links {
    count: usize,
    /// Directions that are cut, each by so many faults.
    cut: Vec<u32>,
    /// Faults that make the whole network bad.
    bad: u32,
}

impl Links {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            count,
            cut: vec![0; count * count],
            bad: 0,
        }
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cut[from * self.count + to] += 1;
    }

    pub(crate) fn heal(&mut self, from: usize, to: usize) {
        let cuts = &mut self.cut[from * self.count + to];
        *cuts = cuts.saturating_sub(1);
    }

    pub(crate) fn set_bad(&mut self, bad: bool) {
        self.bad = if bad {
            self.bad + 1
        } else {
            self.bad.saturating_sub(1)
        };
    }

    pub(crate) fn mend(&mut self) {
        self.cut.fill(0);
        self.bad = 0;
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from * self.count + to] > 0
    }
}

impl Sim {
    /// How long a message takes; none when it is lost.
    fn carry(&self, from: usize, to: usize) -> Option<Duration> {
        let links = self.links.borrow();
        if links.is_cut(from, to) {
            return None;
        }
        let (loss, slow) = match (self.trouble.get(), links.bad > 0) {
            (false, _) => (0, 1),
            (true, false) => (self.plan.loss, 1),
            (true, true) => (300, 10),
        };
        if self.chance(loss) {
            return None;
        }
        let micros = self.rng(|rng| {
            if rng.random_ratio(1, 100) {
                rng.random_range(20_000..400_000)
            } else {
                rng.random_range(300..20_000)
            }
        });
        Some(Duration::from_micros(micros * slow))
    }

    /// Whether a message of a connection that was made before gets through now.
    fn arrives(&self, from: usize, to: usize) -> bool {
        !self.links.borrow().is_cut(from, to)
    }

    /// Asks `to` and waits for its answer.
    pub(crate) async fn ask(
        self: &Rc<Self>,
        me: &Daemon,
        to: usize,
        ask: Ask,
        limit: Duration,
    ) -> Result<Answer, NoAnswer> {
        let from = me.node;
        let dead = |node: usize| self.daemon(node).is_none();
        if dead(to) || self.links.borrow().is_cut(from, to) || self.links.borrow().is_cut(to, from) {
            self.sleep(NO_ROUTE).await;
            return Err(NoAnswer {
                may_have_arrived: false,
            });
        }
        let number = self.exec.number();
        let (sender, answer) = oneshot::channel();
        me.asked.borrow_mut().insert(number, (to, sender));
        // A request that is relayed is one stream of a connection, which brings nothing twice.
        let again = !matches!(ask, Ask::Relay(_)) && self.trouble.get() && self.chance(self.plan.twice);
        let copy = again.then(|| ask.clone());
        self.send(from, me.life, to, number, ask);
        if let Some(ask) = copy {
            self.send(from, me.life, to, number, ask);
        }
        let answer = self.within(limit, answer).await;
        me.asked.borrow_mut().remove(&number);
        match answer {
            Some(Ok(answer)) => Ok(answer),
            _ => Err(NoAnswer {
                may_have_arrived: true,
            }),
        }
    }

    /// Sends something for which no answer is waited.
    pub(crate) fn tell(self: &Rc<Self>, from: usize, to: usize, ask: Ask) {
        self.send(from, WORLD, to, 0, ask);
    }

    fn send(self: &Rc<Self>, from: usize, life: Life, to: usize, number: u64, ask: Ask) {
        let Some(time) = self.carry(from, to) else {
            return self.breaks(from, life, number);
        };
        let sim = self.clone();
        self.exec.spawn(WORLD, async move {
            sim.sleep(time).await;
            let Some(daemon) = sim.daemon(to).filter(|_| sim.arrives(from, to)) else {
                return sim.breaks(from, life, number);
            };
            let answering = sim.clone();
            sim.exec.spawn(daemon.life, async move {
                let Some(answer) = node::answer(&answering, &daemon, from, ask).await else {
                    return;
                };
                answering.answer(to, from, life, number, answer);
            });
        });
    }

    fn answer(self: &Rc<Self>, from: usize, to: usize, life: Life, number: u64, answer: Answer) {
        let Some(time) = self.carry(from, to) else {
            return self.breaks(to, life, number);
        };
        let sim = self.clone();
        self.exec.spawn(WORLD, async move {
            sim.sleep(time).await;
            if !sim.arrives(from, to) {
                return sim.breaks(to, life, number);
            }
            // An answer finds the process that has asked, or nobody.
            if let Some((_, asked)) = sim.take_asked(to, life, number) {
                let _ = asked.send(answer);
            }
        });
    }

    /// A lost message ends its connection, and whoever waits on it notices after a while.
    fn breaks(self: &Rc<Self>, node: usize, life: Life, number: u64) {
        let (sim, after) = (self.clone(), self.between(500_000, 8_000_000));
        self.exec.spawn(WORLD, async move {
            sim.sleep(after).await;
            drop(sim.take_asked(node, life, number));
        });
    }

    fn take_asked(&self, node: usize, life: Life, number: u64) -> Option<Asked> {
        let daemon = self.daemon(node).filter(|daemon| daemon.life == life)?;
        daemon.asked.borrow_mut().remove(&number)
    }

    /// The connections to a process end with it: whoever waits for its answers notices.
    pub(crate) fn reset(self: &Rc<Self>, node: usize) {
        for other in 0..self.nodes.len() {
            let Some(daemon) = self.daemon(other) else {
                continue;
            };
            if self.links.borrow().is_cut(node, other) {
                continue;
            }
            let mut asked = daemon.asked.borrow_mut();
            let ended: Vec<u64> = asked
                .iter()
                .filter(|(_, (to, _))| *to == node)
                .map(|(number, _)| *number)
                .collect();
            let ended: Vec<Option<Asked>> = ended.iter().map(|number| asked.remove(number)).collect();
            drop(asked);
            drop(ended);
        }
    }
}
