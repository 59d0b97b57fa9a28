//! Every key of the configuration, declared once: the reader refuses what is not here and takes its defaults from
//! here, and the reference in `docs/configuration.md` is printed from here.

mod clusters;
mod listeners;
mod routes;

pub use clusters::*;
pub use listeners::*;
pub use routes::*;

use crate::base::limits;

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// Header in the file as the reference shows it, such as `[[listeners]]`.
    pub title: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// Its keys; nothing else is allowed in it.
    pub keys: &'static [Key],
}

/// A key of a [`Section`].
#[derive(Debug)]
pub struct Key {
    /// Name in the file.
    pub name: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// What it is if left out.
    pub default: Default,
    /// What it means.
    pub help: &'static str,
}

/// What the value of a key must be.
#[derive(Debug)]
pub enum Kind {
    /// A string that a rule of its own checks.
    Text {
        /// Name of the type in the reference.
        name: &'static str,
        /// Continues "expected ".
        expected: &'static str,
    },
    /// `"5s"`
    Duration {
        /// Whether `"off"` is allowed.
        off: bool,
    },
    /// `"64KiB"`
    Size {
        /// Whether `"off"` is allowed.
        off: bool,
        /// Smallest, bytes.
        min: u64,
        /// Largest, bytes.
        max: u64,
    },
    /// A whole number.
    Integer {
        /// Whether `"off"` is allowed.
        off: bool,
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
    },
    /// `true` or `false`
    Boolean,
    /// One of some strings.
    Choice(&'static [&'static str]),
    /// A list of strings that a rule of its own checks.
    Texts {
        /// Continues "list of " in the reference.
        name: &'static str,
        /// Continues "expected ".
        expected: &'static str,
    },
    /// A table with free names and string values.
    Map,
    /// A table.
    Table(&'static Section),
    /// A list of tables.
    Tables(&'static Section),
    /// A list of strings, or of tables where more is to be said.
    TextsOrTables {
        /// Continues "list of " in the reference.
        name: &'static str,
        /// Continues "expected ".
        expected: &'static str,
        /// The tables.
        section: &'static Section,
    },
}

/// What holds if a key is left out.
#[derive(Debug)]
pub enum Default {
    /// It must not be left out.
    Required,
    /// This value, without quotes. What the code applies, not a description of it.
    Value(&'static str),
    /// There is no value; says what that means.
    Absent(&'static str),
}

/// Largest integer, so that every count fits into a `u32` and stays apart from "off".
pub const MAX_INTEGER: u32 = 1_000_000_000;

/// Largest size, bytes: far from every overflow.
pub const MAX_SIZE: u64 = 1 << 50;

/// The whole file.
pub static ROOT: Section = Section {
    title: "Top level",
    help: "A file consists of these tables.",
    keys: &[
        key(
            "server",
            Kind::Table(&SERVER),
            Default::Absent("every key at its default"),
            "Settings of the process.",
        ),
        key("admin", Kind::Table(&ADMIN), Default::Absent("no admin interface"), "The admin interface."),
        key("listeners", Kind::Tables(&LISTENER), Default::Required, "What is listened on; at least one."),
        key(
            "clusters",
            Kind::Tables(&CLUSTER),
            Default::Absent("none"),
            "Groups of endpoints that routes refer to.",
        ),
    ],
};

/// `[server]`
pub static SERVER: Section = Section {
    title: "[server]",
    help: "Settings of the process.",
    keys: &[
        key(
            "max_connections",
            Kind::Integer { off: true, min: 1, max: MAX_INTEGER },
            Default::Value("off"),
            "Downstream connections of all listeners together. The limit on open files holds in any case.",
        ),
        key(
            "buffer_memory",
            Kind::Size { off: false, min: 1024 * 1024, max: MAX_SIZE },
            Default::Value("128MiB"),
            "Memory for receive buffers, per worker. It is taken as the load asks for it.",
        ),
        key(
            "stats_memory",
            Kind::Size { off: false, min: 16 * 1024 * 1024, max: MAX_SIZE },
            Default::Value("1GiB"),
            "Shared memory for counters at most, all workers and processes of the instance together. It is taken as it \
             is needed: about 1 KiB per cluster and worker, and 4 KiB for each of its three histograms once it is used. \
             The process that makes the segment decides.",
        ),
        key(
            "buffer_size",
            Kind::Size { off: false, min: 4 * 1024, max: 256 * 1024 },
            Default::Value("64KiB"),
            "Size of one receive buffer, a power of two. Larger ones move bulk data with fewer system calls, \
             smaller ones let more slow connections share the memory.",
        ),
        key(
            "moderation_us",
            Kind::Integer { off: true, min: 1, max: 1000 },
            Default::Value("50"),
            "How long a worker waits at most, microseconds, to handle several messages at a time where many connections \
             send small ones: less CPU for each. Sparse traffic and few connections are not waited for, and the wait is a \
             sixteenth at most of the time between two messages of a connection.",
        ),
        key(
            "shutdown_timeout",
            Kind::Duration { off: false },
            Default::Value("30s"),
            "How long SIGTERM waits for exchanges in flight.",
        ),
    ],
};

/// `[admin]`
pub static ADMIN: Section = Section {
    title: "[admin]",
    help: "The admin interface. Whoever reaches it controls the process: bind it to a loopback address or a Unix \
           socket.",
    keys: &[
        key("address", LISTEN_ADDRESS, Default::Required, "Address to bind."),
        key(
            "names",
            Kind::Texts { name: "host names", expected: "a host name such as \"proxy1.example\"" },
            Default::Absent("none"),
            "Names by which clients may call it. IP addresses and `localhost` always do; a request with another \
             `Host` is refused, so that no web page can reach it under a name of its own.",
        ),
    ],
};

/// An address to bind.
const LISTEN_ADDRESS: Kind = Kind::Text {
    name: "address",
    expected: "an address such as \"127.0.0.1:8080\", \"[::]:80\" or \"unix:/run/ouro/web.sock\"",
};

/// The name of a listener or a cluster.
const NAME: Kind =
    Kind::Text { name: "name", expected: "a name of 1 to 64 letters, digits, \"_\", \".\" or \"-\"" };

/// A count of header fields.
#[allow(clippy::cast_possible_truncation)] // 256
const HEADER_COUNT: Kind = Kind::Integer { off: false, min: 1, max: limits::MAX_HEADERS as u32 };

/// The size of a head.
const HEAD_SIZE: Kind = Kind::Size { off: false, min: 1024, max: limits::MAX_HEAD_BYTES as u64 };

/// How often something is repeated before it is "off".
const OPTIONAL_COUNT: Kind = Kind::Integer { off: true, min: 1, max: MAX_INTEGER };

const fn key(name: &'static str, kind: Kind, default: Default, help: &'static str) -> Key {
    Key { name, kind, default, help }
}

impl Section {
    /// The key of that name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

impl Kind {
    /// Continues "expected ".
    #[must_use]
    pub fn expected(&self) -> String {
        let or_off = |off: &bool| if *off { " or \"off\"" } else { "" };
        match self {
            Self::Text { expected, .. } => (*expected).to_owned(),
            Self::Texts { expected, .. } | Self::TextsOrTables { expected, .. } => {
                format!("a list of strings, each {expected}")
            }
            Self::Duration { off } => format!("a duration such as \"5s\" or \"250ms\"{}", or_off(off)),
            Self::Size { off, .. } => format!("a size such as \"64KiB\" or \"10MB\"{}", or_off(off)),
            Self::Integer { off, min, max: MAX_INTEGER } => format!("an integer from {min}{}", or_off(off)),
            Self::Integer { off, min, max } => format!("an integer from {min} to {max}{}", or_off(off)),
            Self::Boolean => "true or false".to_owned(),
            Self::Choice(choices) => {
                let quoted: Vec<String> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
                match quoted.split_last() {
                    Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                    _ => quoted.concat(),
                }
            }
            Self::Map => "a table of strings".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Tables(_) => "a list of tables".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::values;
    use super::*;

    fn walk(section: &'static Section, visit: &mut dyn FnMut(&'static Section, &'static Key)) {
        for key in section.keys {
            visit(section, key);
            match key.kind {
                Kind::Table(inner) | Kind::Tables(inner) | Kind::TextsOrTables { section: inner, .. } => {
                    walk(inner, visit);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        walk(&ROOT, &mut |section, key| {
            let Default::Value(text) = key.default else { return };
            let valid = match key.kind {
                Kind::Duration { off } => values::duration(text, off).is_ok(),
                Kind::Size { off, min, max } => values::size(text, off, min, max).is_ok(),
                Kind::Integer { off, min, max } => {
                    (off && text == "off") || text.parse().is_ok_and(|n: u32| (min..=max).contains(&n))
                }
                Kind::Boolean => text == "true" || text == "false",
                Kind::Choice(choices) => choices.contains(&text),
                Kind::Text { .. } | Kind::Texts { .. } => true,
                _ => false,
            };
            assert!(valid, "{} {}: {text}", section.title, key.name);
        });
    }

    #[test]
    fn names_are_unique_and_help_is_a_sentence() {
        walk(&ROOT, &mut |section, key| {
            let same = section.keys.iter().filter(|other| other.name == key.name).count();
            assert_eq!(same, 1, "{} {}", section.title, key.name);
            assert!(key.help.ends_with('.'), "{} {}", section.title, key.name);
            assert!(section.help.ends_with('.'), "{}", section.title);
        });
        let mut titles = HashSet::new();
        walk(&ROOT, &mut |section, _| {
            titles.insert(section.title);
        });
        assert!(titles.contains("[[listeners.routes]]"));
    }

    #[test]
    fn expectations_read_as_text() {
        assert_eq!(
            Kind::Duration { off: true }.expected(),
            "a duration such as \"5s\" or \"250ms\" or \"off\""
        );
        assert_eq!(Kind::Choice(&["a", "b", "c"]).expected(), "\"a\", \"b\" or \"c\"");
        assert_eq!(Kind::Choice(&["a"]).expected(), "\"a\"");
    }
}
