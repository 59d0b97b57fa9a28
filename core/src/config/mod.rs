//! Configuration: what users write ([`schema`]) becomes what code uses ([`model`]).
//!
//! A file passes three stages, each of which trusts the one before: [`toml`] turns text into values with positions,
//! [`reader`] checks them key by key against the [`schema`], `resolve` turns names into indices and refuses what
//! contradicts itself. Every stage goes on after an error, so that one run shows all of them.
//!
//! Knows nothing of sockets: whether an address can be bound is found out by who binds it.

pub mod doc;
pub mod errors;
pub mod model;
mod reader;
mod resolve;
pub mod schema;
pub mod values;
mod wording;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;

use ::toml::de::DeTable;

use self::errors::Report;
pub use self::errors::{ConfigError, ConfigErrors};
use self::model::Model;

/// What runs without a configuration file. The demo upstream has no address before it is started, hence
/// [`DEMO_PLACEHOLDER`].
pub const QUICK_START: &str = include_str!("quick-start.toml");

/// Stands in [`QUICK_START`] for the address of the built-in demo upstream.
pub const DEMO_PLACEHOLDER: &str = "127.0.0.1:0";

/// Longest file that is read. Far above any real one: it keeps a wrong path (a device, a database) from filling memory.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Most dots between two separators: each dot of a key nests a table, and the parser's tables are freed recursively.
const MAX_KEY_DOTS: usize = 1000;

/// Reads a configuration file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Model, ConfigErrors> {
    let file_name = path.display().to_string();
    let refuse = |message: String| ConfigErrors::about_file(&file_name, message);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| refuse(format!("cannot read the configuration: {error}")))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(refuse(format!("longer than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    match str::from_utf8(&bytes) {
        Ok(text) => parse(text, &file_name),
        Err(error) => {
            let valid = str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let report = Report::default();
            report.push(valid.len(), String::new(), "not UTF-8, which TOML requires".to_owned());
            Err(report.into_errors(valid, &file_name))
        }
    }
}

/// Reads the text of a configuration file; `file_name` appears in errors only.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, file_name: &str) -> Result<Model, ConfigErrors> {
    let report = Report::default();
    if let Some(at) = deeply_dotted(text) {
        report.push(at, String::new(), format!("more than {MAX_KEY_DOTS} dots in one key"));
        return Err(report.into_errors(text, file_name));
    }
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    for error in &syntax_errors {
        let at = error.span().map_or(0, |span| span.start);
        report.push(at, String::new(), error.message().to_owned());
    }
    // What a broken file seems to say is guesswork: errors about it would send the reader astray.
    if !report.is_empty() {
        return Err(report.into_errors(text, file_name));
    }
    let model = resolve::model(document.get_ref(), &report);
    match model {
        Some(model) if report.is_empty() => Ok(model),
        _ => Err(report.into_errors(text, file_name)),
    }
}

/// The configuration that runs without a file, in front of the demo upstream at `demo`.
///
/// # Panics
/// If `demo` is not a real address: its port is 0.
#[must_use]
pub fn quick_start(demo: SocketAddr) -> Model {
    let text = QUICK_START.replace(DEMO_PLACEHOLDER, &demo.to_string());
    match parse(&text, "quick-start.toml") {
        Ok(model) => model,
        Err(errors) => panic!("the embedded configuration is wrong:\n{errors}"),
    }
}

/// Where a key seems to nest deeper than [`MAX_KEY_DOTS`].
fn deeply_dotted(text: &str) -> Option<usize> {
    let mut dots = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'.' => dots += 1,
            b'\n' | b'=' | b',' | b'[' | b'{' => dots = 0,
            _ => {}
        }
        if dots > MAX_KEY_DOTS {
            return Some(at);
        }
    }
    None
}

/// A cluster with this name, without endpoints of its own, and with every setting at its default: for connections of a
/// process before whose cluster the configuration does not have any more.
#[must_use]
pub fn cluster_of_defaults(name: &str) -> Option<std::sync::Arc<model::Cluster>> {
    let text = format!(
        "[[listeners]]\nname = \"l\"\naddress = \"127.0.0.1:1\"\nprotocol = \"tcp\"\ncluster = {name:?}\n\
         [[clusters]]\nname = {name:?}\nendpoints = [\"127.0.0.1:1\"]\n"
    );
    parse(&text, "defaults").ok()?.clusters.into_iter().next()
}
