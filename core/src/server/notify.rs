//! What a service manager wants to know (`sd_notify(3)`); nothing is sent where nobody asks.

use sd_notify::NotifyState;

/// This process serves; it is the one that the service manager has to watch from now on.
pub(super) fn ready(status: &str) {
    send(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready, NotifyState::Status(status)]);
}

/// A successor is being started; [`ready`] follows, from it or from this process.
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading, NotifyState::Status("a successor is starting")];
    states.extend(NotifyState::monotonic_usec_now());
    send(&states);
}

/// The process ends on request.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
