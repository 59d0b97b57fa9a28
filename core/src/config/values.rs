//! How single values are written: durations, sizes, addresses, names. Every function returns the value or what was
//! expected, and depends on its text alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::model::{Address, EndpointTarget};
use crate::base::clock::{Millis, NEVER};

/// Longest duration: a year. Whoever wants more wants "off".
const MAX_DURATION_MS: Millis = 365 * 24 * 3_600_000;

/// Longest path of a Unix socket, `sun_path` less its closing 0.
const MAX_UNIX_PATH: usize = 107;

/// `"5s"`, `"250ms"`, `"1m30s"`; `"off"` where `off` allows it.
///
/// # Errors
/// What was expected.
pub fn duration(text: &str, off: bool) -> Result<Millis, String> {
    let or_off = if off { " or \"off\"" } else { "" };
    let expected = || {
        format!("expected a duration such as \"5s\", \"250ms\" or \"1m30s\"{or_off}, found {}", quoted(text))
    };
    if text == "off" {
        return if off {
            Ok(NEVER)
        } else {
            Err("\"off\" is not possible here, a duration is needed".to_owned())
        };
    }
    let mut total: Millis = 0;
    let mut rest = text;
    // Units come in this order and once at most, which makes every duration readable.
    for (unit, factor) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let word = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        if number.is_empty() || &tail[..word] != unit {
            continue;
        }
        let part = number.parse::<Millis>().ok().and_then(|number| number.checked_mul(factor));
        total = part.and_then(|part| part.checked_add(total)).ok_or_else(|| too_long(off))?;
        rest = &tail[word..];
    }
    match total {
        _ if !rest.is_empty() || text.is_empty() => Err(expected()),
        0 if off => Err("0 is no duration; write \"off\" for no time-out".to_owned()),
        0 => Err("0 is no duration; the shortest is \"1ms\"".to_owned()),
        MAX_DURATION_MS.. => Err(too_long(off)),
        _ => Ok(total),
    }
}

fn too_long(off: bool) -> String {
    let hint = if off { "; write \"off\" for no time-out" } else { "" };
    format!("longer than a year{hint}")
}

/// `"512B"`, `"64KiB"`, `"10MB"`; `"off"`, which becomes `u64::MAX`, where `off` allows it.
///
/// # Errors
/// What was expected.
pub fn size(text: &str, off: bool, min: u64, max: u64) -> Result<u64, String> {
    let or_off = if off { " or \"off\"" } else { "" };
    if text == "off" {
        return if off {
            Ok(u64::MAX)
        } else {
            Err("\"off\" is not possible here, a size is needed".to_owned())
        };
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit {
        "B" => Some(1),
        "kB" | "KB" => Some(1000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let Some(factor) = factor.filter(|_| digits > 0) else {
        return Err(format!(
            "expected a size such as \"512B\", \"64KiB\" or \"10MB\"{or_off}, found {}",
            quoted(text)
        ));
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).unwrap_or(u64::MAX);
    if bytes == 0 && off {
        return Err("0 is refused because it could mean none or any; write \"off\" for no limit".to_owned());
    }
    if bytes < min {
        return Err(format!("expected at least \"{}\", found {}", size_text(min), quoted(text)));
    }
    if bytes > max {
        return Err(format!("expected at most \"{}\"{or_off}, found {}", size_text(max), quoted(text)));
    }
    Ok(bytes)
}

/// A size as [`size`] reads it, in the largest unit that expresses it exactly.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// An address to bind.
///
/// # Errors
/// What was expected.
pub fn listen_address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(Address::Unix);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Address::Ip(address));
    }
    let hint = match text.split_once(':') {
        Some(("", port)) if is_port(port) => {
            format!("; write \"0.0.0.0:{port}\" for every IPv4 address or \"[::]:{port}\" for every address")
        }
        Some((host, port)) if is_port(port) && host_name(host).is_ok() => {
            "; a listener is bound to an address, not to a name".to_owned()
        }
        None if text.starts_with('/') => "; a Unix socket begins with \"unix:\"".to_owned(),
        None => "; the port is missing".to_owned(),
        _ => String::new(),
    };
    Err(format!(
        "expected an address such as \"127.0.0.1:8080\", \"[::]:80\" or \"unix:/run/ouro/web.sock\", found {}{hint}",
        quoted(text)
    ))
}

