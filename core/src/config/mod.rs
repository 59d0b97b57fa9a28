//! Configuration: what users write ([`schema`]) becomes what code uses ([`model`]).

pub mod model;
