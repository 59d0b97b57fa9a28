//! What a process says of itself, and what two processes make of it.

use crate::PROTOCOL_VERSION;
use crate::message::{Hello, HelloReply};

/// Lowest version of the protocol that this program speaks.
pub const PROTOCOL_VERSION_MIN: u32 = 1;

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Version of the program, for the logs.
    pub program_version: String,
    /// What `--hot-restart-version` prints; for comparing, not for deciding.
    pub hot_restart_version: String,
    /// Lowest version of the protocol that is spoken.
    pub protocol_min: u32,
    /// Highest version of the protocol that is spoken.
    pub protocol_max: u32,
    /// Layout of the shared segment.
    pub layout_version: u32,
    /// Random number of the shared segment that this process counts in, or would; 0 for none.
    pub segment_id: u64,
    /// Base id of the instance.
    pub base_id: u32,
    /// Process id; 0 if unknown.
    pub pid: u32,
    /// What can be done beyond the protocol version.
    pub capabilities: Vec<String>,
}

impl Identity {
    /// The identity of a program that speaks what this crate speaks and has no further capabilities.
    #[must_use]
    pub fn new(program_version: impl Into<String>, layout_version: u32, base_id: u32) -> Self {
        Self {
            program_version: program_version.into(),
            hot_restart_version: format!("{PROTOCOL_VERSION}.{layout_version}"),
            protocol_min: PROTOCOL_VERSION_MIN,
            protocol_max: PROTOCOL_VERSION,
            layout_version,
            segment_id: 0,
            base_id,
            pid: std::process::id(),
            capabilities: Vec::new(),
        }
    }

    /// What a process with this identity says first; `auto` as the epoch, and no probe.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            program_version: self.program_version.clone(),
            protocol_min: self.protocol_min,
            protocol_max: self.protocol_max,
            layout_version: self.layout_version,
            hot_restart_version: self.hot_restart_version.clone(),
            epoch: None,
            pid: self.pid,
            capabilities: self.capabilities.clone(),
            base_id: self.base_id,
            probe: false,
        }
    }

    /// The highest version of the protocol that both speak, if there is one.
    #[must_use]
    pub fn common_protocol(&self, min: u32, max: u32) -> Option<u32> {
        let highest = self.protocol_max.min(max);
        (highest >= self.protocol_min.max(min)).then_some(highest)
    }

    /// What speaks against taking over from the process that answers like this; `wanted` is the epoch asked for.
    pub(crate) fn objection(&self, wanted: Option<u32>, reply: &HelloReply) -> Option<String> {
        if reply.base_id != self.base_id {
            Some(format!("base id {} answers, not {}", reply.base_id, self.base_id))
        } else if reply.protocol < self.protocol_min || reply.protocol > self.protocol_max {
            Some(format!("it wants version {} of the restart protocol", reply.protocol))
        } else if wanted.is_some_and(|epoch| epoch != reply.child_epoch)
            || reply.epoch.checked_add(1) != Some(reply.child_epoch)
        {
            let asked = wanted.map_or_else(|| "auto".to_owned(), |epoch| epoch.to_string());
            let (epoch, child_epoch) = (reply.epoch, reply.child_epoch);
            Some(format!("it has restart epoch {epoch} and offers {child_epoch}; asked for was {asked}"))
        } else {
            None
        }
    }

    /// Whether the process that answers like this counts in another segment: what it has counted is not to be seen from
    /// here.
    pub(crate) fn has_other_segment(&self, reply: &HelloReply) -> bool {
        reply.layout_version != self.layout_version
            || (reply.segment_id != 0 && reply.segment_id != self.segment_id)
    }

    /// Whether a capability is on both sides.
    #[must_use]
    pub fn shares(&self, capability: &str, theirs: &[String]) -> bool {
        let has = |list: &[String]| list.iter().any(|name| name == capability);
        has(&self.capabilities) && has(theirs)
    }
}

/// How important a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something failed and somebody should know.
    Warn,
    /// A step of a restart.
    Info,
    /// Details.
    Debug,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_that_both_speak_is_taken() {
        let mut identity = Identity::new("1.0", 1, 0);
        (identity.protocol_min, identity.protocol_max) = (3, 5);
        for (min, max, expected) in [
            (1, 2, None),
            (1, 3, Some(3)),
            (4, 4, Some(4)),
            (1, 9, Some(5)),
            (5, 9, Some(5)),
            (6, 9, None),
            (5, 4, None),
            (9, 1, None),
        ] {
            assert_eq!(identity.common_protocol(min, max), expected, "{min}..={max}");
        }
    }
}
