//! How a scope is described in the segment, so that a reader need not know it.

use crate::core::{Core, Locked};
use crate::frames::Owner;
use crate::layout::{FRAME_WORDS, MAX_SCHEMAS, SCHEMAS, checksum, header, index, lower, upper, word};
use crate::metric::{Kind, Scope, Unit};
use crate::snapshot::{MetricInfo, ScopeInfo};

/// Words of a schema's frame before its text: checksum and length in bytes.
const BLOB_HEADER: usize = 2;

/// What a cell is to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// A counter, or the count or sum of a histogram: summed for ever.
    Sum,
    /// Summed over those who live.
    Gauge,
    /// Where the buckets of a histogram are.
    Page,
}

/// A schema as read from the segment.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) info: std::sync::Arc<ScopeInfo>,
    pub(crate) cells: Vec<Cell>,
    /// Larger for newer ones.
    pub(crate) age: u32,
}

impl Schema {
    /// The metrics with the first cell of each.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = (&MetricInfo, usize)> {
        self.info.metrics.iter().scan(0, |next, metric| {
            let cell = *next;
            *next += metric.kind.cells();
            Some((metric, cell))
        })
    }
}

impl ScopeInfo {
    /// What the scope `S` says of itself.
    pub(crate) fn of<S: Scope>() -> Self {
        let metric = |metric: &crate::metric::Metric| MetricInfo {
            name: metric.name.to_owned(),
            kind: metric.kind,
            unit: metric.unit,
            help: metric.help.to_owned(),
        };
        Self {
            name: S::NAME.to_owned(),
            text: S::TEXT.to_owned(),
            labels: S::LABELS.iter().map(ToString::to_string).collect(),
            metrics: S::METRICS.iter().map(metric).collect(),
        }
    }

    /// Cells of one entity.
    pub(crate) fn cells(&self) -> usize {
        self.metrics.iter().map(|metric| metric.kind.cells()).sum()
    }
}

/// The words that describe a scope.
pub(crate) fn encode(info: &ScopeInfo) -> Vec<u64> {
    let mut bytes = Vec::new();
    let text = |text: &str, bytes: &mut Vec<u8>| {
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_le_bytes());
        bytes.extend(text.bytes().take(usize::from(length)));
    };
    text(&info.name, &mut bytes);
    text(&info.text, &mut bytes);
    bytes.extend(u16::try_from(info.labels.len()).unwrap_or(u16::MAX).to_le_bytes());
    for label in &info.labels {
        text(label, &mut bytes);
    }
    bytes.extend(u16::try_from(info.metrics.len()).unwrap_or(u16::MAX).to_le_bytes());
    for metric in &info.metrics {
        bytes.push(match metric.kind {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            Kind::Histogram => 2,
        });
        bytes.push(match metric.unit {
            Unit::Count => 0,
            Unit::Bytes => 1,
            Unit::Microseconds => 2,
            Unit::Seconds => 3,
        });
        text(&metric.name, &mut bytes);
        text(&metric.help, &mut bytes);
    }
    let mut words = vec![0, bytes.len() as u64];
    words.extend(crate::directory::words_of(&bytes));
    words[0] = checksum(words[1..].iter().copied());
    words
}

/// A cursor that never runs over the end.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn count(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(self.take(2)?.try_into().ok()?)))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.count()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

