//! Stopping a container so that the exit is seen, not told.

use std::time::{Duration, Instant};

use bollard::query_parameters::KillContainerOptions;

use super::error::{call, status};
use super::exit::{Opened, processes_of, watch_exit};
use super::{Docker, EngineError, answer};
use crate::service::StopSignal;

/// How long a process may outlive SIGKILL (it may hang in the kernel on a disk).
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How long the engine may take to notice that a process is gone.
const NOTICE_WAIT: Duration = Duration::from_secs(5);
/// Pause between two questions to the engine while it has not noticed.
const NOTICE_LOOK: Duration = Duration::from_millis(20);

/// A container whose exit was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// From the question to the exit, milliseconds.
    pub ms: u64,
    /// Whether it took SIGKILL.
    pub killed: bool,
}

impl Docker {
    /// Stops a container and succeeds only when its exit was seen here, by the kernel.
    ///
    /// The signal goes through the engine, the waiting does not: the engine's own stop answers some
    /// 150 ms after the process is gone. A container that does not run, and of which no process is
    /// left, counts as seen.
    ///
    /// # Errors
    /// Any error means that the exit was *not* seen, and that nothing may be built on it.
    pub async fn stop(&self, id: &str, signal: StopSignal, grace: Duration) -> Result<Stopped, EngineError> {
        let began = Instant::now();
        let done = |killed| Stopped {
            ms: elapsed_ms(began),
            killed,
        };
        let asked = began + NOTICE_WAIT;
        let (watch, paused) = loop {
            let container = self.expect(id, "stop").await?;
            let Some(pid) = container.pid else {
                self.see_leftovers_exit(&container.id).await?;
                return Ok(done(false));
            };
            match watch_exit(pid, &container.id).map_err(|source| EngineError::Watch { pid, source })? {
                Opened::Watching(watch) => break (watch, container.paused),
                // Gone and the engine has not noticed yet; or its numbers are not ours.
                Opened::NotThere if Instant::now() < asked => tokio::time::sleep(NOTICE_LOOK).await,
                Opened::NotThere => {
                    return Err(EngineError::ForeignProcess {
                        container: container.id,
                        pid,
                    });
                }
            }
        };
        let unseen = |source| EngineError::Watch {
            pid: watch.pid(),
            source,
        };
        self.signal(id, signal).await?;
        if paused {
            // A frozen process takes no signal.
            let _ = self.client().unpause_container(id).await;
        }
        if let Ok(exited) = tokio::time::timeout(grace, watch.exited()).await {
            exited.map_err(unseen)?;
            return Ok(done(false));
        }
        self.signal(id, StopSignal::SigKill).await?;
        match tokio::time::timeout(KILL_WAIT, watch.exited()).await {
            Ok(exited) => exited.map_err(unseen).map(|()| done(true)),
            Err(_) => Err(EngineError::StillRunning {
                container: id.to_owned(),
                after: KILL_WAIT,
            }),
        }
    }

    /// The engine says that it does not run; a process of it may still be dying.
    pub(super) async fn see_leftovers_exit(&self, id: &str) -> Result<(), EngineError> {
        for pid in processes_of(id) {
            let opened = watch_exit(pid, id).map_err(|source| EngineError::Watch { pid, source })?;
            if let Opened::Watching(watch) = opened {
                match tokio::time::timeout(KILL_WAIT, watch.exited()).await {
                    Ok(exited) => exited.map_err(|source| EngineError::Watch { pid, source })?,
                    Err(_) => {
                        return Err(EngineError::StillRunning {
                            container: id.to_owned(),
                            after: KILL_WAIT,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends a signal; a container that has stopped in the meantime is no error.
    async fn signal(&self, id: &str, signal: StopSignal) -> Result<(), EngineError> {
        let options = KillContainerOptions {
            signal: signal.name().to_owned(),
        };
        let asked = self.client().kill_container(id, Some(options));
        match answer(asked, || self.silent()).await? {
            Ok(()) => Ok(()),
            // 409 and, on older engines, 500: "is not running".
            Err(error)
                if matches!(status(&error), Some(404 | 409 | 500))
                    && error.to_string().contains("not running") =>
            {
                Ok(())
            }
            Err(error) => Err(call("signal")(error)),
        }
    }

    /// Waits until the engine, too, has noticed that the container stopped: some calls (remove,
    /// start) refuse before that.
    ///
    /// # Errors
    /// The engine does not answer, or says for five seconds that it runs.
    pub async fn settled(&self, id: &str) -> Result<(), EngineError> {
        let until = Instant::now() + NOTICE_WAIT;
        loop {
            match self.inspect(id).await? {
                Some(container) if container.running => {}
                _ => return Ok(()),
            }
            if Instant::now() >= until {
                return Err(EngineError::StillRunning {
                    container: id.to_owned(),
                    after: NOTICE_WAIT,
                });
            }
            tokio::time::sleep(NOTICE_LOOK).await;
        }
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
