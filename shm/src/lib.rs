//! The shared-memory segment of the Ouro proxy.
