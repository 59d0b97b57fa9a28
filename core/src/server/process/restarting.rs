//! What a restart asks of the process: to prepare, to serve, to stand back, to serve again.

use ouro_restart::message::RestartRequest;

use super::super::{FAILED, Surroundings, after, fail, notify};
use super::Process;
use crate::server::counting::{self, Before};
use crate::server::link::{Link, Todo};
use crate::server::listen::Passed;
use crate::server::peers::Operator;
use crate::server::running::{Prepared, Running};
use crate::server::successor::{self, Launch, Successor};
use crate::worker::Message;

impl Process<'_> {
    /// Does what a restart asks for; the exit code where that is the end.
    pub(super) async fn act(&mut self, todo: Todo) -> Option<u8> {
        match todo {
            Todo::Prepare { epoch, before } => {
                let inherited = self.link.as_mut().map(Link::take_inherited).unwrap_or_default();
                match self.prepare(epoch, before, inherited).await {
                    Ok(released) => {
                        let workers = u32::try_from(self.course.alive()).unwrap_or(u32::MAX);
                        if let Some(link) = &mut self.link {
                            link.accepting(workers, released);
                        }
                    }
                    Err(why) => {
                        if let Some(link) = &mut self.link {
                            link.failed(why);
                        }
                    }
                }
            }
            Todo::AdoptState(blobs) => {
                if let Err(error) = self.runtime.adopt(&blobs) {
                    tracing::warn!("{error}");
                }
                self.runtime_has_changed();
            }
            Todo::TakeOver { epoch } => {
                self.take_over(epoch);
                // Of what came last, the kernel may have told a parent that was killed.
                self.tell(|| Message::Look);
            }
            Todo::StopAccepting { pid } => {
                tracing::info!("another process serves from here on");
                self.course.stop_accepting();
                if let Some(running) = &mut self.running {
                    running.stand_back();
                }
                self.replacement = self.successor.take().map(|successor| (successor, pid));
            }
            Todo::ResumeAccepting => {
                tracing::warn!("this process serves again");
                self.report_replacement(Some("it has failed right after it had taken over"));
                self.course.resume();
                if let Some(running) = &mut self.running {
                    running.resume(self.surroundings);
                }
                if !self.course.is_stopping() {
                    notify::ready("serves again: the successor has failed");
                }
            }
            Todo::CloseListeners => {
                self.is_orphaned = true;
                if let Some(running) = &mut self.running {
                    running.close_listeners();
                }
            }
            Todo::BeginDrain { drain, live } => {
                self.report_replacement(None);
                self.begin_drain(drain, live);
            }
            Todo::TakeParcels { worker, channel } => {
                if let Some(running) = &self.running {
                    running.workers.take_parcels(worker as usize, channel);
                }
            }
            Todo::AttemptFailed { pid, why } => {
                if !self.course.has_stood_back() {
                    self.tell(|| Message::Look);
                }
                // Whoever waits for a report waits for that of his own.
                if self.successor.as_ref().is_none_or(|successor| successor.is(pid)) {
                    self.on_successor_failed(&why);
                } else {
                    tracing::error!(pid, "another process has failed to take over: {why}");
                }
            }
            Todo::Exit { why, cut } => {
                tracing::info!(why, connections = cut, "this process has been replaced and ends");
                let timeout_ms = self.surroundings.model.server.shutdown_timeout_ms;
                let exit = self.course.exit(self.now(), cut, timeout_ms);
                if let (true, Some(link)) = (exit.stops_elder, &mut self.link) {
                    link.stopping_elder();
                }
                self.end_soon(exit.timeout_ms);
            }
            Todo::Fail { why } => {
                self.code = fail(&why);
                let Some(running) = &mut self.running else { return Some(FAILED) };
                // What this process has accepted it serves; the queues are another's, who may not even know of what
                // the kernel has told this one about.
                running.stand_back();
                running.workers.tell(|| Message::Farewell(Some(0)));
                self.course.fail();
                self.deadline = Some(after(self.surroundings.model.server.shutdown_timeout_ms));
            }
            Todo::TakeTotals(blobs) => {
                if let Some(running) = &self.running {
                    running.counting.take_totals(&blobs);
                }
            }
            Todo::Restart(request, operator) => self.start_successor(Some(request), Some(operator)),
        }
        None
    }

    pub(super) async fn prepare(
        &mut self,
        epoch: u32,
        before: Before,
        inherited: Vec<Passed>,
    ) -> Result<Vec<String>, String> {
        let mut opened = counting::open(self.surroundings.place, before).await?;
        opened.after_a_death |= self.link.as_mut().is_some_and(Link::may_be_unheard);
        let Prepared { running, offered, released } =
            Running::prepare(self.surroundings, opened, epoch, inherited).await?;
        self.course.begin(running.workers.len());
        self.running = Some(running);
        self.runtime_has_changed();
        if let Some(link) = &mut self.link {
            link.offer(offered);
            if let Some(running) = &self.running {
                link.set_segment(running.counting.segment().clone());
            }
        }
        Ok(released)
    }

    pub(super) fn take_over(&mut self, epoch: u32) {
        self.epoch = epoch;
        if let Some(running) = &mut self.running {
            running.serve(self.surroundings);
            running.counting.count_start();
        }
        let base_id = self.surroundings.base_id;
        tracing::info!(pid = std::process::id(), base_id, epoch, "ready");
        notify::ready(&format!("restart epoch {epoch} serves"));
    }

    /// Starts a successor of this process, unless one is on its way.
    pub(super) fn start_successor(&mut self, request: Option<RestartRequest>, operator: Option<Operator>) {
        let refusal = if self.link.is_none() {
            Some("hot restarts are switched off (--disable-hot-restart)")
        } else if std::process::id() == 1 {
            Some("this is process 1 of its container, which would end with it: run it under hot-restarter.py")
        } else if std::env::var_os("RESTART_EPOCH").is_some() {
            // The script would see its child end, and not know of the successor.
            Some(
                "this process was started by a restart script (RESTART_EPOCH is set): send SIGHUP to that one",
            )
        } else if self.course.is_stopping() || self.course.is_draining() || self.running.is_none() {
            Some("this process is not the one that serves")
        } else if self.successor.is_some() {
            Some("a successor is on its way already")
        } else {
            None
        };
        if let Some(why) = refusal {
            tracing::warn!(why, "no restart");
            return successor::refuse(operator, why);
        }
        notify::reloading();
        let arguments = request.filter(|request| request.replaces_arguments).map(|request| request.arguments);
        let Surroundings { options, base_id, .. } = self.surroundings;
        let socket_path = options.restart.socket_path.as_deref();
        let started = Launch::new(&self.command_line, arguments, *base_id, socket_path);
        match started.and_then(Successor::start) {
            Ok(mut successor) => {
                successor.tell(operator);
                self.successor = Some(successor);
            }
            Err(why) => {
                tracing::error!("no restart: {why}");
                successor::refuse(operator, &why);
                notify::ready("serves on: a restart was refused");
            }
        }
    }

    /// Tells whoever has asked for the process that has taken over, once nobody is served by this one any more who comes
    /// now; or why it has come to nothing.
    pub(super) fn report_replacement(&mut self, failure: Option<&str>) {
        let Some((successor, pid)) = self.replacement.take() else { return };
        let other = format!("process {pid}, which was not started for this, has taken over first");
        let outcome = match failure {
            Some(why) => Err(why),
            None if successor.is(pid) => Ok(()),
            None => Err(&*other),
        };
        successor.report(self.epoch.saturating_add(1), outcome);
    }

    pub(super) fn on_successor_failed(&mut self, why: &str) {
        tracing::error!("the successor has failed; this process serves on: {why}");
        if let Some(successor) = self.successor.take() {
            successor.report(self.epoch.saturating_add(1), Err(why));
        }
        if !self.course.is_stopping() {
            notify::ready("serves on: the successor has failed");
        }
    }
}