fn decode(bytes: &[u8]) -> Option<(ScopeInfo, Vec<Cell>)> {
    let mut bytes = Bytes(bytes);
    let (name, text) = (bytes.text()?, bytes.text()?);
    let labels = (0..bytes.count()?).map(|_| bytes.text()).collect::<Option<Vec<_>>>()?;
    let mut cells = Vec::new();
    let mut metrics = Vec::new();
    for _ in 0..bytes.count()? {
        let kind = match bytes.byte()? {
            0 => Kind::Counter,
            1 => Kind::Gauge,
            2 => Kind::Histogram,
            _ => return None,
        };
        let unit = match bytes.byte()? {
            0 => Unit::Count,
            1 => Unit::Bytes,
            2 => Unit::Microseconds,
            3 => Unit::Seconds,
            _ => return None,
        };
        cells.extend_from_slice(match kind {
            Kind::Counter => &[Cell::Sum],
            Kind::Gauge => &[Cell::Gauge],
            Kind::Histogram => &[Cell::Sum, Cell::Sum, Cell::Page],
        });
        metrics.push(MetricInfo { name: bytes.text()?, kind, unit, help: bytes.text()? });
    }
    Some((ScopeInfo { name, text, labels, metrics }, cells))
}

impl Core {
    /// The reference of a schema: a number that no other has had, and its frame; 0 for none.
    pub(crate) fn schema_reference(&self, number: usize) -> u64 {
        if number < MAX_SCHEMAS { self.load(SCHEMAS + number) } else { 0 }
    }

    fn schema_words(&self, reference: u64) -> Option<Vec<u64>> {
        let frame = index(u64::from(lower(reference)));
        if reference == 0 || self.frame_owner(frame) != Some(Owner::Schema) {
            return None;
        }
        let start = frame * FRAME_WORDS;
        let length = index(self.load(start + 1));
        if length > (FRAME_WORDS - BLOB_HEADER) * 8 {
            return None;
        }
        let words: Vec<_> =
            (0..BLOB_HEADER + length.div_ceil(8)).map(|word| self.load(start + word)).collect();
        (checksum(words[1..].iter().copied()) == words[0]).then_some(words)
    }

    /// Reads a schema. `None` if there is none, and if it is broken or changes just now.
    pub(crate) fn schema(&self, number: usize) -> Option<Schema> {
        let reference = self.schema_reference(number);
        let words = self.schema_words(reference)?;
        let bytes: Vec<u8> = words[BLOB_HEADER..].iter().flat_map(|word| word.to_le_bytes()).collect();
        let (info, cells) = decode(bytes.get(..index(words[1]))?)?;
        Some(Schema { info: std::sync::Arc::new(info), cells, age: upper(reference) })
    }
}

impl Locked<'_> {
    /// The number of the schema with these words; adds it if it is new. `None` when there is no room.
    pub(crate) fn schema_number(&self, words: &[u64]) -> Option<usize> {
        let mut free = None;
        for number in 0..MAX_SCHEMAS {
            match self.schema_reference(number) {
                0 => free = free.or(Some(number)),
                reference if self.schema_words(reference).as_deref() == Some(words) => return Some(number),
                _ => {}
            }
        }
        let number = free?;
        if words.len() > FRAME_WORDS {
            return None;
        }
        let frame = self.claim_frame(Owner::Schema)?;
        for (offset, value) in words.iter().enumerate() {
            self.store(frame * FRAME_WORDS + offset, *value);
        }
        let age = lower(self.add(header::SCHEMAS_SO_FAR, 1).wrapping_add(1));
        crate::fault::point();
        self.store(SCHEMAS + number, word(age, u32::try_from(frame).ok()?));
        Some(number)
    }

    /// Gives up the schemas that no entity uses, and frames of schemas that nothing refers to.
    pub(crate) fn collect_schemas(&self, used: &[bool; MAX_SCHEMAS]) {
        let mut frames = Vec::new();
        for (number, used) in used.iter().enumerate() {
            if *used {
                frames.push(index(u64::from(lower(self.schema_reference(number)))));
            } else {
                self.store(SCHEMAS + number, 0);
                crate::fault::point();
            }
        }
        for frame in self.usable_frames() {
            let value = self.frame_word(frame);
            if Owner::decode(value) == Some(Owner::Schema) && !frames.contains(&frame) {
                self.store(crate::layout::FRAME_TABLE + frame, value & crate::frames::RESERVED);
                crate::fault::point();
            }
        }
    }
}
