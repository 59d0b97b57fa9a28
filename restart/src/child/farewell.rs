//! The end of the parent, as its child has a part in it.

use super::Child;
use super::events::Action;
use super::phase::Phase;
use crate::identity::Level;
use crate::message::{TerminateParent, Totals};
use crate::parts::Assembler;

impl Child {
    pub(super) fn on_handover_done(&mut self, now: u64) {
        if let Phase::LastState { .. } = self.phase {
            // The last state comes first.
            self.parent_is_done = true;
            return;
        }
        let wants_totals = self.wants_totals();
        let until = now.saturating_add(self.deadlines.step_ms);
        match &mut self.phase {
            Phase::Serving(serving) if wants_totals && serving.last_totals.is_none() => {
                serving.last_totals = Some(0);
                serving.until = until;
                self.blobs = Assembler::default();
                self.request(Totals { cursor: 0 });
            }
            Phase::Serving(_) => self.dismiss(now),
            _ => self.stray("HandoverDone"),
        }
    }

    /// Tells the parent to end.
    pub(super) fn dismiss(&mut self, now: u64) {
        let until = now.saturating_add(self.deadlines.goodbye_ms);
        if let Phase::Serving(serving) = &mut self.phase {
            serving.told_to_end = true;
            serving.until = until;
            self.request(TerminateParent {});
        }
    }

    pub(super) fn on_terminated(&mut self, now: u64) {
        match self.phase {
            // Said on purpose by a parent that has stopped accepting, so nobody else serves.
            Phase::Committing { .. } | Phase::LastState { .. } => {
                self.close();
                self.take_over(now, false);
                self.out.push(Action::ParentEnded);
            }
            Phase::Serving(_) => self.parent_ended("the old process has ended"),
            _ => self.stray("Terminated"),
        }
    }

    pub(super) fn parent_ended(&mut self, text: &str) {
        self.log(Level::Info, text.to_owned());
        self.close();
        self.out.push(Action::ParentEnded);
    }
}
