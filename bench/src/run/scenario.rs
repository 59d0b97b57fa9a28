//! What is measured.

use crate::content;
use crate::load::Work;
use crate::peers::Shape;

/// Connections of the idle scenario.
const IDLE_CONNECTIONS: usize = 6000;

/// The same in the quick mode.
const QUICK_IDLE_CONNECTIONS: usize = 1000;

/// One row of numbers for each subject.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// Name on the command line and in results.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) title: &'static str,
    /// How it is measured.
    pub(crate) kind: Kind,
    /// Part of the quick mode.
    pub(crate) quick: bool,
}

/// How a scenario is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// CPU per exchange under full load.
    Load {
        /// What the proxy has to do.
        shape: Shape,
        /// Who answers.
        origin: OriginKind,
        /// What is asked for.
        exchange: Exchange,
        /// Connections.
        connections: usize,
    },
    /// Memory of connections that each have served a request and now wait.
    Idle {
        /// How many.
        connections: usize,
    },
    /// CPU per exchange with one worker and with two.
    Workers,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OriginKind {
    /// nginx where there is one, else the built-in origin.
    Files,
    /// The built-in origin, which looks at uploads.
    Own,
    /// The built-in TCP echo.
    Echo,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// GET of so many bytes.
    Get(usize),
    /// GET of the small body on a connection of its own.
    Close,
    /// GET of the small body from many hosts.
    Hosts,
    /// POST of so many bytes.
    Upload(usize),
    /// So many bytes there and back.
    Echo(usize),
}

impl Exchange {
    /// For the load generator.
    pub(crate) fn work(self) -> Work {
        match self {
            Self::Get(length) => Work::get(length),
            Self::Close => Work::get_close(),
            Self::Hosts => Work::get_hosts(),
            Self::Upload(length) => Work::upload(length),
            Self::Echo(bytes) => Work::Echo { bytes },
        }
    }
}

const fn load(
    name: &'static str,
    title: &'static str,
    shape: Shape,
    origin: OriginKind,
    exchange: Exchange,
    connections: usize,
) -> Scenario {
    Scenario { name, title, kind: Kind::Load { shape, origin, exchange, connections }, quick: false }
}

const fn quick(scenario: Scenario) -> Scenario {
    Scenario { quick: true, ..scenario }
}

/// All scenarios in the order of the report.
pub(crate) const ALL: &[Scenario] = {
    use Exchange::{Close, Echo, Get, Hosts, Upload};
    use OriginKind::{Echo as Echoes, Files, Own};
    use Shape::{Http, Routes, Tcp};
    use content::{LARGE, MEDIUM, SMALL};
    &[
        quick(load("small", "100-byte responses, 64 keep-alive connections", Http, Files, Get(SMALL), 64)),
        load("small-1", "100-byte responses, 1 keep-alive connection", Http, Files, Get(SMALL), 1),
        load("small-512", "100-byte responses, 512 keep-alive connections", Http, Files, Get(SMALL), 512),
        quick(load("64k", "64 KiB responses, 64 connections", Http, Files, Get(MEDIUM), 64)),
        load("1m", "1 MiB responses, 16 connections", Http, Files, Get(LARGE), 16),
        quick(load("upload-64k", "64 KiB uploads, 64 connections", Http, Own, Upload(MEDIUM), 64)),
        load("upload-1m", "1 MiB uploads, 16 connections", Http, Own, Upload(LARGE), 16),
        quick(load("close", "a connection for each request, 64 clients", Http, Files, Close, 64)),
        quick(load("routes", "1000 hosts with a route each, 64 connections", Routes, Files, Hosts, 64)),
        quick(load(
            "tcp-small",
            "TCP: 100 bytes there and back, 64 connections",
            Tcp,
            Echoes,
            Echo(SMALL),
            64,
        )),
        load("tcp-bulk", "TCP: 1 MiB responses, 16 connections", Tcp, Files, Get(LARGE), 16),
        quick(Scenario {
            name: "idle",
            title: "memory of idle connections that each served a request",
            kind: Kind::Idle { connections: IDLE_CONNECTIONS },
            quick: false,
        }),
        Scenario {
            name: "workers",
            title: "one worker and two: 100-byte responses, 64 connections",
            kind: Kind::Workers,
            quick: false,
        },
    ]
};

impl Scenario {
    /// What proxies have to do in it.
    pub(crate) const fn shape(&self) -> Shape {
        match self.kind {
            Kind::Load { shape, .. } => shape,
            Kind::Idle { .. } | Kind::Workers => Shape::Http,
        }
    }

    /// The same with less to do, for the quick mode.
    pub(crate) const fn shortened(self) -> Self {
        match self.kind {
            Kind::Idle { .. } => Self { kind: Kind::Idle { connections: QUICK_IDLE_CONNECTIONS }, ..self },
            _ => self,
        }
    }
}

/// The scenario of this name.
///
/// # Errors
/// Which names there are.
pub(crate) fn named(name: &str) -> Result<Scenario, String> {
    ALL.iter().find(|scenario| scenario.name == name).copied().ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
        format!("there is no scenario {name:?}; there are {}", names.join(", "))
    })
}
