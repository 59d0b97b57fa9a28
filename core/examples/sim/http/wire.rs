//! HTTP/1 as strict peers read it: whatever the proxy writes must be exactly right.

/// A head: its first line and its fields, names in lower case.
#[derive(Clone, Debug)]
pub struct Head {
    pub line: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The value of a field that there must be once at most.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// Whether a list field has this member.
    pub fn has(&self, name: &str, member: &str) -> bool {
        let mut values =
            self.fields.iter().filter(|(n, _)| n == name).flat_map(|(_, value)| value.split(','));
        values.any(|value| value.trim().eq_ignore_ascii_case(member))
    }
}

/// Takes a head off the front of what has come, once all of it has.
pub fn take_head(buffer: &mut Vec<u8>) -> Result<Option<Head>, String> {
    let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if buffer.len() > 64 * 1024 { Err("a head without end".into()) } else { Ok(None) };
    };
    let text = String::from_utf8(buffer.drain(..end + 4).collect()).map_err(|error| error.to_string())?;
    let mut lines = text[..text.len() - 4].split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let mut fields = Vec::new();
    for field in lines {
        let (name, value) =
            field.split_once(':').ok_or_else(|| format!("a field without colon: {field:?}"))?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) || value.contains(['\r', '\n', '\0']) {
            return Err(format!("a field that is none: {field:?}"));
        }
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let head = Head { line, fields };
    for name in ["content-length", "transfer-encoding", "host"] {
        if head.fields.iter().filter(|(n, _)| n == name).count() > 1 {
            return Err(format!("{name} more than once"));
        }
    }
    if head.get("content-length").is_some() && head.get("transfer-encoding").is_some() {
        return Err("both content-length and transfer-encoding".into());
    }
    Ok(Some(head))
}

/// Where the body of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes are to come.
    Length(usize),
    /// The size of a chunk is to come.
    ChunkSize,
    ChunkData(usize),
    ChunkEnd,
    Trailer,
    /// The end of the connection ends it.
    UntilClose,
    Done,
}

impl Body {
    /// How a message with this head is framed, where neither field is said to mean `otherwise`.
    pub fn of(head: &Head, otherwise: Self) -> Result<Self, String> {
        if let Some(coding) = head.get("transfer-encoding") {
            return if coding.eq_ignore_ascii_case("chunked") {
                Ok(Self::ChunkSize)
            } else {
                Err(format!("transfer-encoding {coding}"))
            };
        }
        match head.get("content-length") {
            None => Ok(otherwise),
            Some(length) => match length.parse() {
                Ok(0) => Ok(Self::Done),
                Ok(length) => Ok(Self::Length(length)),
                Err(_) => Err(format!("content-length {length:?}")),
            },
        }
    }

    /// Takes what has come of the body; its data go to `data`.
    pub fn take(&mut self, buffer: &mut Vec<u8>, data: &mut Vec<u8>) -> Result<(), String> {
        loop {
            match *self {
                Self::Done => return Ok(()),
                _ if buffer.is_empty() => return Ok(()),
                Self::UntilClose => data.append(buffer),
                Self::Length(left) => {
                    let len = left.min(buffer.len());
                    data.extend(buffer.drain(..len));
                    *self = if len == left { Self::Done } else { Self::Length(left - len) };
                }
                Self::ChunkData(left) => {
                    let len = left.min(buffer.len());
                    data.extend(buffer.drain(..len));
                    *self = if len == left { Self::ChunkEnd } else { Self::ChunkData(left - len) };
                }
                Self::ChunkSize | Self::ChunkEnd | Self::Trailer => {
                    let Some(end) = buffer.windows(2).position(|two| two == b"\r\n") else {
                        return if buffer.len() > 4096 { Err("a line without end".into()) } else { Ok(()) };
                    };
                    let line = String::from_utf8(buffer.drain(..end + 2).take(end).collect())
                        .map_err(|error| error.to_string())?;
                    *self = match *self {
                        Self::ChunkEnd if line.is_empty() => Self::ChunkSize,
                        Self::ChunkEnd => return Err(format!("{line:?} behind a chunk")),
                        Self::Trailer if line.is_empty() => Self::Done,
                        Self::Trailer => Self::Trailer,
                        _ => match usize::from_str_radix(line.split(';').next().unwrap_or(""), 16) {
                            Ok(0) => Self::Trailer,
                            Ok(len) => Self::ChunkData(len),
                            Err(_) => return Err(format!("{line:?} is no chunk size")),
                        },
                    };
                }
            }
        }
    }
}

/// How a sender frames a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked,
    UntilClose,
    None,
}

/// A body on the wire, in chunks of these sizes where it is chunked.
pub fn frame(framing: Framing, body: &[u8], mut size: impl FnMut() -> usize) -> Vec<u8> {
    if framing != Framing::Chunked {
        return body.to_vec();
    }
    let mut out = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let len = size().clamp(1, rest.len());
        out.extend(format!("{len:x}{}\r\n", if len.is_multiple_of(7) { ";x=y" } else { "" }).bytes());
        out.extend(&rest[..len]);
        out.extend(b"\r\n");
        rest = &rest[len..];
    }
    let trailer = if body.len().is_multiple_of(5) { "x-trailer: 1\r\n" } else { "" };
    out.extend(format!("0\r\n{trailer}\r\n").bytes());
    out
}
