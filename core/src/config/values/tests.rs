use super::*;

#[test]
fn durations() {
    for (text, ms) in [
        ("5s", 5000),
        ("250ms", 250),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("1m30s", 90_000),
        ("1h1m1s1ms", 3_661_001),
        ("0m1s", 1000),
    ] {
        assert_eq!(duration(text, false), Ok(ms), "{text}");
    }
    assert_eq!(duration("off", true), Ok(NEVER));
    for text in
        ["", "5", "s", "5 s", "5S", "1.5s", "-1s", "30s1m", "1s1s", "5sec", "1d", "ms", "5s ", "\u{665}s"]
    {
        assert!(duration(text, true).unwrap_err().starts_with("expected a duration"), "{text}");
    }
    assert!(duration("0s", true).unwrap_err().contains("\"off\""));
    assert!(duration("0ms", false).unwrap_err().contains("\"1ms\""));
    assert!(duration("off", false).unwrap_err().contains("not possible"));
    for text in ["99999999999999999999s", "18446744073709551615h", "9000h"] {
        assert!(duration(text, true).unwrap_err().contains("longer than a year"), "{text}");
    }
}

#[test]
fn sizes() {
    let any = |text| size(text, false, 0, u64::MAX - 1);
    for (text, bytes) in
        [("512B", 512), ("64KiB", 65_536), ("10MB", 10_000_000), ("1GiB", 1 << 30), ("0B", 0)]
    {
        assert_eq!(any(text), Ok(bytes), "{text}");
    }
    for text in ["", "64", "KiB", "64 KiB", "64kib", "1.5MB", "-1B", "64K"] {
        assert!(any(text).unwrap_err().starts_with("expected a size"), "{text}");
    }
    assert_eq!(size("off", true, 1, 10), Ok(u64::MAX));
    assert!(size("0B", true, 1, 10).unwrap_err().contains("\"off\""));
    assert!(size("1KiB", false, 4096, 65_536).unwrap_err().contains("at least \"4KiB\""));
    assert!(size("99999999999999999999GB", false, 4096, 65_536).unwrap_err().contains("at most \"64KiB\""));
}

#[test]
fn listen_addresses() {
    assert_eq!(listen_address("127.0.0.1:0"), Ok(Address::Ip("127.0.0.1:0".parse().unwrap())));
    assert_eq!(listen_address("[::]:80"), Ok(Address::Ip("[::]:80".parse().unwrap())));
    assert_eq!(listen_address("unix:/run/x.sock"), Ok(Address::Unix("/run/x.sock".into())));
    for (text, hint) in [
        (":8080", "\"[::]:8080\""),
        ("localhost:80", "not to a name"),
        ("/run/x.sock", "\"unix:\""),
        ("127.0.0.1", "port is missing"),
        ("127.0.0.1:99999", "expected an address"),
        ("unix:x.sock", "absolute"),
        ("unix:/a\0b", "control"),
        ("", "expected an address"),
    ] {
        assert!(listen_address(text).unwrap_err().contains(hint), "{text}: {:?}", listen_address(text));
    }
    assert!(listen_address(&format!("unix:/{}", "x".repeat(107))).unwrap_err().contains("107 bytes"));
    assert!(listen_address(&format!("unix:/{}", "x".repeat(106))).is_ok());
}

#[test]
fn endpoints() {
    let name = |host: &str, port| Ok(EndpointTarget::Name { host: host.to_owned(), port });
    assert_eq!(endpoint("Name.Example.:80"), name("name.example", 80));
    assert_eq!(endpoint("app_1:8000"), name("app_1", 8000));
    assert_eq!(
        endpoint("[::1]:9000"),
        Ok(EndpointTarget::Address(Address::Ip("[::1]:9000".parse().unwrap())))
    );
    assert_eq!(endpoint("unix:/a/b"), Ok(EndpointTarget::Address(Address::Unix("/a/b".into()))));
    for (text, hint) in [
        ("127.0.0.1:0", "port 0"),
        ("::1:80", "brackets"),
        ("127.0.0.256:80", "IPv4"),
        ("http://x:80", "scheme"),
        ("x", "port is missing"),
        ("x:0", "1 to 65535"),
        ("x:+80", "1 to 65535"),
        ("a b:80", "labels"),
        (":80", "labels"),
        ("b\u{fc}cher.example:80", "xn--"),
    ] {
        assert!(endpoint(text).unwrap_err().contains(hint), "{text}: {:?}", endpoint(text));
    }
}

#[test]
fn authorities() {
    for (text, expected) in [
        ("Example.com", "example.com"),
        ("example.com:8080", "example.com:8080"),
        ("[0::1]:80", "[::1]:80"),
        ("[::1]", "[::1]"),
        ("10.0.0.1", "10.0.0.1"),
    ] {
        assert_eq!(authority(text).as_deref(), Ok(expected));
    }
    for text in ["", ":80", "a:b", "a:", "::1", "a b", "[::1", "[x]", "a/b", "a\r\nx: y"] {
        assert!(authority(text).is_err(), "{text}");
    }
}

#[test]
fn text_from_the_file_cannot_garble_an_error() {
    assert_eq!(quoted("a\u{1b}[31m\n"), "\"a\\u{1b}[31m\\n\"");
    assert!(quoted(&"x".repeat(1000)).chars().count() < 90);
}