/// Where an endpoint is.
///
/// # Errors
/// What was expected.
pub fn endpoint(text: &str) -> Result<EndpointTarget, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(|path| EndpointTarget::Address(Address::Unix(path)));
    }
    let expected = |hint: &str| {
        format!(
            "expected an address such as \"127.0.0.1:9000\", \"[::1]:9000\", \"name.example:80\" or \
             \"unix:/run/app.sock\", found {}{hint}",
            quoted(text)
        )
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(expected("; port 0 cannot be connected to"));
        }
        return Ok(EndpointTarget::Address(Address::Ip(address)));
    }
    if text.contains("://") {
        return Err(expected("; a scheme has no place here"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let unix = text.starts_with('/');
        return Err(expected(if unix {
            "; a Unix socket begins with \"unix:\""
        } else {
            "; the port is missing"
        }));
    };
    if host.contains(':') {
        return Err(expected("; an IPv6 address stands in brackets"));
    }
    let port = match port.parse::<u16>() {
        Ok(port) if port > 0 && is_port(text.rsplit(':').next().unwrap_or_default()) => port,
        _ => return Err(expected("; the port is a number from 1 to 65535")),
    };
    let host = host_name(host).map_err(|why| expected(&format!("; {why}")))?;
    Ok(EndpointTarget::Name { host, port })
}

fn unix_path(path: &str) -> Result<PathBuf, String> {
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(format!("expected \"unix:\" and the absolute path of a socket, found {}", quoted(path)));
    }
    if path.contains(char::is_control) {
        return Err("expected a path without control characters".to_owned());
    }
    if path.len() > MAX_UNIX_PATH {
        return Err(format!(
            "the path of a Unix socket has {MAX_UNIX_PATH} bytes at most, this has {}",
            path.len()
        ));
    }
    Ok(PathBuf::from(path))
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A host name, in lower case and without a trailing dot.
///
/// # Errors
/// What is wrong with it.
pub fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if !name.is_ascii() {
        return Err("an international name is written in its ASCII form (xn--…)".to_owned());
    }
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label_ok) {
        return Err("a host name consists of labels of letters, digits, \"-\" and \"_\", separated by dots"
            .to_owned());
    }
    // Otherwise a mistyped address would be looked up in the DNS.
    if name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()))
        && name.parse::<std::net::Ipv4Addr>().is_err()
    {
        return Err("this looks like an IPv4 address, but is none".to_owned());
    }
    Ok(name.to_ascii_lowercase())
}

/// Host for a `Host` header: a name or an address, possibly with a port.
///
/// # Errors
/// What was expected.
pub fn authority(text: &str) -> Result<String, String> {
    let expected = |hint: &str| {
        format!(
            "expected a host such as \"example.com\" or \"example.com:8080\", found {}{hint}",
            quoted(text)
        )
    };
    let (host, port) = match text.rfind(':') {
        Some(at) if !text[at..].contains(']') => (&text[..at], Some(&text[at + 1..])),
        _ => (text, None),
    };
    if let Some(port) = port
        && !(is_port(port) && port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        return Err(expected("; the port is a number from 1 to 65535"));
    }
    let host = bracketed_or_name(host).map_err(|why| expected(&format!("; {why}")))?;
    Ok(port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")))
}

/// A host without a port, lower case: a name, or an IPv6 address in brackets in its canonical form.
///
/// # Errors
/// What is wrong with it.
pub fn bracketed_or_name(text: &str) -> Result<String, String> {
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let address = inner
            .parse::<std::net::Ipv6Addr>()
            .map_err(|_| "the brackets hold no IPv6 address".to_owned())?;
        return Ok(format!("[{address}]"));
    }
    if text.contains(':') {
        return Err("an IPv6 address stands in brackets, and a port is not possible here".to_owned());
    }
    host_name(text)
}

/// Name of a listener or a cluster. Dots separate the parts of a counter's name, and are allowed as Envoy allows them.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A token of RFC 9110 section 5.6.2: header names, methods.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A header value: no control characters but tab, and no white space around it, which would not survive.
///
/// # Errors
/// What is wrong with it.
pub fn header_value(text: &str) -> Result<(), String> {
    if text.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err("a header value has no control characters".to_owned());
    }
    if text.trim_matches([' ', '\t']).len() != text.len() {
        return Err("a header value has no white space at its ends".to_owned());
    }
    Ok(())
}

/// Text from the file as an error shows it: quoted, control characters escaped, cut if long.
#[must_use]
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{:?}…", start)
}

#[cfg(test)]
mod tests;
