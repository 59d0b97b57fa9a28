//! The parent dies or hangs on the way: whether somebody serves is what decides.

use super::Child;
use super::events::Action;
use super::phase::Phase;
use crate::identity::Level;
use crate::parts::Assembler;

impl Child {
    pub(super) fn on_parent_gone(&mut self, now: u64, why: &str) {
        if !self.linked {
            return;
        }
        self.linked = false;
        match self.phase {
            // Also one that hung: it was asked for before this one served that nobody else does, and to ask now would be to
            // ask itself.
            Phase::Serving(ref mut serving) => {
                serving.presumed = false;
                self.parent_ended(&format!("the old process has ended: {why}"));
            }
            // It had given its word: it accepts only if we hang up, and we have not.
            Phase::LastState { .. } => {
                self.parent_is_done = false;
                self.take_over(now, false);
                self.parent_ended(&format!("the old process has ended: {why}"));
            }
            // It may have been waiting behind another one, which takes over now: asks again.
            Phase::Greeting { .. } => {
                self.met = true;
                let retry_at = Some(now.saturating_add(self.deadlines.connect_retry_ms));
                self.phase = Phase::Connecting { until: self.turn_until, retry_at };
            }
            _ => {
                self.log(Level::Warn, format!("the running process has hung up: {why}"));
                self.check_service(now);
            }
        }
    }

    pub(super) fn check_service(&mut self, now: u64) {
        self.checking = Some(now.saturating_add(self.deadlines.check_ms));
        // Without a word of the parent, there may be an elder.
        let elder = self.parent.as_ref().is_none_or(|parent| parent.elder);
        self.out.push(Action::CheckService { elder });
    }

    pub(super) fn on_somebody_serves(&mut self, now: u64, serves: bool) {
        if self.checking.take().is_none() {
            return;
        }
        if serves {
            self.fail("the process that it was taking over from is gone, and another one serves".to_owned());
            return;
        }
        if self.linked {
            // It hangs. Should it wake up, it finds the commit first.
            self.log(Level::Warn, "the old process does not acknowledge; this one serves without".to_owned());
            self.take_over(now, true);
            return;
        }
        self.log(
            Level::Warn,
            "the running process is dead; going on with what it has handed over".to_owned(),
        );
        self.blobs = Assembler::default();
        match self.phase {
            Phase::Taking { .. } => {
                self.phase = Phase::Preparing { until: None };
                let epoch = self.epoch();
                self.out.push(Action::Prepare { epoch, cold: false });
            }
            Phase::Preparing { .. } => {
                self.phase = Phase::Preparing { until: None };
                if self.accepting.is_some() {
                    self.take_over(now, false);
                }
            }
            Phase::Committing { .. } => self.take_over(now, false),
            _ => {}
        }
        self.out.push(Action::ParentEnded);
    }
}
