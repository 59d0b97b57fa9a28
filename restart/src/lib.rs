//! Hot restart of the Ouro proxy: messages, roles and descriptor transport.
