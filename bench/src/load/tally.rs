//! What became of the exchanges of one group of clients.

use std::time::Duration;

use super::latency::Latencies;

/// Different failures whose text is kept.
const EXAMPLES: usize = 5;

/// What can go wrong with an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Failure {
    /// The connection was not accepted.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection ended before the exchange did.
    Closed,
    /// No end of the exchange in time.
    TimedOut,
    /// Another status than expected.
    Status,
    /// A head that HTTP does not allow, or framing that was not expected.
    Head,
    /// Another length than expected.
    Length,
    /// Another byte than expected.
    Content,
    /// Bytes behind the end of the response.
    Extra,
    /// Anything else.
    Other,
}

impl Failure {
    const COUNT: usize = Self::Other as usize + 1;

    /// A word for tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Closed => "closed early",
            Self::TimedOut => "timed out",
            Self::Status => "wrong status",
            Self::Head => "bad head",
            Self::Length => "wrong length",
            Self::Content => "wrong content",
            Self::Extra => "extra bytes",
            Self::Other => "other",
        }
    }
}

/// Counts since the last [`Tally::clear`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Exchanges that ended as they should.
    pub(crate) done: u64,
    /// From the begin of an exchange to its end.
    pub(crate) latencies: Latencies,
    /// Connections established.
    pub(crate) connects: u64,
    /// Responses that announced the end of a connection that was meant to be kept.
    pub(crate) told_to_close: u64,
    /// Connections that the other side closed between two exchanges.
    pub(crate) closed_idle: u64,
    /// Long-lived connections (echo, WebSocket) that ended, for whatever reason.
    pub(crate) broken: u64,
    /// The longest time that a client waited for the end of an exchange, failed attempts included.
    pub(crate) worst_wait: Duration,
    failures: [u64; Failure::COUNT],
    examples: Vec<String>,
}

impl Tally {
    /// Counts a failure; `detail` says what was seen.
    pub(crate) fn fail(&mut self, failure: Failure, detail: &str) {
        self.failures[failure as usize] += 1;
        let text =
            if detail.is_empty() { failure.name().into() } else { format!("{}: {detail}", failure.name()) };
        if self.examples.len() < EXAMPLES && !self.examples.contains(&text) {
            self.examples.push(text);
        }
    }

    /// How often this happened.
    pub(crate) const fn failed(&self, failure: Failure) -> u64 {
        self.failures[failure as usize]
    }

    /// All failures.
    pub(crate) fn errors(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// The first failures of different kinds, in words.
    pub(crate) fn examples(&self) -> &[String] {
        &self.examples
    }

    /// Begins anew, but keeps failures: they count whenever they happen.
    pub(crate) fn clear(&mut self) {
        self.done = 0;
        self.latencies.clear();
        self.connects = 0;
        self.told_to_close = 0;
        self.closed_idle = 0;
        self.broken = 0;
        self.worst_wait = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_and_outlive_a_new_beginning() {
        let mut tally = Tally::default();
        let failures = [
            Failure::Refused,
            Failure::Reset,
            Failure::Closed,
            Failure::TimedOut,
            Failure::Status,
            Failure::Head,
            Failure::Length,
            Failure::Content,
            Failure::Extra,
            Failure::Other,
        ];
        for failure in failures {
            tally.fail(failure, "x");
            tally.fail(failure, "x");
            assert_eq!(tally.failed(failure), 2);
        }
        tally.done = 3;
        tally.clear();
        assert_eq!((tally.done, tally.errors()), (0, 20));
        assert_eq!(tally.examples().len(), EXAMPLES);
        assert_eq!(tally.examples()[0], "refused: x");
    }
}
