//! Deliberate bugs, by which the simulator shows that it would notice real ones. Without the feature `sim` they are not
//! there: [`is_on`] is false at compile time.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutation {
    /// What arrives behind a cancellation is thrown away.
    LostLateCompletion = 1,
    /// A send that took a part is taken for one that took all.
    ShortSendTakenForWhole,
    /// Some receive buffers never come back.
    BufferNotReturned,
    /// The end that follows a reset is taken for an end.
    ResetTakenForEnd,
    /// A descriptor is closed while something is in flight on it.
    ClosedBeforeJoined,
    /// Who waits for a buffer is not looked at again.
    WaiterForgotten,
    /// The first unsent byte is sent twice after a handover.
    ByteDoubledAfterHandover,
    /// A FIN that was to be sent is forgotten in a handover.
    HalfCloseForgotten,
    /// A connection that could not be handed over stands still.
    ThawForgotten,
    /// The part of a head that has come is forgotten in a handover.
    PartialHeadForgotten,
    /// The request of a connection that moves is counted for ever.
    GaugeForgotten,
    /// A head waits for the rest of its body in vain.
    HeadHeldBack,
    /// A parent whose child is gone does not accept again.
    ResumeForgotten,
    /// A connection that was handed over is kept as well.
    KeptAfterHandover,
    /// Time-outs fire twice as late.
    TimeoutLate,
    /// Time-outs fire a sixteenth early.
    TimeoutEarly,
    /// What a client is waited for begins anew in a handover.
    WaitBegunAnew,
    /// The end of an idle connection to an origin is not counted.
    IdleEndUncounted,
    /// A descriptor is left open when a connection cannot move because there are none.
    DescriptorLeftOpen,
    /// When a child dies, the sessions whose parcels have not gone yet are forgotten.
    QueuedSessionLost,
    /// Accepting that pauses for want of descriptors does not go on.
    PausedForEver,
    /// Who waits for room to send is not woken.
    RoomUnnoticed,
    /// A request is repeated whatever its method.
    RequestRepeated,
    /// A client whose origin cannot be connected to sees an orderly end.
    FailureTakenForEnd,
    /// The place of a registered socket is not cleared before its descriptor is closed.
    FileLeftRegistered,
    /// Where several events are waited for, they are waited for as long as it takes.
    EventsWaitedForEver,
}

/// All of them.
pub const ALL: &[Mutation] = {
    use Mutation as M;
    &[
        M::LostLateCompletion,
        M::ShortSendTakenForWhole,
        M::BufferNotReturned,
        M::ResetTakenForEnd,
        M::ClosedBeforeJoined,
        M::WaiterForgotten,
        M::ByteDoubledAfterHandover,
        M::HalfCloseForgotten,
        M::ThawForgotten,
        M::PartialHeadForgotten,
        M::GaugeForgotten,
        M::HeadHeldBack,
        M::ResumeForgotten,
        M::KeptAfterHandover,
        M::TimeoutLate,
        M::TimeoutEarly,
        M::WaitBegunAnew,
        M::IdleEndUncounted,
        M::DescriptorLeftOpen,
        M::QueuedSessionLost,
        M::PausedForEver,
        M::RoomUnnoticed,
        M::RequestRepeated,
        M::FailureTakenForEnd,
        M::FileLeftRegistered,
        M::EventsWaitedForEver,
    ]
};

#[cfg(feature = "sim")]
static ACTIVE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Makes the program do this one wrong, or none.
#[cfg(feature = "sim")]
pub fn set(mutation: Option<Mutation>) {
    ACTIVE.store(mutation.map_or(0, |mutation| mutation as u8), std::sync::atomic::Ordering::Relaxed);
}

/// Whether the program does this wrong.
#[cfg(feature = "sim")]
#[must_use]
pub fn is_on(mutation: Mutation) -> bool {
    ACTIVE.load(std::sync::atomic::Ordering::Relaxed) == mutation as u8
}

/// Whether the program does this wrong: no.
#[cfg(not(feature = "sim"))]
#[inline(always)]
#[must_use]
pub const fn is_on(_: Mutation) -> bool {
    false
}
