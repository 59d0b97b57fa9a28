//! Host and port, as in `Host` and in absolute request targets. RFC 9110 section 7.2, RFC 3986 section 3.2.

use std::net::Ipv6Addr;

/// Whether `text` is a non-empty host with an optional port.
///
/// Narrower than RFC 3986 where two readers could differ: no user information, no comma (a list of hosts to some),
/// no empty port, no port above 65535, no address literals but IPv6 without zone.
pub(super) fn is_valid(text: &[u8]) -> bool {
    if let [b'[', rest @ ..] = text {
        let Some(end) = memchr::memchr(b']', rest) else { return false };
        let (address, port) = rest.split_at(end);
        return is_ipv6(address)
            && match port {
                [b']'] => true,
                [b']', b':', port @ ..] => is_port(port),
                _ => false,
            };
    }
    // Almost every name is nothing but these, and a pass over a short text costs less than a search does.
    let plain = text.iter().position(|byte| !PLAIN[usize::from(*byte)]).unwrap_or(text.len());
    match text.split_at(plain) {
        (name, []) => !name.is_empty(),
        (name, [b':', port @ ..]) => !name.is_empty() && is_port(port),
        _ => is_unusual(text),
    }
}

/// The other characters of a `reg-name`, the comma left out; looked at only where there is one.
#[cold]
fn is_unusual(text: &[u8]) -> bool {
    match memchr::memchr(b':', text) {
        None => is_unusual_name(text),
        Some(colon) => {
            let (name, port) = text.split_at(colon);
            is_unusual_name(name) && port.split_first().is_some_and(|(_, port)| is_port(port))
        }
    }
}

fn is_unusual_name(mut name: &[u8]) -> bool {
    if name.is_empty() {
        return false;
    }
    while let [first, rest @ ..] = name {
        name = match (first, rest) {
            (b'%', [high, low, rest @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            (b'-' | b'.' | b'_' | b'~', _) => rest,
            (b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=', _) => rest,
            (byte, _) if byte.is_ascii_alphanumeric() => rest,
            _ => return false,
        };
    }
    true
}

fn is_port(port: &[u8]) -> bool {
    if !(1..=5).contains(&port.len()) {
        return false;
    }
    let mut value = 0u32;
    for digit in port {
        if !digit.is_ascii_digit() {
            return false;
        }
        value = value * 10 + u32::from(digit - b'0');
    }
    value <= 65_535
}

/// What host names and IPv4 addresses are made of.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        byte += 1;
    }
    table
};

fn is_ipv6(address: &[u8]) -> bool {
    std::str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_optional_port_are_accepted() {
        for text in [
            "example.com",
            "EXAMPLE.com.",
            "a",
            "localhost:8080",
            "my_service:0",
            "127.0.0.1",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:80",
            "[2001:db8::192.0.2.1]:443",
            "xn--bcher-kva.example",
            "a%2Fb",
            "a!$&'()*+;=~b",
        ] {
            assert!(is_valid(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ":",
            ":80",
            "example.com:",
            "example.com:80:80",
            "example.com:65536",
            "example.com:123456",
            "example.com:8a",
            "example.com:+80",
            "example.com: 80",
            "user@example.com",
            "user:pw@example.com",
            "example.com/",
            "example.com?x",
            "example.com#x",
            "a.example, b.example",
            "a.example b.example",
            "b\u{fc}cher.example",
            "a%2",
            "a%zz",
            "%",
            "a\\b",
            "a\tb",
            "a\"b",
            "<a>",
            "[",
            "[]",
            "[::1",
            "::1",
            "[::1]80",
            "[::1]:",
            "[::1]:x",
            "[::1%25eth0]",
            "[v1.a]",
            "[127.0.0.1]",
            "[::1]]",
            "a[::1]",
        ] {
            assert!(!is_valid(text.as_bytes()), "{text}");
        }
    }
}
