//! Results for people.

pub(crate) mod markdown;
mod paths;
pub(crate) mod svg;
pub(crate) mod table;

use std::path::Path;

pub(crate) use self::paths::without_paths;

/// Writes a file, whole or not at all, and without the paths of this machine.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), String> {
    write_bytes(path, without_paths(text).as_bytes())
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    std::io::Write::write_all(&mut file, bytes).map_err(failed)?;
    // A temporary file is for its owner alone; results are for everybody.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Writes results as JSON.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_json(path: &Path, results: &impl serde::Serialize) -> Result<(), String> {
    let mut bytes = Vec::new();
    let formatter = paths::Clean(serde_json::ser::PrettyFormatter::new());
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(results, &mut serializer).map_err(|error| error.to_string())?;
    bytes.push(b'\n');
    write_bytes(path, &bytes)
}

/// The command line of this process, with this program's name instead of its path.
pub(crate) fn command() -> String {
    let mut args: Vec<String> = std::env::args().collect();
    if let Some(program) = args.first_mut() {
        *program = env!("CARGO_PKG_NAME").into();
    }
    args.join(" ")
}
