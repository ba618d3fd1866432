//! The one transaction of the spool: everything that is staged, or nothing.

use aws_lc_rs::digest::{SHA256, digest};
use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};
use shared::usage_total::UsageTotal;

use super::{
    BLOCKS, Counts, DAMAGED, META, RINGS, SPEND, Store, StoreError, TOTALS, total_hash, unsealable,
};
use crate::spool::block::{Block, allocated};
use crate::spool::staged::Staged;

/// The most totals, and the most caller keys that wait to be paid for: more are invented. Further totals are added up in
/// one row, further keys are left out.
const ROWS_MAX: u64 = 1_000_000;

impl Store {
    pub(super) fn write(
        &self,
        write: &WriteTransaction,
        staged: &Staged,
        now_unix: u64,
    ) -> Result<Counts, StoreError> {
        let mut counts = self.counts;
        {
            let mut blocks = write.open_table(BLOCKS)?;
            let mut damaged = write.open_table(DAMAGED)?;
            let forget = |counts: &mut Counts, bytes: &[u8]| {
                counts.events = counts.events.saturating_sub(Block::count(bytes).into());
                counts.bytes = counts.bytes.saturating_sub(allocated(bytes.len() as u64));
            };
            for number in &staged.removed {
                if let Some(bytes) = blocks.remove(number)? {
                    forget(&mut counts, bytes.value());
                }
            }
            for number in &staged.damaged {
                if let Some(bytes) = blocks.remove(number)? {
                    forget(&mut counts, bytes.value());
                    damaged.insert(number, bytes.value())?;
                }
            }
            for (number, block) in &staged.blocks {
                let bytes = block.seal(*number, &self.sealer).map_err(unsealable)?;
                counts.events = counts.events.saturating_add(block.events.into());
                counts.bytes = counts.bytes.saturating_add(allocated(bytes.len() as u64));
                // A commit that seemed to have failed may have put it there.
                if let Some(bytes) = blocks.insert(number, &bytes[..])? {
                    forget(&mut counts, bytes.value());
                }
            }
            let mut rings = write.open_table(RINGS)?;
            for (name, place) in &staged.rings {
                match place {
                    Some(place) => {
                        drop(rings.insert(&name[..], (place.sequence, place.position, now_unix))?)
                    }
                    None => drop(rings.remove(&name[..])?),
                }
            }
            let mut totals = write.open_table(TOTALS)?;
            for hash in &staged.unfolded {
                if let Some(sealed) = totals.remove(&hash[..])? {
                    let total: UsageTotal = self.unseal(hash, sealed.value())?;
                    counts.folded = counts.folded.saturating_sub(total.events);
                }
            }
            for total in staged.totals.iter() {
                let (mut hash, mut sum) = (total_hash(total), total.clone());
                let mut before = totals.get(&hash[..])?.map(|sealed| sealed.value().to_vec());
                if before.is_none() && totals.len()? >= ROWS_MAX {
                    sum = sum.anonymous();
                    hash = total_hash(&sum);
                    before = totals.get(&hash[..])?.map(|sealed| sealed.value().to_vec());
                }
                if let Some(sealed) = before {
                    sum.add(&self.unseal(&hash, &sealed)?);
                }
                counts.folded = counts.folded.saturating_add(total.events);
                totals.insert(&hash[..], &self.seal(&hash, &sum)?[..])?;
            }
            let mut spend = write.open_table(SPEND)?;
            for (key, change) in &staged.spend {
                let hash = digest(&SHA256, key.as_bytes());
                let hash = hash.as_ref();
                let before = spend.get(hash)?.map(|sealed| sealed.value().to_vec());
                if before.is_none() && spend.len()? >= ROWS_MAX {
                    continue;
                }
                let before: u64 = match before {
                    Some(sealed) => self.unseal::<(String, u64)>(hash, &sealed)?.1,
                    None => 0,
                };
                let after = i128::from(before).saturating_add(*change);
                match u64::try_from(after.max(0)).unwrap_or(u64::MAX) {
                    0 => drop(spend.remove(hash)?),
                    sum => drop(spend.insert(hash, &self.seal(hash, &(key.clone(), sum))?[..])?),
                }
            }
            counts.commits = counts.commits.saturating_add(1);
            let numbers = [counts.events, counts.bytes, counts.folded, counts.commits];
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            write.open_table(META)?.insert("counts", &bytes[..])?;
        }
        Ok(counts)
    }
}
