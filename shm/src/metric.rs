//! What is counted: metrics, and the scopes that have them.
//!
//! A *scope* is a kind of thing that has counters (a listener, a cluster); an *entity* is one such thing with a name of
//! its own. A scope declares its metrics once, in a table; everything else (the cells in the segment, the text that is
//! shown, the reference page) comes from that table.

use std::marker::PhantomData;

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only ever grows; survives the process that counted it.
    Counter,
    /// Goes up and down; vanishes with the process that set it.
    Gauge,
    /// Distribution of values; survives like a counter.
    Histogram,
}

impl Kind {
    /// Cells that a metric takes: a histogram has its count, its sum, and where its buckets are.
    #[must_use]
    pub const fn cells(self) -> usize {
        match self {
            Self::Counter | Self::Gauge => 1,
            Self::Histogram => 3,
        }
    }
}

/// What a metric's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Bytes.
    Bytes,
    /// Microseconds in the cells; shown as milliseconds in text, as seconds in Prometheus exposition.
    Microseconds,
    /// Seconds.
    Seconds,
}

/// One metric of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name within the scope.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What its values are.
    pub unit: Unit,
    /// One sentence for operators.
    pub help: &'static str,
}

impl Metric {
    /// Cells that it takes.
    #[must_use]
    pub const fn cells(&self) -> usize {
        self.kind.cells()
    }
}

/// A kind of thing that has counters. Implemented by [`scope!`](crate::scope), not by hand.
pub trait Scope: Sized + 'static {
    /// Name of the scope, part of every Prometheus name.
    const NAME: &'static str;
    /// How a metric is called in plain text: `{}` stands for the labels in their order; a dot and the metric's name
    /// follow.
    const TEXT: &'static str;
    /// Names of the labels that tell entities of this scope apart.
    const LABELS: &'static [&'static str];
    /// The metrics in the order of their cells.
    const METRICS: &'static [Metric];
    /// Cells of one entity.
    const CELLS: usize = cells_before(Self::METRICS, Self::METRICS.len());
}

/// Cells of the first `n` metrics.
#[must_use]
pub const fn cells_before(metrics: &[Metric], n: usize) -> usize {
    let mut cells = 0;
    let mut i = 0;
    while i < n {
        cells += metrics[i].cells();
        i += 1;
    }
    cells
}

/// Names a counter of the scope `S`.
pub struct CounterId<S>(pub(crate) u16, PhantomData<fn() -> S>);
/// Names a gauge of the scope `S`.
pub struct GaugeId<S>(pub(crate) u16, PhantomData<fn() -> S>);
/// Names a histogram of the scope `S`.
pub struct HistogramId<S>(pub(crate) u16, PhantomData<fn() -> S>);

macro_rules! id {
    ($name:ident, $kind:ident) => {
        impl<S: Scope> $name<S> {
            /// The metric at this position of the scope's table. Made by [`scope!`](crate::scope).
            ///
            /// # Panics
            /// If the metric there is of another kind; the macro evaluates this at compile time.
            #[must_use]
            pub const fn at(position: usize) -> Self {
                assert!(matches!(S::METRICS[position].kind, Kind::$kind));
                let cell = cells_before(S::METRICS, position);
                assert!(cell < u16::MAX as usize);
                #[allow(clippy::cast_possible_truncation)] // just checked
                Self(cell as u16, PhantomData)
            }
        }
        impl<S> Clone for $name<S> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<S> Copy for $name<S> {}
        impl<S> std::fmt::Debug for $name<S> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}
id!(CounterId, Counter);
id!(GaugeId, Gauge);
id!(HistogramId, Histogram);

/// Declares a scope: a type with one constant per metric, and the table of all of them.
///
/// ```
/// ouro_shm::scope! {
///     /// A door.
///     pub Door "door" "door.{}" ["door"] {
///         Counter OPENED "opened" Count "How often it was opened.";
///         Gauge PEOPLE "people" Count "People in it now.";
///         Histogram HELD "held" Microseconds "How long it was held open.";
///     }
/// }
/// # use ouro_shm::Scope;
/// assert_eq!(Door::CELLS, 5);
/// ```
#[macro_export]
macro_rules! scope {
    ($(#[$doc:meta])* $vis:vis $scope:ident $name:literal $text:literal [$($label:literal),*] {
        $($kind:ident $id:ident $metric:literal $unit:ident $help:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug)]
        $vis enum $scope {}

        impl $crate::Scope for $scope {
            const NAME: &'static str = $name;
            const TEXT: &'static str = $text;
            const LABELS: &'static [&'static str] = &[$($label),*];
            const METRICS: &'static [$crate::Metric] = &[$($crate::Metric {
                name: $metric, kind: $crate::Kind::$kind, unit: $crate::Unit::$unit, help: $help,
            }),*];
        }

        const _: () = {
            #[allow(non_camel_case_types, clippy::upper_case_acronyms, dead_code)]
            #[repr(usize)]
            enum Position { $($id),* }

            impl $scope {
                $(
                    #[doc = $help]
                    $vis const $id: $crate::id_type!($kind, $scope) = <$crate::id_type!($kind, $scope)>::at(Position::$id as usize);
                )*
            }
        };
    };
}

/// The identifier type of a kind of metric; used by [`scope!`](crate::scope).
#[doc(hidden)]
#[macro_export]
macro_rules! id_type {
    (Counter, $scope:ty) => { $crate::CounterId<$scope> };
    (Gauge, $scope:ty) => { $crate::GaugeId<$scope> };
    (Histogram, $scope:ty) => { $crate::HistogramId<$scope> };
}
