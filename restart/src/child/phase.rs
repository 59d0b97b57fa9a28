//! How far a child is.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    New,
    /// `retry_at`: not trying at the moment.
    Connecting {
        until: u64,
        retry_at: Option<u64>,
    },
    Greeting {
        until: u64,
    },
    /// Takes listening sockets, state, totals.
    Taking {
        part: Part,
        cursor: u64,
        until: u64,
    },
    /// `until` is `None` if there is no parent that would go on instead.
    Preparing {
        until: Option<u64>,
    },
    Committing {
        until: u64,
    },
    /// Has the word of the parent that it accepts nothing any more; takes the state once more.
    LastState {
        cursor: u64,
        until: u64,
    },
    Serving(Serving),
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    ListenSockets,
    State,
    Totals,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Serving {
    /// The parent has not acknowledged the commit.
    pub(super) presumed: bool,
    /// When to tell the parent to end, and after that when to stop waiting for it.
    pub(super) until: u64,
    pub(super) told_to_end: bool,
    /// HandoverDone has come, the last totals are being taken from here.
    pub(super) last_totals: Option<u64>,
}

impl Phase {
    /// When something has to have happened; `linked`: the connection to the parent is open.
    pub(super) fn deadline(self, linked: bool) -> Option<u64> {
        match self {
            Self::New | Self::Failed => None,
            Self::Connecting { until, retry_at } => Some(retry_at.unwrap_or(until)),
            Self::Greeting { until }
            | Self::Taking { until, .. }
            | Self::Committing { until }
            | Self::LastState { until, .. } => Some(until),
            Self::Preparing { until } => until,
            Self::Serving(serving) => linked.then_some(serving.until),
        }
    }
}
