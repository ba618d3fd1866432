//! One worker's slots, and the series that it says are in them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use shared::message::Series;
use shared::metric::log_linear::CHUNK_SLOTS;
use shared::metric::{
    FAMILIES, Family, Kind, LABEL_BYTES_MAX, LABELS_BYTES_MAX, SERIES_MAX, SLOTS,
};

use super::Refusal;
use super::values::{Reading, Values};

/// So many series are read one by one rather than with everything else.
const SERIES_READ_ALONE_MAX: usize = 64;

/// What a worker counts. It may have been taken over: what it makes us keep is bounded by what it may announce
/// ([`Refusal`]) and, for the buckets of its summaries, by the size of its slots.
#[derive(Debug)]
pub(super) struct Source {
    memory: File,
    series: Vec<Counted>,
    /// First slot → the slot behind the last, of every series.
    taken: BTreeMap<usize, usize>,
    labels_bytes: usize,
    per_family: [usize; FAMILIES.len()],
    /// Chunks of buckets that this worker may still make us keep.
    chunks_left: usize,
}

/// One series and what is known of it so far.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) family: &'static Family,
    pub(super) labels: Vec<String>,
    pub(super) values: Values,
    first_slot: usize,
}

impl Source {
    /// The slots in `memory`, of which nothing is in use yet.
    pub(super) fn new(memory: OwnedFd) -> Self {
        Self {
            memory: memory.into(),
            series: Vec::new(),
            taken: BTreeMap::new(),
            labels_bytes: 0,
            per_family: [0; FAMILIES.len()],
            chunks_left: SLOTS / CHUNK_SLOTS,
        }
    }

    /// Takes a series into account from now on.
    pub(super) fn announce(&mut self, series: Series) -> Result<(), Refusal> {
        let Series { family: number, first_slot, labels } = series;
        let family = Family::from_number(number).ok_or(Refusal::Family(number))?;
        if labels.len() != family.labels.len() {
            let (expected, found) = (family.labels.len(), labels.len());
            return Err(Refusal::LabelCount { family: family.name, expected, found });
        }
        if labels.iter().any(|label| label.len() > LABEL_BYTES_MAX) {
            return Err(Refusal::LabelLength { family: family.name });
        }
        let bytes = labels.iter().map(String::len).sum::<usize>();
        let labels_bytes = self.labels_bytes.saturating_add(bytes);
        if labels_bytes > LABELS_BYTES_MAX {
            return Err(Refusal::LabelsBytes);
        }
        let count = self.per_family.get_mut(usize::from(number)).ok_or(Refusal::Family(number))?;
        // One more than a worker tells apart: all the others together.
        if *count > SERIES_MAX {
            return Err(Refusal::TooMany { family: family.name });
        }
        let first = usize::try_from(first_slot).unwrap_or(usize::MAX);
        let end = first.saturating_add(family.kind.slots());
        // Slot 0 is no series' own.
        if first == 0 || end > SLOTS {
            return Err(Refusal::Range { family: family.name, first_slot });
        }
        let before = self.taken.range(..end).next_back();
        if before.is_some_and(|(_, before_end)| *before_end > first) {
            return Err(Refusal::Overlap { family: family.name, first_slot });
        }
        self.taken.insert(first, end);
        self.labels_bytes = labels_bytes;
        *count += 1;
        let values = Values::zero(family.kind);
        self.series.push(Counted { family, labels, values, first_slot: first });
        Ok(())
    }

    /// Reads the slots. On an error what was read last stays.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        let reading = self.read()?;
        for series in &mut self.series {
            series.values.refresh(&reading, series.first_slot, &mut self.chunks_left);
        }
        Ok(())
    }

    /// Reads the slots of one family only. On an error what was read last stays.
    pub(super) fn refresh_family(&mut self, family: &Family) -> io::Result<()> {
        let of_family = |series: &&mut Counted| series.family.number == family.number;
        // Many are read faster all at once.
        if self.series.iter_mut().filter(of_family).count() > SERIES_READ_ALONE_MAX {
            return self.refresh();
        }
        for series in self.series.iter_mut().filter(of_family) {
            let reading = Self::read_series(&self.memory, series)?;
            series.values.refresh(&reading, series.first_slot, &mut self.chunks_left);
        }
        Ok(())
    }

    /// The slots themselves.
    pub(super) fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Every series, as the worker has announced it.
    pub(super) fn announced(&self) -> Vec<Series> {
        let series = self.series.iter().map(|series| Series {
            family: series.family.number,
            first_slot: u32::try_from(series.first_slot).unwrap_or(u32::MAX),
            labels: series.labels.clone(),
        });
        series.collect()
    }

    /// Every series, with what was read last.
    pub(super) fn series(&self) -> &[Counted] {
        &self.series
    }

    /// The slots in use, in one piece. The worker goes on counting meanwhile: numbers are whole, since each is an aligned
    /// word, but those of one request may be there in part.
    fn read(&self) -> io::Result<Reading> {
        let mut used = [0; 8];
        self.memory.read_exact_at(&mut used, 0)?;
        let used = usize::try_from(u64::from_ne_bytes(used)).unwrap_or(usize::MAX).min(SLOTS);
        let mut slots = vec![0; used.saturating_mul(8)];
        self.memory.read_exact_at(&mut slots, 0)?;
        Ok(Reading::new(0, slots))
    }

    /// Reads the slots of one series only.
    fn read_series(memory: &File, series: &Counted) -> io::Result<Reading> {
        let piece = |first: usize, slots: usize| {
            let mut bytes = vec![0; slots.saturating_mul(8)];
            memory.read_exact_at(&mut bytes, (first as u64).saturating_mul(8))?;
            Ok::<_, io::Error>(bytes)
        };
        let (first, kind) = (series.first_slot, series.family.kind);
        let mut reading = Reading::new(first, piece(first, kind.slots())?);
        if kind == Kind::Summary {
            for offset in 1..kind.slots() {
                let chunk = usize::try_from(reading.slot(first.saturating_add(offset)));
                // What does not lie in the slots is nothing.
                let inside = 1..=SLOTS.saturating_sub(CHUNK_SLOTS);
                if let Some(chunk) = chunk.ok().filter(|chunk| inside.contains(chunk)) {
                    reading.push(chunk, piece(chunk, CHUNK_SLOTS)?);
                }
            }
        }
        Ok(reading)
    }
}
